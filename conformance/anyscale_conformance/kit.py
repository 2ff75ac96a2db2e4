"""What a provider's author writes: a Kit. It says how to reach the provider in a scope of its own, and what really is there."""

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from anyscale_conformance.faults.carriers import Carrier, DriverCarrier
from anyscale_conformance.rules import Hand
from anyscale_core.clock import Clock, SystemClock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError, UnknownName
from anyscale_core.hookspecs import ENTRY_POINTS as PROVIDERS
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import IdentitySpec
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId
from anyscale_core.models.instance import InstanceSpec
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.storage import BucketSpec
from anyscale_core.registry import Registry
from anyscale_core.testing.clock import ManualClock

if TYPE_CHECKING:
    from anyscale_conformance.context import Context

ENTRY_POINTS = "anyscale_conformance.kits"
"""The entry-point group: ``provider = "package.module:KitClass"``."""


class Mode(enum.Enum):
    """How real the cloud of a run is: the level of its evidence."""

    HERMETIC = "H"
    """In memory or on this machine, made for the run."""
    EMULATOR = "E"
    LIVE = "L"


@attrs.frozen(kw_only=True)
class RunScope:
    """What one row of one run may touch: everything it makes belongs to ``owner`` or to ``stranger`` and is called ``prefix...``.

    ``home``: a folder of its own on this machine. ``run`` names the run, ``row`` the row (``X-IDEM-01[cluster]``).
    """

    run: str
    row: str
    seed: int
    mode: Mode
    home: Path

    @property
    def owner(self) -> Owner:
        """Whose the row's things are."""
        return self._owner("")

    @property
    def stranger(self) -> Owner:
        """Somebody else's control plane in the same account."""
        return self._owner("x")

    @property
    def prefix(self) -> str:
        """What the names of the row's things begin with: a letter, then digits of the run and the row."""
        return f"c{self._digest(self.run)[:5]}{self._digest(self.row)[:5]}"

    def _owner(self, suffix: str) -> Owner:
        return Owner(
            plane=PlaneId(f"pln_{self.run}{suffix}"),
            cloud=CloudName("conformance"),
            cluster=ClusterId(f"clu_{self._digest(self.row)[:10]}"),
        )

    def _digest(self, text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()


@attrs.frozen(kw_only=True)
class Item:
    """One thing that exists in the cloud, whoever owns it, as an eye that is not the driver's sees it.

    ``state``: of an instance and an endpoint the contract's word (``pending``, ``running``, ``stopped``, ``ready``,
    ``deleting``), else the cloud's own. ``detail``: whatever else can change about it, so that two looks can be compared.
    ``tags`` as the core writes them. A ``grant``: ``name`` is ``bucket/prefix``, ``id`` the identity's name, ``state`` the
    access (``read``, ``write``). Of a ``bucket``, ``detail["public"]`` is ``yes`` when anybody can read it; of an
    ``endpoint``, ``detail["target"]`` ends in the target's port. An unfinished upload is an item of its own. What comes
    along with networks and ways in is of the kinds ``rule`` (lets traffic in; ``detail["from"]``: a range), ``address`` (a
    public one) and ``record`` (a name that resolves).
    """

    kind: str
    id: str
    name: str = ""
    tags: Mapping[str, str] = attrs.field(factory=dict)
    state: str = ""
    detail: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others."""
        return (self.kind, self.id, self.name)

    @property
    def essence(self) -> "Item":
        """The item as two looks at it are compared: that it has become ready meanwhile is no change."""
        return self if self.state in ("deleting", "stopped") else attrs.evolve(self, state="")

    def __str__(self) -> str:
        return f"{self.kind} {self.name or self.id}"


class Oracle(Protocol):
    """What is really there, by a way that the driver does not use. Read-only."""

    def inventory(self) -> Iterable[Item]:
        """Return everything in the scope, of every owner and every kind, past every lag."""
        ...


@attrs.frozen(kw_only=True)
class Samples:
    """The smallest valid spec of each thing that the provider makes; the suite gives them names, owners and node ids.

    ``endpoint``: where a target may be. ``identity_name``: whom to grant access to when the provider makes no identities.
    ``account``: what the cloud itself calls the account that machines prove to be in; empty when that is not known.
    """

    instance: InstanceSpec | None = None
    identity: IdentitySpec | None = None
    bucket: BucketSpec | None = None
    network: NetworkSpec | None = None
    endpoint: EndpointSpec | None = None
    identity_name: str = ""
    account: str = ""


@attrs.frozen(kw_only=True)
class WireCode:
    """One of the vendor's answers and what it has to become. ``translate()`` returns what the plugin makes of it."""

    code: str
    category: type[CloudError]
    reason: str = ""
    translate: Callable[[], CloudError]


class Kit:
    """Base of all kits. One is made for every row, and closed after it.

    To be written: ``samples`` and ``oracle``; the rest has defaults that do for a provider of this process and this machine.
    """

    name: str = ""
    """The provider; set from the entry point's name when it is left empty."""
    modes: frozenset[Mode] = frozenset({Mode.HERMETIC})
    untaggable: frozenset[str] = frozenset()
    """Kinds of the inventory that cannot carry tags in this cloud, and are tracked through their parents."""
    hosts: frozenset[str] = frozenset()
    """The hosts that the plugin may call; this machine is always among them."""
    reads_environment: frozenset[str] = frozenset()
    """The environment variables that the plugin's own code may read."""
    sdks: tuple[str, ...] = ()
    """Modules that the plugin must not load before its first call, beyond the known SDKs (``elsewhere.SDKS``)."""
    image_uri: str = "registry.invalid/conformance:1"
    """An image that instances can be made from, where images are honoured."""
    stock_is_told: bool = True
    """Whether the cloud says beforehand what is sold out; where it does not, only asking for it shows."""
    unseen: frozenset[str] = frozenset()
    """Permissions that no request of the suite shows: those needed beside a request's own, and those of rarer calls."""
    many: int = 25
    """How many things of a kind one row may make; lists are tried with up to three times as many."""
    patience: timedelta = timedelta(minutes=10)
    """The longest that a delete, a boot or an endpoint takes in this cloud."""

    def __init__(self, scope: RunScope) -> None:
        self.scope = scope
        self.clock: Clock = SystemClock()

    def provider(self) -> Provider:
        """Return the provider: by default the installed one of this name."""
        return Registry.load().provider(self.name)

    def plugin(self) -> str:
        """Return the module (or ``module:object``) of the plugin's hook: by default what its entry point names."""
        return next(point.value for point in entry_points(group=PROVIDERS) if point.name == self.name)

    def distribution(self) -> str:
        """Return the name of the distribution that the plugin comes in, for reports."""
        points = (
            point for point in entry_points(group=PROVIDERS) if point.name == self.name and point.dist is not None
        )
        return next((str(point.dist.name) for point in points if point.dist is not None), "unknown")

    def package(self) -> str:
        """Return the name of the plugin's top package."""
        return self.plugin().partition(":")[0].partition(".")[0]

    def config(self) -> DriverConfig:
        """Return what the drivers are built from."""
        return DriverConfig(owner=self.scope.owner, home=self.scope.home, clock=self.clock)

    def samples(self) -> Samples:
        """Return the smallest valid specs."""
        raise NotImplementedError(f"{type(self).__name__}.samples: return the smallest valid spec of what you make")

    def oracle(self) -> Oracle:
        """Return the independent eye."""
        raise NotImplementedError(
            f"{type(self).__name__}.oracle: return what lists everything that exists, past the driver"
        )

    def carrier(self) -> Carrier:
        """Return what carries faults: on top of the driver unless the kit has a way below it."""
        return DriverCarrier(self.pass_time)

    def wire_codes(self) -> Iterable[WireCode]:
        """Return the vendor's renderings of errors, for X-ERR-01."""
        return ()

    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        """Return what can be done to the cloud behind the driver's back."""
        return {}

    def proving_subject(self, ctx: "Context") -> str:
        """Return the name of an instance that this process may prove itself to be: by default any name."""
        return ctx.name()

    def permission_of(self, action: str) -> str:
        """Return the permission that a request on the wire needs; empty for one that needs none."""
        return action

    def pass_time(self, duration: timedelta) -> None:
        """Let time pass: by moving a clock that is moved by hand, else by waiting."""
        self.clock.sleep(duration)

    def close(self) -> None:
        """Give back what the kit itself holds. Not the cloud's things: the suite sweeps those."""

    @property
    def is_virtual(self) -> bool:
        """Whether time is moved by hand."""
        return isinstance(self.clock, ManualClock)


def find(name: str) -> type[Kit]:
    """Return the kit of a provider. Raises UnknownName with the kits there are."""
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none"
        raise UnknownName(
            f"no kit for provider {name!r}; installed kits: {known}. A plugin names its kit by an entry point of the group "
            f"{ENTRY_POINTS}; `anyscale-conformance new-kit {name} DIR` writes one"
        )
    found: type[Kit] = points[name].load()
    if not found.name:
        found.name = name
    return found
