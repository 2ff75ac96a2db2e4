"""Starts launchers. Light to import: the agent does this before it imports anything else."""

import os
import subprocess
import sys
from pathlib import Path

from anyscale_core.node.rayargs import launcher_environment


def spawn_launcher(home: Path) -> "subprocess.Popen[str]":
    """Start a launcher; it warms up while the agent does other things. What Ray prints goes to ``launcher.log``."""
    with (home / "launcher.log").open("ab") as errors:
        return subprocess.Popen(
            (sys.executable, "-m", "anyscale_core.node.launcher"),
            env=launcher_environment(os.environ, home=home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
