"""The conformance kit of this provider: a project of the simulator for each row, seen past every API by the oracle.

Nothing of the plugin imports this package; ``anyscale-conformance run --provider gcp`` finds it by its entry point.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import attrs
from anyscale_conformance.browser import use_url
from anyscale_conformance.context import Context
from anyscale_conformance.kit import Kit, Mode, RunScope, Samples, WireCode
from anyscale_conformance.rules import Hand
from anyscale_conformance.simulators.gcp import CERTIFICATES, ProjectHands, Timings

from anyscale_core.clock import Clock
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Applied, CloudError
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import Access, IdentitySpec, Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.clock import ManualClock
from anyscale_gcp import accounts, buckets, errors, policies, tags
from anyscale_gcp.client import Client
from anyscale_gcp.config import read_settings
from anyscale_gcp.kit.oracle import ProjectOracle
from anyscale_gcp.kit.wire import EXCHANGE, GcpCarrier
from anyscale_gcp.kit.world import MACHINE, OWNER, REGION, SIGNER, SOMEBODY, SOMEBODYS, Ambient, endpoints_of, simulator


class KitClient(Client):
    """The plugin's client in this process, which stands for any machine: it asks for the token of the one it is told."""

    project: ProjectHands
    page: int
    standing: Callable[[str], str]
    """Returns what the cloud calls the machine that a subject names."""

    def pages(self, method: str, *, deadline: Any, **parameters: Any) -> Iterator[dict[str, Any]]:
        for size in {"maxResults", "pageSize"} & parameters.keys():
            parameters[size] = self.page
        return super().pages(method, deadline=deadline, **parameters)

    def identity_token(self, audience: str, *, machine: str, deadline: Any) -> str:
        del deadline
        return self.project.identity_token(self.standing(machine), audience)


