"""One subscription in a tenant of its own, with a clock of its own: what is in it, and the hands that reach into it."""

import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from anyscale_conformance.simulators.azure.directory import Application, Directory
from anyscale_conformance.simulators.azure.errors import ArmError
from anyscale_conformance.simulators.azure.kinds import Flow, Kind, references
from anyscale_conformance.simulators.azure.store import Resource, Store
from anyscale_conformance.simulators.azure.tokens import LIVES_S, MANAGEMENT, Issuer
from anyscale_conformance.simulators.azure.wire import Body, Seen, parse
from anyscale_conformance.simulators.boot import Machines
from anyscale_core.clock import Clock

if TYPE_CHECKING:
    from anyscale_conformance.simulators.azure.blobs import Blobs
    from anyscale_conformance.simulators.azure.hands import Hands
    from anyscale_conformance.simulators.azure.metadata import Metadata

LOCATIONS = ("eastus", "westus2", "westeurope", "northcentralus")
LIMITS = {
    "cores": 350,
    "lowPriorityCores": 350,
    "virtualMachines": 25000,
    "PublicIPAddresses": 1000,
    "roleAssignments": 4000,
}
"""What a subscription may have in a region unless it is said otherwise; 350 cores of every family."""


@attrs.frozen(kw_only=True)
class Thing:
    """One resource as the oracle sees it, whoever owns it. ``state``: the provisioning state, of a VM its power state."""

    id: str
    type: str
    name: str
    tags: Mapping[str, str]
    state: str
    body: Body = attrs.field(repr=False)


@attrs.define(kw_only=True)
class Trouble:
    """What the next requests meet: ``times`` requests whose action contains ``action`` are answered with ``error``."""

    error: ArmError
    action: str = ""
    times: int = 1


class Token(NamedTuple):
    """What azure-core calls an access token."""

    token: str
    expires_on: int


class Credential:
    """A credential of azure-core for one principal, without a request for each token."""

    def __init__(self, at: "Subscription", who: Application) -> None:
        self._at, self._who = at, who

    def get_token(self, *scopes: str, **_: Any) -> Token:
        """Return a token for the first scope."""
        audience = scopes[0].removesuffix("/.default") if scopes else MANAGEMENT
        token = self._at.directory.token(client=self._who.client_id, principal=self._who.principal, audience=audience)
        return Token(token, int(time.time()) + LIVES_S)


