"""The conformance kit of this provider, on a simulated API server and an S3-compatible server of this machine.

Its oracle looks into the simulated cluster and the store by themselves, past the drivers. Nothing of the plugin imports this
module; ``anyscale-conformance run --provider kubernetes`` finds it by its entry point.
"""

import atexit
import base64
import functools
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from anyscale_conformance.faults.http_botocore import BotocoreCarrier
from anyscale_conformance.faults.http_kubernetes import KubernetesCarrier
from anyscale_conformance.kit import Item, Kit, Mode, RunScope, Samples, WireCode
from anyscale_conformance.rules import Hand
from anyscale_conformance.simulators.kubernetes import Servers

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import IdentitySpec, Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.clock import ManualClock
from anyscale_kubernetes import kinds
from anyscale_kubernetes.client import Connection
from anyscale_kubernetes.cluster import KubernetesCluster
from anyscale_kubernetes.config import TOKEN_VARIABLE
from anyscale_kubernetes.errors import TABLE, Refusal, translate
from anyscale_kubernetes.identity import KubernetesIdentity
from anyscale_kubernetes.names import instance_name, short_name
from anyscale_kubernetes.networking import KubernetesNetworking
from anyscale_kubernetes.permissions import APPLY
from anyscale_kubernetes.routes import child_metadata
from anyscale_kubernetes.storage import KubernetesStorage
from anyscale_kubernetes.tags import SLOT_LABEL, TAGS, tags_of

if TYPE_CHECKING:
    from anyscale_conformance.context import Context

NAMESPACE, ELSEWHERE = "ray", "others"
ZONES = ("zone-a", "zone-b", "zone-c")
PAGE = 4
GATEWAY = "public"
STORE_KEYS = {"access_key_id": "conformance", "secret_access_key": "conformance-secret"}
PLACE_IN_STORE = "conformance-theirs"
GATEWAY_API = "gateway.networking.k8s.io/v1"

SLOTS = {
    "cluster": "instance", "bootstrap": "secret", "volume": "volume", "identity": "identity", "network": "network",
    "endpoint": "endpoint", "bucket": "bucket-record", "grant": "grant",
}  # fmt: skip
"""What the objects of a slot are in the contract's words."""
IGNORED = frozenset({"spent"})
"""Events tell what was deleted; Kubernetes forgets them by itself."""
OWN_KIND = {
    "Pod": "cluster", "Secret": "bootstrap", "PersistentVolumeClaim": "volume", "ServiceAccount": "identity",
}  # fmt: skip


class Carrier(KubernetesCarrier):
    """Faults in the API server's own words, where it has several meanings for one reason."""

    MESSAGES = {  # noqa: RUF012 - a table
        **KubernetesCarrier.MESSAGES,
        "Conflict(BUSY)": 'Operation cannot be fulfilled on resourcequotas "quota": the object has been modified',
        "Conflict(IN_USE)": "the object is in use",
        "Transient(PROPAGATION)": 'error looking up service account ray/one: serviceaccount "one" not found',
    }


CODES = {"Conflict(BUSY)": (409, "Conflict"), "Transient(PROPAGATION)": (403, "Forbidden")}
S3_CODES = {
    "s3:InvalidRequest": (400, "InvalidArgument"),
    "s3:Unauthenticated": (403, "InvalidAccessKeyId"),
    "s3:QuotaExceeded": (400, "TooManyBuckets"),
    "s3:CapacityUnavailable": (507, "XMinioStorageFull"),
    "s3:Transient(PROPAGATION)": (503, "XMinioServerNotInitialized"),
    "s3:DeadlineExceeded": (400, "RequestTimeout"),
}


@functools.cache
def servers() -> Servers:
    """Return the simulated API servers of this process; each row has a cluster of its own there."""
    made = Servers()
    atexit.register(made.close)
    return made


class OneByOne:
    """Lets one request after another through: moto looks at a condition and acts on it in two steps."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environment: Any, start: Any) -> list[bytes]:
        """Serve one request (WSGI)."""
        with self._lock:
            return list(self._app(environment, start))


@functools.cache
def store_url() -> str:
    """Return the URL of the S3-compatible server of this process."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request, in the middle of the report
    server = make_server("127.0.0.1", 0, OneByOne(DomainDispatcherApplication(create_backend_app)), threaded=True)
    threading.Thread(target=server.serve_forever, name="store", daemon=True).start()
    atexit.register(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}"


