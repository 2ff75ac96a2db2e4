"""A user-assigned managed identity as ARM wants and shows it, and the notes that we leave on one that was adopted."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from anyscale_azure import tags as tagging
from anyscale_azure.client import Azure
from anyscale_azure.tags import Stamp
from anyscale_core.errors import NotFound
from anyscale_core.models.identity import Binding, Identity
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.owner import TAG_NAME, Owner

UAI = "Microsoft.ManagedIdentity/userAssignedIdentities"
VERSION = "2023-01-31"
"""The version of Microsoft.ManagedIdentity that requests are written for."""
CLIENT_ID, USE = "azure.workload.identity/client-id", "azure.workload.identity/use"
"""What AKS reads on a ServiceAccount and on a Pod: https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html"""
TAG_SUBJECT = f"{tagging.PREFIX}subject-"
TAG_ADOPTED = f"{tagging.PREFIX}adopted-"
"""On an identity of the customer's: who has adopted it, under which name. One note for each cloud of each plane."""


@attrs.frozen(kw_only=True)
class Person:
    """An identity that we made or have adopted. ``name``, ``owner`` and ``stamp`` as they were when that was done."""

    name: str
    owner: Owner
    stamp: Stamp
    adopted: bool
    subjects: tuple[str, ...]
    body: Mapping[str, Any] = attrs.field(repr=False)

    @property
    def path(self) -> str:
        """Its path in ARM."""
        return str(self.body["id"])

    @property
    def principal(self) -> str:
        """The object id that rights are given to."""
        return str(self.body.get("properties", {}).get("principalId", ""))

    @property
    def client_id(self) -> str:
        """The id that tokens are asked for by."""
        return str(self.body.get("properties", {}).get("clientId", ""))

    def view(self) -> Identity:
        """Return it as the core knows it. Pods are bound to it by its client id, rights are given to its object id."""
        binding = Binding(account={CLIENT_ID: self.client_id}, workload={USE: "true"}) if self.subjects else Binding()
        return Identity(
            name=self.name, owner=self.owner, principal=self.principal, adopted=self.adopted, subjects=self.subjects,
            binding=binding,
        )  # fmt: skip


def people(azure: Azure, owner: Owner, deadline: datetime) -> tuple[Person, ...]:
    """Return every identity that this plane has made or adopted in the cloud, wherever in the subscription it is."""
    path = f"{azure.settings.subscription}/providers/{UAI}"
    found = (person_of(body, owner) for body in azure.pages(path, VERSION, deadline=deadline))
    return tuple(person for person in found if person is not None)


def person_of(body: Mapping[str, Any], owner: Owner) -> Person | None:
    """Return what an identity is to a plane's cloud; None when it is nothing to it."""
    raw = body.get("tags") or {}
    note = {key.lower(): value for key, value in raw.items()}.get(f"{TAG_ADOPTED}{tagging.suffix(owner)}")
    if note is not None:
        name, cluster, token, request = str(note).split(" ")
        theirs = attrs.evolve(owner, cluster=ClusterId(cluster) if cluster != "-" else None)
        stamp = Stamp(token=token, request=request)
        return Person(name=name, owner=theirs, stamp=stamp, adopted=True, subjects=subjects_in(raw, owner), body=body)
    tags = tagging.shown(raw)
    if not tagging.is_same_cloud(tagging.owner_of(tags), owner):
        return None
    return Person(
        name=tags.get(TAG_NAME, ""), owner=tagging.owner_of(tags), stamp=tagging.stamped(raw), adopted=False,
        subjects=subjects_in(raw, owner), body=body,
    )  # fmt: skip


def subject_tags(subjects: tuple[str, ...], owner: Owner) -> dict[str, str]:
    """Return the tags that say who may become an identity, so that a list needs no further call for each."""
    return {f"{TAG_SUBJECT}{tagging.suffix(owner)}-{number}": subject for number, subject in enumerate(subjects)}


def subjects_in(tags: Mapping[str, str], owner: Owner) -> tuple[str, ...]:
    """Return who may become an identity, as its tags say."""
    prefix = f"{TAG_SUBJECT}{tagging.suffix(owner)}-"
    found = {int(key[len(prefix) :]): value for key, value in tags.items() if key.lower().startswith(prefix)}
    return tuple(found[number] for number in sorted(found))


def note_of(name: str, owner: Owner, stamp: Stamp) -> dict[str, str]:
    """Return the tag that notes an adoption."""
    words = (name, owner.cluster or "-", stamp.token, stamp.request)
    return {f"{TAG_ADOPTED}{tagging.suffix(owner)}": " ".join(words)}


def find(azure: Azure, name: str, owner: Owner, deadline: datetime) -> Person | None:
    """Return an identity by its name: one that we made by its path, else one that was adopted by the list of all."""
    if not tagging.is_name(name):
        return None
    path = azure.settings.resource(UAI, tagging.named(name, owner))
    try:
        person = person_of(azure.send("GET", path, VERSION, deadline=deadline).body, owner)
    except NotFound as error:
        if error.vendor is not None and error.vendor.code == "ResourceGroupNotFound":
            raise
        person = None
    if person is not None and person.name == name:
        return person
    return next((each for each in people(azure, owner, deadline) if each.name == name), None)


def identity_path(azure: Azure, name: str | None, owner: Owner, deadline: datetime) -> str:
    """Return the path of the identity that a machine's workloads run as; empty for none. Raises NotFound(REFERENCE)."""
    if name is None:
        return ""
    person = find(azure, name, owner, deadline)
    if person is None:
        raise NotFound(f"no identity {name!r}", reason="REFERENCE", resource=name)
    return person.path
