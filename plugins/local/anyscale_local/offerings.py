"""The catalogue: shares of this machine."""

import os
from datetime import timedelta
from pathlib import Path

from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import Offering

ZONE = "local"
STARTUP = timedelta(seconds=5)
MIB = 1 << 20
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def catalogue() -> tuple[Offering, ...]:
    """Return one offering per size, smallest first: 1, 2, 4, ... CPUs up to what this machine has.

    1 and 2 are always there so that examples run anywhere: what Ray is told are logical CPUs, which may exceed the real
    ones, and nothing is reserved or held back. Each size has its share of the memory (bytes).
    """
    return offerings_of(cpus=len(os.sched_getaffinity(0)), memory=memory_limit())


def offerings_of(*, cpus: int, memory: int) -> tuple[Offering, ...]:
    """Return the offerings of a machine with so many CPUs and so much memory (bytes)."""
    sizes = sorted({1, 2, max(cpus, 1), *(1 << power for power in range(cpus.bit_length()))})
    return tuple(
        Offering(
            instance_type=f"local.{size}cpu",
            zone=ZONE,
            market_type=MarketType.ON_DEMAND,
            price_per_hour=0.0,
            resources={"CPU": float(size), "memory": float(_share(memory, size, cpus))},
            startup=STARTUP,
        )
        for size in sizes
    )


def memory_limit() -> int:
    """Return the memory of this machine in bytes, or of the container that we are in when that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP_LIMITS:
        try:
            return min(memory, int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return memory


def _share(memory: int, size: int, cpus: int) -> int:
    share = min(memory, memory * size // max(cpus, 1))
    return share // MIB * MIB
