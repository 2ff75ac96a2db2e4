"""Nodes' credentials: given out, and verified once each."""

import hashlib
import threading
from datetime import UTC, datetime, timedelta

import attrs

from anyscale_core.controlplane.keys import NODE, KeyRing
from anyscale_core.errors import CloudError, Refused, Retry, Transient
from anyscale_core.models.ids import ClusterId, NodeId
from anyscale_core.models.secret import Secret

REMEMBERED = 50_000
"""Credentials whose signature is not verified again."""


@attrs.frozen(kw_only=True)
class Bearer:
    """Whose credential it is, and its life."""

    node_id: NodeId
    cluster_id: ClusterId
    issued_at: datetime
    expires_at: datetime


class Credentials:
    """Signs and verifies. Threads may share it."""

    def __init__(self, keys: KeyRing, ttl: timedelta) -> None:
        self._keys, self._ttl = keys, ttl
        self._known: dict[bytes, Bearer] = {}
        self._lock = threading.Lock()

    def issue(self, node_id: NodeId, cluster_id: ClusterId, *, now: datetime) -> tuple[Secret[str], datetime]:
        """Return a fresh credential and when it expires."""
        expires = now + self._ttl
        return self._keys.sign(NODE, {"sub": node_id, "cluster": cluster_id}, issued=now, expires=expires), expires

    def verify(self, credential: Secret[str], *, now: datetime) -> Bearer:
        """Return whose credential it is. Raises Refused (forged, expired, foreign).

        A signature stays good, so it is looked at once; the expiry counts every time.
        """
        # Kept by digest: what is in memory lets nobody in.
        digest = hashlib.sha256(credential.reveal().encode()).digest()
        known = self._known.get(digest)
        if known is not None and now < known.expires_at:
            return known
        claims = self._keys.verify(NODE, credential, now=now)
        bearer = Bearer(
            node_id=NodeId(str(claims["sub"])), cluster_id=ClusterId(str(claims["cluster"])),
            issued_at=datetime.fromtimestamp(claims["iat"], UTC), expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )  # fmt: skip
        with self._lock:
            self._known[digest] = bearer
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return bearer

    def is_aging(self, bearer: Bearer, *, now: datetime) -> bool:
        """Tell whether half its life is over: time for a fresh one."""
        return now - bearer.issued_at > self._ttl / 2


def unproven(error: CloudError, what: str) -> Refused | Transient:
    """Return what a proof that could not be verified comes to: not let in, or try again when it may be verified then."""
    if error.retry in (Retry.SAME, Retry.WITH_TOKEN):
        return Transient(f"{what} cannot be verified now: {error.message}; try again", reason="SERVER")
    return Refused("unproven", f"{what} was not accepted: {error.message}")
