"""``diff``, ``badge``, ``report``, ``docs`` and ``manifest``."""

import argparse
import json
from collections.abc import Callable

from anyscale_conformance import integrity, runner
from anyscale_conformance.cli import Exit
from anyscale_conformance.reports import badge as badges
from anyscale_conformance.reports.html import html
from anyscale_conformance.reports.junit import junit
from anyscale_conformance.reports.markdown import markdown, providers_page
from anyscale_conformance.reports.result import Report, read
from anyscale_conformance.verdicts import Verdict
from anyscale_core.errors import UnknownName

GOOD = (Verdict.PASS, Verdict.REFUSED_OK)


def diff(args: argparse.Namespace) -> Exit:
    """Print the rows that came out otherwise."""
    old = {result.row: result.verdict for result in read(args.old).results}
    new = {result.row: result.verdict for result in read(args.new).results}
    is_worse = False
    for row in sorted(old.keys() | new.keys()):
        before, after = old.get(row), new.get(row)
        if before is after:
            continue
        print(f"{row}: {before.value if before else 'not there'} -> {after.value if after else 'not there'}")
        is_worse |= before in GOOD and after not in GOOD
    return Exit.FAILED if is_worse else Exit.OK


def badge(args: argparse.Namespace) -> Exit:
    """Print the badge."""
    forms: dict[str, Callable[[Report], str]] = {"svg": badges.svg, "json": badges.shields, "text": badges.text}
    print(forms[args.format](read(args.result)).rstrip())
    return Exit.OK


def report(args: argparse.Namespace) -> Exit:
    """Print a result in another form."""
    print({"markdown": markdown, "html": html, "junit": junit}[args.format](read(args.result)), end="")
    return Exit.OK


def docs(args: argparse.Namespace) -> Exit:
    """Print the page of all providers."""
    paths = sorted(args.folder.glob("*.json"))
    if not paths:
        raise UnknownName(f"{args.folder} has no result; keep one with `anyscale-conformance run --report`")
    print(providers_page([read(path) for path in paths]), end="")
    return Exit.OK


def manifest(args: argparse.Namespace) -> Exit:
    """Compare with the released manifest, or write it."""
    if args.write:
        integrity.MANIFEST.write_text(json.dumps(integrity.manifest(), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {integrity.MANIFEST}")
        return Exit.OK
    runner.all_checks()
    faults = integrity.faults()
    for fault in faults:
        print(fault)
    return Exit.INCOMPLETE if faults else Exit.OK
