"""``mutants``: the suite tried on providers that are broken on purpose."""

import argparse
import json
import sys
import time

from anyscale_conformance.cli import Exit
from anyscale_conformance.kit import find
from anyscale_conformance.mutants.base import Hunt, Mutant, hunted, hunted_in, load
from anyscale_conformance.mutants.generic import MUTATORS
from anyscale_conformance.runner import all_checks
from anyscale_core.errors import UnknownName


def mutants(args: argparse.Namespace) -> Exit:
    """Hunt mutants; print the score, and with ``--full`` what each check caught that no other did."""
    if args.provider:
        return _in_provider(args)
    found = load()
    unknown = sorted(set(args.only) - found.keys())
    if unknown:
        raise UnknownName(f"no mutant {', '.join(unknown)}; there are {', '.join(found)}")
    chosen = [mutant for name, mutant in found.items() if not args.only or name in args.only]
    began = time.monotonic()
    hunts = [_told(mutant, hunted(mutant, seed=args.seed, is_full=args.full), args) for mutant in chosen]
    survivors = [hunt.mutant for hunt in hunts if not hunt.is_caught]
    if args.json:
        print(json.dumps(_score(hunts, survivors, args), indent=1))
    else:
        print(f"{len(hunts) - len(survivors)} of {len(hunts)} mutants are caught; {time.monotonic() - began:.1f} s")
    return Exit.FAILED if survivors else Exit.OK


def _in_provider(args: argparse.Namespace) -> Exit:
    """Break somebody's own provider in the ways that break any."""
    kit, survivors = find(args.provider), []
    for name, mutator in MUTATORS.items():
        if args.only and name not in args.only:
            continue
        hunt = hunted_in(kit, name, mutator, seed=args.seed)
        state = "not concerned" if hunt is None else f"caught by {', '.join(hunt.by)}" if hunt.is_caught else "SURVIVED"
        print(f"{name}: {state}", file=sys.stderr if args.json else sys.stdout)
        survivors += [name] if hunt is not None and not hunt.is_caught else []
    if args.json:
        print(json.dumps({"provider": args.provider, "survivors": survivors}))
    return Exit.FAILED if survivors else Exit.OK


def _told(mutant: Mutant, hunt: Hunt, args: argparse.Namespace) -> Hunt:
    if not args.json:
        print(f"{'caught  ' if hunt.is_caught else 'SURVIVED'} {mutant.name}: {', '.join(hunt.by) or mutant.caught_by}")
        sys.stdout.flush()
    return hunt


def _score(hunts: "list[Hunt]", survivors: "list[str]", args: argparse.Namespace) -> dict[str, object]:
    kills: dict[str, list[str]] = {}
    unique: dict[str, list[str]] = {}
    for hunt in hunts:
        for check in hunt.by:
            kills.setdefault(check, []).append(hunt.mutant)
        if len(hunt.by) == 1:
            unique.setdefault(hunt.by[0], []).append(hunt.mutant)
    checks = all_checks()
    named = {id.partition("[")[0] for mutant in load().values() for id in mutant.caught_by}
    idle = {check.id: check.why for check in checks if check.id not in kills and check.id not in named}
    return {
        "mutants": len(hunts),
        "caught": len(hunts) - len(survivors),
        "score": round((len(hunts) - len(survivors)) / len(hunts), 4) if hunts else 0.0,
        "survivors": survivors,
        "every_check_was_run": args.full,
        "kills": dict(sorted(kills.items())),
        "unique_kills": dict(sorted(unique.items())),
        "checks_that_no_mutant_names": idle,
    }
