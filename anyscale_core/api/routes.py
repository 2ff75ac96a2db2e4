"""The route table: every way in to the service, who may use it, what goes in and what comes out.

The server, the OpenAPI document and the test of who is let in all read this one table.
"""

import enum
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import attrs

from anyscale_core.api.protocol import (
    MAX_BODY,
    MAX_REPORT,
    AccessView,
    ApplyRequest,
    AuditView,
    CloudView,
    ClusterView,
    EventView,
    HealthView,
    JobView,
    PlanView,
    ProviderView,
    QuotaView,
    StopView,
)
from anyscale_core.errors import Fault, SpecError
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.models.cluster import ClusterSpec
from anyscale_core.models.identity import DISCOVERY_PATH, JWKS_PATH
from anyscale_core.models.job import JobSpec
from anyscale_core.models.networking import Check
from anyscale_core.models.node import CertificateRequest, Heartbeat, NodeCertificate, Orders, Registered, Registration
from anyscale_core.models.order import Dispatch, Login, Noted, OperatorToken, OperatorView, Poll, Report, Session
from anyscale_core.models.quota import QuotaSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess


class Door(enum.Enum):
    """Who is let in."""

    OPEN = "open"
    USER = "user"
    """A user's token, verified here."""
    NODE = "node"
    """A node's credential, verified by the plane."""
    OPERATOR = "operator"
    """An operator's credential, verified by the plane."""
    JOIN = "join"
    """Whoever has the token (or the proof) that is in the body, verified by the plane."""


class Show(enum.Enum):
    """Whether secrets in an answer are shown."""

    MASKED = "masked"
    REVEALED = "revealed"
    """The receiver is the one they are meant for."""


@attrs.frozen(kw_only=True)
class Call:
    """One request as the service sees it. ``body`` has been structured; ``token`` is the bearer's."""

    actor: str = ""
    token: Secret[str] | None = None
    path: Mapping[str, str] = attrs.field(factory=dict)
    query: Mapping[str, str] = attrs.field(factory=dict)
    body: Any = None


@attrs.frozen(kw_only=True)
class Answer:
    """An answer with a status of its own."""

    value: Any
    status: int


@attrs.frozen(kw_only=True)
class Route:
    """One route. ``work`` names the method of the service that does it: plain ones run in a thread, coroutines may hold.

    ``answer``: the type of the answer; ``bytes`` for text that is no JSON.
    """

    method: str
    path: str
    says: str
    work: str
    answer: Any
    body: Any = None
    query: Mapping[str, str] = attrs.field(factory=dict)
    """Parameter to what it means."""
    door: Door = Door.USER
    show: Show = Show.MASKED
    status: int = 200
    max_body: int = MAX_BODY
    fresh: timedelta = timedelta(0)
    """How long anybody may keep the answer."""


ISSUER_FRESH = timedelta(minutes=5)
_PAGE = {"after": "ids above this one", "limit": "how many at most, up to 1000"}
_FOLLOW = _PAGE | {"wait_s": "seconds to wait for the first one, up to 30"}