class GcpKit(Kit):
    """A project of the simulator, with a clock moved by hand. An instance takes seconds; all else is done at once."""

    name = "gcp"
    modes = frozenset({Mode.EMULATOR})
    untaggable = frozenset({"grant", "upload"})
    image_uri = "projects/debian-cloud/global/images/family/debian-12"
    reads_environment = frozenset({"GCE_METADATA_HOST"})
    many = 8
    stock_is_told = False

    def __init__(self, scope: RunScope) -> None:
        super().__init__(scope)
        self.clock = ManualClock()
        timings = attrs.evolve(
            Timings.none(), insert=timedelta(seconds=12), stop=timedelta(seconds=10), delete=timedelta(seconds=20)
        )
        digest = hashlib.sha256(f"{scope.run}/{scope.row}/{scope.home}".encode()).hexdigest()[:16]
        self.project = simulator().add_project(f"conformance-{digest}", clock=self.clock, timings=timings)
        self.project.add_account(SIGNER)
        self.project.bind("", "roles/iam.serviceAccountTokenCreator", OWNER)
        self._carrier = GcpCarrier(self.clock)
        self._is_closed, self._page = False, 3 + scope.seed % 3
        self._have("networks", {"name": "default", "autoCreateSubnetworks": False})
        subnetwork = {"name": "default", "network": "global/networks/default", "ipCidrRange": "10.128.0.0/20"}
        self._have("subnetworks", subnetwork, region=REGION)

    def provider(self) -> Provider:
        from anyscale_gcp.cluster import GcpCluster
        from anyscale_gcp.identity import GcpIdentity
        from anyscale_gcp.networking import GcpNetworking
        from anyscale_gcp.storage import GcpStorage

        provider = super().provider()
        numbers = {**provider.capabilities.numbers, "list.page_size": self._page}
        return attrs.evolve(
            provider,
            capabilities=attrs.evolve(provider.capabilities, numbers=numbers),
            cluster=lambda config: GcpCluster(config, self._client(config)),
            identity=lambda config: GcpIdentity(config, self._client(config)),
            storage=lambda config: GcpStorage(config, self._client(config)),
            networking=lambda config: GcpNetworking(config, self._client(config)),
        )

    def config(self) -> DriverConfig:
        settings = {
            "project": self.project.id,
            "service_account": f"{SIGNER}@{self.project.id}.iam.gserviceaccount.com",
            "endpoints": endpoints_of(simulator()),
            "certs_url": f"{simulator().url}{CERTIFICATES}",
        }
        return attrs.evolve(super().config(), region=REGION, settings=settings)

    def samples(self) -> Samples:
        owner = self.scope.owner
        bootstrap = Bootstrap(
            url="https://127.0.0.1:1",
            ca_pem="",
            node_id=NodeId("sample"),
            join_token=Secret("sample"),
            identity_provider="gcp",
        )
        instance = InstanceSpec(
            name="sample", node_id=NodeId("sample"), owner=owner, kind=NodeKind.WORKER, group="workers",
            instance_type=MACHINE, bootstrap=bootstrap, zones=(f"{REGION}-a",),
        )  # fmt: skip
        endpoint = EndpointSpec(name="sample", owner=owner, network="", target_address="10.0.0.9", target_port=8443)
        return Samples(
            instance=instance, identity=IdentitySpec(name="sample", owner=owner), bucket=BucketSpec(name="sample"),
            network=NetworkSpec(name="sample"), endpoint=endpoint, account=self.project.id,
        )  # fmt: skip

    def oracle(self) -> ProjectOracle:
        return ProjectOracle(self.project)

    def carrier(self) -> GcpCarrier:
        return self._carrier

    def wire_codes(self) -> Iterator[WireCode]:
        for code, meaning in errors.TRANSLATE.items():
            yield WireCode(
                code=code, category=meaning.error, reason=meaning.reason, translate=partial(_told, code, self.clock)
            )

    def hands(self) -> Mapping[Hand, Callable[..., Any]]:
        project = self.project
        return {
            Hand.OFFER: self._offer,
            Hand.SELL_OUT: lambda machine, zone="": project.sell_out(machine, zone=zone),
            Hand.OVERBOOK: lambda machine: project.fail_late(
                "ZONE_RESOURCE_POOL_EXHAUSTED", f"The zone does not have enough resources for {machine}.", times=100
            ),
            Hand.RESTOCK: project.restock,
            Hand.LIMIT: lambda count: project.limit("INSTANCES", float(count), region=REGION),
            Hand.STOP: lambda name: project.stop(self._called(name)),
            Hand.KILL: lambda name: project.vanish(self._called(name)),
            Hand.LAG: lambda window: setattr(project.project, "lag", window),
            Hand.ADD_DUPLICATE: lambda name: project.double(self._called(name)),
            Hand.PROTECT: lambda name: project.protect(self._called(name), protection=True),
            Hand.RELEASE: lambda name: project.protect(self._called(name), protection=False),
            Hand.FILL: lambda network: project.fill(self._subnetwork(network)),
            Hand.SPOIL: self._spoil,
            Hand.MAY: self._may,
            Hand.SHARE: self._share,
            Hand.FOREIGN_PROOF: self._foreign_proof,
            Hand.USE_URL: use_url,
        }

    @property
    def unseen(self) -> frozenset[str]:  # type: ignore[override]
        """What the simulated cloud asked for beside each request's own, and what ``test_gcp_permissions`` shows."""
        return self.project.asked() | RARER

    def permission_of(self, action: str) -> str:
        return "" if action == EXCHANGE else action

    def proving_subject(self, ctx: Context) -> str:
        return str(ctx.subject("cluster").make().id)

    def close(self) -> None:
        if not self._is_closed:
            simulator().remove_project(self.project.id)
        self._is_closed = True

    def _client(self, config: DriverConfig) -> Client:
        client = KitClient(
            read_settings(config), config.clock, wrap=self._carrier.http, credentials=Ambient(self.project)
        )
        client.project, client.page, client.standing = self.project, self._page, self._standing
        return client

    def _spoil(self, network: str) -> None:
        """Let the subnetwork keep its machines from Google's APIs."""
        where = {"project": self.project.id, "region": REGION, "subnetwork": self._subnetwork(network)}
        self._call("compute.subnetworks.setPrivateIpGoogleAccess", body={"privateIpGoogleAccess": False}, **where)

    def _subnetwork(self, network: str) -> str:
        """Return what the cloud calls the subnetwork of a network of ours."""
        path = f"/networks/{tags.resource_name(self.scope.owner, network)}"
        seen = [each for each in self.project.inventory() if each.kind == "subnetworks"]
        return next(each.name for each in seen if str(each.body["network"]).endswith(path))

    def _may(self, identity: str, bucket: str, key: str, access: Access) -> bool:
        email = accounts.email(self.project.id, self.scope.owner, identity)
        place = buckets.bucket_name(self.scope.owner, bucket)
        permission = "storage.objects.get" if access is Access.READ else "storage.objects.create"
        return self.project.may(f"serviceAccount:{email}", permission, place, key)

    def _share(self, bucket: str, prefix: str) -> None:
        """Let somebody in by the policy itself, with a condition like ours under a name of theirs."""
        place = buckets.bucket_name(self.scope.owner, bucket)
        held = policies.Held(member=SOMEBODY, bucket=place, prefix=prefix, access=Access.READ)
        binding = policies.bound([held])
        binding["condition"]["title"] = "theirs"
        policy = self._call("storage.buckets.getIamPolicy", bucket=place, optionsRequestedPolicyVersion=3)
        body = {**policy, "version": 3, "bindings": [*policy.get("bindings", ()), binding]}
        self._call("storage.buckets.setIamPolicy", bucket=place, body=body)

    def _foreign_proof(self, audience: str, subject: str) -> Proof:
        """Prove as a machine of another project, which Google signs for alike."""
        other = GcpKit(attrs.evolve(self.scope, home=self.scope.home / "elsewhere"))
        other.clock = self.clock
        try:
            name = other._standing(subject)
            return Proof(provider=self.name, document=Secret(other.project.identity_token(name, audience)))
        finally:
            other.close()

    def _standing(self, subject: str) -> str:
        """Return what the cloud calls a machine; a word that names none stands for one of the customer's."""
        found = subject.split("/")[1] if "/" in subject else SOMEBODYS
        if all(seen.name != found for seen in self.project.inventory() if seen.kind == "instances"):
            self._have_machine(found)
        return found

    def _have_machine(self, name: str) -> None:
        body = {
            "name": name, "machineType": f"zones/{REGION}-a/machineTypes/{MACHINE}",
            "networkInterfaces": [{"subnetwork": f"regions/{REGION}/subnetworks/default"}],
            "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": self.image_uri}}],
            "serviceAccounts": [{"email": self.config().settings["service_account"], "scopes": []}],
        }  # fmt: skip
        self._have("instances", body, zone=f"{REGION}-a")

    def _have(self, kind: str, body: Mapping[str, Any], **where: str) -> None:
        """Let the customer have something in the project, made by a client of nobody's."""
        self._call(f"compute.{kind}.insert", project=self.project.id, body=body, **where)

    def _call(self, method: str, **parameters: Any) -> Any:
        client = Client(read_settings(self.config()), self.clock, credentials=Ambient(self.project))
        return client.call(method, deadline=self.clock.now() + timedelta(minutes=1), **parameters)

    def _called(self, name: str) -> str:
        """Return what the cloud calls the instance that the core calls so."""
        items = self.oracle().inventory()
        return next(item.id.split("/")[1] for item in items if item.kind == "instance" and item.name == name)

    def _offer(self, kind: str) -> str:
        """Let the customer have something, or name something that is not there; return what ``adopt`` names it by."""
        what = kind.removeprefix("no ")
        name = "conformance-no-such" if kind != what else f"theirs-{self.scope.prefix}"
        project = self.project.id
        if kind == "network":
            self._have("networks", {"name": name, "autoCreateSubnetworks": False})
            network = f"global/networks/{name}"
            self._have("subnetworks", {"name": name, "network": network, "ipCidrRange": "10.99.0.0/20"}, region=REGION)
        if kind == "identity":
            self.project.add_account(name)
        if kind == "bucket":
            uniform = {"uniformBucketLevelAccess": {"enabled": True}}
            self._call("storage.buckets.insert", project=project, body={"name": name, "iamConfiguration": uniform})
        return {
            "network": f"projects/{project}/global/networks/{name}",
            "identity": f"{name}@{project}.iam.gserviceaccount.com",
            "bucket": f"gs://{name}",
        }[what]


