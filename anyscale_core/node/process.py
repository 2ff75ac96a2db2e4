"""An agent as a process: what it is given, where it logs, how it ends."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from anyscale_core.errors import CoreError
from anyscale_core.models import wire
from anyscale_core.models.instance import Bootstrap
from anyscale_core.node.agent import Agent, Exit
from anyscale_core.node.home import Home
from anyscale_core.node.proving import prover

log = logging.getLogger(__name__)


def run(
    *, bootstrap: Path, home: Path, name: str, address: str, volume: Path | None, launcher: "subprocess.Popen[str]"
) -> int:
    """Run the agent as a process: log to stderr, end on SIGTERM. ``volume``: a folder that outlives the instance, if any."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        known = wire.structure(json.loads(bootstrap.read_bytes()), Bootstrap, subject="the bootstrap file")
        prove = prover(known, home=home, subject=name)
    except (OSError, ValueError, CoreError) as error:
        log.error("this node cannot start: %s", error)
        launcher.kill()
        return Exit.UNUSABLE
    agent = Agent(
        bootstrap=known, home=Home(home.absolute()), name=name, address=address, volume=(volume or home).absolute(),
        prove=prove, launcher=launcher,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.terminate())
    code = agent.run()
    sys.stderr.flush()
    # The heartbeat threads may hold a request for seconds; nothing of it matters any more.
    os._exit(code)
