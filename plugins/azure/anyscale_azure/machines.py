"""A virtual machine as ARM wants and shows it. Render and parse are twins: what was asked for is read back from what is there."""

import base64
import copy
import hashlib
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from anyscale_azure import tags as tagging
from anyscale_azure.config import Settings
from anyscale_azure.errors import shown
from anyscale_azure.tags import TAG_LIFE, Stamp
from anyscale_core.drivers.startup import script
from anyscale_core.errors import InvalidRequest
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import InstanceId
from anyscale_core.models.instance import Instance, InstanceSpec, InstanceState
from anyscale_core.models.owner import TAG_NAME

NETWORK_API = "2022-11-01"
"""The version of Microsoft.Network by which the machine's interface is made along with it."""
STOPPED = frozenset({"stopped", "stopping", "deallocated", "deallocating"})
NONCE = 8


@attrs.frozen(kw_only=True)
class Place:
    """Where a machine's interface goes. ``has_address``: a public one is made with it, and goes with it."""

    subnet_id: str
    security_group_id: str = ""
    has_address: bool = False


@attrs.frozen(kw_only=True)
class Look:
    """What other lists say of a machine: its power, the code and words that it failed with, and its address in the network."""

    power: str = ""
    code: str = ""
    failure: str = ""
    address: str = ""


