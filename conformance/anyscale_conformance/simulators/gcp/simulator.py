"""The simulator as tests and kits use it: where it listens, its projects, and hands."""

import enum
import json
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType

from anyscale_conformance.simulators.gcp import container, credentials, iam, metadata, policies, pools, resources, sts
from anyscale_conformance.simulators.gcp.calls import Caller
from anyscale_conformance.simulators.gcp.cloud import OWNER, Cloud, Journaled, Refusal
from anyscale_conformance.simulators.gcp.compute import (
    balancing,
    bulk,
    catalogues,
    firewalls,
    images,
    instances,
    life,
    networks,
)
from anyscale_conformance.simulators.gcp.dispatch import APIS, Dispatcher
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.gcs import buckets, objects, store, xml
from anyscale_conformance.simulators.gcp.inventory import Seen, inventory
from anyscale_conformance.simulators.gcp.power import Booting
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.server import Answer, Request, Server
from anyscale_conformance.simulators.gcp.tokens import LIFETIME, Guard
from anyscale_conformance.simulators.gcp.world import Failure, Project, QuotaAnswer, Resource, Timings
from anyscale_core.clock import Clock, SystemClock

ANSWERING = (
    balancing,
    buckets,
    bulk,
    catalogues,
    container,
    credentials,
    firewalls,
    iam,
    images,
    instances,
    networks,
    objects,
    pools,
    resources,
    sts,
)
"""The modules whose import registered who answers what."""

CERTIFICATES = "/oauth2/v3/certs"
"""Where Google's own public keys are, on www.googleapis.com."""
RESERVED = frozenset({"", "v1", "v3", "upload", "download", *(api for api, _ in APIS)})
"""First words of paths that are no bucket's."""


class Running(enum.Enum):
    """What instances are."""

    NOTHING = "nothing"
    """Rows of a table."""
    SCRIPTS = "scripts"
    """Processes of this machine that run their ``startup-script``, each with a loopback address and a metadata server."""


class GcpSimulator:
    """A Google Cloud on this machine, over HTTP. Projects are apart from each other, each with a clock of its own.

    ``faults``: the simulator's own, answers that the published schemas do not allow among them; always to be empty.
    """

    def __init__(
        self, *, clock: Clock | None = None, guard: Guard = Guard.TOKENS, machines: Running = Running.NOTHING
    ) -> None:
        self._cloud = Cloud(clock=clock or SystemClock(), guard=guard)
        if machines is Running.SCRIPTS:
            self._cloud.power = Booting(lambda *asked: metadata.answer(self._cloud, *asked))
        self._dispatcher = Dispatcher(self._cloud)
        # Where nothing runs, nobody sees whether something has happened already or happens at the next request.
        self._server = Server(self._answer, idle=self._settle if machines is Running.SCRIPTS else lambda: None)
        self.faults = self._server.faults

    def __enter__(self) -> "GcpSimulator":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Return where it listens. All APIs are below it, and the objects of Cloud Storage at ``URL/bucket/key``."""
        return f"http://{self._server.host}"

    def endpoint(self, api: str) -> str:
        """Return what ``build(..., client_options={"api_endpoint": ...})`` wants for an API (``compute``, ``iam``)."""
        base = {"compute": "compute/v1/", "storage": "storage/v1/"}.get(api, "")
        return f"{self.url}/{api}/{base}"

    def add_project(self, id: str, *, clock: Clock | None = None, timings: Timings | None = None) -> "ProjectHands":
        """Let a project be there, empty but for what every project has. Raises ValueError when there is one of that id."""
        with self._cloud.lock:
            return ProjectHands(self._cloud, self._cloud.add_project(id, clock=clock, timings=timings))

    def remove_project(self, id: str) -> None:
        """Take a project and everything in it away."""
        with self._cloud.lock:
            project = self._cloud.projects.pop(id)
            self._cloud.journal.pop(id, None)
            for instance in project.all("instances"):
                self._cloud.power.remove(instance)

    @property
    def requests(self) -> Sequence[Journaled]:
        """Return every request so far, as it was answered; those of projects that were removed are forgotten."""
        with self._cloud.lock:
            return tuple(entry for entries in self._cloud.journal.values() for entry in entries)

    def certificates(self) -> Json:
        """Return Google's public keys as a JWKS; they are also served at ``CERTIFICATES``."""
        return self._cloud.keys.certificates()

    def close(self) -> None:
        """Stop listening, and end what runs."""
        self._server.close()
        self._cloud.power.close()

    def _answer(self, request: Request) -> Answer:
        if request.path == CERTIFICATES:
            body = json.dumps(self.certificates()).encode()
            return Answer(
                body=body, headers={"Content-Type": "application/json", "Cache-Control": "public, max-age=3600"}
            )
        answer = self._dispatcher.answer(request)
        if answer is not None:
            return answer
        if request.path.split("/")[1] in RESERVED:
            return Answer(status=404, body=b"Not Found", headers={"Content-Type": "text/html; charset=UTF-8"})
        return xml.answer(self._cloud, request)

    def _settle(self) -> None:
        with self._cloud.lock:
            for project in self._cloud.projects.values():
                project.settle()


