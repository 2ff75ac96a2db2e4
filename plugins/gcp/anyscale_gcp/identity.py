"""IdentityDriver: service accounts for workloads, short-lived credentials, and machines that prove themselves.

No key of a service account is ever made. Grants are conditions in the policies of buckets; who may become an identity is in
the policy on its service account. Threads: a driver's only state is the set of Google's public keys, read at once and whole.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.errors import (
    AlreadyExists,
    Applied,
    CloudError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Scope,
    Unauthenticated,
)
from anyscale_core.models.identity import Binding, Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import RESERVED_TAGS, Owner
from anyscale_core.models.secret import Secret
from anyscale_gcp import accounts, buckets, policies, proofs
from anyscale_gcp.accounts import Account
from anyscale_gcp.client import Client
from anyscale_gcp.config import read_settings
from anyscale_gcp.permissions import permissions_for
from anyscale_gcp.tags import brief, check_name, fingerprint

KUBERNETES = re.compile(r"system:serviceaccount:(?P<namespace>[a-z0-9-]+):(?P<name>[a-z0-9.-]+)")
FEDERATED = re.compile(r"principal(Set)?://iam\.googleapis\.com/\S+")
ACCOUNT = "iam.gke.io/gcp-service-account"
"""What GKE reads on a ServiceAccount: https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity"""
_MEMBER = re.compile(r"serviceAccount:[^\[\]]+\.svc\.id\.goog\[(?P<namespace>[^/\]]+)/(?P<name>[^\]]+)\]")


class GcpIdentity(IdentityDriver):
    """Identities of a project. ``config.settings`` as explained in ``plugin``."""

    provider = "gcp"

    def __init__(self, config: DriverConfig, client: Client | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._client = client or Client(self._settings, config.clock, identity_token=config.identity_token)
        self._project = self._settings.project
        self._keys: dict[str, Any] = {}

    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        check_name(spec.name, "an identity")
        members = tuple(_member(subject, self._project) for subject in spec.subjects)
        wanted = self._wanted(spec, token)
        self._check_adopted(spec, deadline=deadline)
        found = self._lookup(spec, wanted, deadline=deadline)
        if found is None:
            self._insert(wanted, deadline=deadline)
        if members:
            self._let_in(wanted, members, deadline=deadline)
        return self._show(wanted, spec.subjects)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        account = self._owned(name, owner, deadline=deadline)
        if account is None:
            raise NotFound(f"there is no identity {name}", reason="RESOURCE", resource=name)
        return self._show(account, self._subjects(account, deadline=deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        mine = [each for each in accounts.every(self._client, owner, deadline=deadline) if _owns(owner, each.owner)]
        return tuple(self._show(account, self._subjects(account, deadline=deadline)) for account in mine)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        account = self._owned(name, owner, deadline=deadline)
        if account is None:
            return Deletion.ALREADY_ABSENT
        for bucket in buckets.every(self._client, owner, deadline=deadline):
            try:
                policies.change_bucket(
                    self._client, bucket.place, lambda bindings: policies.without(bindings, lambda g: g.is_of(account.member)),
                    deadline=deadline,
                )  # fmt: skip
            except NotFound:  # the bucket has gone meanwhile, and its grants with it
                continue
        if account.adopts and account.has_subjects:
            self._shut_out(account, deadline=deadline)
        try:
            self._client.call(
                "iam.projects.serviceAccounts.delete", name=accounts.path(self._project, account.email), about=name,
                deadline=deadline,
            )  # fmt: skip
        except NotFound:
            return Deletion.ALREADY_ABSENT
        return Deletion.GONE

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        """Return an access token, in ``values["access_token"]``, good for an hour."""
        account = self._owned(name, owner, deadline=deadline)
        if account is None:
            raise NotFound(f"there is no identity {name}", reason="RESOURCE", resource=name)
        token, expires_at = accounts.access_token(self._client, account.acting, deadline=deadline)
        return Credentials(values={"access_token": Secret(token)}, expires_at=expires_at)

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        document = self._client.identity_token(audience, machine=subject, deadline=deadline)
        return Proof(provider=self.provider, document=Secret(document))

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        document = proof.document.reveal()
        if self._clock.now() >= deadline:
            raise DeadlineExceeded(
                "the deadline had passed before the call began", reason="REQUEST", applied=Applied.NO
            )
        if not document:
            raise Unauthenticated("the proof is empty", reason="MISSING", hint="call prove on the node")
        if proof.provider != self.provider:
            raise Unauthenticated(f"the proof is of provider {proof.provider!r}, not of this cloud", reason="FORGED")
        key = proofs.key_of(document)
        if key not in {each.get("kid") for each in self._keys.get("keys", ())}:
            self._keys = self._client.certificates(deadline=deadline)
        claims = proofs.claims_of(document, self._keys)
        return proofs.principal_of(claims, audience=audience, project=self._project, now=self._clock.now())

    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        return permissions_for(features, self._settings)

    def close(self) -> None:
        self._client.close()

    def _wanted(self, spec: IdentitySpec, token: Token) -> Account:
        """Return the account that a spec asks for. Raises InvalidRequest for what can never work."""
        stolen = sorted(RESERVED_TAGS.intersection(spec.tags))
        if stolen:
            raise InvalidRequest(f"the tags {', '.join(stolen)} are reserved", reason="FIELD", hint="choose other keys")
        if spec.adopt is not None and not accounts.EMAIL.fullmatch(spec.adopt):
            raise InvalidRequest(
                f"{spec.adopt!r} is not the email of a service account", reason="FIELD", resource=spec.name,
                hint="write NAME@PROJECT.iam.gserviceaccount.com",
            )  # fmt: skip
        wanted = Account(
            name=spec.name, owner=spec.owner, token=brief(token)[:12], wanted=fingerprint(spec)[:12],
            email=accounts.email(self._project, spec.owner, spec.name), adopts=spec.adopt or "",
            has_subjects=bool(spec.subjects),
        )  # fmt: skip
        accounts.description(wanted)
        return wanted

    def _check_adopted(self, spec: IdentitySpec, *, deadline: datetime) -> None:
        if spec.adopt is not None:
            try:
                self._client.call(
                    "iam.projects.serviceAccounts.get", name=accounts.home(spec.adopt), about=spec.adopt,
                    deadline=deadline,
                )  # fmt: skip
            except NotFound as error:
                raise NotFound(
                    f"there is no service account {spec.adopt}", reason="REFERENCE", resource=spec.adopt,
                    vendor=error.vendor, hint="name one that exists",
                ) from error  # fmt: skip

    def _lookup(self, spec: IdentitySpec, wanted: Account, *, deadline: datetime) -> Account | None:
        """Return what an earlier call with this token made. Raises Conflict and AlreadyExists."""
        for account in accounts.every(self._client, spec.owner, deadline=deadline):
            if account.token == wanted.token and account != wanted:
                raise Conflict(
                    "the token stands for another identity", reason="TOKEN_MISMATCH", resource=spec.name,
                    hint="mint a token for each identity",
                )  # fmt: skip
            if account == wanted:
                return account
            if account.email == wanted.email:
                raise _taken(spec.name, "OWNED")
        return None

    def _insert(self, wanted: Account, *, deadline: datetime) -> None:
        body = {
            "accountId": wanted.email.partition("@")[0],
            "serviceAccount": {"displayName": wanted.name, "description": accounts.description(wanted)},
        }
        try:
            self._client.call(
                "iam.projects.serviceAccounts.create", name=f"projects/{self._project}", body=body, about=wanted.name,
                deadline=deadline,
            )  # fmt: skip
        except AlreadyExists as error:
            # Made at the same moment, or by a call whose answer was lost and that no list has shown yet.
            found = accounts.find(self._client, wanted.name, owner=wanted.owner, deadline=deadline)
            if found != wanted:
                raise _taken(wanted.name, "OWNED" if found is not None else "FOREIGN") from error

    def _let_in(self, account: Account, members: Iterable[str], *, deadline: datetime) -> None:
        def edit(bindings: list[dict[str, Any]]) -> list[dict[str, Any]]:
            for each in bindings:
                if each.get("role") == policies.WORKLOAD_ROLE and not each.get("condition"):
                    each["members"] = list(dict.fromkeys((*each.get("members", ()), *members)))
                    return bindings
            return [*bindings, {"role": policies.WORKLOAD_ROLE, "members": list(dict.fromkeys(members))}]

        policies.change_account(self._client, accounts.home(account.acting), edit, deadline=deadline)

    def _shut_out(self, account: Account, *, deadline: datetime) -> None:
        """Take from an adopted account whom we let become it: members of clusters, for those we alone put there."""
        members = set(self._members(account, deadline=deadline))

        def edit(bindings: list[dict[str, Any]]) -> list[dict[str, Any]]:
            out = []
            for each in bindings:
                if each.get("role") == policies.WORKLOAD_ROLE and not each.get("condition"):
                    each["members"] = [member for member in each.get("members", ()) if member not in members]
                if each.get("members"):
                    out.append(each)
            return out

        policies.change_account(self._client, accounts.home(account.acting), edit, deadline=deadline)

    def _subjects(self, account: Account, *, deadline: datetime) -> tuple[str, ...]:
        members = self._members(account, deadline=deadline) if account.has_subjects else ()
        return tuple(subject for member in members if (subject := _subject(member)))

    def _members(self, account: Account, *, deadline: datetime) -> tuple[str, ...]:
        policy = policies.of_account(self._client, accounts.home(account.acting), deadline=deadline)
        return tuple(
            member
            for each in policy.get("bindings", ())
            if each.get("role") == policies.WORKLOAD_ROLE and not each.get("condition")
            for member in each.get("members", ())
            if _subject(member)
        )

    def _owned(self, name: str, owner: Owner, *, deadline: datetime) -> Account | None:
        account = accounts.find(self._client, name, owner=owner, deadline=deadline)
        return account if account is not None and _owns(owner, account.owner) else None

    def _show(self, account: Account, subjects: Iterable[str]) -> Identity:
        subjects = tuple(subjects)
        is_bound = any(KUBERNETES.fullmatch(subject) for subject in subjects)
        return Identity(
            name=account.name, owner=account.owner, principal=account.member, adopted=bool(account.adopts),
            subjects=subjects, binding=Binding(account={ACCOUNT: account.acting}) if is_bound else Binding(),
        )  # fmt: skip


def _owns(owner: Owner, other: Owner) -> bool:
    return owner.owns(other.tags())


def _member(subject: str, project: str) -> str:
    """Return a subject as a policy names it. A Kubernetes service account is one of GKE's in this project."""
    kubernetes = KUBERNETES.fullmatch(subject)
    if kubernetes is not None:
        return f"serviceAccount:{project}.svc.id.goog[{kubernetes['namespace']}/{kubernetes['name']}]"
    if FEDERATED.fullmatch(subject):
        return subject
    raise InvalidRequest(
        f"{subject!r} is no subject that a service account can be given to",
        reason="FIELD",
        hint="write system:serviceaccount:NAMESPACE:NAME, or principal://iam.googleapis.com/...",
    )


def _subject(member: str) -> str:
    """Return the subject that a member stands for; empty for a member that no spec can have named."""
    found = _MEMBER.fullmatch(member)
    if found is not None:
        return f"system:serviceaccount:{found['namespace']}:{found['name']}"
    return member if FEDERATED.fullmatch(member) else ""


def _taken(name: str, reason: str) -> CloudError:
    return AlreadyExists(
        f"there is an identity {name} already",
        reason=reason,
        resource=name,
        scope=Scope.RESOURCE,
        hint="delete it, or use another name",
    )
