"""Environments of the peers that benchmarks are run beside: made at the first use, below the user's cache."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def environment(name: str, requirements: Sequence[str]) -> str:
    """Return the interpreter of an environment with these requirements, made when there is none; or why there is none.

    The first requirement's version tells it from others of its name.
    """
    uv = shutil.which("uv") or str(Path(__file__).parents[1] / ".tools" / "bin" / "uv")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "anyscale-core" / "benchmarks" / f"{name}-{requirements[0].rpartition('=')[2]}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return str(python)
    try:
        for words in (
            ("venv", "-q", "--clear", "--python", sys.executable, str(folder)),
            ("pip", "install", "-q", "--python", str(python), *requirements),
        ):
            subprocess.run([uv, *words], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"its environment cannot be made: {getattr(error, 'stderr', '') or error}"[:160]
    ready.touch()
    return str(python)
