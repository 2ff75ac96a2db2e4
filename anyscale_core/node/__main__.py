"""``python -m anyscale_core.node --bootstrap FILE --home DIR --name INSTANCE_NAME [--address IP] [--volume DIR]``."""

import argparse
import os
import signal
import sys
from pathlib import Path


def main() -> int:
    """Run the agent of one node until it is forgotten or told to end (0), cannot start (2), or is refused (3)."""
    options = _options()
    _lead_session()
    os.environ["ANYSCALE_CORE_INSTANCE"] = options.name
    options.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    from anyscale_core.node.warm import spawn_launcher

    # Before the rest is imported: Ray's import, in a process of its own, is the longest thing until Ray runs.
    launcher = spawn_launcher(options.home)
    from anyscale_core.node.process import run

    return run(
        bootstrap=options.bootstrap, home=options.home, name=options.name, address=options.address,
        volume=Path(options.volume) if options.volume else None, launcher=launcher,
    )  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m anyscale_core.node", description="Run the agent of one node.")
    parser.add_argument("--bootstrap", type=Path, required=True, help="the bootstrap.json that the instance was given")
    parser.add_argument("--home", type=Path, required=True, help="this node's own folder; keep its path short")
    parser.add_argument("--name", required=True, help="the instance's name")
    parser.add_argument(
        "--address", default="", help="the address that the other nodes reach it at; found if not given"
    )
    parser.add_argument("--volume", default="", help="a folder that outlives the instance; empty when there is none")
    return parser.parse_args()


def _lead_session() -> None:
    """Make this process the leader of a session of its own: everything that it starts is found, and ended, by that."""
    if os.getsid(0) == os.getpid():
        return
    if os.getpgrp() == os.getpid():
        # The leader of a process group (started from a shell) may not leave its session; its child may.
        child = os.fork()
        if child:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.setsid()


if __name__ == "__main__":
    sys.exit(main())
