"""IdentityDriver: a workload identity is a ServiceAccount, and a machine proves itself with its Pod's own token.

The token is projected into the Pod for one audience, bound to the Pod, and renewed by the kubelet. It is verified by the API
server (TokenReview), or without one by the keys of its issuer, from the settings.
"""

import base64
import json
import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from anyscale_core.models.identity import Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_kubernetes.client import Api, Connection
from anyscale_kubernetes.config import TOKEN_VARIABLE, read_settings
from anyscale_kubernetes.errors import check_deadline
from anyscale_kubernetes.kinds import CONFIG_MAP, POD, SERVICE_ACCOUNT, TOKEN_REVIEW, Kind
from anyscale_kubernetes.names import check_name, instance_name, object_name
from anyscale_kubernetes.permissions import permissions_for
from anyscale_kubernetes.pods import SLOT as CLUSTER
from anyscale_kubernetes.pods import TOKEN_FILE, instant
from anyscale_kubernetes.records import Records, Request, find, is_adopted, name_of, taken
from anyscale_kubernetes.tags import SLOT_LABEL, Body, fingerprint, owner_of, tags_of, whole_cloud

SLOT = "identity"
GRANT_SLOT = "grant"
IDENTITY_LABEL = "anyscale-core-identity"
LIFETIME = timedelta(hours=1)
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
OTHER = "pod:"
"""How a Pod is named that is no instance of this cloud (an operator's): no instance has such a name."""
ACCOUNT_PREFIX = "system:serviceaccount:"


