"""``python -m benchmarks [NAME... [--json] [-n ROUNDS]]``."""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

import attrs

from benchmarks.catalogue import BENCHMARKS, Measure
from benchmarks.rows import readable


def main(argv: Sequence[str] | None = None) -> int:
    """List the benchmarks, or run some and print their rows: one line each, JSON with ``--json``."""
    parser = _parser()
    args = parser.parse_args(argv)
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown or args.rounds < 0:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}" if unknown else "-n is a count")
    if not args.names:
        print(json.dumps(list(BENCHMARKS)) if args.json else _listing())
        return 0
    for name in args.names:
        for row in measure_of(name)(args.rounds or BENCHMARKS[name].rounds):
            print(json.dumps(attrs.asdict(row)) if args.json else readable(row), flush=True)
    return 0


def measure_of(name: str) -> Measure:
    """Return the function behind a name; only its module is loaded."""
    module, _, function = BENCHMARKS[name].target.partition(":")
    measure: Measure = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return measure


def _listing() -> str:
    width = max(map(len, BENCHMARKS))
    return "\n".join(f"{name:{width}}  {benchmark.about}" for name, benchmark in BENCHMARKS.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside the floor, in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="without one, the names are listed")
    parser.add_argument("--json", action="store_true", help="one JSON document per row")
    parser.add_argument("-n", "--rounds", type=int, default=0, help="rounds of ours and the floor (default: by name)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
