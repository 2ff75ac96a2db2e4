"""``anyscale-conformance``: arguments in, exit status out."""

import argparse
import enum
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from anyscale_conformance.kit import Mode
from anyscale_conformance.profiles import PROFILES
from anyscale_core.errors import CoreError


class Exit(enum.IntEnum):
    """Exit statuses; docs/conformance.md explains them."""

    OK = 0
    FAILED = 1
    LEAK = 2
    INCOMPLETE = 3
    NOTHING_RAN = 4
    USAGE = 5
    INTERRUPTED = 130


Verb = Callable[[argparse.Namespace], Exit]

VERBS = {
    "run": "run:run", "list": "run:every", "explain": "run:explain", "sweep": "run:sweep", "diff": "publish:diff",
    "badge": "publish:badge", "docs": "publish:docs", "report": "publish:report", "manifest": "publish:manifest",
    "mutants": "hunt:mutants", "new-kit": "scaffold:new_kit",
}  # fmt: skip
"""Each verb and the module of ``anyscale_conformance.commands`` and the function that does it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(_verb(args.verb)(args))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Who read our output has gone (`| head`); Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except CoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return Exit.USAGE


def _verb(name: str) -> Verb:
    module, _, function = VERBS[name].partition(":")
    verb: Verb = getattr(importlib.import_module(f"anyscale_conformance.commands.{module}"), function)
    return verb


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    """End as by Ctrl-C, so that what was made is swept."""
    raise KeyboardInterrupt


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(int(Exit.USAGE))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="anyscale-conformance", description="Prove that a provider keeps the contract.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run the checks of a provider and grade it")
    run.add_argument("--provider", required=True, help="the provider whose kit is to be run")
    run.add_argument("--profile", choices=sorted(PROFILES), default="", help="a part of the contract to be graded for")
    run.add_argument(
        "--check", action="append", default=[], metavar="ID", help="this check or row alone; may be repeated"
    )
    run.add_argument(
        "--mode", choices=[mode.value for mode in Mode], default=Mode.HERMETIC.value, help="how real the cloud is"
    )
    run.add_argument("--seed", type=int, default=0, help="decides on names, order and sizes")
    run.add_argument(
        "--scope", default="", help="name of the run, part of every owner and name; required in modes E and L"
    )
    run.add_argument("--waivers", type=Path, metavar="FILE", help="known failures, each with reason, issue and expiry")
    run.add_argument("--report", type=Path, metavar="DIR", help="write result.json and all that derives from it")
    every = verbs.add_parser("list", help="every row of a provider, and why it will or will not be run")
    every.add_argument("--provider", default="fake")
    explain = verbs.add_parser("explain", help="one check: its promise, how it is checked, which mutants it catches")
    explain.add_argument("id", metavar="ID")
    sweep = verbs.add_parser("sweep", help="delete what an interrupted run left")
    sweep.add_argument("--provider", required=True)
    sweep.add_argument("--scope", default="", help="name of the run (conf and its seed, when it had no other)")
    sweep.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.HERMETIC.value)
    sweep.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    mutants = verbs.add_parser("mutants", help="try the suite on broken providers: each must be caught by its check")
    mutants.add_argument("--provider", default="", help="break this provider instead, in the ways that break any")
    mutants.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this mutant alone; may be repeated"
    )
    mutants.add_argument("--full", action="store_true", help="run every check on every mutant, for unique kills")
    mutants.add_argument("--json", action="store_true", help="print the score as JSON")
    mutants.add_argument("--seed", type=int, default=0)
    _publishing(verbs)
    kit = verbs.add_parser("new-kit", help="write a plugin package with a kit, that installs, runs and fails honestly")
    kit.add_argument("name", metavar="NAME", help="of the provider")
    kit.add_argument("folder", metavar="DIR", type=Path)
    return parser


def _publishing(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    diff = verbs.add_parser("diff", help="what changed from one result to another; exit 1 when something got worse")
    diff.add_argument("old", metavar="OLD", type=Path)
    diff.add_argument("new", metavar="NEW", type=Path)
    badge = verbs.add_parser("badge", help="print the badge of a result")
    badge.add_argument("result", metavar="RESULT", type=Path)
    badge.add_argument("--format", choices=["svg", "json", "text"], default="svg")
    report = verbs.add_parser("report", help="print a result in another form")
    report.add_argument("result", metavar="RESULT", type=Path)
    report.add_argument("--format", choices=["markdown", "html", "junit"], default="markdown")
    docs = verbs.add_parser("docs", help="print the page of all providers, from a folder of results")
    docs.add_argument("folder", metavar="DIR", type=Path)
    manifest = verbs.add_parser("manifest", help="compare the checks with the released manifest, or write it")
    manifest.add_argument("--write", action="store_true")
