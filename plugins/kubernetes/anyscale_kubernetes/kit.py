"""The conformance kit of this provider, on a simulated API server and an S3-compatible server of this machine.

Its oracle looks into the simulated cluster and the store by themselves, past the drivers. Nothing of the plugin imports this
module; ``anyscale-conformance run --provider kubernetes`` finds it by its entry point.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from anyscale_conformance.browser import use_url
from anyscale_conformance.faults.http_botocore import BotocoreCarrier
from anyscale_conformance.faults.http_kubernetes import KubernetesCarrier
from anyscale_conformance.kit import Kit, Mode, RunScope, Samples, WireCode
from anyscale_conformance.rules import Hand

from anyscale_core.clock import Clock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import CloudError
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import IdentitySpec, Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_kubernetes import kinds
from anyscale_kubernetes.cluster import KubernetesCluster
from anyscale_kubernetes.config import TOKEN_VARIABLE
from anyscale_kubernetes.errors import TABLE, Refusal, translate
from anyscale_kubernetes.identity import KubernetesIdentity
from anyscale_kubernetes.kit_oracle import PLACE_IN_STORE, ClusterOracle
from anyscale_kubernetes.kit_stages import Real, Simulated, Stage, pod_of
from anyscale_kubernetes.kit_store import plain_s3, session, store_url, stored
from anyscale_kubernetes.networking import KubernetesNetworking
from anyscale_kubernetes.permissions import APPLY
from anyscale_kubernetes.routes import child_metadata
from anyscale_kubernetes.storage import KubernetesStorage
from anyscale_kubernetes.tags import SLOT_LABEL, TAGS, tags_of

if TYPE_CHECKING:
    from anyscale_conformance.context import Context

PAGE = 4


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


class KubernetesKit(Kit):
    """A simulated cluster of three zones for every row, on a clock moved by hand; in mode L namespaces of a real cluster."""

    name = "kubernetes"
    modes = frozenset({Mode.EMULATOR, Mode.LIVE})
    many = 6
    patience = timedelta(minutes=5)
    reads_environment = frozenset({TOKEN_VARIABLE})
    sdks = ("boto3", "jsonpatch", "obstore", "urllib3", "yaml")

    def __init__(self, scope: RunScope) -> None:
        super().__init__(scope)
        self.stage: Stage = Real(scope) if scope.mode is Mode.LIVE else Simulated()
        self.clock = self.stage.clock
        self._carrier = Carrier(self.clock, codes=CODES)
        self._s3_carrier = BotocoreCarrier(self.clock, codes=S3_CODES)
        self._s3_carrier.plan = self._carrier.plan
        self._session = session()
        self._s3_carrier.attach(self._session)
        self._connection = self.stage.connect()
        self._carrier.attach(self._connection.rest.pool_manager)
        self._oracle = ClusterOracle(self.stage, self._session, scope, stored)

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
        known = self.stage.settings()
        anywhere = {
            "selector": "anyscale-core/market-type in (SPOT)",
            "patch": [{"op": "remove", "path": "/spec/nodeSelector/node.anyscale.com~1capacity-type"}],
        }
        settings = {
            # The suite counts requests, strikes the first and moves the clock: nobody else may ask meanwhile.
            **known, "sight": "list", "page_size": PAGE, "store": {"endpoint": store_url(), "secret": "store"},
            "instance_types": {"1CPU-1GB": {"resources": {"CPU": 1, "memory": "1Gi"}, "markets": ["ON_DEMAND", "SPOT"]}},
            "patches": [*known.get("patches", ()), anywhere],
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
            network=NetworkSpec(name="sample"), endpoint=endpoint, account=self.stage.namespace,
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
                translate=partial(_told, refusal, self.clock),
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
        stage = self.stage

        def to_the_pod(act: Callable[[str], None]) -> Callable[[str], None]:
            return lambda name: act(pod_of(stage, name))

        of_the_simulator = {} if stage.overbook is None else {Hand.OVERBOOK: stage.overbook}
        return of_the_simulator | {
            Hand.LIMIT: stage.limit,
            Hand.KILL: self._kill,
            Hand.STOP: to_the_pod(stage.stop),
            Hand.ANNOUNCE: to_the_pod(stage.announce),
            Hand.ADD_DUPLICATE: to_the_pod(stage.double),
            Hand.OFFER: self._offer,
            Hand.SHARE: self._share,
            Hand.SPOIL: self._spoil,
            Hand.FOREIGN_PROOF: self._foreign_proof,
            Hand.USE_URL: use_url,
        }

    def pass_time(self, duration: timedelta) -> None:
        super().pass_time(duration)
        if self.scope.row == "S-URL-01":
            time.sleep(duration.total_seconds())  # the store has the machine's clock, and so have signatures

    def close(self) -> None:
        self._connection.close()
        self.stage.close()

    def _kill(self, name: str) -> None:
        with suppress(KeyError):  # whose end was announced may be gone by now
            self.stage.kill(pod_of(self.stage, name))

    def _offer(self, kind: str) -> str:
        """Let the customer have something that can be adopted; return its name there."""
        name = f"theirs-{kind.removeprefix('no ')}"
        if kind == "network":
            self.stage.plant(kinds.NETWORK_POLICY, name, spec={"podSelector": {}, "policyTypes": ["Ingress"]})
        if kind == "identity":
            self.stage.plant(kinds.SERVICE_ACCOUNT, name)
        place = f"{PLACE_IN_STORE}-{self.scope.prefix}"
        if kind == "bucket":
            self._oracle.uses_store = True
            plain_s3().create_bucket(Bucket=place)
        return f"s3://{place}" if kind == "bucket" else f"s3://{place}-not" if kind == "no bucket" else name

    def _share(self, bucket: str, prefix: str) -> None:
        """Record a grant of somebody else's, as another control plane would."""
        tags = json.dumps({**self.scope.stranger.tags(), "Name": f"{bucket}/{prefix}"})
        data = {"bucket": bucket, "prefix": prefix, "identity": "somebody-else", "access": "read"}
        name = f"grant-of-somebody-else-{prefix.strip('/')}"
        record = next(
            obj
            for plural, obj in self.stage.inventory()
            if plural == "configmaps" and tags_of(obj).get("Name") == bucket
        )
        self.stage.plant(
            kinds.CONFIG_MAP, name, labels={SLOT_LABEL: "grant"}, annotations={TAGS: tags}, data=data,
            ownerReferences=child_metadata(record)["ownerReferences"],
        )  # fmt: skip

    def _spoil(self, network: str) -> None:
        """Take a network's policy away: everybody in the cluster comes in."""
        kind = kinds.NETWORK_POLICY
        for plural, obj in self.stage.inventory():
            if plural == kind.plural and tags_of(obj).get("Name") == network:
                self.stage.remove(kind, obj["metadata"]["name"])

    def _foreign_proof(self, audience: str, subject: str) -> Proof:
        """Return a genuine token of another namespace's account."""
        del subject
        return Proof(provider="kubernetes", document=Secret(self.stage.foreign_token(audience)))


def _told(refusal: Refusal, clock: Clock) -> CloudError:
    return translate(refusal, clock=clock)
