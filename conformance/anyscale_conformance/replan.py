"""Plans in a process of its own, from what comes in: ``python -m anyscale_conformance.replan``, for P-01."""

import ast
import sys
from datetime import datetime, timedelta

from anyscale_core.models import wire
from anyscale_core.models.instance import Offering
from anyscale_core.models.records import ClusterRecord, Observed, Timing
from anyscale_core.planning.diff import diff


def main() -> None:
    """Read a record, a catalogue and an instant; print the plan."""
    record, offerings, now = ast.literal_eval(sys.stdin.read())
    plan = diff(
        wire.structure(record, ClusterRecord),
        Observed(offerings=tuple(wire.structure(each, Offering) for each in offerings)),
        now=datetime.fromisoformat(now),
        timing=Timing(drain_timeout=timedelta()),
    )
    print(repr(wire.unstructure(plan)))


if __name__ == "__main__":
    main()
