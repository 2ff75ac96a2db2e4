"""The conformance kit of this provider: a project of the simulator for each row, seen past every API by the oracle.

Nothing of the plugin imports this module; ``anyscale-conformance run --provider gcp`` finds it by its entry point.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
from anyscale_conformance.context import Context
from anyscale_conformance.faults.http import WireRequest
from anyscale_conformance.faults.http_google import GoogleCarrier
from anyscale_conformance.kit import Item, Kit, Mode, RunScope, Samples, WireCode
from anyscale_conformance.rules import Hand
from anyscale_conformance.simulators.gcp import GcpSimulator, ProjectHands, Timings

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Applied, CloudError
from anyscale_core.hookspecs import Provider
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.owner import TAG_NAME
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.clock import ManualClock
from anyscale_gcp import accounts, buckets, errors, policies, tags
from anyscale_gcp.client import Client
from anyscale_gcp.config import read_settings

REGION = "us-central1"
MACHINE = "n2-standard-2"
APIS = ("compute", "iam", "iamcredentials", "sts", "storage")
SIGNER = "control-plane"


@functools.cache
def simulator() -> GcpSimulator:
    """Return the one simulator of this process: every row has a project of its own in it."""
    return GcpSimulator()


class Ambient:
    """Credentials of google-auth's form: always a fresh token of the project's owner, for tokens end and rows last days."""

    valid, expiry = True, None

    def __init__(self, project: ProjectHands) -> None:
        self._project = project

    @property
    def token(self) -> str:
        """A token that is good now."""
        return self._project.token()


class GcpCarrier(GoogleCarrier):
    """Faults below googleapiclient; its actions are the permissions that requests need."""

    CODES = {**GoogleCarrier.CODES, "CapacityUnavailable(SKU)": (400, "invalid")}  # noqa: RUF012 - a table
    MESSAGES = {  # noqa: RUF012 - a table
        **GoogleCarrier.MESSAGES,
        "CapacityUnavailable(SKU)": f"Machine type with name '{MACHINE}' does not exist in zone '{REGION}-a'.",
    }

    def http(self, inner: Any) -> "WiredHttp":  # type: ignore[override]
        return WiredHttp(self, inner)


class WiredHttp:
    """One request's ``http``, whose request meets the plan first."""

    def __init__(self, carrier: GcpCarrier, inner: Any) -> None:
        self._carrier, self._inner = carrier, inner

    def request(self, uri: str, method: str = "GET", *args: Any, **kwargs: Any) -> Any:
        """Carry one request out as the plan says."""
        action = action_of(uri, method)
        wired = WireRequest(
            action=action, is_write=not READING.search(action), names=(urlsplit(uri).path,),
            token=_token_of(uri, kwargs.get("body")), timeout_s=self._inner.timeout,
        )  # fmt: skip
        return self._carrier.carry(wired, lambda: self._inner.request(uri, method, *args, **kwargs))


READING = re.compile(r"\.(get|list|getIamPolicy|signBlob|getAccessToken)$|^$")
VERBS = {
    "generateAccessToken": "iam.serviceAccounts.getAccessToken", "signBlob": "iam.serviceAccounts.signBlob",
    "getIamPolicy": "iam.serviceAccounts.getIamPolicy", "setIamPolicy": "iam.serviceAccounts.setIamPolicy",
}  # fmt: skip
OF_MANY = {"GET": "list", "POST": "create"}
OF_ONE = {"GET": "get", "DELETE": "delete", "PATCH": "update"}
KEPT = re.compile(
    r'"anyscale-core-token": ?"(\w+)"|anyscale-core \S+ \S+ \S+ (\w{12}) |"description": ?"\w{10} (\w{20})"', re.ASCII
)
"""Where labels, descriptions of service accounts and conditions of grants keep the hash of a token."""


def action_of(uri: str, method: str) -> str:
    """Return the permission that a request needs first of all; empty for one that needs none (a key set, metadata)."""
    path, _, verb = urlsplit(uri).path.partition(":")
    if verb:
        return VERBS[verb]
    if "/storage/v1/b" in path:
        words = path.partition("/storage/v1/")[2].split("/")[1:]
        if words[1:] == ["iam"]:
            return f"storage.buckets.{'get' if method == 'GET' else 'set'}IamPolicy"
        return f"storage.buckets.{(OF_ONE if words else OF_MANY)[method]}"
    if "/projects/" not in path:
        return ""
    words = [word for word in path.partition("/projects/")[2].split("/")[1:] if word not in ("global", "aggregated")]
    while words[0] in ("zones", "regions") and len(words) > 2:
        words = words[2:]
    kind = words[0]
    if kind == "operations":
        return "compute.globalOperations.list" if len(words) == 1 else "compute.zoneOperations.get"
    service = "iam" if kind == "serviceAccounts" else "compute"
    return f"{service}.{kind}.{(OF_ONE if len(words) > 1 else OF_MANY)[method]}"