def _told(code: str, clock: Clock) -> CloudError:
    """Return what the plugin makes of a code: inside an operation, or in an error as the client library parses it."""
    if code.isupper() and code in OPERATION_CODES:
        operation = {"status": "DONE", "error": {"errors": [{"code": code, "message": f"the suite says {code}"}]}}
        found = errors.of_operation(operation)
        if found is None:
            raise RuntimeError(f"{code} is no error")
        return found
    import httplib2
    from googleapiclient.errors import HttpError

    body = {
        "error": {"code": 418, "message": f"the suite says {code}", "errors": [{"reason": code, "domain": "global"}]}
    }
    response = httplib2.Response({"status": "418", "content-type": "application/json"})
    error = HttpError(response, json.dumps(body).encode())
    return errors.of_http(error, service="compute", method="", resource="", applied=Applied.NO, clock=clock)


OPERATION_CODES = frozenset(code for code in errors.TRANSLATE if "_" in code)
RARER = frozenset(
    {
        "compute.healthChecks.create", "compute.healthChecks.delete", "compute.healthChecks.get",  # an adopted network
        "compute.images.useReadOnly",  # an image of the customer's
        "compute.instances.setTags",  # the setting network_tags
        "compute.routers.list", "compute.subnetworks.list",  # a network that something else is in is deleted
        "compute.regions.get",  # a spec that names no zone
        "compute.subnetworks.useExternalIp",  # a public network
        "compute.zoneOperations.get",  # an instance that fails late
        "iam.serviceAccounts.getIamPolicy", "iam.serviceAccounts.setIamPolicy",  # an identity with subjects
        "storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy",  # an identity that has grants is deleted
    }
)  # fmt: skip
"""Permissions that a simplest create, get, list and delete do not need; the plugin's test of its least role needs them all."""
