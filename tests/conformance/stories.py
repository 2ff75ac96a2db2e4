"""What the stories on real Ray share: a job, the spec of its cluster, and the command line of a plane with a home of its own."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.scenarios.machine import ENV

JOB = """
import ray
ray.init()
@ray.remote(num_cpus=1)
def where():
    return ray.util.get_node_ip_address()
print("computed at", ray.get(where.remote()))
"""


@contextmanager
def a_home(prefix: str) -> Iterator[Path]:
    """Lend a folder with a short name: Ray's sockets lie below the temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def command_line(
    home: Path, cloud: str, instance_type: str, *, consoles: Callable[[], str], env: Mapping[str, str] | None = None
) -> Callable[..., str]:
    """Put ``job.py`` and ``../spec.yaml`` (a head and a worker, ``remote``) where the command line runs; return what runs it.

    It returns what is said on stdout, and fails with ``consoles`` when the exit status is not 0.
    """
    shape = {"instance_type": instance_type, "resources": {"CPU": 1}}
    spec: dict[str, Any] = {
        "name": "remote", "cloud": cloud, "head_node": shape,
        "worker_nodes": [{"name": "workers", "min_nodes": 1, **shape}],
    }  # fmt: skip
    (home / "spec.yaml").write_text(yaml.safe_dump(spec))
    (home / "work").mkdir()
    (home / "work" / "job.py").write_text(JOB)

    def cli(*words: str) -> str:
        command = [sys.executable, "-m", "anyscale_core.cli", "--home", str(home / "plane"), *words]
        done = subprocess.run(
            command,
            cwd=home / "work",
            env=ENV | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{consoles()}"
        return done.stdout

    return cli
