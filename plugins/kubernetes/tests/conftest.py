"""Where tests of this plugin run: a simulated API server, or the real one that ANYSCALE_TEST_KUBECONFIG names."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from anyscale_conformance.simulators.kubernetes import Servers
from anyscale_kubernetes.kinds import NAMESPACE as NAMESPACES
from anyscale_kubernetes.kinds import SERVICE_ACCOUNT
from anyscale_kubernetes.records import find
from anyscale_kubernetes.testing import TYPES, Land, eventually

from anyscale_core.clock import Clock, SystemClock
from anyscale_core.testing.clock import ManualClock

NAMESPACE = "ray"
REAL = os.environ.get("ANYSCALE_TEST_KUBECONFIG", "")
IMAGE = os.environ.get("ANYSCALE_TEST_IMAGE", "busybox:1")
SLEEPS = ["sleep", "3600"]
"""What Pods run here; IMAGE has it."""


@pytest.fixture
def land(tmp_path: Path) -> Iterator[Land]:
    """A namespace: simulated on a clock moved by hand, or real."""
    if REAL:
        with real(tmp_path) as lent:
            yield lent
        return
    clock = ManualClock()
    with Servers() as servers:
        yield simulated(tmp_path, servers.start(clock=clock), clock)


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Land]:
    """A namespace in a cluster whose time passes by itself: watches end when their time is up."""
    if REAL:
        with real(tmp_path) as lent:
            yield lent
        return
    clock = SystemClock()
    with Servers() as servers:
        yield simulated(tmp_path, servers.start(clock=clock), clock)


def simulated(folder: Path, cluster: Any, clock: Clock, **settings: Any) -> Land:
    cluster.make_namespace(NAMESPACE)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(cluster.kubeconfig(cluster.admin_token, namespace=NAMESPACE)))
    return Land(
        folder=folder, home=folder / "home", clock=clock, simulated=cluster,
        settings={
            "namespace": NAMESPACE, "kubeconfig": str(kubeconfig), "image": IMAGE, "instance_types": TYPES,
            "command": SLEEPS, "sight": "list", **settings,
        },
    )  # fmt: skip


@contextmanager
def real(folder: Path) -> Iterator[Land]:
    """Give a namespace of the real cluster, and take it away with all that is in it."""
    name = f"anyscale-test-{uuid.uuid4().hex[:8]}"
    settings = {
        "namespace": name, "kubeconfig": REAL, "image": IMAGE, "instance_types": TYPES, "command": SLEEPS,
        "sight": "list",
    }  # fmt: skip
    land = Land(folder=folder, home=folder / "home", clock=SystemClock(), settings=settings)
    api = land.api()
    api.apply(NAMESPACES, {"metadata": {"name": name}}, manager="anyscale-test", deadline=land.soon())
    try:
        # A controller makes it soon; until then no Pod is taken.
        eventually(lambda: find(api, SERVICE_ACCOUNT, "default", deadline=land.soon()))
        yield land
    finally:
        found = api.get(NAMESPACES, name, deadline=land.soon())
        api.delete_if_there(NAMESPACES, found, deadline=land.soon())
        api.close()
