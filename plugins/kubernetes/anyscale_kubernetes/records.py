"""Named things as Kubernetes objects: how a request is found again, a name is held, and a taken one is told."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_core.errors import AlreadyExists, Conflict, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import TAG_NAME, Owner
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.errors import TAKEN
from anyscale_kubernetes.kinds import CONFIG_MAP, Kind
from anyscale_kubernetes.names import manager, short_name, token_digest
from anyscale_kubernetes.spent import spend, spent_names
from anyscale_kubernetes.tags import (
    FINGERPRINT,
    PAST,
    SLOT_LABEL,
    TOKEN,
    Body,
    annotation,
    marks,
    selector,
    tags_of,
    whole_cloud,
)

MEMORY = 16
"""So many older requests for a thing are known as late when they are repeated."""
MARK = 40
"""So much of a fingerprint fits a label."""


@attrs.frozen(kw_only=True)
class Request:
    """One request for a named thing: whose, as what, and what exactly was asked for."""

    slot: str
    name: str
    owner: Owner
    token: Token
    fingerprint: str
    tags: Mapping[str, str] = attrs.field(factory=dict)
    object: str = ""
    """The name of the object where it does not follow from the thing's."""

    @property
    def digest(self) -> str:
        """What the token is on objects."""
        return token_digest(self.owner, self.token)

    @property
    def object_name(self) -> str:
        """The name of the object that stands for the thing."""
        return self.object or short_name(self.owner, self.name, self.slot)

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the object that stands for the thing."""
        mark = marks(
            self.owner, self.name, slot=self.slot, token=self.token, fingerprint=self.fingerprint, tags=self.tags
        )
        labels = {**mark.labels, f"{PAST}/{self.digest}": self.fingerprint[:MARK]}
        return {"name": self.object_name, "labels": labels, "annotations": dict(mark.annotations)}


class Records:
    """The objects of one slot, each under a name that follows from ours; the first kind is the one that is made."""

    def __init__(self, api: Api, slot: str, *kinds: Kind) -> None:
        self._api, self._slot, self._kinds = api, slot, kinds

    def made(self, request: Request, *, deadline: datetime) -> Body | None:
        """Return what this request made before. Raises Conflict (TOKEN_MISMATCH, TOKEN_SPENT) for what is no repeat of it."""
        wanted = f"{SLOT_LABEL}={self._slot},{PAST}/{request.digest}"
        for body in self._of(whole_cloud(request.owner), wanted, deadline):
            if body["metadata"]["labels"].get(f"{PAST}/{request.digest}") != request.fingerprint[:MARK]:
                raise Conflict(
                    "the token stands for another request", reason="TOKEN_MISMATCH", resource=request.name,
                    hint="mint a token for each request",
                )  # fmt: skip
            if body["metadata"].get("deletionTimestamp"):
                raise token_spent(request.name)
            return body
        if request.name in spent_names(self._api, request.digest, deadline=deadline):
            raise token_spent(request.name)
        return None

    def apply(self, kind: Kind, request: Request, body: Mapping[str, Any], *, deadline: datetime) -> Body:
        """Make the object of a request and return it. Raises AlreadyExists where another request has the name."""
        who = manager(request.token, request.fingerprint, kind.kind, request.name)
        wanted = {"metadata": request.metadata(), **body}
        try:
            return self._api.apply(kind, wanted, manager=who, deadline=deadline)
        except Conflict as error:
            if error.reason != TAKEN:
                raise
            holder = self.find(kind, request.object_name, deadline=deadline)
            if holder is None:
                raise Conflict(
                    f"{request.name} went away while it was asked for", reason="BUSY", resource=request.name,
                    vendor=error.vendor,
                ) from error  # fmt: skip
            if (annotation(holder, TOKEN), annotation(holder, FINGERPRINT)) == (request.digest, request.fingerprint):
                return holder
            raise taken(request, holder) from error

    def read(self, name: str, *, owner: Owner, deadline: datetime) -> Body:
        """Return the object of that name. Raises NotFound for one that is not there, and for another owner's."""
        for kind in self._kinds:
            body = self.find(kind, short_name(owner, name, self._slot), deadline=deadline)
            if body is not None and self._is_ours(body) and owner.owns(tags_of(body)):
                return body
        raise NotFound(f"there is no {self._slot} {name}", reason="RESOURCE", resource=name)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Body, ...]:
        """Return all objects of an owner."""
        return self._of(owner, selector(owner, self._slot), deadline)

    def find(self, kind: Kind, name: str, *, deadline: datetime) -> Body | None:
        """Return an object of Kubernetes by its own name; None when it is proven absent."""
        return find(self._api, kind, name, deadline=deadline)

    def delete(self, body: Body, *, deadline: datetime, policy: str = "Background") -> Deletion:
        """Begin to delete an object that ``read`` or ``list`` has shown; with ``Foreground``, what belongs to it goes first."""
        if body["metadata"].get("deletionTimestamp"):
            return Deletion.GOING
        kind = next(kind for kind in self._kinds if kind.kind == body["kind"])
        spend(self._api, kind, [body], deadline=deadline)
        gone = self._api.delete_if_there(kind, body, deadline=deadline, policy=policy)
        return Deletion.GONE if gone else Deletion.GOING

    def move(self, kind: Kind, record: Body, request: Request, data: Mapping[str, str], *, deadline: datetime) -> Body:
        """Write new data into a record, for this request. Raises Conflict(ETAG) when another request was quicker."""
        metadata = request.metadata()
        past = [key for key in record["metadata"]["labels"] if key.startswith(f"{PAST}/")]
        forgotten = dict.fromkeys(past[: max(0, len(past) - MEMORY)])
        patch = {
            "metadata": {
                "resourceVersion": record["metadata"]["resourceVersion"],
                "labels": {**forgotten, **metadata["labels"]},
                "annotations": metadata["annotations"],
            },
            "data": dict(data),
        }
        return kind.head() | self._api.merge(kind, request.object_name, patch, deadline=deadline)

    def _of(self, owner: Owner, wanted: str, deadline: datetime) -> tuple[Body, ...]:
        return tuple(
            {**kind.head(), **body}
            for kind in self._kinds
            for body in self._api.list(kind, selector=wanted, deadline=deadline)
            if self._is_ours(body) and owner.owns(tags_of(body))
        )

    def _is_ours(self, body: Body) -> bool:
        labels = body["metadata"].get("labels") or {}
        return labels.get(SLOT_LABEL) == self._slot and bool(annotation(body, FINGERPRINT))