class ProjectHands:
    """One project: what can be done to it behind the back of who uses it, and what is really in it."""

    def __init__(self, cloud: Cloud, project: Project) -> None:
        self._cloud, self.project = cloud, project
        self._tokens: dict[tuple[str, timedelta], str] = {}

    @property
    def id(self) -> str:
        """Return the project's id."""
        return self.project.id

    @property
    def number(self) -> int:
        """Return the project's number."""
        return self.project.number

    def token(self, member: str = OWNER, *, lifetime: timedelta = LIFETIME) -> str:
        """Return an access token of somebody (an IAM member), who may do everything here while permissions are not checked.

        Who asks again gets the same one for half of its life.
        """
        word = self._tokens.get((member, lifetime), "")
        if not self._cloud.tokens.is_good(word, left=lifetime / 2):
            word = self._cloud.tokens.issue(Caller(member=member), project=self.project, lifetime=lifetime)
            self._tokens[member, lifetime] = word
        return word

    def asked(self) -> frozenset[str]:
        """Return the permissions that requests have needed so far, whether or not they are enforced."""
        with self._cloud.lock:
            return frozenset(self.project.asked)

    def requests(self, method: str = "") -> list[Journaled]:
        """Return the requests of the project, of one method (``compute.instances.insert``) or of all."""
        with self._cloud.lock:
            return [entry for entry in self._cloud.journal.get(self.id, ()) if method in ("", entry.method)]

    def sell_out(self, machine_type: str = "", *, zone: str = "") -> None:
        """Let there be no machines of a type (or of any), in a zone (or in any): creating operations fail for it."""
        self._cloud.stockouts.add((self.id, zone, machine_type))

    def restock(self) -> None:
        """Let there be machines again."""
        self._cloud.stockouts = {sold_out for sold_out in self._cloud.stockouts if sold_out[0] != self.id}

    def limit(self, metric: str, limit: float, *, region: str = "") -> None:
        """Set a quota, of a region or of the project."""
        self.project.limits[region, metric] = limit

    def answer_quotas(self, answer: QuotaAnswer) -> None:
        """Say how inserts of instances that would pass a quota are refused: at once, or by an operation that fails."""
        self.project.quotas = answer

    def share_network_of(self, host: str) -> None:
        """Let the project be a service project of a host's shared VPC."""
        self.project.xpn_host = host

    def refuse(self, error: ApiError, *, method: str = "", times: int = 1) -> None:
        """Answer the next calls (of a method, or of any) with an error."""
        self._cloud.refusals.setdefault(self.id, []).append(Refusal(method=method, error=error, times=times))

    def fail_late(self, code: str, message: str, *, kind: str = "insert", http: int = 400, times: int = 1) -> None:
        """Let the next operations of a kind (``insert``, ``delete``, ``patch``) end with an error; what they did is undone."""
        planned = self.project.failures.setdefault(kind, [])
        planned += [Failure(code=code, message=message, http=http)] * times

    def disable(self, api: str) -> None:
        """Let an API (``compute``) not be enabled in the project."""
        self.project.services.discard(f"{api}.googleapis.com")

    def throttle(self, *, method: str = "", times: int = 1) -> None:
        """Refuse the next calls for being too many: with 403 as Compute Engine does, with 429 for a method of another API."""
        service = f"{method.partition('.')[0] or 'compute'}.googleapis.com"
        message = f"Quota exceeded for quota metric 'Queries' and limit 'Queries per minute' of service '{service}'"
        http = 403 if service.startswith("compute.") else 429
        self.refuse(
            ApiError(http, "rateLimitExceeded", message, status="RESOURCE_EXHAUSTED"), method=method, times=times
        )

    def add_account(self, account_id: str) -> str:
        """Let the project have a service account; return its address."""
        email = f"{account_id}@{self.id}.iam.gserviceaccount.com"
        with self._cloud.lock:
            iam.add(self.project, email)
        return email

    def bind(self, resource: str, role: str, member: str) -> None:
        """Give somebody a role: on the project (empty), a service account (its address) or a bucket (``b/NAME``)."""
        with self._cloud.lock:
            self.project.settle()
            policy = policies.read(self.project, resource, version=policies.CONDITIONAL)
            bindings = [*policy.get("bindings", []), {"role": role, "members": [member]}]
            policies.write(self._cloud, self.project, resource, {"version": 3, "bindings": bindings}, api="iam")

    def identity_token(self, name: str, audience: str) -> str:
        """Return what an instance's own metadata server says of it to an audience, in full."""
        with self._cloud.lock:
            return metadata.identity_token(self._cloud, self.project, self._instance(name), audience)

    def double(self, name: str) -> None:
        """Let a second instance of that name, with the same labels and description, exist in another zone; it runs."""
        with self._cloud.lock:
            life.double(self._cloud, self.project, self._instance(name))

    def fill(self, subnetwork: str) -> None:
        """Let a subnetwork have no free address: creating operations fail for it."""
        with self._cloud.lock:
            for found in self.project.all("subnetworks"):
                if found.name == subnetwork:
                    found.hidden["full"] = True

    def protect(self, name: str, *, protection: bool) -> None:
        """Let an instance be protected from being deleted, or no longer."""
        with self._cloud.lock:
            self._instance(name).body["deletionProtection"] = protection

    def serve_cluster(self, location: str, name: str, *, endpoint: str, certificate: str) -> None:
        """Let a GKE cluster's API server be at an address (``host:port``), with this certificate (base64 of its PEM)."""
        with self._cloud.lock:
            self.project.clusters[f"{location}/{name}"] |= {
                "endpoint": endpoint, "masterAuth": {"clusterCaCertificate": certificate}
            }  # fmt: skip

    def issue_tokens(self, location: str, name: str, keys: Json) -> None:
        """Let a GKE cluster's tokens be known by its public keys (a JWK set); its issuer is its ``selfLink``."""
        with self._cloud.lock:
            self.project.cluster_keys[f"{location}/{name}"] = keys

    def console(self, name: str) -> str:
        """Return what an instance has printed."""
        with self._cloud.lock:
            return self._cloud.power.console(self._instance(name))

    def inventory(self) -> list[Seen]:
        """Return everything in the project, as it really is now."""
        with self._cloud.lock:
            self.project.settle()
            return list(inventory(self.project))

    def add_image(self, name: str, *, family: str = "") -> str:
        """Let the project have an image; return its name as an insert takes it."""
        with self._cloud.lock:
            return images.add_image(self.project, name, family=family).path

    def preempt(self, name: str) -> None:
        """Take a spot instance back: announced, then stopped or deleted. Raises ValueError for one that is not spot."""
        with self._cloud.lock:
            life.preempt(self._cloud, self.project, self._instance(name))

    def stop(self, name: str) -> None:
        """Let an instance be off at once, as one that was shut down from within."""
        with self._cloud.lock:
            instance = self._instance(name)
            instance.hidden["turn"] += 1
            life.switch_off(self._cloud, self.project, instance)

    def vanish(self, name: str) -> None:
        """Let an instance be gone without a word."""
        with self._cloud.lock:
            life.vanish(self._cloud, self.project, self._instance(name))

    def may(self, member: str, permission: str, bucket: str, key: str) -> bool:
        """Return whether IAM lets somebody do something to an object: ``storage.objects.get`` and so on."""
        with self._cloud.lock:
            found = self._cloud.bucket(bucket)
            return store.may(self._cloud, self.project, found, Caller(member=member), permission, key=key)

    def put_object(self, bucket: str, key: str, data: bytes) -> None:
        """Let an object be there."""
        with self._cloud.lock:
            self.project.settle()
            found = self.project.buckets[bucket]
            store.put(self.project, found, key, data, conditions=store.Conditions(), headers={}, metadata={})

    def damage(self, bucket: str) -> None:
        """Let the next object that travels to or from a bucket arrive with a byte changed."""
        self._cloud.bucket(bucket).is_damaged = True

    def key_file(self, email: str) -> Json:
        """Return a service account's key file, as nobody should have one."""
        return self._cloud.keys.document(email, self.id)

    def _instance(self, name: str) -> Resource:
        self.project.settle()
        return next(found for found in self.project.all("instances") if found.name == name)