def _token_of(uri: str, body: Any) -> str:
    """Return what a write is known again by: the request's id, or where an API has none the token that the thing keeps."""
    given = parse_qs(urlsplit(uri).query).get("requestId")
    if given:
        return given[0]
    text = body.decode() if isinstance(body, bytes) else str(body or "")
    found = re.findall(
        r'"anyscale-core-token": ?"(\w+)"|anyscale-core \S+ \S+ \S+ (\w{12}) |"description": "\w{10} (\w{20})"', text
    )
    return "".join(found[-1]) if found else ""


class ProjectOracle:
    """Looks into the simulator's project itself, past its APIs and past every lag."""

    def __init__(self, project: ProjectHands) -> None:
        self._hands = project

    def inventory(self) -> Iterator[Item]:
        """Yield everything in the project, whoever owns it, but for what every project has."""
        project = self._hands.project
        project.settle()
        yield from (*self._things(), *self._accounts(), *self._buckets())

    def _things(self) -> Iterator[Item]:
        project = self._hands.project
        for collection, kind in KINDS.items():
            for thing in project.all(collection):
                note = tags.parse(thing.body.get("description"))
                owned = dict(note.tags) if note is not None else _labelled(thing.body)
                name = owned.get(TAG_NAME, thing.name)
                if collection == "instances":
                    yield self._instance(thing, owned, name)
                elif collection == "firewalls":
                    yield from _rule(thing, note, owned, name)
                elif thing.name != "default" or collection not in ("networks", "subnetworks"):
                    yield Item(
                        kind=kind if owned else f"foreign {kind}", id=f"{thing.scope}/{thing.name}", name=name, tags=owned,
                        detail={"body": _stable(thing.body)},
                    )  # fmt: skip

    def _instance(self, thing: Any, owned: Mapping[str, str], name: str) -> Item:
        body = thing.body
        state = {"RUNNING": "running", "TERMINATED": "stopped", "STOPPING": "deleting"}.get(body["status"], "pending")
        zone = tags.plain(body["zone"])
        detail = {"type": tags.plain(body["machineType"]), "labels": json.dumps(body.get("labels", {}), sort_keys=True)}
        return Item(
            kind="instance", id=f"{zone}/{thing.name}/{body['id']}", name=name, tags=owned, state=state, detail=detail
        )

    def _accounts(self) -> Iterator[Item]:
        for email, item in sorted(self._hands.project.accounts.items()):
            account = accounts.parse(item)
            if account is not None:
                owned = {**account.owner.tags(), TAG_NAME: account.name}
                detail = {"description": item["description"]}
                yield Item(kind="identity", id=email, name=account.name, tags=owned, detail=detail)
            elif not email.startswith(SIGNER) and "developer" not in email:
                yield Item(kind="foreign identity", id=email)

    def _buckets(self) -> Iterator[Item]:
        project = self._hands.project
        names = {
            account.acting: account.name
            for item in project.accounts.values()
            if (account := accounts.parse(item)) is not None
        }
        for name, bucket in sorted(project.buckets.items()):
            kept = buckets.read(bucket.body)
            owned = {} if kept is None else dict(kept.note.tags)
            detail = {
                "public": "yes" if buckets.is_public(bucket.body, self._policy(name)) else "no",
                "keys": " ".join(sorted(bucket.objects)), "region": str(bucket.body.get("location", "")),
            }  # fmt: skip
            yield Item(
                kind="foreign bucket" if kept is None else "bucket", id=name, name=kept.note.name if kept else name, tags=owned,
                detail=detail,
            )  # fmt: skip
            for upload in bucket.uploads:
                yield Item(kind="upload", id=upload, name=name)
            called = next(
                (
                    k.note.name
                    for b in project.buckets.values()
                    if (k := buckets.read(b.body)) is not None and k.place == name
                ),
                name,
            )
            yield from self._grants(name, called, names)

    def _grants(self, bucket: str, called: str, names: Mapping[str, str]) -> Iterator[Item]:
        for binding in self._policy(bucket).get("bindings", ()):
            expression = (binding.get("condition") or {}).get("expression", "")
            found = PLACE.search(expression)
            if found is None:
                continue
            for member in binding["members"]:
                email = re.sub(r"\?uid=.*", "", member.rpartition("serviceAccount:")[2])
                yield Item(
                    kind="grant", id=names.get(email, email), name=f"{called}/{json.loads(found[1])}",
                    state="write" if binding["role"] == policies.ROLES[Access.WRITE] else "read",
                )  # fmt: skip

    def _policy(self, bucket: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._hands.project.policies.get(f"b/{bucket}", {})
        return found


PLACE = re.compile(r"""\.startsWith\(("(?:[^"\\]|\\.)*")\)$""")
KINDS = {
    "instances": "instance", "disks": "disk", "networks": "network", "subnetworks": "subnetwork", "firewalls": "rule",
    "routers": "router", "healthChecks": "adopted network", "addresses": "address",
}  # fmt: skip


def _rule(thing: Any, note: Any, owned: Mapping[str, str], name: str) -> Iterator[Item]:
    body = thing.body
    detail = {"from": " ".join(body.get("sourceRanges", ())), "body": _stable(body)}
    if body["network"].endswith("/default"):
        return
    yield Item(kind="rule", id=thing.name, name=name, tags=owned, detail=detail)
    if note is not None and note.more.get("kind") == "endpoint":
        target = f"{note.more['address']}:{note.more['port']}"
        yield Item(
            kind="endpoint", id=thing.name, name=name, tags=owned, state="deleting" if body.get("disabled") else "ready",
            detail={"target": target},
        )  # fmt: skip


def _labelled(body: Mapping[str, Any]) -> dict[str, str]:
    found = {k: buckets.decode(v) for k, v in (body.get("labels") or {}).items() if k.startswith("anyscale-core-")}
    name = found.pop(tags.NAME_LABEL, None)
    return found if name is None else {**found, TAG_NAME: name}


def _stable(body: Mapping[str, Any]) -> str:
    """Return what of a thing must not change unasked; what changes by itself is left out."""
    left = {
        k: v
        for k, v in body.items()
        if k not in ("status", "users", "subnetworks", "fingerprint", "lastAttachTimestamp")
    }
    return json.dumps(left, sort_keys=True, default=str)


class KitClient(Client):
    """The plugin's client in this process, which stands for any machine: it asks for the token of the one it is told."""

    project: ProjectHands
    page: int

    def pages(self, method: str, *, deadline: Any, **parameters: Any) -> Iterator[dict[str, Any]]:
        for size in {"maxResults", "pageSize"} & parameters.keys():
            parameters[size] = self.page
        return super().pages(method, deadline=deadline, **parameters)

    def identity_token(self, audience: str, *, machine: str, deadline: Any) -> str:
        del deadline
        return self.project.identity_token(machine.split("/")[1], audience=audience)


class GcpKit(Kit):
    """A project of the simulator, with a clock moved by hand. An instance takes seconds; all else is done at once."""

    name = "gcp"
    modes = frozenset({Mode.EMULATOR})
    untaggable = frozenset({"grant", "upload"})
    image_uri = "projects/debian-cloud/global/images/family/debian-12"
    reads_environment = frozenset({"GOOGLE_APPLICATION_CREDENTIALS"})
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
        getattr(self.project, "add_account", lambda _: 0)(SIGNER)
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
        endpoints = {api: simulator().endpoint(api) for api in APIS} | {"objects": simulator().url}
        settings = {
            "project": self.project.id,
            "service_account": f"{SIGNER}@{self.project.id}.iam.gserviceaccount.com",
            "endpoints": endpoints,
            "certs_url": f"{simulator().url}/oauth2/v3/certs",
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
            Hand.RESTOCK: project.restock,
            Hand.LIMIT: lambda count: project.limit("INSTANCES", float(count), region=REGION),
            Hand.STOP: lambda name: project.stop(self._called(name)),
            Hand.KILL: lambda name: project.vanish(self._called(name)),
        }

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
        client.project, client.page = self.project, self._page
        return client

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


def _told(code: str, clock: ManualClock) -> CloudError:
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