@functools.cache
def _loader() -> Any:
    """Return what reads the SDK's service models; reading them is most of what a client costs."""
    from botocore.session import Session

    return Session().get_component("data_loader")


def session() -> Any:
    """Return a botocore session of one's own, with models that have been read before."""
    from botocore.session import Session

    made = Session()
    made.register_component("data_loader", _loader())
    return made


class ClusterOracle:
    """Looks into the simulated cluster, and into the store, by themselves."""

    def __init__(self, cluster: Any, session: Any, scope: RunScope) -> None:
        self._cluster, self._scope = cluster, scope
        self.uses_store = False
        """Whether anything was asked of the store in this row: it is not looked into before."""
        session.register("before-send.s3", self._note)

    def inventory(self) -> Iterator[Item]:
        """Yield every object of the row's namespace that somebody made, and every bucket of the row."""
        objects = list(self._cluster.inventory(NAMESPACE))
        spent = {name for _, obj in objects for name in json.loads(_annotation(obj, "anyscale-core/names") or "[]")}
        slices = {obj["metadata"]["name"]: obj for plural, obj in objects if plural.startswith("endpointslices")}
        routes = {obj["metadata"]["name"]: obj for plural, obj in objects if plural.startswith("httproutes")}
        for plural, obj in objects:
            yield from self._items(plural.partition(".")[0], obj, spent, slices, routes)
        yield from self._buckets(objects)

    def _items(
        self, plural: str, obj: Any, spent: Iterable[str], slices: Mapping[str, Any], routes: Mapping[str, Any]
    ) -> Iterator[Item]:
        meta = obj["metadata"]
        slot = (meta.get("labels") or {}).get(SLOT_LABEL, "")
        if slot in IGNORED or (not slot and plural in ("events", "resourcequotas", "configmaps", "secrets", "pods")):
            return
        tags, going = tags_of(obj), bool(meta.get("deletionTimestamp"))
        if plural == "networkpolicies":
            yield from _rules(obj, tags)
        if not slot:
            if meta["name"] not in ("default", GATEWAY):
                yield Item(kind=f"foreign {plural}", id=meta["name"])
            return
        name, state, detail = tags.get("Name", meta["name"]), "deleting" if going else "", {}
        if plural == "pods":
            state = _pod_state(obj, name in spent)
            detail = {"zone": (obj["spec"].get("nodeSelector") or {}).get("topology.kubernetes.io/zone", "")}
            yield Item(kind="instance", id=_pod_id(obj), name=name, tags=tags, state=state, detail=detail)
        elif plural == "configmaps" and slot == "grant":
            data = obj["data"]
            yield Item(
                kind="grant",
                id=data["identity"],
                name=f"{data['bucket']}/{data['prefix']}",
                state=data["access"],
                tags=tags,
            )
        elif plural == "configmaps" and slot == "endpoint":
            state = "deleting" if going else "ready" if _took(routes.get(meta["name"])) else "pending"
            endpoint = slices.get(meta["name"])
            target = f"{endpoint['endpoints'][0]['addresses'][0]}:{endpoint['ports'][0]['port']}" if endpoint else ""
            yield Item(
                kind="endpoint", id=meta["uid"], name=name, state=state, tags=tags,
                detail={"target": target} if target else {},
            )  # fmt: skip
        elif plural in ("configmaps", "serviceaccounts", "persistentvolumeclaims", "secrets"):
            detail = (
                {key: str(value) for key, value in (obj.get("data") or {}).items()} if plural == "configmaps" else {}
            )
            yield Item(kind=SLOTS[slot], id=meta["uid"], name=name, tags=tags, state=state, detail=detail)
        elif plural != "endpoints":
            yield Item(kind=plural, id=meta["uid"], name=name, tags=tags, state=state)

    def _buckets(self, objects: Iterable[Any]) -> Iterator[Item]:
        tags = {
            obj["data"]["bucket"]: tags_of(obj)
            for plural, obj in objects
            if plural == "configmaps" and (obj["metadata"].get("labels") or {}).get(SLOT_LABEL) == "bucket"
        }
        if not self.uses_store:
            return
        s3 = _plain_s3()
        for bucket in s3.list_buckets()["Buckets"]:
            place = bucket["Name"]
            is_theirs = place == f"{PLACE_IN_STORE}-{self._scope.prefix}"
            if not (is_theirs or place in tags or self._is_ours(place)):
                continue
            keys = sorted(each["Key"] for each in s3.list_objects_v2(Bucket=place).get("Contents", ()))
            parts = s3.list_multipart_uploads(Bucket=place).get("Uploads", ())
            name = tags.get(place, {}).get("Name", place)
            kind = "foreign bucket" if is_theirs else "bucket"
            detail = {"keys": " ".join(keys), "public": "no"}
            yield Item(kind=kind, id=place, name=name, tags=tags.get(place, {}), detail=detail)
            yield from (Item(kind="upload", id=each["UploadId"], name=each["Key"]) for each in parts)

    def _is_ours(self, place: str) -> bool:
        """Tell whether a bucket of the store is one of this row's owners', as its name tells."""
        owners = (self._scope.owner, self._scope.stranger)
        return any(place == short_name(owner, instance_name(place), "bucket") for owner in owners)

    def _note(self, **_: Any) -> None:
        self.uses_store = True


