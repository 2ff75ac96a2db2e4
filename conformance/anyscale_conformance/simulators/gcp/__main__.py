"""The simulator as a process of its own: ``python -m anyscale_conformance.simulators.gcp PROJECT...``.

It prints one line of JSON (``url``, ``endpoints`` by API, ``tokens`` of each project's owner) and lives until its standard input
ends. In its projects nothing takes time. For measurements: what is measured then shares no interpreter with the cloud.
"""

import json
import sys

from anyscale_conformance.simulators.gcp import GcpSimulator, Timings
from anyscale_conformance.simulators.gcp.dispatch import APIS


def main(projects: list[str]) -> int:
    """Serve until standard input ends. Raises ValueError for a project that is named twice."""
    with GcpSimulator() as simulator:
        hands = [simulator.add_project(id, timings=Timings.none()) for id in projects]
        said = {
            "url": simulator.url,
            "endpoints": {api: simulator.endpoint(api) for api, _ in APIS},
            "tokens": {project.id: project.token() for project in hands},
        }
        print(json.dumps(said), flush=True)
        sys.stdin.read()
        return 1 if simulator.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
