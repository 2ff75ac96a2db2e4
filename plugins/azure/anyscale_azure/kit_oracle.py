"""What is really in a simulated subscription, read from the simulator's books; of the kit, and of nothing else."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from anyscale_conformance.kit import Item
from anyscale_conformance.simulators.azure import Subscription, Thing

VNET = "Microsoft.Network/virtualNetworks"
KINDS = {
    "Microsoft.Compute/virtualMachines": "instance",
    "Microsoft.Compute/disks": "disk",
    "Microsoft.Network/networkInterfaces": "interface",
    "Microsoft.Network/publicIPAddresses": "address",
    "Microsoft.Network/networkSecurityGroups": "securitygroup",
    "Microsoft.Network/loadBalancers": "endpoint",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "identity",
    VNET: "network",
}
PLANE, LIFE = "anyscale-core-plane", "anyscale-core-life"
ADOPTED = re.compile(r"anyscale-core-adopted-(\w+)$")
PATHS = re.compile(r"blobs:path\] StringStartsWith '([^']*)'")
HIDDEN = ("anyscale-core-token", "anyscale-core-request", LIFE, "anyscale-core-past")


class AzureOracle:
    """Looks into the subscription's store, and into Azurite where it runs."""

    def __init__(self, subscription: Callable[[], Subscription]) -> None:
        self._subscription = subscription

    def inventory(self) -> Iterator[Item]:
        """Yield everything that exists, whoever owns it."""
        at = self._subscription()
        things = at.inventory()
        for thing in things:
            found = at.find(thing.id)
            yield from _items(thing, "" if found is None else str(found.state).lower())
        yield from _remains(things)
        people = self.people()
        buckets = {}
        for account in (thing for thing in things if thing.type == "Microsoft.Storage/storageAccounts"):
            for container, tags, detail in _containers(at, account.name):
                buckets[container] = tags.get("Name", "")
                kind = "bucket" if PLANE in tags else "foreign bucket"
                yield Item(kind=kind, id=container, name=tags.get("Name", container), tags=tags, detail=detail)
        for thing in things:
            if thing.type == "Microsoft.Authorization/roleAssignments":
                yield from _grants(thing, people, buckets)

    def people(self) -> dict[str, str]:
        """Return the name of each identity by its principal."""
        found = {}
        for thing in self._subscription().inventory():
            if thing.type == "Microsoft.ManagedIdentity/userAssignedIdentities":
                found[str(thing.body["properties"]["principalId"])] = _adopted_as(thing) or thing.tags.get(
                    "Name", thing.name
                )
        return found

    def buckets(self) -> dict[str, str]:
        """Return the name of each bucket by its container."""
        return {item.id: item.name for item in self.inventory() if item.kind == "bucket"}


def _remains(things: Sequence[Thing]) -> Iterator[Item]:
    """Yield the machines that are gone and whose disks or interfaces are not: they are being deleted still."""
    lives = {thing.tags.get(LIFE) for thing in things if KINDS.get(thing.type) == "instance"}
    for thing in things:
        life = thing.tags.get(LIFE)
        if KINDS.get(thing.type) in ("disk", "interface") and life is not None and life not in lives:
            lives.add(life)
            machine = f"{thing.tags.get('Name', '')}-{_suffix(thing.tags)}"
            tags = {key: value for key, value in thing.tags.items() if key not in HIDDEN}
            yield Item(kind="instance", id=f"{machine}.{life}", name=tags.get("Name", ""), tags=tags, state="deleting")


def _suffix(tags: Mapping[str, str]) -> str:
    """Return what names of this plane and cloud end in."""
    whose = f"{tags.get(PLANE)}\0{tags.get('anyscale-core-cloud')}"
    return hashlib.sha256(whose.encode()).hexdigest()[:5]


