"""What tests of this plugin, and of those who embed it, build from: a machine of one's own that leaves nothing running."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_local import processes
from anyscale_local.cluster import LocalCluster
from anyscale_local.config import STATE_VARIABLE

SLEEP = ("sleep", "300")
"""An instance that does nothing for longer than any test."""


@attrs.frozen(kw_only=True)
class Machine:
    """A state folder of one's own, with builders of what goes in."""

    home: Path

    @classmethod
    @contextmanager
    def lent(cls, home: Path) -> Iterator["Machine"]:
        """Give a machine for the length of a block, its temporary files in a folder of its own, and clear it after."""
        before = os.environ.get("TMPDIR")
        # A short path: instances keep their homes there, and Ray its sockets in those.
        with tempfile.TemporaryDirectory(prefix="t", dir="/tmp", ignore_cleanup_errors=True) as temporary:
            os.environ["TMPDIR"], tempfile.tempdir = temporary, None
            tempfile.gettempdir()  # it is tried out once, with a file; not in the middle of a test
            machine = cls(home=home)
            try:
                yield machine
            finally:
                machine.clear()
                tempfile.tempdir = None
                os.environ.pop("TMPDIR")
                os.environ.update({"TMPDIR": before} if before is not None else {})

    @property
    def state(self) -> Path:
        """Where the provider keeps its things."""
        return self.home / "local"

    def config(self, owner: Owner | None = None, **settings: Any) -> DriverConfig:
        """Return a driver's config; instances sleep unless ``command`` says otherwise."""
        return DriverConfig(owner=owner or owned(), home=self.home, settings={"command": SLEEP, **settings})

    def cluster(self, **settings: Any) -> LocalCluster:
        """Return a cluster driver with these settings."""
        return LocalCluster(self.config(**settings))

    def processes(self) -> tuple[processes.Process, ...]:
        """Return every process that an instance of this machine started and that lives."""
        marker = f"{STATE_VARIABLE}={self.state}"
        return processes.bearers([marker])[marker]

    def leftovers(self) -> list[str]:
        """Return what instances have left on the disk, by the names of folders."""
        instances = self.state / "instances"
        there = os.listdir(instances) if instances.exists() else []
        return [*there, *(name for name in os.listdir(tempfile.gettempdir()) if name.startswith("ac-"))]

    def clear(self) -> None:
        """Kill whatever is left, past every driver."""
        while left := self.processes():
            for process in left:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.005)


def owned(cloud: str = "local", cluster: str | None = "clu_1") -> Owner:
    """Return an owner; another cloud is a stranger to it."""
    return Owner(
        plane=PlaneId("pln_1"), cloud=CloudName(cloud), cluster=None if cluster is None else ClusterId(cluster)
    )


def specified(name: str = "one", owner: Owner | None = None, **fields: Any) -> InstanceSpec:
    """Return the smallest valid spec of an instance, with these fields changed."""
    base = InstanceSpec(
        name=name,
        node_id=NodeId(f"nod_{name}"),
        owner=owner or owned(),
        kind=NodeKind.WORKER,
        group="workers",
        instance_type="local.1cpu",
        bootstrap=Bootstrap(
            url="https://127.0.0.1:1",
            ca_pem="",
            node_id=NodeId(f"nod_{name}"),
            join_token=Secret(f"join-{name}-canary"),
            identity_provider="local",
        ),
    )
    return attrs.evolve(base, **fields)


def soon(seconds: float = 30) -> datetime:
    """Return a deadline that a test does not reach."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def eventually(true: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait until something real has happened; fails the test when it does not."""
    end = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"it did not happen within {within_s} s")
        time.sleep(0.005)