class Subscription(Store):
    """One subscription. ``home`` is the location that samples and hands use."""

    def __init__(
        self, clock: Clock, *, base: str, issuer: Issuer, home: str = "eastus", machines: Machines | None = None
    ) -> None:
        super().__init__(clock)
        self.id, self.tenant_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.base, self.home, self.machines = base, home, machines
        self.directory = Directory(self, issuer)
        self.owner = self.directory.application()
        """A service principal that may do everything here."""
        self.hands: Hands
        """Set by the simulator: they know every rule, and the rules know this class."""
        self.blobs: Blobs
        """Set by the simulator, which all its subscriptions share."""
        self.locations = LOCATIONS
        self.page_size = 100
        self.retry_after = timedelta(seconds=10)
        """When clients are told to look at an operation again; below a second for tests that poll."""
        self.page_sizes: dict[str, int] = {}
        """Other lengths for types, in small letters."""
        self.boot = timedelta(seconds=40)
        """How long a machine takes from its put until it runs."""
        self.limits: dict[str, int] = {}
        """Limits that differ from ``LIMITS``: of cores in all, of a family, of Spot cores, of machines, of addresses."""
        self.name_part: Callable[[str], str] = str
        """What an interface or an address that comes along with a machine is called, by the name of its configuration.

        Azure does not say: its own example has another name in the answer than in the question. Rely on the answer's ids.
        """
        self.restricted: set[tuple[str, str]] = set()
        """Sizes (in small letters) and zones (empty: everywhere) that this subscription cannot have: SkuNotAvailable."""
        self.sold_out: set[tuple[str, str]] = set()
        """Sizes and zones of which there are none just now: allocation fails, late."""
        self.unregistered: set[str] = set()
        """Namespaces that the subscription is not registered for, in small letters."""
        self.propagation = timedelta(seconds=20)
        """How long a new identity, and a new role, needs until every directory knows it."""
        self.is_enforced = False
        """Whether role assignments are enforced (``hands.enforce_roles``)."""
        self.started = clock.now()
        self.lag = timedelta()
        """How old lists are."""
        self.flows: dict[tuple[str, str], Flow] = {}
        """Other shapes of long-running operations: ``("put", "microsoft.compute/virtualmachines")`` to a flow."""
        self.journal: list[Seen] = []
        self.troubles: list[Trouble] = []
        self.metadata: Metadata
        """Set by the simulator: the metadata services of machines, and the machines that are booted."""
        self._addresses = itertools.count(1)
        self._spent: dict[str, int] = {}
        self._known: dict[tuple[str, str], dict[str, list[Resource]]] | None = None

    @property
    def path(self) -> str:
        """Its id as ARM writes it."""
        return f"/subscriptions/{self.id}"

    def credential(self, who: Application | None = None) -> Credential:
        """Return a credential, by default of ``owner``."""
        return Credential(self, who or self.owner)

    def rates(self, method: str) -> dict[str, str]:
        """Return the headers that tell how many requests are left."""
        kind = "reads" if method in ("GET", "HEAD") else "deletes" if method == "DELETE" else "writes"
        self._spent[kind] = self._spent.get(kind, 0) + 1
        return {f"x-ms-ratelimit-remaining-subscription-{kind}": str(max(0, 11999 - self._spent[kind] % 11999))}

    def again(self) -> dict[str, str]:
        """Return the header that tells when to look at an operation again: in whole seconds, or in the SDKs' milliseconds."""
        wait = self.retry_after
        if wait >= timedelta(seconds=1):
            return {"Retry-After": str(int(wait.total_seconds()))}
        return {"retry-after-ms": str(int(wait / timedelta(milliseconds=1)))}

    def inventory(self) -> tuple[Thing, ...]:
        """Return everything that exists, past every lag."""
        with self.lock:
            self.settle()
            return tuple(
                Thing(
                    id=resource.id, type=resource.type, name=resource.name, tags=resource.tags,
                    state=str(resource.hidden.get("power") or resource.state), body=resource.body,
                )
                for resource in self.resources.values()
            )  # fmt: skip

    def flow(self, verb: str, kind: Kind) -> Flow:
        """Return how a request of a kind is answered."""
        usual = kind.put_flow if verb == "put" else kind.delete_flow
        return self.flows.get((verb, kind.type.lower()), usual)

    def fail(self, action: str, status: int, code: str, message: str, *, times: int = 1, **headers: str) -> None:
        """Answer the next ``times`` requests whose action contains ``action`` so."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.troubles.append(Trouble(error=ArmError(status, code, message, headers=named), action=action, times=times))

    def throttle(self, times: int = 1, *, action: str = "", retry_after: int = 1) -> None:
        """Refuse the next ``times`` requests for their rate, as ARM does when a bucket of tokens is empty."""
        self.fail(
            action, 429, "TooManyRequests",
            f"The request is being throttled as the limit has been reached for operation type. Retry after '{retry_after}'.",
            times=times, **{"Retry_After": str(retry_after), "x_ms_ratelimit_remaining_subscription_writes": "0"},
        )  # fmt: skip

    def public_address(self) -> str:
        """Return a public address that nobody has had (TEST-NET-3 and its like are too small: 20.0.0.0/8)."""
        number = next(self._addresses)
        return f"20.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def make(self, id: str, type: str, body: Body, *, hidden: Body | None = None) -> Resource:
        """Keep a new resource whose id is known."""
        return self.add(
            Resource(
                id=id,
                type=type,
                name=parse(id).name,
                body=body,
                hidden=hidden or {},
                made_at=self.now(),
                state="Succeeded",
            )
        )

    def group(self, name: str, *, location: str = "", tags: Mapping[str, str] | None = None) -> Resource:
        """Return a resource group, made when there is none: what a customer hands over."""
        with self.lock:
            self.settle()
            id = f"{self.path}/resourceGroups/{name}"
            body: dict[str, Any] = {"location": location or self.home, "tags": dict(tags or {})}
            return self.find(id) or self.make(id, "Microsoft.Resources/resourceGroups", body)

    def named(self, name: str, type: str = "Microsoft.Compute/virtualMachines") -> Resource:
        """Return the resource of a type and a name. Raises KeyError when there is none."""
        for resource in self.all(type):
            if resource.name.lower() == name.lower():
                return resource
        raise KeyError(f"no {type} named {name}")

    def users(self, id: str, type: str, key: str) -> Iterable[Resource]:
        """Return the resources of a type that refer to an id below a key of their bodies."""
        if self._known is None:
            return [one for one in self.all(type) if id.lower() in _referred(one, key)]
        if (type, key) not in self._known:
            index = self._known[type, key] = {}
            for one in self.all(type):
                for wanted in _referred(one, key):
                    index.setdefault(wanted, []).append(one)
        return self._known[type, key].get(id.lower(), [])

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let who refers to what be found once for all that is asked: nothing changes while a list is shown."""
        self._known = {}
        try:
            yield
        finally:
            self._known = None

    def limit(self, name: str, location: str) -> int:
        """Return how much of something the subscription may have in a region."""
        return self.limits.get(f"{name}@{location}", self.limits.get(name, LIMITS.get(name, 350)))


def _referred(one: Resource, key: str) -> set[str]:
    return {id.lower() for id in references(one.body, key)}
