"""The identity driver: user-assigned managed identities, and proofs by the managed identity that every machine has of its own.

A machine proves itself with a token that Entra ID made for its system-assigned identity and for our audience: the token names
the machine's path in ARM, and nobody but that machine can ask for it.
"""

import os
from collections.abc import Callable, Iterable
from datetime import datetime
from urllib.parse import urlencode

from anyscale_azure import identities, roles
from anyscale_azure import tags as tagging
from anyscale_azure.client import Azure
from anyscale_azure.config import METADATA_VARIABLE, read_settings
from anyscale_azure.identities import UAI, VERSION, Person
from anyscale_azure.permissions import permissions_for
from anyscale_azure.proofs import Verifier
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, Unsupported
from anyscale_core.models.identity import Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret

FIC = f"{UAI}/federatedIdentityCredentials"
EXCHANGE = "api://AzureADTokenExchange"
"""The audience of the tokens that Entra ID takes in exchange."""
METADATA = "http://169.254.169.254"
METADATA_VERSION = "2018-02-01"
TAGS_VERSION = "2021-04-01"
SUBJECTS_MAX = 20
"""Azure takes so many federated credentials for one identity."""


def metadata_url(_: str) -> str:
    """Return where this machine's metadata service is: the same for every machine, unless its environment says otherwise."""
    return os.environ.get(METADATA_VARIABLE) or METADATA


