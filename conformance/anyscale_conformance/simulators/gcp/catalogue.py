"""What the simulated cloud sells: zones, machine types, accelerators, public images, and default quotas.

Sizes are the published ones (cloud.google.com/compute/docs/machine-resource); quotas those of a young project.
"""

import attrs

ZONES = {
    "us-central1": ("us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f"),
    "us-east1": ("us-east1-b", "us-east1-c", "us-east1-d"),
    "europe-west4": ("europe-west4-a", "europe-west4-b", "europe-west4-c"),
}
"""By region."""


@attrs.frozen(kw_only=True)
class Machine:
    """A machine type. ``built_in``: the accelerator that comes along, and how many."""

    name: str
    cpus: int
    memory_mb: int
    zones: tuple[str, ...] = ()
    """Where it is sold; empty for everywhere."""
    shared: bool = False
    built_in: tuple[str, int] | None = None
    architecture: str = "X86_64"

    @property
    def family(self) -> str:
        """Return the first word of its name."""
        return self.name.partition("-")[0]


def _family(family: str, shape: str, mb_per_cpu: int, *sizes: int, architecture: str = "X86_64") -> list[Machine]:
    return [
        Machine(name=f"{family}-{shape}-{cpus}", cpus=cpus, memory_mb=cpus * mb_per_cpu, architecture=architecture)
        for cpus in sizes
    ]


GPU_ZONES = ("us-central1-a", "us-central1-b", "us-central1-c", "europe-west4-a", "europe-west4-b")
MACHINES = {
    machine.name: machine
    for machine in [
        Machine(name="e2-micro", cpus=2, memory_mb=1024, shared=True),
        Machine(name="e2-small", cpus=2, memory_mb=2048, shared=True),
        Machine(name="e2-medium", cpus=2, memory_mb=4096, shared=True),
        *_family("e2", "standard", 4096, 2, 4, 8, 16, 32),
        *_family("n1", "standard", 3840, 1, 2, 4, 8, 16, 32),
        *_family("n2", "standard", 4096, 2, 4, 8, 16, 32, 64),
        *_family("n2", "highmem", 8192, 2, 4, 8, 16, 32),
        *_family("c3", "standard", 4096, 4, 8, 22, 44),
        *_family("t2a", "standard", 4096, 1, 2, 4, 8, architecture="ARM64"),
        Machine(name="g2-standard-4", cpus=4, memory_mb=16384, zones=GPU_ZONES, built_in=("nvidia-l4", 1)),
        Machine(name="g2-standard-8", cpus=8, memory_mb=32768, zones=GPU_ZONES, built_in=("nvidia-l4", 1)),
        Machine(name="g2-standard-24", cpus=24, memory_mb=98304, zones=GPU_ZONES, built_in=("nvidia-l4", 2)),
        Machine(
            name="a2-highgpu-1g", cpus=12, memory_mb=87040, zones=GPU_ZONES, built_in=("nvidia-tesla-a100", 1)
        ),
        Machine(
            name="a2-highgpu-8g", cpus=96, memory_mb=696320, zones=GPU_ZONES, built_in=("nvidia-tesla-a100", 8)
        ),
        Machine(
            name="a3-highgpu-8g", cpus=208, memory_mb=1916928, zones=GPU_ZONES[:1], built_in=("nvidia-h100-80gb", 8)
        ),
    ]
}  # fmt: skip

ACCELERATORS = {
    "nvidia-tesla-t4": (4, "NVIDIA T4"),
    "nvidia-tesla-v100": (8, "NVIDIA V100"),
    "nvidia-l4": (8, "NVIDIA L4"),
    "nvidia-tesla-a100": (16, "NVIDIA A100 40GB"),
    "nvidia-h100-80gb": (8, "NVIDIA H100 80GB"),
}
"""Cards per instance at most, and what they are called; sold in ``GPU_ZONES``."""
ATTACHABLE = frozenset({"nvidia-tesla-t4", "nvidia-tesla-v100"})
"""What is added to N1 machines; the others come with their own machine types."""
GPU_METRICS = {
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS", "nvidia-tesla-v100": "NVIDIA_V100_GPUS", "nvidia-l4": "NVIDIA_L4_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
}  # fmt: skip
"""Quotas by accelerator; newer ones than these count by GPUS_ALL_REGIONS alone here."""
CPU_METRICS = {"n2": "N2_CPUS", "c3": "C3_CPUS", "a2": "A2_CPUS", "t2a": "T2A_CPUS"}
"""Families whose processors are counted apart from CPUS."""

REGION_LIMITS = {
    "CPUS": 2400.0, "N2_CPUS": 2400.0, "C3_CPUS": 2400.0, "A2_CPUS": 192.0, "T2A_CPUS": 64.0,
    "PREEMPTIBLE_CPUS": 2400.0, "INSTANCES": 6000.0, "IN_USE_ADDRESSES": 2300.0, "STATIC_ADDRESSES": 700.0,
    "DISKS_TOTAL_GB": 102400.0, "SSD_TOTAL_GB": 81920.0,
    "NVIDIA_T4_GPUS": 16.0, "NVIDIA_V100_GPUS": 16.0, "NVIDIA_L4_GPUS": 16.0, "NVIDIA_A100_GPUS": 16.0,
    "PREEMPTIBLE_NVIDIA_T4_GPUS": 16.0, "PREEMPTIBLE_NVIDIA_V100_GPUS": 16.0,
    "PREEMPTIBLE_NVIDIA_L4_GPUS": 16.0, "PREEMPTIBLE_NVIDIA_A100_GPUS": 16.0,
}  # fmt: skip
PROJECT_LIMITS = {
    "CPUS_ALL_REGIONS": 7200.0, "GPUS_ALL_REGIONS": 64.0, "NETWORKS": 500.0, "SUBNETWORKS": 1000.0, "FIREWALLS": 1000.0,
    "ROUTES": 1000.0, "ROUTERS": 100.0, "FORWARDING_RULES": 600.0, "BACKEND_SERVICES": 600.0, "HEALTH_CHECKS": 600.0,
    "TARGET_POOLS": 600.0, "IMAGES": 2000.0, "SNAPSHOTS": 5000.0,
}  # fmt: skip

IMAGES = {
    "debian-cloud": {"debian-12": "debian-12-bookworm-v20261010", "debian-11": "debian-11-bullseye-v20261010"},
    "ubuntu-os-cloud": {
        "ubuntu-2204-lts": "ubuntu-2204-jammy-v20261015",
        "ubuntu-2404-lts-amd64": "ubuntu-2404-noble-amd64-v20261015",
    },
    "cos-cloud": {"cos-stable": "cos-stable-121-18867-90-1"},
    "deeplearning-platform-release": {"common-cu128-ubuntu-2204-py310": "common-cu128-ubuntu-2204-py310-v20261001"},
}
"""Public images: family and newest image, by project."""


def sold_in(machine: Machine, zone: str) -> bool:
    """Return whether a zone has a machine type at all."""
    return not machine.zones or zone in machine.zones


def region_of(zone: str) -> str:
    """Return the region that a zone lies in."""
    return zone.rpartition("-")[0]
