"""FakeCloud: the world that the fake drivers act on, with hands to change it and eyes that no driver has."""

import enum
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.errors import CapacityUnavailable, CloudError, Conflict, Fault, Scope, SpecError
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.identity import Access, Identity
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import (
    Instance,
    InstanceSpec,
    InstanceState,
    Notice,
    Offering,
)
from anyscale_core.models.networking import Check, EndpointSpec, Network
from anyscale_core.models.owner import TAG_CLOUD, TAG_CLUSTER, TAG_NAME, TAG_NODE, TAG_PLANE, Owner
from anyscale_core.models.storage import Bucket, Grant
from anyscale_core.testing.catalogue import LIMITS, OFFERINGS
from anyscale_core.testing.clock import ManualClock
from anyscale_core.testing.faults import Wire


class Remains(enum.Enum):
    """What a kill leaves of an instance."""

    NOTHING = "nothing"
    STOPPED = "stopped"
    """It stays in the cloud, paid for, and does not run."""


@attrs.frozen(kw_only=True)
class Item:
    """One thing that exists, whoever owns it. ``kind``: instance, identity, grant, bucket, network or endpoint."""

    kind: str
    name: str
    id: str
    state: str = ""
    tags: Mapping[str, str] = attrs.field(factory=dict)
    created_at: datetime | None = None


@attrs.define(kw_only=True, eq=False)
class Machine:
    """An instance of the world."""

    id: InstanceId
    spec: InstanceSpec
    tags: Mapping[str, str]
    zone: str
    market_type: MarketType
    address: str
    created_at: datetime
    runs_at: datetime
    takes: Mapping[str, float] = attrs.field(factory=dict)
    """How much of each limit it takes."""
    goes_at: datetime | None = None
    """When a delete of it is done; None while nobody has begun one."""
    stopped: bool = False
    notice: Notice | None = None
    reason: str = ""
    failure: CloudError | None = None
    """What it shows instead of running, from when it would have run."""

    def state(self, now: datetime) -> InstanceState:
        """Return what the cloud says of it."""
        if self.goes_at is not None:
            return InstanceState.DELETING
        if self.stopped or (self.failure is not None and now >= self.runs_at):
            return InstanceState.STOPPED
        return InstanceState.RUNNING if now >= self.runs_at else InstanceState.PENDING

    def view(self, now: datetime) -> Instance:
        """Return it as ``get`` and ``list`` show it."""
        state = self.state(now)
        return Instance(
            id=self.id,
            name=self.spec.name,
            node_id=self.spec.node_id,
            owner=owner_of(self.tags),
            instance_type=self.spec.instance_type,
            state=state,
            market_type=self.market_type,
            zone=self.zone,
            address="" if state is InstanceState.PENDING else self.address,
            created_at=self.created_at,
            notice=self.notice,
            reason=self.reason if state is not InstanceState.PENDING else "",
            failure=self.failure if state is InstanceState.STOPPED else None,
            tags=self.tags,
        )


@attrs.define(kw_only=True, eq=False)
class Net:
    """A network of the world, with the ways in to it."""

    network: Network
    cidr: str
    goes_at: datetime | None = None


@attrs.define(kw_only=True, eq=False)
class WayIn:
    """An endpoint of the world."""

    spec: EndpointSpec
    ready_at: datetime
    goes_at: datetime | None = None


@attrs.define(kw_only=True, eq=False)
class Store:
    """A bucket of the world. ``objects`` is made when somebody first opens it."""

    bucket: Bucket
    objects: Any = None


@attrs.define(kw_only=True, eq=False)
class Shortage:
    """Something that is sold out beyond ``left`` more. ``fired`` counts what was refused because of it."""

    instance_type: str | None = None
    zone: str | None = None
    market: MarketType | None = None
    left: int = 0
    fired: int = 0

    def covers(self, instance_type: str, zone: str, market: MarketType) -> bool:
        """Tell whether this offering is part of what is short."""
        wanted = (self.instance_type, self.zone, self.market)
        return all(have in (None, value) for have, value in zip(wanted, (instance_type, zone, market), strict=True))


