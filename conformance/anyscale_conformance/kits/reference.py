"""The kit of the reference provider: FakeProvider over a FakeCloud whose wire carries the suite's faults."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

import attrs

from anyscale_conformance.faults.carriers import WRITES, carry
from anyscale_conformance.faults.plan import Effect, Fault, FaultPlan
from anyscale_conformance.kit import Item, Kit, RunScope, Samples
from anyscale_conformance.kits.reference_hands import hands_of
from anyscale_conformance.rules import Hand
from anyscale_core.drivers.base import Driver
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import IdentitySpec
from anyscale_core.models.ids import InstanceId
from anyscale_core.models.instance import Notice, NoticeKind
from anyscale_core.models.networking import Check, CheckStatus, EndpointSpec, NetworkSpec
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing import world
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec, owner
from anyscale_core.testing.clock import ManualClock
from anyscale_core.testing.driver import Page
from anyscale_core.testing.fake import FakeProvider
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_identity import FakeIdentityDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver, keys_in
from anyscale_core.testing.world import FakeCloud, Remains

D = TypeVar("D", bound=Driver)
R = TypeVar("R")


SPOILT = Check(
    id="network.nat",
    status=CheckStatus.FAILED,
    detail="nodes cannot reach the internet",
    remedy="give the subnet a NAT gateway",
)
"""What is wrong with a network that was spoilt."""


class WiredCloud(FakeCloud):
    """A FakeCloud whose every call meets a plan of faults first. It is its own carrier."""

    effects = frozenset(Effect)
    is_on_wire = True
    shows_timeouts = True

    def __init__(self, clock: ManualClock, **fields: Any) -> None:
        super().__init__(clock, **fields)
        self.plan = FaultPlan()
        self._next_page: str = ""
        """The token of the page that is asked for next."""

    def wrap(self, driver: D) -> D:
        """Return the driver as it is: the faults strike below it."""
        return driver

    def carry(self, slot: str, verb: str, act: Callable[[], R], **fields: Any) -> R:
        """Carry one call out as the plan says."""
        result: R = carry(
            self.plan, f"{slot}.{verb}", lambda: super(WiredCloud, self).carry(slot, verb, act, **fields),
            is_write=verb in WRITES, wait=self.clock.sleep, provider="fake", names=fields.get("names", ()),
            token=fields.get("token") or "", tamper=self._tampered, timeout_s=self._left_s(fields.get("deadline")),
        )  # fmt: skip
        if isinstance(result, Page):
            self._next_page = result.next or ""
        return result

    def _left_s(self, deadline: datetime | None) -> float | None:
        return None if deadline is None else (deadline - self.clock.now()).total_seconds()

    def _tampered(self, fault: Fault, result: R) -> Any:
        """Return a page of a list as the fault spoils it."""
        if not isinstance(result, Page):
            raise RuntimeError(f"{fault} struck what is no list")
        if fault.effect is Effect.REPEAT_PAGE:
            return Page(items=result.items, next=self._next_page)
        # An empty page, and a token that leads to the page that was asked for: the next string after the last key.
        return Page(items=(), next=f"{self._next_page}\0")


class CloudOracle:
    """Looks into the world itself, past every driver and every lag."""

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud

    def inventory(self) -> Iterable[Item]:
        """Return everything that exists, and what the customer has that can be adopted."""
        for kind, id in sorted(self._cloud.foreign):
            yield Item(kind=f"foreign {kind}", id=id)
        for item in self._cloud.inventory():
            yield Item(
                kind=item.kind, id=item.id, name=item.name, tags=item.tags,
                state=self._state(item), detail=self._detail(item),
            )  # fmt: skip

    def _state(self, item: world.Item) -> str:
        if item.kind != "endpoint":
            return item.state
        way = self._way(item)
        if way.goes_at is not None:
            return "deleting"
        return "ready" if self._cloud.clock.now() >= way.ready_at else "pending"

    def _detail(self, item: world.Item) -> dict[str, str]:
        if item.kind == "instance":
            machine = self._cloud.machines[InstanceId(item.id)]
            return {"spec": str(machine.spec), "zone": machine.zone, "market": machine.market_type.value}
        if item.kind == "bucket":
            store = self._cloud.buckets[item.name]
            public = "yes" if store.bucket.public else "no"
            return {"keys": " ".join(keys_in(store)), "public": public, "region": store.bucket.region}
        if item.kind == "endpoint":
            spec = self._way(item).spec
            return {"target": f"{spec.target_address}:{spec.target_port}"}
        return {}

    def _way(self, item: world.Item) -> world.WayIn:
        return self._cloud.endpoints[world.key_of(world.owner_of(item.tags), item.name)]


class ReferenceKit(Kit):
    """FakeProvider, on a clock moved by hand. A subclass that sets ``Cluster`` and so on is a broken provider's kit."""

    Cluster: type[FakeClusterDriver] = FakeClusterDriver
    Identity: type[FakeIdentityDriver] = FakeIdentityDriver
    Storage: type[FakeStorageDriver] = FakeStorageDriver
    Networking: type[FakeNetworkingDriver] = FakeNetworkingDriver
    Cloud: type[WiredCloud] = WiredCloud
    untaggable = frozenset({"grant"})
    page_size: int | None = None
    """How many things a page of a list has; by seed unless it is set."""
    lag = timedelta()

    def __init__(self, scope: RunScope) -> None:
        super().__init__(scope)
        self.clock = self.manual = ManualClock()
        self.cloud = self.Cloud(
            self.manual,
            list_window=max(self.lag, timedelta(seconds=30)),
            page_size=self.page_size or 3 + scope.seed % 3,
        )
        self.cloud.lag(self.lag)

    def provider(self) -> Provider:
        provider = FakeProvider(self.cloud).provider()
        numbers = {**provider.capabilities.numbers, "list.page_size": self.cloud.page_size}
        return attrs.evolve(
            provider,
            capabilities=attrs.evolve(provider.capabilities, numbers=numbers),
            cluster=lambda config: self.Cluster(self.cloud, config, "fake"),
            identity=lambda config: self.Identity(self.cloud, config, "fake"),
            storage=lambda config: self.Storage(self.cloud, config, "fake"),
            networking=lambda config: self.Networking(self.cloud, config, "fake"),
        )

    def plugin(self) -> str:
        return "anyscale_conformance.kits.fake_plugin"

    def distribution(self) -> str:
        return "anyscale-core"

    def package(self) -> str:
        return "anyscale_core"

    def samples(self) -> Samples:
        nobody = owner()
        return Samples(
            instance=an_instance_spec(bootstrap=a_bootstrap()),
            identity=IdentitySpec(name="sample", owner=nobody),
            bucket=BucketSpec(name="sample"),
            network=NetworkSpec(name="sample"),
            endpoint=EndpointSpec(name="sample", owner=nobody, network="", target_address="10.0.0.9", target_port=8443),
            account=self.cloud.account,
        )

    def permission_of(self, action: str) -> str:
        return f"fake:{action}"

    def oracle(self) -> CloudOracle:
        return CloudOracle(self.cloud)

    def carrier(self) -> WiredCloud:
        return self.cloud

    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        cloud = self.cloud

        def offer(kind: str) -> str:
            id = f"theirs-{kind}"
            if not kind.startswith("no "):
                cloud.exists(kind, id)
            return id

        return {
            Hand.SELL_OUT: cloud.exhaust,
            Hand.OVERBOOK: cloud.overbook,
            Hand.RESTOCK: cloud.restock,
            Hand.LIMIT: lambda count: cloud.limits.update(instances=float(count)),
            Hand.KILL: cloud.kill,
            Hand.STOP: lambda name: cloud.kill(name, Remains.STOPPED),
            Hand.ANNOUNCE: lambda name: cloud.announce(
                name, Notice(kind=NoticeKind.PREEMPTION, at=cloud.clock.now() + timedelta(minutes=2))
            ),
            Hand.LAG: cloud.lag,
            Hand.OFFER: offer,
            Hand.ADD_DUPLICATE: cloud.double,
            Hand.PROTECT: cloud.protect,
            Hand.RELEASE: cloud.release,
            Hand.FILL: cloud.fill,
            Hand.SPOIL: lambda _: cloud.checks.update({SPOILT.id: SPOILT}),
            **hands_of(cloud),
        }