class KubernetesKit(Kit):
    """A cluster of three zones for every row, on a clock moved by hand."""

    name = "kubernetes"
    modes = frozenset({Mode.EMULATOR})
    many = 6
    patience = timedelta(minutes=5)
    reads_environment = frozenset({TOKEN_VARIABLE})
    sdks = ("boto3", "jsonpatch", "obstore", "urllib3", "yaml")

    def __init__(self, scope: RunScope) -> None:
        super().__init__(scope)
        self.clock = self.manual = ManualClock()
        self.cluster = servers().start(clock=self.manual)
        for namespace in (NAMESPACE, ELSEWHERE):
            self.cluster.make_namespace(namespace)
        self.cluster.set_quota(NAMESPACE, {"pods": "1000"})
        keys = {key: _base64(value) for key, value in STORE_KEYS.items()}
        self._plant("v1", "Secret", "store", data=keys)
        simulated = {"metadata": {"name": "simulated"}, "spec": {"controllerName": "example.com/simulated"}}
        self.cluster.plant({"apiVersion": GATEWAY_API, "kind": "GatewayClass", **simulated})
        listeners = [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "tls"}]}}]
        self._plant(GATEWAY_API, "Gateway", GATEWAY, spec={"gatewayClassName": "simulated", "listeners": listeners})
        self._carrier = Carrier(self.manual, codes=CODES)
        self._s3_carrier = BotocoreCarrier(self.manual, codes=S3_CODES)
        self._s3_carrier.plan = self._carrier.plan
        self._session = session()
        self._s3_carrier.attach(self._session)
        self._connection = self._connect()
        self._oracle = ClusterOracle(self.cluster, self._session, scope)

    def provider(self) -> Provider:
        provider = super().provider()
        numbers = {**provider.capabilities.numbers, "list.page_size": PAGE}
        way = self._connection
        return attrs.evolve(
            provider,
            capabilities=attrs.evolve(provider.capabilities, numbers=numbers),
            cluster=lambda config: KubernetesCluster(config, way),
            identity=lambda config: KubernetesIdentity(config, way),
            storage=lambda config: KubernetesStorage(config, way, self._session),
            networking=lambda config: KubernetesNetworking(config, way),
        )

    def config(self) -> DriverConfig:
        settings = {
            "namespace": NAMESPACE, "image": "registry.invalid/ray:1", "zones": list(ZONES), "page_size": PAGE,
            "instance_types": {"1CPU-1GB": {"resources": {"CPU": 1, "memory": "1Gi"}, "markets": ["ON_DEMAND", "SPOT"]}},
            "store": {"endpoint": store_url(), "secret": "store"}, "route": "httproute",
            "gateway": {"name": GATEWAY, "namespace": NAMESPACE}, "hostname": "{name}.ray.invalid",
            "patches": [{
                "selector": "anyscale-core/market-type in (SPOT)",
                "patch": [{"op": "remove", "path": "/spec/nodeSelector/node.anyscale.com~1capacity-type"}],
            }],
        }  # fmt: skip
        return attrs.evolve(super().config(), settings=settings)

    def samples(self) -> Samples:
        owner = self.scope.owner
        bootstrap = Bootstrap(
            url="https://127.0.0.1:1", ca_pem="", node_id=NodeId("sample"), join_token=Secret("sample"),
            identity_provider="kubernetes",
        )  # fmt: skip
        instance = InstanceSpec(
            name="sample", node_id=NodeId("sample"), owner=owner, kind=NodeKind.WORKER, group="workers",
            instance_type="1CPU-1GB", bootstrap=bootstrap,
        )  # fmt: skip
        endpoint = EndpointSpec(name="sample", owner=owner, network="", target_address="10.0.0.9", target_port=8443)
        return Samples(
            instance=instance, identity=IdentitySpec(name="sample", owner=owner), bucket=BucketSpec(name="sample"),
            network=NetworkSpec(name="sample"), endpoint=endpoint, account=NAMESPACE,
        )  # fmt: skip

    def oracle(self) -> ClusterOracle:
        return self._oracle

    def carrier(self) -> Carrier:
        return self._carrier

    def wire_codes(self) -> Iterator[WireCode]:
        for reason, meaning in TABLE.items():
            refusal = Refusal(status=400, reason=reason, message="conformance")
            yield WireCode(
                code=reason,
                category=meaning.error,
                reason=meaning.reason,
                translate=partial(_told, refusal, self.manual),
            )

    def permission_of(self, action: str) -> str:
        resource, _, verb = action.rpartition(".")
        if resource == "s3":
            return ""
        kind = next((kind for kind in vars(kinds).values() if getattr(kind, "plural", "") == resource), None)
        group = getattr(kind, "group", "")
        return f"{APPLY if verb == 'patch' else verb} {resource}{f'.{group}' if group else ''}"

    def proving_subject(self, ctx: "Context") -> str:
        return str(ctx.subject("cluster").make().name)

    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        cluster = self.cluster
        return {
            Hand.LIMIT: lambda count: cluster.set_quota(NAMESPACE, {"pods": str(count)}),
            Hand.KILL: lambda name: cluster.kill(NAMESPACE, self._pod(name)),
            Hand.STOP: lambda name: cluster.stop(NAMESPACE, self._pod(name)),
            Hand.ANNOUNCE: lambda name: cluster.announce(NAMESPACE, self._pod(name)),
            Hand.ADD_DUPLICATE: lambda name: cluster.double(NAMESPACE, self._pod(name)),
            Hand.OFFER: self._offer,
            Hand.SHARE: self._share,
            Hand.SPOIL: self._spoil,
            Hand.FOREIGN_PROOF: self._foreign_proof,
        }

    def close(self) -> None:
        self._connection.close()
        self.cluster.close()

    def _connect(self) -> Connection:
        from kubernetes.client import Configuration

        configuration = Configuration(host=self.cluster.url)
        configuration.ssl_ca_cert = str(self.cluster.ca_file)
        configuration.api_key = {"authorization": f"Bearer {self.cluster.admin_token}"}
        connection = Connection(configuration)
        self._carrier.attach(connection.rest.pool_manager)
        return connection

    def _pod(self, name: str) -> str:
        for plural, obj in self.cluster.inventory(NAMESPACE):
            if plural == "pods" and tags_of(obj).get("Name") == name:
                return str(obj["metadata"]["name"])
        raise KeyError(f"there is no Pod of an instance {name}")

    def _plant(self, version: str, kind: str, name: str, **parts: Any) -> None:
        words = ("labels", "annotations", "ownerReferences")
        metadata: dict[str, Any] = {"name": name, "namespace": NAMESPACE}
        metadata |= {word: parts.pop(word) for word in words if word in parts}
        self.cluster.plant({"apiVersion": version, "kind": kind, "metadata": metadata, **parts})

    def _offer(self, kind: str) -> str:
        """Let the customer have something that can be adopted; return its name there."""
        name = f"theirs-{kind.removeprefix('no ')}"
        if kind == "network":
            self._plant(
                "networking.k8s.io/v1", "NetworkPolicy", name, spec={"podSelector": {}, "policyTypes": ["Ingress"]}
            )
        if kind == "identity":
            self._plant("v1", "ServiceAccount", name)
        place = f"{PLACE_IN_STORE}-{self.scope.prefix}"
        if kind == "bucket":
            self._oracle.uses_store = True
            _plain_s3().create_bucket(Bucket=place)
        return f"s3://{place}" if kind == "bucket" else f"s3://{place}-not" if kind == "no bucket" else name

    def _share(self, bucket: str, prefix: str) -> None:
        """Record a grant of somebody else's, as another control plane would."""
        tags = json.dumps({**self.scope.stranger.tags(), "Name": f"{bucket}/{prefix}"})
        data = {"bucket": bucket, "prefix": prefix, "identity": "somebody-else", "access": "read"}
        name = f"grant-of-somebody-else-{prefix.strip('/')}"
        record = next(
            obj
            for plural, obj in self.cluster.inventory(NAMESPACE)
            if plural == "configmaps" and tags_of(obj).get("Name") == bucket
        )
        self._plant(
            "v1", "ConfigMap", name, labels={SLOT_LABEL: "grant"}, annotations={TAGS: tags}, data=data,
            ownerReferences=child_metadata(record)["ownerReferences"],
        )  # fmt: skip

    def _spoil(self, network: str) -> None:
        """Take a network's policy away: everybody in the cluster comes in."""
        kind = kinds.NETWORK_POLICY
        for plural, obj in self.cluster.inventory(NAMESPACE):
            if plural.startswith(kind.plural) and tags_of(obj).get("Name") == network:
                world = self.cluster.world
                with world.lock:
                    entry = world.get(kind.plural, NAMESPACE, obj["metadata"]["name"], kind.group)
                    if entry is not None:
                        world.store.remove(entry)

    def _foreign_proof(self, audience: str, subject: str) -> Proof:
        """Return a genuine token of another namespace's account."""
        del subject
        document = self.cluster.token(ELSEWHERE, "default", audiences=(audience,))
        return Proof(provider="kubernetes", document=Secret(document))