class KubernetesIdentity(IdentityDriver):
    """ServiceAccounts of one namespace. ``config.settings`` as explained in ``plugin``."""

    provider = "kubernetes"

    def __init__(self, config: DriverConfig, connection: Connection | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._owner = config.owner
        self._api = Api(self._settings, config.clock, connection)
        self._records = Records(self._api, SLOT, SERVICE_ACCOUNT, CONFIG_MAP)

    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "an identity")
        if spec.subjects:
            raise InvalidRequest(
                "nobody from outside can become a ServiceAccount", reason="UNSUPPORTED_VALUE", resource=spec.name,
                hint="leave subjects out; the cloud's own identities take them",
            )  # fmt: skip
        request = Request(
            slot=SLOT, name=spec.name, owner=spec.owner, token=token, fingerprint=fingerprint(spec), tags=spec.tags
        )
        made = self._records.made(request, deadline=deadline)
        if made is not None:
            return self._shown(made)
        if spec.adopt is not None:
            self._check_adoptable(spec.adopt, deadline)
            self._refuse_taken(SERVICE_ACCOUNT, request, deadline)
            body = {"data": {"adopted": spec.adopt}}
            return self._shown(self._records.apply(CONFIG_MAP, request, body, deadline=deadline))
        self._refuse_taken(CONFIG_MAP, request, deadline)
        metadata = request.metadata()
        metadata["annotations"] |= {
            key: value.replace("{identity}", spec.name)
            for key, value in self._settings.service_account_annotations.items()
        }
        account = {"metadata": metadata, "automountServiceAccountToken": False}
        return self._shown(self._records.apply(SERVICE_ACCOUNT, request, account, deadline=deadline))

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        check_deadline(deadline, self._clock)
        return self._shown(self._read(name, owner, deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        check_deadline(deadline, self._clock)
        return tuple(self._shown(body) for body in self._records.list(owner, deadline=deadline))

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        try:
            body = self._read(name, owner, deadline)
        except NotFound:
            return Deletion.ALREADY_ABSENT
        wanted = f"{SLOT_LABEL}={GRANT_SLOT},{IDENTITY_LABEL}={body['metadata']['name']}"
        for grant in self._api.list(CONFIG_MAP, selector=wanted, deadline=deadline):
            if whole_cloud(owner).owns(tags_of(grant)):
                self._api.delete_if_there(CONFIG_MAP, grant, deadline=deadline)
        return self._records.delete(body, deadline=deadline)

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        """Return a token of the ServiceAccount for the API server, in ``values["token"]``, good for an hour."""
        check_deadline(deadline, self._clock)
        status = self._token(self._account(self._read(name, owner, deadline)), {}, deadline)
        expires_at = instant(status.get("expirationTimestamp"))
        return Credentials(
            values={"token": Secret(str(status["token"]))}, expires_at=expires_at or self._clock.now() + LIFETIME
        )

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        """Return the token that is projected into this Pod; for another audience than that one's, ask for a token of the Pod.

        Asking takes the right to create tokens of the Pod's account, which workloads do not have.
        """
        check_deadline(deadline, self._clock)
        projected = _projected(Path(os.environ.get(TOKEN_VARIABLE, TOKEN_FILE)))
        if audience in _audiences(_claims(projected)):
            return Proof(provider=self.provider, document=Secret(projected))
        name = object_name(self._owner, subject)
        pod = find(self._api, POD, name, deadline=deadline)
        if pod is None:
            raise NotFound(f"there is no Pod {name} to prove itself", reason="RESOURCE", resource=subject)
        bound = {**POD.head(), "name": name, "uid": pod["metadata"]["uid"]}
        status = self._token(
            pod["spec"]["serviceAccountName"], {"audiences": [audience], "boundObjectRef": bound}, deadline
        )
        return Proof(provider=self.provider, document=Secret(str(status["token"])))

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        check_deadline(deadline, self._clock)
        document = proof.document.reveal()
        if not document:
            raise Unauthenticated("the proof is empty", reason="MISSING", hint="call prove on the node")
        if proof.provider != self.provider:
            raise Unauthenticated(f"the proof is of provider {proof.provider!r}", reason="FORGED")
        if not audience:
            raise Unauthenticated("a proof is for one audience, and none is given", reason="FORGED")
        if self._settings.jwks:
            return self._by_keys(document, audience)
        return self._by_review(document, audience, deadline)

    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        return permissions_for(features, self._settings)

    def close(self) -> None:
        self._api.close()

    def _read(self, name: str, owner: Owner, deadline: datetime) -> Body:
        return self._records.read(name, owner=owner, deadline=deadline)

    def _refuse_taken(self, kind: Kind, request: Request, deadline: datetime) -> None:
        """Raise AlreadyExists where the name is held by an object of the other kind: an adopted one, or one of ours."""
        holder = self._records.find(kind, request.object_name, deadline=deadline)
        if holder is not None:
            raise taken(request, holder)

    def _check_adoptable(self, name: str, deadline: datetime) -> None:
        if name == self._settings.operator_service_account:
            raise InvalidRequest(
                f"{name} is the operator's own account", reason="UNSUPPORTED_VALUE", resource=name,
                hint="adopt an account of the workloads'",
            )  # fmt: skip
        if find(self._api, SERVICE_ACCOUNT, name, deadline=deadline) is None:
            raise NotFound(f"there is no ServiceAccount {name}", reason="REFERENCE", resource=name)

    def _shown(self, body: Body) -> Identity:
        return Identity(
            name=name_of(body),
            owner=owner_of(tags_of(body)),
            principal=f"{ACCOUNT_PREFIX}{self._api.namespace}:{self._account(body)}",
            adopted=is_adopted(body),
        )

    def _account(self, body: Body) -> str:
        return str(body["data"]["adopted"] if is_adopted(body) else body["metadata"]["name"])

    def _token(self, account: str, spec: dict[str, Any], deadline: datetime) -> dict[str, Any]:
        path = SERVICE_ACCOUNT.path(self._api.namespace, account, "token")
        body = {
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": int(LIFETIME.total_seconds()), **spec},
        }  # fmt: skip
        answer = self._api.request("POST", path, body=body, deadline=deadline, resource=account)
        return dict(answer["status"])

    def _by_review(self, document: str, audience: str, deadline: datetime) -> Principal:
        claims = _claims(document)
        if not claims:  # not even the form of a token: an API server has other kinds of them, which prove no Pod
            raise Unauthenticated(
                "the document is not a token of a Pod", reason="FORGED", hint="show what prove returned"
            )
        body = {**TOKEN_REVIEW.head(), "spec": {"token": document, "audiences": [audience]}}
        answer = self._api.request("POST", TOKEN_REVIEW.path(""), body=body, deadline=deadline)
        status = answer.get("status") or {}
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            raise self._not_genuine(claims, str(status.get("error") or "the API server did not accept it"))
        user = status.get("user") or {}
        extra = {key: str(values[0]) for key, values in (user.get("extra") or {}).items() if values}
        account = _account_of(str(user.get("username", "")))
        pod_name, uid = extra.get(POD_NAME, ""), extra.get(POD_UID, "")
        self._check_bounds(account, pod_name)
        pod = find(self._api, POD, pod_name, deadline=deadline)
        if pod is None or pod["metadata"]["uid"] != uid:
            raise Unauthenticated("the Pod of the proof is gone", reason="EXPIRED")
        labels, tags = pod["metadata"].get("labels") or {}, tags_of(pod)
        is_ours = labels.get(SLOT_LABEL) == CLUSTER and whole_cloud(self._owner).owns(tags)
        return self._principal(account, instance_name(pod_name) if is_ours else f"{OTHER}{pod_name}", uid)

    def _by_keys(self, document: str, audience: str) -> Principal:
        """Verify without an API server. Whether the Pod still lives, only that one knows: the token's hour bounds it."""
        claims = self._signed(document)
        if claims.get("iss") != self._settings.issuer or audience not in _audiences(claims):
            raise Unauthenticated("the proof was made by another issuer, or for another audience", reason="FORGED")
        now, expires = self._clock.now().timestamp(), claims.get("exp")
        if not isinstance(expires, int | float) or now >= expires:
            raise Unauthenticated("the proof has expired", reason="EXPIRED", hint="prove again")
        bound = claims.get("kubernetes.io") or {}
        pod = bound.get("pod") or {}
        account = _account_of(str(claims.get("sub", "")))
        self._check_bounds(account, str(pod.get("name", "")))
        pod_name, name = str(pod["name"]), instance_name(str(pod["name"]))
        is_ours = object_name(self._owner, name) == pod_name
        return self._principal(account, name if is_ours else f"{OTHER}{pod_name}", str(pod.get("uid", "")))

    def _signed(self, document: str) -> dict[str, Any]:
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        try:
            keys = KeySet.import_key_set(cast(Any, dict(self._settings.jwks)))
            token = jwt.decode(document, keys, algorithms=["RS256", "ES256", "ES384", "RS384", "RS512", "ES512"])
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise Unauthenticated("the proof was not signed by the cluster's keys", reason="FORGED") from error
        return dict(token.claims)

    def _check_bounds(self, account: tuple[str, str], pod: str) -> None:
        if account[0] != self._api.namespace:
            raise PermissionDenied(
                f"the proof is of the namespace {account[0] or 'of nobody'!r}, not of {self._api.namespace!r}",
                reason="BOUNDARY",
            )
        if not pod:
            raise PermissionDenied(
                "the proof names no Pod", reason="BOUNDARY", hint="use the token projected into a Pod"
            )

    def _not_genuine(self, claims: dict[str, Any], why: str) -> Unauthenticated:
        expires = claims.get("exp")
        if isinstance(expires, int | float) and self._clock.now().timestamp() >= expires:
            return Unauthenticated(f"the proof has expired: {why}", reason="EXPIRED", hint="prove again")
        return Unauthenticated(f"the proof is not genuine, or for another audience: {why}", reason="FORGED")

    def _principal(self, account: tuple[str, str], instance: str, uid: str) -> Principal:
        namespace, name = account
        return Principal(
            subject=f"{ACCOUNT_PREFIX}{namespace}:{name}", account=namespace, instance=instance, claims={"pod_uid": uid}
        )


def _projected(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def _claims(document: str) -> dict[str, Any]:
    """Return what a token says of itself, unverified; nothing for what is no token."""
    parts = document.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1].encode("ascii") + b"==="))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _audiences(claims: dict[str, Any]) -> tuple[str, ...]:
    told = claims.get("aud")
    return tuple(map(str, told)) if isinstance(told, list) else (str(told),) if told else ()


def _account_of(subject: str) -> tuple[str, str]:
    """Return the namespace and the name of the ServiceAccount that a subject is; empty for any other subject."""
    if not subject.startswith(ACCOUNT_PREFIX):
        return "", ""
    namespace, _, name = subject.removeprefix(ACCOUNT_PREFIX).partition(":")
    return namespace, name
