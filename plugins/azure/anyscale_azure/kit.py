"""The conformance kit of this provider: the simulated Azure, one server for all rows and a subscription for each.

Its oracle reads the simulator's own books, past ARM and past the drivers. Nothing of the plugin imports this module.
"""

import atexit
import hashlib
import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import attrs
from anyscale_conformance.faults.http import WireRequest
from anyscale_conformance.faults.http_azure import AzureCarrier
from anyscale_conformance.kit import Kit, Mode, RunScope, Samples, WireCode
from anyscale_conformance.rules import Hand
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription
from anyscale_conformance.simulators.azure.kinds import Flow

from anyscale_azure.client import Azure, new_session
from anyscale_azure.cluster import AzureCluster
from anyscale_azure.config import METADATA_VARIABLE, read_settings
from anyscale_azure.errors import TRANSLATE
from anyscale_azure.identity import AzureIdentity
from anyscale_azure.kit_oracle import VNET, AzureOracle
from anyscale_azure.networking import AzureNetworking
from anyscale_azure.storage import AzureStorage
from anyscale_azure.tags import TAG_TOKEN
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import Access, IdentitySpec, Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, InstanceState, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import Bucket, BucketSpec
from anyscale_core.testing.clock import ManualClock

if TYPE_CHECKING:
    from anyscale_conformance.context import Context

GROUP, LOCATION, SIZE = "rg", "eastus", "Standard_DS1_v2"
ISSUER = "https://oidc.invalid/conformance/"
SHARED = "somebody-else"
READER = "Storage Blob Data Reader"
NETWORKS = ("virtualnetworks", "networksecuritygroups", "loadbalancers", "publicipaddresses")
PAGE = 4
CONNECTIONS = 16
"""How many connections a row keeps."""
STAMP = re.compile(rf'"{TAG_TOKEN}": ?"([0-9a-f]+)"')


@cache
def simulator() -> AzureSimulator:
    """Return the simulator of this process."""
    made = AzureSimulator()
    atexit.register(made.close)
    return made


class StampedCarrier(AzureCarrier):
    """Sees what stands for a token on Azure: the path of what is made, which is made once, and the stamp in its tags."""

    def wired(self, request: Any, timeout: Any) -> WireRequest:
        wired = super().wired(request, timeout)
        if not wired.is_write or request.method == "DELETE":
            return wired
        found = STAMP.search(request.body.decode() if isinstance(request.body, bytes) else str(request.body or ""))
        meta = str(request.headers.get("x-ms-meta-anyscale_core_tags", ""))
        stamp = found.group(1) if found else meta
        if (
            "/roleAssignments/" in wired.names[0]
        ):  # its name is derived from whom it is for, its body from all it grants
            stamp = hashlib.sha256(str(request.body).encode()).hexdigest()[:16]
        return attrs.evolve(wired, token=f"{stamp}@{wired.names[0]}" if stamp else "")


class Furnished(AzureStorage):
    """The driver in a cloud whose storage account the customer has made; it is made when a bucket is first asked for."""

    def __init__(self, config: DriverConfig, azure: Azure, furnish: Callable[[], None]) -> None:
        super().__init__(config, azure)
        self._furnish = furnish

    def create(self, *args: Any, **kwargs: Any) -> Bucket:
        self._furnish()
        return super().create(*args, **kwargs)