@functools.cache
def _plain_s3() -> Any:
    return session().create_client(
        "s3", endpoint_url=store_url(), region_name="us-east-1", aws_access_key_id=STORE_KEYS["access_key_id"],
        aws_secret_access_key=STORE_KEYS["secret_access_key"],
    )  # fmt: skip


def _pod_state(pod: Any, is_spent: bool) -> str:
    conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", ())}
    taken = conditions.get("DisruptionTarget") == "True"
    if pod["metadata"].get("deletionTimestamp") and (is_spent or not taken):
        return "deleting"
    phase = pod.get("status", {}).get("phase", "Pending")
    return {"Running": "running", "Failed": "stopped", "Succeeded": "stopped"}.get(phase, "pending")


def _pod_id(pod: Any) -> str:
    meta = pod["metadata"]
    return f"{meta['namespace']}/{meta['name']}/{meta['uid']}"


def _rules(policy: Any, tags: Mapping[str, str]) -> Iterator[Item]:
    for place, rule in enumerate(policy["spec"].get("ingress") or ()):
        origin = "pods" if rule.get("from") else "0.0.0.0/0"
        id = f"{policy['metadata']['name']}/{place}"
        yield Item(kind="rule", id=id, name=tags.get("Name", ""), tags=tags, detail={"from": origin})


def _took(route: Any) -> bool:
    parents = (route or {}).get("status", {}).get("parents", ())
    return any(
        {"Accepted", "ResolvedRefs"} <= {each["type"] for each in parent["conditions"] if each["status"] == "True"}
        for parent in parents
    )


def _annotation(obj: Any, key: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(key, ""))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _told(refusal: Refusal, clock: ManualClock) -> CloudError:
    return translate(refusal, clock=clock)
