"""Clouds as the engine uses them: four drivers behind their layers, what clusters share, and one sweep for all."""

import contextlib
import functools
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import attrs
import structlog

from anyscale_core.clock import Clock
from anyscale_core.controlplane.keys import KeyRing
from anyscale_core.controlplane.mailbox import Mailbox
from anyscale_core.controlplane.remote import REMOTE
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.errors import CloudError, NameTaken, NotFound, PluginError, SpecError, UnknownName
from anyscale_core.errors import Fault as SpecFault
from anyscale_core.models import wire
from anyscale_core.models.cloud import SLOTS, CloudMode, CloudSpec, NodeIdentity
from anyscale_core.models.identity import Identity, IdentitySpec
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId, Token
from anyscale_core.models.instance import Deletion, Instance, Offering, Quota
from anyscale_core.models.networking import Network, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec
from anyscale_core.planning import identities
from anyscale_core.registry import Registry

R = TypeVar("R", Network, Bucket, Identity)
CATALOGUE_TTL = timedelta(minutes=10)
QUOTAS_TTL = timedelta(minutes=1)
KNOWN_TTL = timedelta(seconds=5)
"""How long a cloud is taken to be the one that was registered: another process may have taken it down, and made it anew."""
SHARED = ("network", "bucket", "identity")
"""The kinds of things that the clusters of a cloud share, in the order in which they are made."""
MAPPED = "identity:"

log = structlog.get_logger(__name__)


def mint(prefix: str) -> str:
    """Return a new id: 20 hex digits of randomness behind its prefix."""
    return f"{prefix}_{secrets.token_hex(10)}"


def mapped_kind(name: str) -> str:
    """Return the kind under which an identity that a rule names is recorded."""
    return f"{MAPPED}{name}"


def kinds_of(spec: CloudSpec) -> tuple[str, ...]:
    """Return the kinds of all that is made for a cloud's clusters, in the order in which they are made."""
    return (*SHARED, *map(mapped_kind, identities.mapped(spec)))


@attrs.frozen(kw_only=True)
class Sweep:
    """One complete list of a cloud's instances; ``began_at``: before the list call went out."""

    began_at: datetime
    instances: tuple[Instance, ...]

    @functools.cached_property
    def by_cluster(self) -> Mapping[ClusterId | None, tuple[Instance, ...]]:
        """The instances of each cluster: worked out once, so that a turn looks at its own cluster's alone."""
        out: dict[ClusterId | None, list[Instance]] = {}
        for instance in self.instances:
            out.setdefault(instance.owner.cluster, []).append(instance)
        return {cluster: tuple(instances) for cluster, instances in out.items()}


@attrs.frozen(kw_only=True)
class Shared:
    """What all clusters of a cloud share."""

    network: Network
    bucket: Bucket
    identity: Identity


@attrs.frozen(kw_only=True)
class AccountLimits:
    """The account's limits, and when they were asked for; empty when nobody knows them."""

    limits: tuple[Quota, ...] = ()
    read_at: datetime | None = None