class AzureKit(Kit):
    """A subscription of the simulated Azure, on a clock moved by hand."""

    name = "azure"
    modes = frozenset({Mode.EMULATOR})
    untaggable = frozenset({"grant", "rule", "federation", "subnet"})
    reads_environment = frozenset({METADATA_VARIABLE})
    sdks = ("azure", "obstore", "requests", "joserfc")
    image_uri = "Canonical:ubuntu-24_04-lts:server:24.04.202510010"
    many = PAGE
    patience = timedelta(minutes=10)

    def __init__(self, scope: RunScope) -> None:
        super().__init__(scope)
        # Azurite has a clock of its own: where it judges the time, ours begins with it.
        own = scope.row.startswith("S-URL")
        self.clock = self.manual = ManualClock(datetime.now(UTC)) if own else ManualClock()
        self._lock = threading.Lock()
        self._at: Subscription | None = None
        self._carrier = StampedCarrier(self.clock, codes={"QuotaExceeded(COUNT)": (409, "QuotaExceeded")})
        self._transport: Any = None

    @property
    def at(self) -> Subscription:
        """The row's subscription, made when it is first needed."""
        with self._lock:
            if self._at is None:
                self._at = _subscription(self.manual)
            return self._at

    def provider(self) -> Provider:
        provider = super().provider()
        return attrs.evolve(
            provider,
            cluster=lambda config: AzureCluster(config, self._azure(config)),
            identity=lambda config: AzureIdentity(config, self._azure(config), metadata=self._metadata),
            storage=self._storage,
            capabilities=attrs.evolve(
                provider.capabilities, numbers={**provider.capabilities.numbers, "list.page_size": PAGE}
            ),
            networking=lambda config: AzureNetworking(config, self._azure(config)),
        )

    def config(self) -> DriverConfig:
        at = self.at
        settings = {
            "subscription_id": at.id, "tenant_id": at.tenant_id, "resource_group": GROUP, "endpoint": simulator().url,
            "authority": simulator().url, "ca_file": str(simulator().ca_path), "subnet_id": _subnet(at),
            "storage_account": _account_name(at), "blob_endpoint": f"{_blobs()}/{{account}}",
            "oidc_issuer": ISSUER, "max_calls_at_once": 1,
        }  # fmt: skip
        return DriverConfig(
            owner=self.scope.owner, home=self.scope.home, clock=self.clock, region=LOCATION, settings=settings
        )

    def samples(self) -> Samples:
        owner = self.scope.owner
        bootstrap = Bootstrap(
            url="https://127.0.0.1:1", ca_pem="", node_id=NodeId("sample"), join_token=Secret("sample"),
            identity_provider="azure",
        )  # fmt: skip
        instance = InstanceSpec(
            name="sample", node_id=NodeId("sample"), owner=owner, kind=NodeKind.WORKER, group="workers",
            instance_type=SIZE, bootstrap=bootstrap,
        )  # fmt: skip
        endpoint = EndpointSpec(name="sample", owner=owner, network="", target_address="10.1.0.9", target_port=8443)
        return Samples(
            instance=instance, identity=IdentitySpec(name="sample", owner=owner), bucket=BucketSpec(name="sample"),
            network=NetworkSpec(name="sample"), endpoint=endpoint, account=self.at.id,
        )  # fmt: skip

    def oracle(self) -> AzureOracle:
        return AzureOracle(lambda: self.at)

    def carrier(self) -> StampedCarrier:
        return self._carrier

    def wire_codes(self) -> Iterator[WireCode]:
        for code, meaning in TRANSLATE.items():
            yield WireCode(
                code=code, category=meaning.error, reason=meaning.reason, translate=partial(self._told, code)
            )

    def permission_of(self, action: str) -> str:
        what, _, method = action.rpartition(".")
        verb = {"get": "read", "head": "read", "delete": "delete", "post": "action"}.get(method, "write")
        if what.startswith("Microsoft."):
            return f"{what}/{verb}"
        return f"Microsoft.Storage/storageAccounts/blobServices/containers/{verb}"

    def pass_time(self, duration: timedelta) -> None:
        self.clock.sleep(duration)
        if self.scope.row.startswith("S-URL"):
            time.sleep(min(duration.total_seconds(), 3))  # Azurite has a clock of its own

    def proving_subject(self, ctx: "Context") -> str:
        """Make a machine, as nobody else can prove anything here."""
        it = ctx.subject("cluster")
        made = it.make()
        ctx.eventually(lambda: it.get(made.id).state is InstanceState.RUNNING, f"{made.name} to run")
        return str(made.name)

    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        return {
            Hand.SELL_OUT: self._sell_out,
            Hand.OVERBOOK: lambda size: self.at.hands.sell_out(size),
            Hand.RESTOCK: lambda: self.at.hands.restock(),
            Hand.LIMIT: lambda count: self.at.hands.limit("cores", count),
            Hand.KILL: lambda name: self.at.hands.kill(self._machine(name)),
            Hand.STOP: self._stop,
            Hand.LAG: self._lag,
            Hand.OFFER: self._offer,
            Hand.ADD_DUPLICATE: lambda name: self.at.hands.double(self._machine(name)),
            Hand.PROTECT: lambda name: self.at.hands.lock(self._machine_id(name)),
            Hand.RELEASE: lambda name: self.at.hands.unlock(self._machine_id(name)),
            Hand.FILL: lambda name: self.at.hands.fill(f"{self._vnet(name)}/subnets/nodes"),
            Hand.SPOIL: self._spoil,
            Hand.MAY: self._may,
            Hand.SHARE: self._share,
            Hand.USE_URL: _use,
            Hand.FOREIGN_PROOF: self._foreign_proof,
        }

    def close(self) -> None:
        if self._at is not None:
            simulator().forget(self._at)

    def _azure(self, config: DriverConfig) -> Azure:
        with self._lock:
            if self._transport is None:
                self._transport = self._carrier.transport(new_session(CONNECTIONS))
        return Azure(read_settings(config), config.clock, transport=self._transport, credential=self.at.credential())

    def _storage(self, config: DriverConfig) -> AzureStorage:
        return Furnished(config, self._azure(config), lambda: _ensure_account(self.at))

    def _metadata(self, subject: str) -> str:
        return str(self.at.hands.metadata_url(self._machine(subject)))

    def _foreign_proof(self, audience: str, _: str) -> Proof:
        """Return a token of the same audience that Entra ID gave to a machine of another tenant."""
        other = _subscription(self.manual)
        resource = read_settings(self.config()).proof_audience.format(tenant=self.at.tenant_id, audience=audience)
        machine = f"{other.path}/resourceGroups/{GROUP}/providers/Microsoft.Compute/virtualMachines/theirs"
        who = other.owner
        token = other.directory.token(
            client=who.client_id, principal=who.principal, audience=resource, xms_mirid=machine
        )
        simulator().forget(other)
        return Proof(provider="azure", document=Secret(token))

    def _told(self, code: str) -> CloudError:
        """Let the simulator refuse a real request with this code, and return what the plugin makes of it."""
        self.at.fail("Microsoft.Network/loadBalancers", 409, code, f"{code}: as Azure says it")
        azure = Azure(read_settings(self.config()), self.clock, credential=self.at.credential())
        path = f"{self.at.path}/resourceGroups/{GROUP}/providers/Microsoft.Network/loadBalancers/x"
        try:
            deadline = self.clock.now() + timedelta(minutes=1)
            azure.send("PUT", path, "2024-05-01", deadline=deadline, body={"location": LOCATION})
        except CloudError as error:
            return error
        finally:
            azure.close()
        raise RuntimeError(f"the simulator did not refuse with {code}")

    def _machine_id(self, name: str) -> str:
        things = (thing for thing in self.at.inventory() if thing.type == "Microsoft.Compute/virtualMachines")
        return next(thing.id for thing in things if thing.tags.get("Name") == name)

    def _machine(self, name: str) -> str:
        return self._machine_id(name).rpartition("/")[2]

    def _vnet(self, name: str) -> str:
        things = (thing for thing in self.at.inventory() if thing.type == VNET)
        return next(thing.id for thing in things if thing.tags.get("Name") == name)

    def _sell_out(self, size: str, zone: str | None = None) -> None:
        """Let there be none to be had: not by name, and not where Azure chooses the zone."""
        self.at.hands.restrict(size, zone)
        if zone is not None:
            self.at.hands.sell_out(size, zone)

    def _stop(self, name: str) -> None:
        """Shut a machine down, from within: it has come up by then."""
        self.clock.sleep(self.at.boot)
        self.at.hands.stop(self._machine(name))

    def _lag(self, window: timedelta) -> None:
        self.at.lag = window

    def _offer(self, kind: str) -> str:
        """Let the customer have something; return what it is adopted by."""
        is_there = not kind.startswith("no ")
        where = f"/resourceGroups/{GROUP}/providers"
        match kind.removeprefix("no "):
            case "network":
                path = f"{where}/{VNET}/theirs"
                if is_there:
                    _put_vnet(self.at, path, "10.77.0.0/16")
            case "identity":
                path = f"{where}/Microsoft.ManagedIdentity/userAssignedIdentities/theirs"
                if is_there:
                    properties = {"principalId": "11111111-2222-3333-4444-555555555555", "clientId": "theirs"}
                    self.at.hands.put(path, {"location": LOCATION, "tags": {"team": "blue"}, "properties": properties})
            case _:
                account = _account_name(self.at)
                _ensure_account(self.at)
                if is_there:
                    headers = {"x-ms-meta-team": "blue"}
                    self.at.blobs.call(self.at, "PUT", f"{account}/theirs?restype=container", headers)
                return f"abfss://{'theirs' if is_there else 'not-there'}@{account}.dfs.core.windows.net"
        return f"{self.at.path}{path}"

    def _spoil(self, name: str) -> None:
        """Let the network's nodes have no way out."""
        subnet = self.at.find(f"{self._vnet(name)}/subnets/nodes")
        if subnet is None:
            raise KeyError(name)
        subnet.properties["defaultOutboundAccess"] = False

    def _may(self, identity: str, bucket: str, key: str, access: Access) -> bool:
        self.clock.sleep(self.at.propagation)  # what was granted has spread by then
        principal = next((who for who, name in self.oracle().people().items() if name == identity), "")
        container = next((c for c, name in self.oracle().buckets().items() if name == bucket), "")
        words = ("read",) if access is Access.READ else ("write", "delete")
        account = _account_name(self.at)
        return all(self.at.hands.may_blob(principal, account, container, key, word) for word in words)

    def _share(self, bucket: str, prefix: str) -> None:
        """Let somebody else read below a prefix, as the customer's own administrator would."""
        container = next(c for c, name in self.oracle().buckets().items() if name == bucket)
        account = f"{self.at.path}/resourceGroups/{GROUP}/providers/Microsoft.Storage/storageAccounts/{_account_name(self.at)}"
        path = "@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path]"
        scope = f"{account}/blobServices/default/containers/{container}"
        self.at.hands.assign(f"{SHARED}-{prefix.rstrip('/')}", READER, scope, f"({path} StringStartsWith '{prefix}')")