class AzureIdentity(IdentityDriver):
    """Managed identities of one resource group; adopted ones may be anywhere in the subscription."""

    provider = "azure"

    def __init__(
        self, config: DriverConfig, azure: Azure | None = None, *, metadata: Callable[[str], str] = metadata_url
    ) -> None:
        self._settings = azure.settings if azure else read_settings(config)
        self._azure = azure or Azure(self._settings, config.clock)
        self._metadata = metadata
        self._verifier = Verifier(self._azure, config.owner)

    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        tagging.check_owner(spec.owner)
        tagging.check_name(spec.name)
        self._check_subjects(spec)
        stamp = tagging.stamp(token, spec)
        there = identities.people(self._azure, spec.owner, deadline)
        for each in there:
            if each.stamp.token == stamp.token and each.stamp.request != stamp.request:
                raise tagging.mismatch("identity", each.name)
        person = next((each for each in there if each.name == spec.name), None)
        if person is not None and (person.stamp != stamp or person.owner != spec.owner):
            message = f"there is an identity {spec.name} already"
            raise AlreadyExists(message, reason="OWNED", resource=spec.name, hint="use another name")
        if person is None and spec.adopt is not None:
            person = self._adopt(spec, stamp, there, deadline)
        elif person is None:
            person = self._make(spec, stamp, deadline)
        self._federate(person, deadline)
        return person.view()

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        return self._owned(name, owner, deadline).view()

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        tagging.check_owner(owner)
        found = identities.people(self._azure, owner, deadline)
        return tuple(person.view() for person in found if owner.owns(person.owner.tags()))

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        tagging.check_owner(owner)
        try:
            person = self._owned(name, owner, deadline)
        except NotFound as error:
            if error.vendor is not None:
                raise
            return Deletion.ALREADY_ABSENT
        for body in roles.of_principal(self._azure, person.principal, deadline):
            # An identity that we made goes, and leaves no right of anybody's giving to a principal that is not there.
            if not person.adopted or roles.parse(body) is not None:
                self._azure.send("DELETE", str(body["id"]), roles.VERSION, deadline=deadline)
        if person.adopted:
            self._let_go(person, deadline)
            return Deletion.GONE
        answer = self._azure.send("DELETE", person.path, VERSION, deadline=deadline)
        return Deletion.GOING if answer.status == 202 else Deletion.GONE

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:  # noqa: ARG002
        raise Unsupported(
            f"the credentials of {name} are handed out on machines that have it, by their metadata service",
            reason="identity.credentials",
        )

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        query = {"api-version": METADATA_VERSION, "resource": self._verifier.resource(audience)}
        url = f"{self._metadata(subject)}/metadata/identity/oauth2/token?{urlencode(query)}"
        found = self._azure.metadata(url, deadline=deadline)
        return Proof(provider=self.provider, document=Secret(str(found["access_token"])))

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        return self._verifier.verify(proof, audience=audience, deadline=deadline)

    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        return permissions_for(features, self._settings)

    def close(self) -> None:
        self._azure.close()

    def _owned(self, name: str, owner: Owner, deadline: datetime) -> Person:
        person = identities.find(self._azure, name, owner, deadline) if owner.plane else None
        if person is None or not owner.owns(person.owner.tags()):
            raise NotFound(f"no identity {name!r}", reason="RESOURCE", resource=name)
        return person

    def _make(self, spec: IdentitySpec, stamp: tagging.Stamp, deadline: datetime) -> Person:
        tags = tagging.written(spec.name, spec.owner, stamp, spec.tags)
        tags |= identities.subject_tags(spec.subjects, spec.owner)
        path = self._settings.resource(UAI, tagging.named(spec.name, spec.owner))
        body = {"location": self._settings.location, "tags": tags}
        try:
            found = self._azure.send(
                "PUT", path, VERSION, deadline=deadline, body=body, headers={"If-None-Match": "*"}
            ).body
        except Conflict as error:
            if error.reason != "ETAG":
                raise
            # Somebody has made it since we looked, or lists do not show yet what this very request has made.
            met = identities.find(self._azure, spec.name, spec.owner, deadline)
            if met is None or (met.stamp, met.owner) != (stamp, spec.owner):
                raise
            return met
        return self._known(found, spec.owner)

    def _adopt(self, spec: IdentitySpec, stamp: tagging.Stamp, there: tuple[Person, ...], deadline: datetime) -> Person:
        """Note on the customer's identity, which is looked at first, that it is adopted."""
        path = (spec.adopt or "").rstrip("/")
        if f"/providers/{UAI}/".lower() not in path.lower():
            hint = f"give /subscriptions/.../resourceGroups/.../providers/{UAI}/NAME"
            raise InvalidRequest(f"{spec.adopt!r} is no managed identity", reason="FIELD", hint=hint)
        other = next((person for person in there if person.path.lower() == path.lower()), None)
        if other is not None:
            message = f"{path} is the identity {other.name} of this cloud already"
            raise AlreadyExists(message, reason="OWNED", resource=spec.name, hint=f"use {other.name}")
        found = self._azure.send("GET", path, VERSION, deadline=deadline).body
        notes = identities.note_of(spec.name, spec.owner, stamp)
        notes |= identities.subject_tags(spec.subjects, spec.owner)
        self._tag(path, "Merge", notes, deadline)
        return self._known({**found, "tags": {**(found.get("tags") or {}), **notes}}, spec.owner)

    def _known(self, body: object, owner: Owner) -> Person:
        person = identities.person_of(body, owner) if isinstance(body, dict) else None
        if person is None:
            raise Conflict(
                "the identity is not tagged as it was asked for", reason="NOT_OWNED", hint="look at its tags"
            )
        return person

    def _federate(self, person: Person, deadline: datetime) -> None:
        """Let each subject become the identity, by a federated credential of its own; those that can already stay as they are."""
        if not person.subjects:
            return
        listed = self._azure.pages(f"{person.path}/federatedIdentityCredentials", VERSION, deadline=deadline)
        have = {str(each["name"]) for each in listed}
        for subject in person.subjects:
            name = self._credential_of(subject, person)
            if name in have:
                continue
            body = {"properties": {"issuer": self._settings.oidc_issuer, "subject": subject, "audiences": [EXCHANGE]}}
            # One after the other: Azure refuses to write two of one identity at once.
            path = f"{person.path}/federatedIdentityCredentials/{name}"
            self._azure.send("PUT", path, VERSION, deadline=deadline, body=body)

    def _let_go(self, person: Person, deadline: datetime) -> None:
        for subject in person.subjects:
            path = f"{person.path}/federatedIdentityCredentials/{self._credential_of(subject, person)}"
            self._azure.send("DELETE", path, VERSION, deadline=deadline)
        notes = identities.note_of(person.name, person.owner, person.stamp)
        self._tag(person.path, "Delete", notes | identities.subject_tags(person.subjects, person.owner), deadline)

    def _tag(self, path: str, operation: str, tags: dict[str, str], deadline: datetime) -> None:
        """Merge tags into a resource's, or take them away: what others have written there stays."""
        body = {"operation": operation, "properties": {"tags": tags}}
        self._azure.send(
            "PATCH", f"{path}/providers/Microsoft.Resources/tags/default", TAGS_VERSION, deadline=deadline, body=body
        )

    def _credential_of(self, subject: str, person: Person) -> str:
        return f"anyscale-core-{tagging.suffix(person.owner)}-{tagging.digest(subject)}"

    def _check_subjects(self, spec: IdentitySpec) -> None:
        if spec.subjects and not self._settings.oidc_issuer:
            hint = "set oidc_issuer: az aks show --query oidcIssuerProfile.issuerUrl"
            raise InvalidRequest(
                "nobody vouches for external subjects here", reason="FIELD", resource=spec.name, hint=hint
            )
        bad = [subject for subject in spec.subjects if not subject or len(subject) > tagging.VALUE_MAX]
        if bad or len(set(spec.subjects)) < len(spec.subjects) or len(spec.subjects) > SUBJECTS_MAX:
            hint = f"at most {SUBJECTS_MAX} different ones, each of 1 to {tagging.VALUE_MAX} characters"
            raise InvalidRequest("these external subjects cannot be", reason="FIELD", resource=spec.name, hint=hint)