class Cloud:
    """One cloud: its drivers, layered. Threads may share it."""

    def __init__(
        self, spec: CloudSpec, *, plane: PlaneId, registry: Registry, store: Store, clock: Clock, settings: Settings,
        wrap: Callable[[Driver, str], Driver], mailbox: Mailbox, keys: KeyRing,
    ) -> None:  # fmt: skip
        self.spec, self._store, self._clock, self._timing = spec, store, clock, settings.timing
        self.owner = Owner(plane=plane, cloud=CloudName(spec.name))
        self._registry, self._mailbox, self._keys = registry, mailbox, keys
        drivers = {slot: wrap(driver, spec.name) for slot, driver in self._build(settings).items()}
        self.cluster = _typed(drivers["cluster"], ClusterDriver)  # type: ignore[type-abstract]
        self.identity = _typed(drivers["identity"], IdentityDriver)  # type: ignore[type-abstract]
        self.storage = _typed(drivers["storage"], StorageDriver)  # type: ignore[type-abstract]
        self.networking = _typed(drivers["networking"], NetworkingDriver)  # type: ignore[type-abstract]
        self._sweep: Sweep | None = None
        self._sweeping = threading.Lock()
        self.is_settled = False
        """Whether the last list that was looked through showed every node's instance running; a create ends that."""
        self._shared: Shared | None = None
        self._mapped: dict[str, Identity] = {}
        self._catalogue: tuple[datetime, tuple[Offering, ...]] | None = None
        self._quotas: AccountLimits | None = None

    def owner_of(self, cluster: ClusterId) -> Owner:
        return attrs.evolve(self.owner, cluster=cluster)

    def deadline(self) -> datetime:
        """Return the deadline of a driver call that begins now."""
        return self._clock.now() + self._timing.call_timeout

    @property
    def list_window(self) -> timedelta:
        """Return how long after a create a list may miss it, as the provider declares."""
        provider = self._registry.provider(self.spec.provider_of("cluster"))
        return provider.capabilities.windows.get("consistency.list", timedelta())

    @property
    def has_quotas(self) -> bool:
        """Return whether its cluster driver can tell the account's limits."""
        return self._registry.provider(self.spec.provider_of("cluster")).capabilities.has("cluster.quotas")

    @property
    def has_volumes(self) -> bool:
        """Return whether its cluster driver can keep a folder when an instance goes."""
        return self._registry.provider(self.spec.provider_of("cluster")).capabilities.has("cluster.volumes")

    @property
    def is_composed(self) -> bool:
        """Return whether its nodes run as identities that another provider makes than the one that runs them."""
        return self.spec.provider_of("identity") != self.spec.provider_of("cluster")

    @property
    def prover(self) -> str:
        """Return the provider by which its nodes prove themselves."""
        return self._registry.prover(self.spec.providers)

    # -- what is there -------------------------------------------------------------------------------------------------

    def sweep(self, *, since: datetime | None = None) -> Sweep:
        """Return a list that began at ``since`` or later; the last one if it did, else a new one (one at a time)."""
        with self._sweeping:
            if self._sweep is None or (since is not None and self._sweep.began_at < since):
                began = self._clock.now()
                instances = self.cluster.list(self.owner, deadline=self.deadline())
                self._sweep = Sweep(began_at=began, instances=instances)
            return self._sweep

    def last_sweep(self) -> Sweep | None:
        """Return the last list, if there was one; no call is made."""
        return self._sweep

    def offerings(self) -> tuple[Offering, ...]:
        """Return the catalogue, read again when it is older than ten minutes."""
        now = self._clock.now()
        if self._catalogue is None or now - self._catalogue[0] > CATALOGUE_TTL:
            self._catalogue = (now, self.cluster.offerings(deadline=self.deadline()))
        return self._catalogue[1]

    def quotas(self) -> AccountLimits:
        """Return the account's limits, read again when they are older than a minute; empty where they cannot be known.

        They spare a call that would be refused, so one that fails is no reason not to go on.
        """
        if not self.has_quotas:
            return AccountLimits()
        now = self._clock.now()
        if self._quotas is None or self._quotas.read_at is None or now - self._quotas.read_at > QUOTAS_TTL:
            try:
                self._quotas = AccountLimits(limits=self.cluster.quotas(deadline=self.deadline()), read_at=now)
            except CloudError as error:
                log.warning(
                    "the quotas could not be read; the cloud refuses what is too much",
                    cloud=self.spec.name,
                    error=str(error),
                )
                self._quotas = AccountLimits(read_at=now)
        return self._quotas

    # -- what clusters share -------------------------------------------------------------------------------------------

    def shared(self) -> Shared:
        """Return the cloud's network, bucket and identity, made or adopted on first use: recorded, then called."""
        if self._shared is None:
            self._shared = Shared(**{kind: self.make(kind) for kind in SHARED})
        return self._shared

    def identity_of(self, name: str) -> Identity:
        """Return a mapped identity, made or adopted on first use; the one that clusters share for an empty name."""
        if not name:
            return self.shared().identity
        if name not in self._mapped:
            self._mapped[name] = self.make(mapped_kind(name))
        return self._mapped[name]

    def make(self, kind: str) -> Any:
        """Make or adopt one of the things that clusters share, or return it when it was: recorded, then called."""
        match kind:
            case "network":
                return self._ensure(kind, Network, self.spec.network, self._network)
            case "bucket":
                return self._ensure(kind, Bucket, self.spec.bucket, self._bucket)
            case "identity":
                own = self.spec.node_identity or NodeIdentity()
                return self._ensure(kind, Identity, own, functools.partial(self._identity, own))
        name = kind.removeprefix(MAPPED)
        wanted = identities.mapped(self.spec).get(name)
        if wanted is None:
            return self._once_mapped(kind, name)
        return self._ensure(kind, Identity, wanted, functools.partial(self._identity, wanted))

    def _once_mapped(self, kind: str, name: str) -> Identity:
        """Return the identity of a rule that is no more: clusters keep what they began with. Raises NotFound."""
        doc = self._store.made(self.spec.name, kind)
        if doc is None:
            why = f"no rule of cloud {self.spec.name} names the identity {name!r} any more, and it was never made"
            raise NotFound(why, reason="REFERENCE", resource=name, hint="put the rule back, or take the cluster down")
        return wire.structure(doc, Identity)

    def unmake(self, kind: str, name: str) -> Deletion:
        """Begin to delete one of the things that clusters share; one that was adopted is let go of."""
        match kind:
            case "network":
                return self.networking.delete(name, owner=self.owner, deadline=self.deadline())
            case "bucket":
                return self.storage.delete(name, owner=self.owner, deadline=self.deadline())
        return self.identity.delete(name, owner=self.owner, deadline=self.deadline())

    def made(self, identity: str = "") -> tuple[Bucket, Identity] | None:
        """Return the cloud's bucket and an identity as recorded; None while one of them was never made. Makes nothing."""
        kinds = ("bucket", mapped_kind(identity) if identity else "identity")
        bucket, identity = (self._store.made(self.spec.name, kind) for kind in kinds)
        if bucket is None or identity is None:
            return None
        return wire.structure(bucket, Bucket), wire.structure(identity, Identity)

    def _ensure(
        self,
        kind: str,
        cls: type[R],
        given: NetworkSpec | BucketSpec | NodeIdentity | None,
        create: Callable[[str, Token], R],
    ) -> R:
        suffix = self.owner.plane.removeprefix("pln_")[:10]
        name = (given.name if given is not None else None) or f"{self.spec.name}-{suffix}"
        name, token, doc = self._store.cloud_resource(self.spec.name, kind, name=name, token=Token(mint("tok")))
        if doc is not None:
            return wire.structure(doc, cls)
        made = create(name, token)
        self._store.set_cloud_resource(self.spec.name, kind, wire.unstructure(made))
        return made

    def _network(self, name: str, token: Token) -> Network:
        spec = self.spec.network or NetworkSpec(name=name, region=self.spec.region)
        return self.networking.create(
            attrs.evolve(spec, owner=self.owner), owner=self.owner, token=token, deadline=self.deadline()
        )

    def _bucket(self, name: str, token: Token) -> Bucket:
        spec = self.spec.bucket or BucketSpec(name=name, region=self.spec.region)
        return self.storage.create(
            attrs.evolve(spec, owner=self.owner), owner=self.owner, token=token, deadline=self.deadline()
        )

    def _identity(self, wanted: NodeIdentity, name: str, token: Token) -> Identity:
        spec = IdentitySpec(name=name, owner=self.owner, adopt=wanted.adopt, subjects=wanted.subjects)
        return self.identity.create(spec, token=token, deadline=self.deadline())

    def close(self) -> None:
        for driver in (self.cluster, self.identity, self.storage, self.networking):
            driver.close()

    def _build(self, settings: Settings) -> Mapping[str, Driver]:
        if self.spec.mode is CloudMode.OPERATOR:
            return {
                slot: REMOTE[slot](self._mailbox, cloud=self.spec.name, provider=name, clock=self._clock)
                for slot, name in self.spec.providers.items()
            }

        def config(name: str) -> DriverConfig:
            config = config_of(self.spec, name, owner=self.owner, home=settings.home, clock=self._clock)
            return attrs.evolve(config, identity_token=self._identity_token)

        return self._registry.drivers(self.spec.providers, config)

    def _identity_token(self, audience: str) -> Secret[str]:
        return self._keys.identity_token(self.owner.plane, audience, now=self._clock.now())