def _items(thing: Thing, provisioned: str) -> Iterator[Item]:
    kind = KINDS.get(thing.type)
    if thing.type.endswith("federatedIdentityCredentials"):
        subject = str(thing.body["properties"]["subject"])
        yield Item(kind="federation", id=thing.id, name=subject)
    if thing.type.endswith("securityRules"):
        source = str(thing.body["properties"].get("sourceAddressPrefix", "*"))
        source = "0.0.0.0/0" if source in ("*", "Internet") else source
        yield Item(kind="rule", id=thing.id, name=thing.name[:-6], detail={"from": source})
    if kind is None:
        return
    tags = {key: value for key, value in thing.tags.items() if key not in HIDDEN}
    if kind == "securitygroup" and any(key.startswith("anyscale-core-adopts-") for key in thing.tags):
        kind = "network"
    if kind == "identity" and (note := _note(thing)):
        yield Item(kind=kind, id=thing.id, name=note["Name"], tags=note, detail={"client": str(thing.tags)})
        return
    if thing.name == "customers":
        return  # what machines go into that are in no network of the core's
    if PLANE not in tags:
        yield Item(
            kind=f"foreign {kind}",
            id=thing.id,
            name=thing.name,
            detail={"body": json.dumps(thing.body, sort_keys=True)},
        )
        return
    id = f"{thing.name}.{thing.tags.get(LIFE, '')}" if kind == "instance" else thing.id
    yield Item(
        kind=kind,
        id=id,
        name=tags.get("Name", ""),
        tags=tags,
        state=_state(thing, kind, provisioned),
        detail=_detail(thing, kind),
    )


def _state(thing: Thing, kind: str, provisioned: str) -> str:
    if provisioned == "deleting":
        return "deleting"
    if provisioned == "failed" and kind == "instance":
        return "stopped"
    if kind == "instance":
        power = thing.state.lower().rpartition("/")[2]
        if power in ("stopped", "deallocated", "failed"):
            return "stopped"
        return "running" if power == "running" else "pending"
    if kind == "endpoint":
        going = "anyscale-core-going" in thing.tags
        return "deleting" if going else "ready" if thing.state == "Succeeded" else "pending"
    return ""


def _detail(thing: Thing, kind: str) -> dict[str, str]:
    properties = thing.body.get("properties", {})
    if kind == "instance":
        size = properties["hardwareProfile"]["vmSize"]
        return {"size": size, "zone": str(thing.body.get("zones")), "priority": str(properties.get("priority"))}
    if kind == "endpoint":
        pools, rules = properties.get("backendAddressPools") or (), properties.get("loadBalancingRules") or ()
        heads = pools[0]["properties"].get("loadBalancerBackendAddresses") if pools else ()
        if not heads or not rules:
            return {}
        return {"target": f"{heads[0]['properties']['ipAddress']}:{rules[0]['properties']['backendPort']}"}
    if kind == "network":
        return {"space": str(properties.get("addressSpace"))}
    return {}


def _note(thing: Thing) -> dict[str, str]:
    """Return the tags that the note on an adopted identity stands for; empty without one."""
    name = _adopted_as(thing)
    return {"Name": name} if name else {}


def _adopted_as(thing: Thing) -> str:
    notes = [value for key, value in thing.tags.items() if ADOPTED.fullmatch(key)]
    return notes[0].split(" ")[0] if notes else ""


def _containers(at: Subscription, account: str) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    page = ElementTree.fromstring(_text(at, f"{account}?comp=list&include=metadata"))
    for each in page.iter("Container"):
        name = str(each.findtext("Name"))
        metadata = {tag.tag.lower(): tag.text or "" for tag in each.iterfind("Metadata/*")}
        packed = metadata.get("anyscale_core_tags", "")
        tags: Mapping[str, str] = json.loads(base64.b64decode(packed)) if packed else {}
        blobs = ElementTree.fromstring(
            _text(at, f"{account}/{quote(name)}?restype=container&comp=list&include=uncommittedblobs")
        )
        keys = " ".join(sorted(str(blob.findtext("Name")) for blob in blobs.iter("Blob")))
        public = "yes" if each.findtext("Properties/PublicAccess") else "no"
        plain = {key: value for key, value in tags.items() if key not in HIDDEN}
        yield name, plain, {"keys": keys, "public": public, "metadata": str(sorted(metadata.items()))}


def _text(at: Subscription, path: str) -> str:
    return at.blobs.call(at, "GET", path).decode("utf-8-sig")


def _grants(thing: Thing, people: Mapping[str, str], buckets: Mapping[str, str]) -> Iterator[Item]:
    properties: Mapping[str, Any] = thing.body["properties"]
    container = str(properties.get("scope", thing.id.partition("/providers/Microsoft.Auth")[0])).rpartition("/")[2]
    bucket = buckets.get(container, container)
    principal = str(properties["principalId"])
    is_write = str(properties["roleDefinitionId"]).lower().endswith("ba92f5b4-2d11-453d-a403-e96b0029c9fe")
    state = "write" if is_write else "read"
    for prefix in PATHS.findall(str(properties.get("condition") or "")):
        yield Item(kind="grant", id=people.get(principal, principal), name=f"{bucket}/{prefix}", state=state)