ROUTES: tuple[Route, ...] = (
    Route(method="GET", path="/healthz", says="Tell that the service answers.", work="health", answer=HealthView,
          door=Door.OPEN),
    Route(method="GET", path="/schema", says="Describe this service (OpenAPI).", work="schema", answer=dict[str, Any],
          door=Door.OPEN),
    Route(method="GET", path=DISCOVERY_PATH, says="Describe the plane as an OIDC issuer.", work="discovery",
          answer=dict[str, Any], door=Door.OPEN, fresh=ISSUER_FRESH),
    Route(method="GET", path=JWKS_PATH, says="Show the public keys of the plane as an OIDC issuer.", work="jwks",
          answer=dict[str, Any], door=Door.OPEN, fresh=ISSUER_FRESH),
    Route(method="GET", path="/metrics", says="Show metrics (Prometheus).", work="metrics", answer=bytes),
    Route(method="POST", path="/v1/nodes/register", says="Admit a node.", work="register", body=Registration,
          answer=Registered, door=Door.JOIN, show=Show.REVEALED),
    Route(method="POST", path="/v1/nodes/heartbeat", says="Take a node's status, give its orders; held up to wait.",
          work="heartbeat", body=Heartbeat, answer=Orders, door=Door.NODE, show=Show.REVEALED),
    Route(method="POST", path="/v1/nodes/certify", says="Sign a node's certificate for Ray.", work="certify",
          body=CertificateRequest, answer=NodeCertificate, door=Door.NODE),
    Route(method="POST", path="/v1/operators/session", says="Let a cloud's operator in.", work="operator_login",
          body=Login, answer=Session, door=Door.JOIN, show=Show.REVEALED),
    Route(method="POST", path="/v1/operators/poll", says="Give an operator its orders; held up to wait.",
          work="operator_poll", body=Poll, answer=Dispatch, door=Door.OPERATOR, show=Show.REVEALED),
    Route(method="POST", path="/v1/operators/report", says="Take what an operator says came of its orders.",
          work="operator_report", body=Report, answer=Noted, door=Door.OPERATOR, max_body=MAX_REPORT),
    Route(method="POST", path="/v1/clusters", says="Create a cluster (201) or change a live one (200).", work="apply",
          body=ApplyRequest, answer=ClusterView),
    Route(method="GET", path="/v1/clusters", says="List the live clusters.", work="clusters",
          answer=tuple[ClusterView, ...]),
    Route(method="GET", path="/v1/clusters/{name}", says="Show a live cluster, else the last of that name.",
          work="cluster", answer=ClusterView),
    Route(method="DELETE", path="/v1/clusters/{name}", says="Ask for the end of a cluster.", work="delete",
          query={"reason": "why, for the record"}, answer=ClusterView),
    Route(method="POST", path="/v1/plan", says="Show what applying a spec would make, and its price.", work="plan",
          body=ClusterSpec, answer=PlanView),
    Route(method="POST", path="/v1/clusters/{name}/jobs", says="Submit a job.", work="submit", body=JobSpec,
          answer=JobView, status=201),
    Route(method="GET", path="/v1/clusters/{name}/events", says="List a cluster's events; held while there are none.",
          work="events", query=_FOLLOW, answer=tuple[EventView, ...]),
    Route(method="GET", path="/v1/events", says="List all events; held while there are none.", work="events",
          query=_FOLLOW, answer=tuple[EventView, ...]),
    Route(method="POST", path="/v1/clusters/{name}/access", says="Give a token for a cluster's gateway.",
          work="access", answer=AccessView, show=Show.REVEALED),
    Route(method="POST", path="/v1/clusters/{name}/logs", says="Give a way to read a cluster's logs.", work="logs",
          answer=StoreAccess, show=Show.REVEALED),
    Route(method="GET", path="/v1/clouds", says="List the clouds.", work="clouds", answer=tuple[CloudView, ...]),
    Route(method="POST", path="/v1/clouds", says="Register a cloud (201); said again with an equal spec: 200.",
          work="register_cloud", body=CloudSpec, answer=CloudView),
    Route(method="GET", path="/v1/clouds/{cloud}", says="Show a cloud with what its clusters share.", work="cloud",
          answer=CloudView),
    Route(method="POST", path="/v1/clouds/{cloud}/setup",
          says="Make the next thing that a cloud's clusters share; repeat while something is missing.",
          work="set_up_cloud", answer=CloudView),
    Route(method="POST", path="/v1/clouds/{cloud}/verify", says="Look a cloud over, with its own drivers.",
          work="verify_cloud", answer=tuple[Check, ...]),
    Route(method="DELETE", path="/v1/clouds/{cloud}",
          says="Take away the next thing of a cloud; repeat until it is not registered any more.",
          work="delete_cloud", query={"data": "what becomes of objects in its bucket: refuse, delete or keep"},
          answer=CloudView),
    Route(method="POST", path="/v1/clouds/{cloud}/operator", says="Give a registration token for a cloud's operator.",
          work="operator_token", answer=OperatorToken, show=Show.REVEALED),
    Route(method="DELETE", path="/v1/clouds/{cloud}/operator", says="Revoke all that its operators were given.",
          work="revoke_operator", answer=OperatorView),
    Route(method="POST", path="/v1/clouds/{cloud}/uploads", says="Give a way to upload working directories.",
          work="uploads", answer=StoreAccess, show=Show.REVEALED),
    Route(method="GET", path="/v1/quotas", says="List the quotas with their usage.", work="quotas",
          answer=tuple[QuotaView, ...]),
    Route(method="POST", path="/v1/quotas", says="Make a quota (201) or change it (200).", work="set_quota",
          body=QuotaSpec, answer=QuotaView),
    Route(method="DELETE", path="/v1/quotas/{name}", says="Forget a quota; what it held back goes on.",
          work="delete_quota", answer=QuotaSpec),
    Route(method="GET", path="/v1/providers", says="List the provider plugins.", work="providers",
          answer=tuple[ProviderView, ...]),
    Route(method="GET", path="/v1/audit", says="List who did what.", work="audit",
          query={"after": "how many to leave out, from the first", "limit": _PAGE["limit"]},
          answer=tuple[AuditView, ...]),
    Route(method="POST", path="/v1/stop", says="End the service's process; clusters run on.", work="stop",
          answer=StopView, status=202),
)  # fmt: skip


def read(body: object, cls: Any) -> Any:
    """Turn a decoded body into what its route takes. Raises SpecError with every fault."""
    return _read_apply(body) if cls is ApplyRequest else wire.structure(body, cls)


def _read_apply(body: object) -> ApplyRequest:
    if not isinstance(body, Mapping):
        raise SpecError([Fault(path="", message='is not an object; send {"spec": ..., "job": ...}')], subject="request")
    faults = [
        Fault(path=str(key), message='unknown field; the request is {"spec": ..., "job": ...}')
        for key in body
        if key not in ("spec", "job")
    ]
    name = body["spec"].get("name") if isinstance(body.get("spec"), Mapping) else None
    spec = _part(body.get("spec"), ClusterSpec, "", faults)
    job = _part(body["job"], JobSpec, "job", faults) if body.get("job") is not None else None
    if faults or spec is None:
        raise SpecError(faults, subject=f"cluster {name!r}" if isinstance(name, str) else "cluster")
    return ApplyRequest(spec=spec, job=job)


def _part(body: object, cls: Callable[..., Any], prefix: str, faults: list[Fault]) -> Any:
    try:
        return wire.structure(body, cls)  # type: ignore[arg-type]
    except SpecError as error:
        for fault in error.faults:
            path = ".".join(part for part in (prefix, fault.path) if part)
            faults.append(attrs.evolve(fault, path=path))
        return None


Work = Callable[[Call], Any]
Hold = Callable[[Call], Awaitable[Any]]