def _subscription(clock: ManualClock) -> Subscription:
    """Return a new subscription with a group and a network in it; what is quick in Azure is there at once."""
    at = simulator().subscription(clock, home=LOCATION)
    at.page_size = PAGE
    at.pace = 0.1
    at.group(GROUP)
    for kind in NETWORKS:
        at.flows["put", f"microsoft.network/{kind}"] = Flow.SYNC
    _put_vnet(at, f"/resourceGroups/{GROUP}/providers/{VNET}/customers", "10.250.0.0/16")
    return at


def _put_vnet(at: Subscription, path: str, cidr: str) -> None:
    """Let the customer have a network with one subnet."""
    properties: dict[str, object] = {"addressSpace": {"addressPrefixes": [cidr]}, "subnets": []}
    at.hands.put(path, {"location": LOCATION, "properties": properties})
    at.hands.put(f"{path}/subnets/default", {"properties": {"addressPrefix": cidr}})


def _subnet(at: Subscription) -> str:
    return f"{at.path}/resourceGroups/{GROUP}/providers/{VNET}/customers/subnets/default"


def _account_name(at: Subscription) -> str:
    return f"conf{at.id.replace('-', '')[:20]}"


def _ensure_account(at: Subscription) -> None:
    path = f"{at.path}/resourceGroups/{GROUP}/providers/Microsoft.Storage/storageAccounts/{_account_name(at)}"
    if at.find(path) is None:
        at.hands.storage_account(GROUP, _account_name(at))


def _use(url: str, method: str, body: bytes = b"") -> tuple[int, bytes]:
    """Do what a browser would with a signed URL."""
    headers = {"x-ms-blob-type": "BlockBlob"} if method == "PUT" else {}
    request = urllib.request.Request(url, method=method, data=body if method == "PUT" else None, headers=headers)
    trusted = ssl.create_default_context(cafile=str(simulator().ca_path))
    try:
        with urllib.request.urlopen(request, context=trusted, timeout=30) as answer:
            return answer.status if answer.status != 201 else 200, answer.read()
    except HTTPError as error:
        return error.code, error.read()


@cache
def _blobs() -> str:
    return simulator().blobs.service.url