class FakeCloud(Wire):
    """A cloud in memory: one account, one region, three zones, a ManualClock of its own. Safe to use from many threads.

    ``boot``: from create to RUNNING. ``delete_takes``: from delete to gone. ``exposes_in``: until an endpoint is READY.
    ``list_window``: the longest that a list may lag behind, which the provider declares; ``lag()`` makes it do so.
    ``page_size``: how many things one call of a list returns.
    """

    account = "fake-account"

    def __init__(
        self,
        clock: ManualClock | None = None,
        *,
        boot: timedelta = timedelta(seconds=30),
        delete_takes: timedelta = timedelta(seconds=20),
        exposes_in: timedelta = timedelta(seconds=10),
        list_window: timedelta = timedelta(seconds=30),
        page_size: int = 1000,
    ) -> None:
        self.clock = clock or ManualClock()
        self.lock = threading.RLock()
        super().__init__(self.clock, self.lock)
        self.boot, self.delete_takes, self.exposes_in = boot, delete_takes, exposes_in
        self.list_window, self.page_size = list_window, page_size
        self.offerings: tuple[Offering, ...] = OFFERINGS
        self.limits: dict[str, float] = dict(LIMITS)
        self.checks: dict[str, Check] = {}
        """What ``check`` finds besides the usual, by check id: put a failed one in, take it out."""
        self.machines: dict[InstanceId, Machine] = {}
        self.volumes: dict[tuple[str, str, str], Owner] = {}
        """By plane, cloud and name."""
        self.identities: dict[str, Identity] = {}
        self.networks: dict[tuple[str, str, str], Net] = {}
        """By plane, cloud and name."""
        self.endpoints: dict[tuple[str, str, str], WayIn] = {}
        self.buckets: dict[str, Store] = {}
        self.grants: dict[tuple[str, str, str, Access], Grant] = {}
        """By bucket, prefix and identity."""
        self.foreign: set[tuple[str, str]] = set()
        self.protected: set[InstanceId] = set()
        self.full: set[str] = set()
        self.let_go: dict[str, Any] = {}
        """The objects of adopted buckets that were let go of, by URL."""
        self.used: dict[str, float] = dict.fromkeys(LIMITS, 0.0)
        """How much of each limit is in use."""
        self._named: dict[tuple[str, str, str], InstanceId] = {}
        self._shortages: list[Shortage] = []
        self._overbooked: set[str] = set()
        self._lag = timedelta()
        self._past: list[Machine] = []
        self._tokens: dict[tuple[str, ...], tuple[object, list[str]]] = {}
        self._serial = 0

    # Hands -----------------------------------------------------------------------------------------------------------

    def preempt(self, name: str) -> None:
        """Take an instance back, as the spot market does: it is gone at once, without a word."""
        self.kill(name)

    def fail(self, name: str, failure: CloudError) -> None:
        """Let an instance that was accepted never run: it stays, stopped, and shows why. Raises KeyError as ``kill`` does."""
        with self.lock:
            machine = self.machine(name)
            machine.reason, machine.failure, machine.runs_at = str(failure), failure, self.clock.now()

    def overbook(self, instance_type: str) -> None:
        """Accept instances of a type that there are none of: each is seen to fail when it should run."""
        with self.lock:
            self._overbooked.add(instance_type)

    def kill(self, name: str, remains: Remains = Remains.NOTHING, reason: str = "") -> None:
        """End an instance behind everybody's back. Raises KeyError when none of that name exists."""
        with self.lock:
            machine = self.machine(name)
            if remains is Remains.STOPPED:
                machine.stopped, machine.reason = True, reason or "stopped by its owner"
                return
            self._gone(machine)

    def resume(self, name: str) -> None:
        """Start a stopped instance again."""
        with self.lock:
            machine = self.machine(name)
            machine.stopped, machine.reason = False, ""

    def announce(self, name: str, notice: Notice | None) -> None:
        """Show a notice on an instance, or take it back."""
        with self.lock:
            self.machine(name).notice = notice

    def exhaust(
        self,
        instance_type: str | None = None,
        zone: str | None = None,
        market: MarketType | None = None,
        *,
        left: int = 0,
    ) -> Shortage:
        """Sell out whatever matches all that is given, after ``left`` more."""
        shortage = Shortage(instance_type=instance_type, zone=zone, market=market, left=left)
        with self.lock:
            self._shortages.append(shortage)
        return shortage

    def restock(
        self, instance_type: str | None = None, zone: str | None = None, market: MarketType | None = None
    ) -> None:
        """End the shortages that were declared with these words; with none, all of them."""
        wanted = (instance_type, zone, market)
        with self.lock:
            self._shortages = [
                short
                for short in self._shortages
                if wanted != (None, None, None) and (short.instance_type, short.zone, short.market) != wanted
            ]

    def protect(self, name: str) -> None:
        """Let an instance be protected: to delete it is Conflict(IN_USE) until it is released."""
        with self.lock:
            self.protected.add(self.machine(name).id)

    def release(self, name: str) -> None:
        """End the protection of an instance; it may have none."""
        with self.lock:
            self.protected.discard(self.machine(name).id)

    def double(self, name: str) -> None:
        """Let a second instance of the same name and tags exist beside one, as a lost token leaves behind."""
        with self.lock:
            self.settle()
            twin = attrs.evolve(self.machine(name), id=InstanceId(f"i-{self.serial():06d}"))
            self.machines[twin.id] = twin
            for metric, amount in twin.takes.items():
                self.used[metric] = self.used.get(metric, 0.0) + amount

    def fill(self, network: str) -> None:
        """Let a network, by its name, have no free address left for another instance."""
        self.full.add(network)

    def lag(self, window: timedelta) -> None:
        """Let every list of instances be ``window`` old. Raises ValueError beyond the declared ``list_window``."""
        if window > self.list_window:
            raise ValueError(
                f"{window} is beyond the declared window; build FakeCloud(list_window=...) with a longer one"
            )
        self._lag = window

    def exists(self, kind: str, id: str) -> None:
        """Let the customer have a network (``id``), bucket (its URL) or identity (its principal) that can be adopted."""
        if kind not in ("network", "bucket", "identity"):
            raise ValueError(f"a {kind} cannot be adopted")
        self.foreign.add((kind, id))

    # Eyes ------------------------------------------------------------------------------------------------------------

    def inventory(self, kind: str | None = None) -> tuple[Item, ...]:
        """Return everything that exists now, of all owners, past every lag: the judge of what drivers say."""
        with self.lock:
            self.settle()
            return tuple(item for item in self._items() if kind in (None, item.kind))

    def running(self) -> tuple[Machine, ...]:
        """Return the machines that run now, oldest first."""
        with self.lock:
            self.settle()
            now = self.clock.now()
            return tuple(m for m in self.machines.values() if m.state(now) is InstanceState.RUNNING)

    def machine(self, name: str) -> Machine:
        """Return the instance of that name. Raises KeyError with the names there are."""
        with self.lock:
            self.settle()
            found = [machine for machine in self.machines.values() if machine.spec.name == name]
            if not found:
                names = ", ".join(sorted(m.spec.name for m in self.machines.values())) or "none at all"
                raise KeyError(f"no instance {name!r}; there are {names}")
            return found[0]

    # For the fake drivers --------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let what has finished going be gone."""
        now = self.clock.now()
        for machine in [m for m in self.machines.values() if m.goes_at is not None and m.goes_at <= now]:
            self._gone(machine)
        for key in [key for key, net in self.networks.items() if net.goes_at is not None and net.goes_at <= now]:
            del self.networks[key]
            self.spend(("networking", "create", *key[:2]), key[2])
        for key in [key for key, way in self.endpoints.items() if way.goes_at is not None and way.goes_at <= now]:
            del self.endpoints[key]
            self.spend(("networking", "expose", *key[:2]), key[2])

    def listed(self) -> Iterator[Machine]:
        """Yield the machines as a list shows them: ``lag`` late with what is new and with what is gone."""
        self.settle()
        seen_at = self.clock.now() - self._lag
        yield from (m for m in self.machines.values() if m.created_at <= seen_at)
        yield from (m for m in self._past if m.goes_at is not None and m.created_at <= seen_at < m.goes_at)

    def ever(self) -> Iterator[Machine]:
        """Yield every machine there ever was."""
        yield from (*self.machines.values(), *self._past)

    def short(self, instance_type: str, zone: str, market: MarketType) -> Shortage | None:
        """Return a shortage that covers an offering now."""
        return next((s for s in self._shortages if s.left <= 0 and s.covers(instance_type, zone, market)), None)

    def add(self, machine: Machine) -> None:
        """Let a machine be, and count it sold."""
        if machine.spec.instance_type in self._overbooked:
            machine.failure = CapacityUnavailable(
                f"there is no {machine.spec.instance_type} after all", reason="SKU", scope=Scope.ZONE
            )
            machine.reason = str(machine.failure)
        self.machines[machine.id] = machine
        self._named[key_of(machine.spec.owner, machine.spec.name)] = machine.id
        for metric, amount in machine.takes.items():
            self.used[metric] = self.used.get(metric, 0.0) + amount
        for shortage in self._shortages:
            if shortage.covers(machine.spec.instance_type, machine.zone, machine.market_type):
                shortage.left -= 1

    def named(self, owner: Owner, name: str) -> Machine | None:
        """Return the machine of that name in a cloud of a plane, if it is still there."""
        return self.machines.get(self._named.get(key_of(owner, name), InstanceId("")))

    def serial(self) -> int:
        """Return the next number of the world's one counter."""
        with self.lock:
            self._serial += 1
            return self._serial

    def once(
        self,
        key: Sequence[str],
        token: Token,
        wanted: object,
        alive: Callable[[str], bool],
    ) -> list[str]:
        """Return what this token made before (empty at its first use), to be extended by its maker.

        Raises Conflict(TOKEN_MISMATCH) when it stood for something else, Conflict(TOKEN_SPENT) when what it made is gone.
        """
        before, made = self._tokens.setdefault((*key, token), (wanted, []))
        if before != wanted:
            hint = "repeat a call with the specs that it was first made with, or mint a new token"
            raise Conflict("the token stands for another request", reason="TOKEN_MISMATCH", hint=hint)
        if made and not any(alive(thing) for thing in made):
            raise Conflict(
                "what the token made has been deleted", reason="TOKEN_SPENT", hint="mint a new token to make it again"
            )
        return made

    def spend(self, key: Sequence[str], name: str) -> None:
        """Let what tokens of ``key`` made under a name be gone for good: whoever makes it again makes another thing."""
        for (*of, _), (_, made) in self._tokens.items():
            if tuple(of) == tuple(key) and name in made:
                made[made.index(name)] = f"{name} (deleted)"

    def holder(self, volume: tuple[str, str, str]) -> Machine | None:
        """Return the instance that has a volume."""
        self.settle()
        for machine in self.machines.values():
            if machine.spec.volume is not None and key_of(machine.spec.owner, machine.spec.volume) == volume:
                return machine
        return None

    def _gone(self, machine: Machine) -> None:
        machine.goes_at = min(machine.goes_at or self.clock.now(), self.clock.now())
        del self.machines[machine.id]
        for metric, amount in machine.takes.items():
            self.used[metric] -= amount
        self._past.append(machine)

    def _items(self) -> Iterable[Item]:
        now = self.clock.now()
        for machine in self.machines.values():
            state, tags = machine.state(now).value, machine.tags
            yield Item(
                kind="instance", name=machine.spec.name, id=machine.id, state=state, tags=tags,
                created_at=machine.created_at,
            )  # fmt: skip
        for (_, _, name), owner in self.volumes.items():
            yield Item(kind="volume", name=name, id=name, tags=owner.tags())
        for identity in self.identities.values():
            yield Item(kind="identity", name=identity.name, id=identity.principal, tags=identity.owner.tags())
        for grant in self.grants.values():
            yield Item(kind="grant", name=f"{grant.bucket}/{grant.prefix}", id=grant.identity, state=grant.access.value)
        for store in self.buckets.values():
            yield Item(kind="bucket", name=store.bucket.name, id=store.bucket.url, tags=store.bucket.owner.tags())
        for net in self.networks.values():
            state = "deleting" if net.goes_at else "ready"
            tags = net.network.owner.tags()
            yield Item(kind="network", name=net.network.name, id=net.network.id, state=state, tags=tags)
        for way in self.endpoints.values():
            yield Item(kind="endpoint", name=way.spec.name, id=way.spec.network, tags=way.spec.owner.tags())


def owner_of(tags: Mapping[str, str]) -> Owner:
    """Return the owner that tags name; the twin of ``Owner.tags``."""
    missing = [key for key in (TAG_PLANE, TAG_CLOUD) if key not in tags]
    if missing:
        raise SpecError([Fault(path=key, message="is required") for key in missing], subject="tags")
    cluster: Any = tags.get(TAG_CLUSTER)
    plane: Any = tags[TAG_PLANE]
    cloud: Any = tags[TAG_CLOUD]
    return Owner(plane=plane, cloud=cloud, cluster=cluster)


def tags_of(spec: InstanceSpec) -> dict[str, str]:
    """Return the tags of an instance: the user's, then ours, which win."""
    return {**spec.tags, **spec.owner.tags(), TAG_NODE: spec.node_id, TAG_NAME: spec.name}


def key_of(owner: Owner, name: str) -> tuple[str, str, str]:
    """Return the key of something whose name is unique in a cloud of a plane."""
    return (owner.plane, owner.cloud, name)