def config_of(spec: CloudSpec, name: str, *, owner: Owner, home: Path, clock: Clock) -> DriverConfig:
    """Return what a provider's drivers in a cloud are built from."""
    return DriverConfig(owner=owner, home=home, region=spec.region, settings=spec.settings.get(name, {}), clock=clock)


D = TypeVar("D")


def _typed(driver: object, cls: type[D]) -> D:
    if not isinstance(driver, cls):
        raise PluginError(type(driver).__name__, f"its factory returned no {cls.__name__}")
    return driver


class Clouds:
    """The clouds of this plane, built when they are first used."""

    def __init__(
        self, *, plane: PlaneId, registry: Registry, store: Store, clock: Clock, settings: Settings,
        wrap: Callable[[Driver, str], Driver], mailbox: Mailbox, keys: KeyRing,
    ) -> None:  # fmt: skip
        self._arguments: dict[str, Any] = {
            "plane": plane, "registry": registry, "store": store, "clock": clock, "settings": settings, "wrap": wrap,
            "mailbox": mailbox, "keys": keys,
        }  # fmt: skip
        self._registry, self._store, self._clock = registry, store, clock
        self._built: dict[str, Cloud] = {}
        self._known: dict[str, tuple[datetime, datetime | None]] = {}
        """When each was last looked for in the store, and since when it is there."""
        self._lock = threading.Lock()

    def get(self, name: str) -> Cloud:
        """Return a cloud. Raises UnknownName for one that is not registered, PluginError when its plugin is broken."""
        with self._lock:
            cloud = self._built.get(name)
            if cloud is not None and self._is_another(name):
                cloud.close()
                cloud = None
            if cloud is None:
                cloud = self._built[name] = Cloud(self.spec(name), **self._arguments)
                self._known[name] = (self._clock.now(), self._store.cloud_since(name))
            return cloud

    def _is_another(self, name: str) -> bool:
        now = self._clock.now()
        looked, since = self._known[name]
        if now - looked < KNOWN_TTL:
            return False
        self._known[name] = (now, since)
        return self._store.cloud_since(name) != since

    def spec(self, name: str) -> CloudSpec:
        """Return a registered cloud's spec, or the default cloud of a provider of that name, registering it."""
        spec = self._store.cloud(name)
        if spec is not None:
            return spec
        default = self._default(name)
        if default is None:
            known = sorted({spec.name for spec in self._store.clouds()} | set(self.defaults()))
            raise UnknownName(f"no cloud {name!r} is registered; known: {', '.join(known) or 'none'}")
        with contextlib.suppress(NameTaken):  # another process was first
            self._store.add_cloud(default, now=self._clock.now())
        return self._store.cloud(name) or default

    def verifier(self, spec: CloudSpec, provider: str) -> IdentityDriver:
        """Return a provider's identity driver as the control plane itself uses it to look at an operator's proof.

        Raises UnknownName, PluginError.
        """
        plane, settings = self._arguments["plane"], self._arguments["settings"]
        owner = Owner(plane=plane, cloud=CloudName(spec.name))
        config = config_of(spec, provider, owner=owner, home=settings.home, clock=self._clock)
        driver = self._arguments["wrap"](self._registry.driver(provider, "identity", config), spec.name)
        return _typed(driver, IdentityDriver)  # type: ignore[type-abstract]

    def defaults(self) -> Iterable[str]:
        """Return the names of clouds that can be used without being registered."""
        return [
            found.name
            for found in self._registry.found()
            if found.provider is not None and found.provider.default_cloud is not None
        ]

    def check(self, spec: CloudSpec) -> None:
        """Raise SpecError with all that is wrong with a cloud's spec."""
        faults: list[SpecFault] = []
        for slot in SLOTS:
            name = spec.provider_of(slot)
            path = slot if getattr(spec, slot) else "provider"
            try:
                provider = self._registry.provider(name)
            except (UnknownName, PluginError) as error:
                faults.append(SpecFault(path=path, message=str(error)))
                continue
            if getattr(provider, slot) is None:
                faults.append(SpecFault(path=path, message=f"{name!r} has no {slot} driver"))
            for key in sorted(set(spec.settings.get(name, {})) - set(provider.settings)):
                known = ", ".join(sorted(provider.settings)) or "none"
                faults.append(SpecFault(path=f"settings.{name}.{key}", message=f"unknown setting; known: {known}"))
        faults += self._operator_faults(spec)
        faults += identities.faults_of(spec)
        if faults:
            raise SpecError(dict.fromkeys(faults), subject=f"cloud {spec.name!r}")

    def check_name(self, name: str | None, *, subject: str) -> None:
        """Raise SpecError for the name of a cloud that is neither registered nor a provider's default; None is none."""
        known = {spec.name for spec in self._store.clouds()} | set(self.defaults())
        if name is not None and name not in known:
            message = f"no cloud {name!r} is registered; known: {', '.join(sorted(known)) or 'none'}"
            raise SpecError([SpecFault(path="cloud", message=message)], subject=subject)

    @contextlib.contextmanager
    def direct(self, name: str) -> Iterator[Cloud]:
        """Lend a cloud whose drivers call from here, with the credentials of whoever runs this, also one of mode operator."""
        spec = self.spec(name)
        if spec.mode is CloudMode.DIRECT:
            yield self.get(name)
            return
        cloud = Cloud(attrs.evolve(spec, mode=CloudMode.DIRECT, operator=None), **self._arguments)
        try:
            yield cloud
        finally:
            cloud.close()

    def forget(self, name: str) -> None:
        """Give back a cloud's drivers; whoever asks for it again gets them anew."""
        with self._lock:
            cloud = self._built.pop(name, None)
        if cloud is not None:
            cloud.close()

    def built(self) -> Mapping[str, Cloud]:
        return dict(self._built)

    def close(self) -> None:
        for cloud in self._built.values():
            cloud.close()

    def _operator_faults(self, spec: CloudSpec) -> Iterable[SpecFault]:
        if spec.operator is None:
            return
        if spec.mode is not CloudMode.OPERATOR:
            yield SpecFault(path="operator", message="is for clouds of mode operator")
        try:
            provider = self._registry.provider(spec.operator.provider)
        except (UnknownName, PluginError) as error:
            yield SpecFault(path="operator.provider", message=str(error))
            return
        if provider.identity is None:
            message = f"{spec.operator.provider!r} has no identity driver"
            yield SpecFault(path="operator.provider", message=message)

    def _default(self, name: str) -> CloudSpec | None:
        if name not in self.defaults():
            return None
        return self._registry.provider(name).default_cloud
