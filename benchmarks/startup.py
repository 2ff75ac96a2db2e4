"""What every process pays before it does anything: imports and the command line."""

import compileall
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyscale_local

import anyscale_core
from benchmarks.rows import Row, excess, interleaved, row
from tests.scenarios.machine import ENV, Machine

COMMAND = str(Path(sys.executable).parent / "anyscale-core")
BARE = ""
PACKAGE = "import anyscale_core"
CONTRACT = (
    "import anyscale_core.hookspecs, anyscale_core.registry, anyscale_core.models.wire;"
    "from anyscale_core.drivers import cluster, identity, networking, storage"
)
"""What a provider plugin and an embedder need before their first call."""
HEAVY = ("azure", "boto3", "botocore", "google", "httpx", "kubernetes", "litestar", "obstore", "ray", "sqlalchemy")
"""SDKs and what only a server, a node or a first call needs."""

TELL = """
import json, sys
rss = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"rss_kb": rss, "heavy": sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:]))}))
"""
"""The peak of the process itself; ru_maxrss would begin with its parent's."""


def warm() -> None:
    """Have byte code for everything of ours, as an installed package has."""
    for package in (anyscale_core, anyscale_local):
        compileall.compile_dir(str(Path(str(package.__file__)).parent), quiet=2)


def library(rounds: int) -> Iterator[Row]:
    """Measure imports in fresh processes beside a bare one: the package, then everything that is the contract."""
    warm()
    for name, code in (("import", PACKAGE), ("import-contract", CONTRACT)):
        yield from _over_bare(name, code, rounds)


def cli_help(rounds: int) -> Iterator[Row]:
    """Measure ``anyscale-core --help`` beside a Python that does nothing."""
    warm()
    yield _beside_nothing("cli-help", rounds, (COMMAND, "--help"), 250)


def cli_status(rounds: int) -> Iterator[Row]:
    """Measure ``anyscale-core status`` of a control plane that runs without clusters, beside a Python that does nothing."""
    warm()
    machine = Machine()
    try:
        machine.serve()
        command = (COMMAND, "--home", str(machine.home), "status")
        yield _beside_nothing("cli-status", rounds, command, 200)
    finally:
        machine.close()


def _over_bare(name: str, code: str, rounds: int) -> Iterator[Row]:
    ours, floor = interleaved(rounds, lambda: _python_ms(code), lambda: _python_ms(BARE))
    yield row(name, "ms", ours, floor, f"{excess(ours, floor):+.1f} ms over bare Python, target 60")
    told, bare = interleaved(rounds, lambda: _tell(code), lambda: _tell(BARE))
    mine, least = [rss for rss, _ in told], [rss for rss, _ in bare]
    heavy = ", ".join(sorted({module for _, modules in told for module in modules}))
    found = f"LOADED: {heavy}" if heavy else "no SDK loaded"
    yield row(f"{name}-rss", "MB", mine, least, f"{excess(mine, least):+.1f} MB over bare Python, target 20", found)


def _beside_nothing(name: str, rounds: int, command: Sequence[str], target: int) -> Row:
    _ms(*command)  # the first one reads files that the others find in memory
    ours, floor = interleaved(rounds, lambda: _ms(*command), lambda: _python_ms("pass"))
    return row(name, "ms", ours, floor, f"floor: python -c pass; target {target} ms")


def _python_ms(code: str) -> float:
    return _ms(sys.executable, "-c", code)


def _ms(*command: str) -> float:
    """Return the milliseconds of a whole process. Raises CalledProcessError when it fails."""
    begin = time.perf_counter()
    subprocess.run(command, env=ENV, check=True, capture_output=True)
    return (time.perf_counter() - begin) * 1000


def _tell(code: str) -> tuple[float, list[str]]:
    """Return the peak memory in MB of a process that runs this, and what it has loaded of HEAVY."""
    command = (sys.executable, "-c", f"{code}\n{TELL}", *HEAVY)
    told = json.loads(subprocess.run(command, env=ENV, check=True, capture_output=True).stdout)
    return told["rss_kb"] / 1024, told["heavy"]
