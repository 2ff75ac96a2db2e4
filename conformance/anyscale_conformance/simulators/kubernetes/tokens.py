"""The tokens of service accounts: signed for an audience, bound to an object, ending; and what a review says of one."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from anyscale_conformance.simulators.kubernetes.problems import bad_request, conflict, invalid, invalid_value, not_found
from anyscale_conformance.simulators.kubernetes.store import Entry
from anyscale_conformance.simulators.kubernetes.users import AUTHENTICATED, User
from anyscale_conformance.simulators.kubernetes.world import World, instant, timestamp

EXTRA = "authentication.kubernetes.io/"
SHORTEST_S, LONGEST_S = 600, 1 << 32
LEEWAY = timedelta(seconds=60)
"""For how long a token bound to an object that is being deleted still does, past the end of its grace."""
_BOUND = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


@attrs.frozen(kw_only=True)
class Proof:
    """Whom a token proves, and for which of the audiences that were asked for."""

    user: User
    audiences: tuple[str, ...]


class Rejected(Exception):
    """A token that proves nothing; the message is the review's."""


class Tokens:
    """Issues and reviews the tokens of one cluster. Users without a service account have plain tokens."""

    def __init__(self, world: World, key: RSAKey, issuer: str) -> None:
        self._world, self._key, self.issuer = world, key, issuer
        self._plain: dict[str, User] = {}

    def add_plain(self, token: str, user: User) -> None:
        """Let a token stand for a user."""
        self._plain[token] = user

    def issue(
        self, account: Entry, *, audiences: Sequence[str] = (), seconds: int = 3600, bound: Entry | None = None
    ) -> tuple[str, datetime]:
        """Return a token of a service account and the instant of its end."""
        now = self._world.now
        end = now + timedelta(seconds=seconds)
        about: dict[str, Any] = {
            "namespace": account.namespace, "serviceaccount": {"name": account.name, "uid": account.uid},
        }  # fmt: skip
        if bound is not None:
            about[bound.kind.kind.lower()] = {"name": bound.name, "uid": bound.uid}
            node = bound.obj["spec"].get("nodeName") if bound.kind.plural == "pods" else ""
            if node and (entry := self._world.get("nodes", "", node)) is not None:
                about["node"] = {"name": entry.name, "uid": entry.uid}
        claims = {
            "aud": list(audiences) or [self.issuer], "exp": int(end.timestamp()), "iat": int(now.timestamp()), "iss": self.issuer,
            "jti": self._world.uid(), "kubernetes.io": about, "nbf": int(now.timestamp()),
            "sub": f"system:serviceaccount:{account.namespace}:{account.name}",
        }  # fmt: skip
        header = {"alg": "RS256", "kid": self._key.kid}
        return jwt.encode(header, claims, self._key, algorithms=["RS256"]), end.replace(microsecond=0)

    def request(self, account: Entry, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a TokenRequest. Raises Problem for a time that is too short and for an object that is not, or not that one."""
        spec = body.get("spec") or {}
        seconds = spec.get("expirationSeconds") or 3600
        if seconds < SHORTEST_S or seconds > LONGEST_S:
            detail = (
                "may not specify a duration less than 10 minutes"
                if seconds < SHORTEST_S
                else f"may not specify a duration larger than {LONGEST_S} seconds"
            )
            raise invalid(
                "TokenRequest", "authentication.k8s.io", "", [invalid_value("spec.expirationSeconds", seconds, detail)]
            )
        bound = self._bound(account, spec.get("boundObjectRef"))
        audiences = spec.get("audiences") or [self.issuer]
        token, end = self.issue(account, audiences=audiences, seconds=int(seconds), bound=bound)
        spec = {"audiences": list(audiences), "expirationSeconds": int(seconds)} | (
            {"boundObjectRef": spec["boundObjectRef"]} if spec.get("boundObjectRef") else {}
        )
        return {
            "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": account.name, "namespace": account.namespace, "creationTimestamp": self._world.stamp},
            "spec": spec, "status": {"token": token, "expirationTimestamp": timestamp(end)},
        }  # fmt: skip

    def keys(self) -> dict[str, Any]:
        """Return the public keys as a JSON Web Key Set."""
        key = {"use": "sig", "alg": "RS256"} | self._key.as_dict(private=False)
        return {"keys": [{word: key[word] for word in ("use", "kty", "kid", "alg", "n", "e")}]}

    def configuration(self) -> dict[str, Any]:
        """Return what an OpenID provider says of itself."""
        return {
            "issuer": self.issuer, "jwks_uri": f"{self.issuer}/openid/v1/jwks", "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
        }  # fmt: skip

    def prove(self, token: str, audiences: Sequence[str] = ()) -> Proof:
        """Return whom a token proves to one of some audiences; none are the API server's own. Raises Rejected."""
        wanted = tuple(audiences) or (self.issuer,)
        if token in self._plain:
            if self.issuer not in wanted:
                raise Rejected("invalid bearer token")
            return Proof(user=self._plain[token], audiences=(self.issuer,))
        claims = self._claims(token)
        both = tuple(word for word in wanted if word in claims["aud"])
        if not both:
            raise Rejected(
                f"invalid bearer token, token audiences {_go(claims['aud'])} is invalid for the target audiences {_go(wanted)}"
            )
        return Proof(user=self._user(claims), audiences=both)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            claims = jwt.decode(token, self._key, algorithms=["RS256"]).claims
        except (JoseError, ValueError) as error:
            raise Rejected("invalid bearer token") from error
        now = self._world.now
        if claims.get("iss") != self.issuer:
            raise Rejected("invalid bearer token")
        if now >= datetime.fromtimestamp(claims["exp"], UTC):
            raise Rejected("invalid bearer token, service account token has expired")
        if now < datetime.fromtimestamp(claims["nbf"], UTC):
            raise Rejected("invalid bearer token, service account token is not valid yet")
        return claims

    def _user(self, claims: Mapping[str, Any]) -> User:
        about = claims["kubernetes.io"]
        namespace, account = about["namespace"], about["serviceaccount"]
        extra = {f"{EXTRA}credential-id": (f"JTI={claims['jti']}",)}
        for word, plural in (("serviceaccount", "serviceaccounts"), ("pod", "pods"), ("secret", "secrets")):
            if word not in about:
                continue
            entry = self._world.get(plural, namespace, about[word]["name"])
            if entry is None or entry.uid != about[word]["uid"] or self._has_ended(entry):
                raise Rejected("invalid bearer token, service account token has been invalidated")
        for word in ("pod", "node"):
            if word in about:
                extra |= {f"{EXTRA}{word}-{key}": (about[word][key],) for key in ("name", "uid")}
        return User(
            name=f"system:serviceaccount:{namespace}:{account['name']}", uid=account["uid"], extra=extra,
            groups=("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED),
        )  # fmt: skip

    def _has_ended(self, entry: Entry) -> bool:
        gone = entry.meta.get("deletionTimestamp")
        return gone is not None and instant(gone) + LEEWAY < self._world.now

    def _bound(self, account: Entry, ref: Mapping[str, str] | None) -> Entry | None:
        if not ref:
            return None
        plural = _BOUND.get(ref.get("kind", ""))
        if plural is None:
            raise bad_request(
                f"cannot bind token for serviceaccount {account.name!r} to object of type {ref.get('kind')}"
            )
        entry = self._world.get(plural, "" if plural == "nodes" else account.namespace, ref.get("name", ""))
        if entry is None:
            raise not_found(plural, "", ref.get("name", ""))
        if ref.get("uid") and ref["uid"] != entry.uid:
            raise conflict(
                plural, "", entry.name,
                f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record. The object might have "
                "been deleted and then recreated",
            )  # fmt: skip
        if plural == "pods" and entry.obj["spec"].get("serviceAccountName") != account.name:
            raise bad_request(
                f'cannot bind token for serviceaccount "{account.name}" to pod running with different serviceaccount name.'
            )
        return entry


def _go(words: Sequence[str]) -> str:
    return "[" + " ".join(f'"{word}"' for word in words) + "]"
