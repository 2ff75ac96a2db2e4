"""A scripted control plane with fake nodes, for the tests of the fake agents."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Refused
from anyscale_core.models.ids import ClusterId, NodeId, Token
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.node import (
    PROOF_AUDIENCE,
    HeadAddress,
    HeadReport,
    Heartbeat,
    NodeConfig,
    Orders,
    RayStatus,
    Registered,
    Registration,
)
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess
from anyscale_core.testing import FakeAgents, FakeCloud, FakeProvider
from anyscale_core.testing import builders as build

TICK = timedelta(seconds=5)


class ScriptedPlane:
    """The simplest control plane there is: it lets in whom it launched, and gives the orders that a test put down."""

    def __init__(self, cloud: FakeCloud) -> None:
        self.cloud = cloud
        self.driver = FakeProvider(cloud).cluster(config(cloud))
        self.identity = FakeProvider(cloud).identity(config(cloud))
        self.epoch = "epoch-1"
        self.orders: dict[str, Orders] = {}
        self.beats: list[tuple[str, Heartbeat]] = []
        self.registered: list[str] = []
        self.refuse: set[str] = set()
        self.gcs = ""

    def launch(self, *names: str) -> None:
        """Make instances; ``head`` is the head."""
        specs = [
            build.an_instance_spec(
                name,
                kind=NodeKind.HEAD if name == "head" else NodeKind.WORKER,
                bootstrap=build.a_bootstrap(f"nod_{name}"),
            )
            for name in names
        ]
        self.driver.create(specs, token=Token(str(names)), deadline=self.cloud.clock.now() + TICK)

    def last(self, name: str) -> Heartbeat:
        return next(beat for who, beat in reversed(self.beats) if who == name)

    def report(self) -> HeadReport:
        head = self.last("head").head
        assert head is not None
        return head

    def register(self, registration: Registration) -> Registered:
        deadline = self.cloud.clock.now() + TICK
        name = self.identity.verify(registration.proof, audience=PROOF_AUDIENCE, deadline=deadline).instance
        if name in self.refuse:
            raise Refused("unknown", f"nobody knows {name}")
        self.registered.append(name)
        return Registered(credential=Secret(name), expires_at=deadline, config=self._config(name))

    def heartbeat(self, credential: Secret[str], heartbeat: Heartbeat) -> Orders:
        name = credential.reveal().partition("/")[0]
        if name in self.refuse:
            raise Refused("expired", "the credential has expired")
        self.beats.append((name, heartbeat))
        if heartbeat.head is not None:
            self.gcs = heartbeat.head.gcs_address
        wanted = self._config(name)
        orders = self.orders.get(name, Orders())
        return orders if wanted.version == heartbeat.config_version else attrs.evolve(orders, config=wanted)

    def _config(self, name: str) -> NodeConfig:
        is_head = name == "head"
        head = HeadAddress(epoch=self.epoch, address="" if is_head else self.gcs)
        return NodeConfig(
            version=f"{self.epoch}-{bool(self.gcs)}",
            cluster_id=ClusterId("clu_1"),
            cluster_name="demo",
            node_id=NodeId(f"nod_{name}"),
            instance_name=name,
            kind=NodeKind.HEAD if is_head else NodeKind.WORKER,
            group="head" if is_head else "workers",
            head=head if is_head or self.gcs else None,
            ray_token=Secret("ray"),
            resources={"CPU": 0.0} if is_head else {"CPU": 4.0},
            labels={"zone": "a"} if name == "w1" else {},
            env_vars={},
            store=StoreAccess(url="memory://logs/"),
            heartbeat_interval=TICK,
        )


def config(cloud: FakeCloud) -> DriverConfig:
    return DriverConfig(owner=build.owner(), home=Path("unused"), clock=cloud.clock)


class Stage:
    """A head and two workers on their way up."""

    def __init__(self, **options: Any) -> None:
        self.cloud = FakeCloud(boot=timedelta(seconds=10))
        self.plane = ScriptedPlane(self.cloud)
        self.agents = FakeAgents(self.cloud, self.plane, **options)

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.cloud.clock.advance(TICK)
            self.agents.step()

    def ray(self, name: str) -> RayStatus:
        return self.agents.agent(name).ray

    def ray_id(self, name: str) -> str:
        return next(n.ray_id for n in self.plane.report().ray_nodes if n.instance_name == name and n.status != "DEAD")

    def status(self, name: str) -> str:
        return [n.status for n in self.plane.report().ray_nodes if n.instance_name == name][-1]