def render(
    spec: InstanceSpec, stamp: Stamp, place: Place, settings: Settings, *, identity_id: str = ""
) -> dict[str, Any]:
    """Return the body that makes the machine with all that comes along: interface, disk and address, tagged, to go with it."""
    if "identity" in spec.advanced_instance_config:
        # Merged, it would add the rights of another identity to those of the cluster's own.
        raise InvalidRequest(
            "advanced_instance_config sets identity, which says who the machine is", reason="FIELD", resource=spec.name,
            hint="leave it out; an identity_rule of the cloud gives a cluster another identity",
        )  # fmt: skip
    life = secrets.token_hex(NONCE // 2)
    tags = tagging.written(spec.name, spec.owner, stamp, spec.tags, node_id=spec.node_id) | {TAG_LIFE: life}
    name = tagging.named(spec.name, spec.owner)
    ours: dict[str, Any] = {
        "location": settings.location,
        "tags": tags,
        "identity": _identity(identity_id),
        "properties": {
            "hardwareProfile": {"vmSize": spec.instance_type},
            "storageProfile": {
                "imageReference": _image(spec.image_uri or settings.image),
                # A disk that is made with its machine gets the machine's tags.
                "osDisk": {
                    "name": part_of(name, life, "os"), "createOption": "FromImage", "deleteOption": "Delete",
                    "diskSizeGB": settings.os_disk_gb, "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
                },
            },
            "osProfile": _os_profile(spec, settings),
            "networkProfile": {
                "networkApiVersion": NETWORK_API,
                "networkInterfaceConfigurations": [_interface(name, life, tags, place)],
            },
        },
    }  # fmt: skip
    return merge(spec.advanced_instance_config, ours)


def placed(body: Mapping[str, Any], zone: str | None, market: MarketType, settings: Settings) -> dict[str, Any]:
    """Return a machine's body for one zone (None: whichever has room) and one market."""
    found = dict(body)
    if zone is not None:
        found["zones"] = [zone]
    elif settings.zones:
        found["placement"] = {"zonePlacementPolicy": "Any", "includeZones": list(settings.zones)}
    if market is MarketType.SPOT:
        spot = {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}
        found["properties"] = {**body["properties"], **spot}
    return found


def view(machine: Mapping[str, Any], look: Look) -> Instance:
    """Return a machine as the core knows it. The address is shown once it runs."""
    tags, properties = tagging.shown(machine.get("tags")), machine.get("properties", {})
    state, reason = _state(properties, look)
    has_failed = str(properties.get("provisioningState", "")).lower() == "failed" and look.code
    is_spot = str(properties.get("priority", "")).lower() == "spot"
    return Instance(
        id=id_of(machine),
        name=tags.get(TAG_NAME, ""),
        node_id=tagging.node_of(tags),
        owner=tagging.owner_of(tags),
        instance_type=properties.get("hardwareProfile", {}).get("vmSize", ""),
        state=state,
        market_type=MarketType.SPOT if is_spot else MarketType.ON_DEMAND,
        zone=next(iter(machine.get("zones") or ()), ""),
        address=look.address if state is InstanceState.RUNNING else "",
        created_at=_instant(properties.get("timeCreated")),
        reason=reason,
        failure=shown(look.code, look.failure, resource=tags.get(TAG_NAME, "")) if has_failed else None,
        tags=tags,
    )


def remains(part: Mapping[str, Any]) -> Instance:
    """Return a machine that is gone and whose disk or interface is not yet: it is being deleted still."""
    tags = tagging.shown(part.get("tags"))
    owner, name = tagging.owner_of(tags), tags.get(TAG_NAME, "")
    id = InstanceId(f"{tagging.named(name, owner)}.{tagging.life_of(part.get('tags'))}")
    return Instance(
        id=id, name=name, node_id=tagging.node_of(tags), owner=owner, instance_type="", state=InstanceState.DELETING,
        tags=tags,
    )  # fmt: skip


def id_of(machine: Mapping[str, Any]) -> InstanceId:
    """Return a machine's id: its name in Azure, and the word of chance that tells it from others that have had the name."""
    return InstanceId(f"{machine['name']}.{tagging.life_of(machine.get('tags'))}")


def part_of(name: str, life: str, part: str) -> str:
    """Return the name of what comes along with a machine: what a namesake has left, which goes later, is not in its way."""
    return f"{name}-{life}-{part}"


def name_in(id: str) -> str:
    """Return the name in Azure that an id begins with; empty for what is no id of this provider."""
    name, dot, nonce = id.rpartition(".")
    is_id = dot and len(nonce) == NONCE and set(nonce) <= set("0123456789abcdef")
    return name if is_id and name.replace("-", "").isalnum() and len(name) <= 64 else ""


def look_at(statuses: Any, address: str = "") -> Look:
    """Return what the statuses of an instance view say."""
    power = code = failure = ""
    for status in statuses or ():
        kind, _, rest = str(status.get("code", "")).partition("/")
        if kind == "PowerState":
            power = rest.lower()
        elif kind == "ProvisioningState" and rest.lower().startswith("failed"):
            code, failure = rest.partition("/")[2], str(status.get("message") or "")
    return Look(power=power, code=code, failure=failure, address=address)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings as one, level by level; where both say something, ``over`` counts."""
    found: dict[str, Any] = copy.deepcopy(dict(under))
    for key, value in over.items():
        old = found.get(key)
        found[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def _state(properties: Mapping[str, Any], look: Look) -> tuple[InstanceState, str]:
    match str(properties.get("provisioningState", "")).lower():
        case "deleting":
            return InstanceState.DELETING, ""
        case "creating":
            return InstanceState.PENDING, ""
        case "failed" | "canceled" as state:
            words = ": ".join(word for word in (look.code, look.failure) if word)
            return InstanceState.STOPPED, words or f"ProvisioningState/{state}"
    if look.power in STOPPED:
        return InstanceState.STOPPED, f"PowerState/{look.power}"
    return InstanceState.RUNNING, ""


def _identity(identity_id: str) -> dict[str, Any]:
    """Return the identities: its own, by which it proves itself, and the one that its workloads run as."""
    if not identity_id:
        return {"type": "SystemAssigned"}
    return {"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": {identity_id: {}}}


def _os_profile(spec: InstanceSpec, settings: Settings) -> dict[str, Any]:
    user = settings.admin_username
    key = settings.ssh_public_key or _key_of_nobody(spec.name)
    code = script(spec, python=settings.python, prepare=settings.prepare)
    ssh = {"publicKeys": [{"path": f"/home/{user}/.ssh/authorized_keys", "keyData": key}]}
    return {
        "computerName": spec.name,
        "adminUsername": user,
        "customData": base64.b64encode(code.encode()).decode(),
        "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": ssh},
    }


def _interface(name: str, life: str, tags: Mapping[str, str], place: Place) -> dict[str, Any]:
    address: dict[str, Any] = {"subnet": {"id": place.subnet_id}, "primary": True}
    if place.has_address:
        address["publicIPAddressConfiguration"] = {
            "name": part_of(name, life, "ip"), "tags": tags, "sku": {"name": "Standard", "tier": "Regional"},
            "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"},
        }  # fmt: skip
    guard = {"networkSecurityGroup": {"id": place.security_group_id}} if place.security_group_id else {}
    return {
        "name": part_of(name, life, "nic"),
        "tags": tags,
        "properties": {
            "primary": True, "deleteOption": "Delete", **guard, "ipConfigurations": [{"name": "main", "properties": address}],
        },
    }  # fmt: skip


def _image(image: str) -> dict[str, str]:
    """Return a reference to an image: a resource's path, or ``publisher:offer:sku:version`` of the marketplace."""
    if image.startswith("/"):
        return {"id": image}
    parts = image.split(":")
    if len(parts) != 4 or not all(parts):
        hint = "give the path of an image (/subscriptions/...), or publisher:offer:sku:version"
        raise InvalidRequest(f"{image!r} is no image of Azure", reason="FIELD", hint=hint)
    return dict(zip(("publisher", "offer", "sku", "version"), parts, strict=True))


def _key_of_nobody(name: str) -> str:
    """Return an Ed25519 key whose private half nobody has: Azure wants a way in, and nobody is to have one.

    RFC 8709, 4: the words "ssh-ed25519" and 32 bytes, each with its length before it.
    """
    parts = (b"ssh-ed25519", hashlib.sha256(f"nobody/{name}".encode()).digest())
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} nobody"


def _instant(text: Any) -> datetime | None:
    """Return an instant of ARM, which may have seven digits after the point."""
    if not text:
        return None
    plain = str(text).replace("Z", "+00:00")
    found = datetime.fromisoformat(plain)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