def find(api: Api, kind: Kind, name: str, *, deadline: datetime, namespace: str = "") -> Body | None:
    """Return an object by its name, or None when the API server says that there is none."""
    try:
        return kind.head() | api.get(kind, name, deadline=deadline, namespace=namespace)
    except NotFound as error:
        if error.reason != "RESOURCE":
            raise
        return None


def taken(request: Request, holder: Body) -> AlreadyExists | Conflict:
    """Return the error for a name that another request has."""
    if holder["metadata"].get("deletionTimestamp"):
        return Conflict(f"another {request.name} is being deleted", reason="BEING_DELETED", resource=request.name)
    is_owned = whole_cloud(request.owner).owns(tags_of(holder))
    return AlreadyExists(
        f"{request.name} exists, made by another request", reason="OWNED" if is_owned else "FOREIGN",
        resource=request.name, hint="list it, or choose another name",
    )  # fmt: skip


def token_spent(name: str) -> Conflict:
    """Return the error for a token whose result is deleted."""
    return Conflict(
        f"what this token made, {name}, has been deleted", reason="TOKEN_SPENT", resource=name,
        hint="mint a new token to make it again",
    )  # fmt: skip


def is_adopted(body: Body) -> bool:
    """Tell whether an object is the record of something of the customer's."""
    return bool(body["kind"] == CONFIG_MAP.kind and (body.get("data") or {}).get("adopted"))


def name_of(body: Body) -> str:
    """Return our name of the thing that an object stands for."""
    return tags_of(body)[TAG_NAME]
