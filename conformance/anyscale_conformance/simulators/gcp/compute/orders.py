"""What an insert asks for, checked as Compute Engine does and completed with its defaults."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from anyscale_conformance.simulators.gcp.calls import Call
from anyscale_conformance.simulators.gcp.catalogue import (
    ACCELERATORS,
    ATTACHABLE,
    GPU_ZONES,
    MACHINES,
    region_of,
    sold_in,
)
from anyscale_conformance.simulators.gcp.compute import common, images
from anyscale_conformance.simulators.gcp.errors import ApiError, invalid, not_found
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import LINK, fingerprint, path_of, words_of

METADATA_KEY = re.compile(r"[a-zA-Z0-9_-]{1,128}")
METADATA_VALUE = 256 * 1024
METADATA_TOTAL = 512 * 1024
DISK_TYPES = frozenset({"pd-standard", "pd-balanced", "pd-ssd", "pd-extreme", "hyperdisk-balanced", "local-ssd"})


def checked(call: Call, body: Mapping[str, Any], zone: str, *, field: str = "resource") -> Json:
    """Return an order with its defaults. Raises 400, 404 or 409 for what cannot be."""
    machine = _machine(call, str(body.get("machineType", "")), zone, field)
    labels = dict(body.get("labels", {}))
    common.check_labels(labels, f"{field}.labels")
    order: Json = {
        **body,
        "machineType": f"{LINK}projects/{call.project.id}/zones/{zone}/machineTypes/{machine}",
        "labels": labels,
        "labelFingerprint": fingerprint("labels", labels),
        "metadata": metadata(metadata_items(body.get("metadata", {}))),
        "tags": tags(body.get("tags", {})),
        "guestAccelerators": _accelerators(call, body, zone, machine),
        "serviceAccounts": _accounts(call, body.get("serviceAccounts", []), field),
        "disks": _disks(call, body.get("disks", []), zone, field),
        "networkInterfaces": _interfaces(call, body.get("networkInterfaces", []), zone, field),
        "deletionProtection": bool(body.get("deletionProtection", False)),
        "canIpForward": bool(body.get("canIpForward", False)),
        "startRestricted": False,
    }
    order["scheduling"] = _scheduling(order, body.get("scheduling", {}), field)
    for empty in ("guestAccelerators", "serviceAccounts"):
        if not order[empty]:
            del order[empty]
    return order


def metadata_items(body: Mapping[str, Any]) -> list[Json]:
    """Return the items of metadata. Raises 400 for keys twice or malformed and for what is too large."""
    items = [dict(item) for item in body.get("items", [])]
    keys = [str(item.get("key", "")) for item in items]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise invalid("resource.metadata", "", f"Duplicate metadata key: {twice}.")
    for item in items:
        if not METADATA_KEY.fullmatch(str(item.get("key", ""))):
            raise invalid("resource.metadata.items[0].key", item.get("key", ""), f"Must match {METADATA_KEY.pattern}.")
        if len(str(item.get("value", "")).encode()) > METADATA_VALUE:
            raise invalid("resource.metadata.items[0].value", "...", "The value is too large: at most 262144 bytes.")
    if sum(len(f"{item.get('key')}{item.get('value', '')}".encode()) for item in items) > METADATA_TOTAL:
        raise invalid("resource.metadata", "...", "The metadata is too large: at most 524288 bytes.")
    return items


def metadata(items: Sequence[Json]) -> Json:
    """Return metadata as an instance shows it."""
    shown: Json = {"kind": "compute#metadata", "fingerprint": fingerprint("metadata", items)}
    return shown | ({"items": list(items)} if items else {})


def tags(body: Mapping[str, Any]) -> Json:
    """Return network tags as an instance shows them. Raises 400 for one that is no name."""
    items = list(body.get("items", []))
    for item in items:
        if not common.NAME.fullmatch(str(item)):
            raise invalid("resource.tags.items[0]", item, f"Must be a match of regex '(?:{common.NAME.pattern})'")
    if len(items) > 64 or len(set(items)) < len(items):
        raise invalid("resource.tags.items", "", "At most 64 different tags are allowed.")
    shown: Json = {"fingerprint": fingerprint("tags", items)}
    return shown | ({"items": items} if items else {})


def _machine(call: Call, reference: str, zone: str, field: str) -> str:
    words = words_of(reference)
    if words[:1] == ["projects"]:
        words = words[2:]
    if len(words) != 4 or words[0] != "zones" or words[2] != "machineTypes":
        if not (field != "resource" and len(words) == 1):  # a bulk insert names the type alone
            raise invalid(f"{field}.machineType", reference, "The URL is malformed.")
        words = ["zones", zone, "machineTypes", words[0]]
    if words[1] != zone:
        raise invalid(f"{field}.machineType", reference, f"Machine type must be in the instance's zone '{zone}'.")
    machine = MACHINES.get(words[3])
    if machine is None or not sold_in(machine, zone):
        path = f"projects/{call.project.id}/zones/{zone}/machineTypes/{words[3]}"
        why = f"Machine type with name '{words[3]}' does not exist in zone '{zone}'."
        raise invalid(f"{field}.machineType", f"{LINK}{path}", why)
    return machine.name


def _accelerators(call: Call, body: Mapping[str, Any], zone: str, machine: str) -> list[Json]:
    result = []
    for added in body.get("guestAccelerators", []):
        words = words_of(str(added.get("acceleratorType", "")))
        name, count = words[-1] if words else "", int(added.get("acceleratorCount", 0))
        path = f"projects/{call.project.id}/zones/{zone}/acceleratorTypes/{name}"
        if name not in ACCELERATORS or zone not in GPU_ZONES:
            raise not_found(path)
        built_in = MACHINES[machine].built_in
        if (built_in is not None and (name, count) != built_in) or (built_in is None and name not in ATTACHABLE):
            raise ApiError(400, "badRequest", f"[{machine}, {name}] features are not compatible for creating instance.")
        if built_in is None and MACHINES[machine].family != "n1":
            raise ApiError(400, "badRequest", f"[{machine}, {name}] features are not compatible for creating instance.")
        if not 1 <= count <= ACCELERATORS[name][0] or count & (count - 1):
            raise invalid("resource.guestAccelerators[0].acceleratorCount", count, "Invalid number of cards.")
        result.append({"acceleratorType": LINK + path, "acceleratorCount": count})
    built_in = MACHINES[machine].built_in
    if built_in is not None and not result:
        path = f"{LINK}projects/{call.project.id}/zones/{zone}/acceleratorTypes/{built_in[0]}"
        result.append({"acceleratorType": path, "acceleratorCount": built_in[1]})
    return result


def _accounts(call: Call, accounts: Sequence[Mapping[str, Any]], field: str) -> list[Json]:
    if len(accounts) > 1:
        raise invalid(f"{field}.serviceAccounts", "", "At most one service account can be given.")
    result = []
    for account in accounts:
        email = str(account.get("email", "default"))
        default = f"{call.project.number}-compute@developer.gserviceaccount.com"
        email = default if email == "default" else email
        there = call.cloud.account(email)
        if email != default and (there is None or there.get("disabled")):
            message = (
                f"The user does not have access to service account '{email}'.  User: '{call.caller.email}'.  Ask a project "
                "owner to grant you the iam.serviceAccountUser role on the service account"
            )
            raise ApiError(400, "SERVICE_ACCOUNT_ACCESS_DENIED", message)
        result.append({"email": email, "scopes": list(account.get("scopes", []))})
    return result


def _disks(call: Call, disks: Sequence[Mapping[str, Any]], zone: str, field: str) -> list[Json]:
    if not disks:
        raise invalid(f"{field}.disks", "", "No disks are specified.")
    if not disks[0].get("boot"):
        raise invalid(f"{field}.disks[0]", "", "Boot disk must be the first disk attached to the instance.")
    result = []
    for at, disk in enumerate(disks):
        params, where = dict(disk.get("initializeParams", {})), f"{field}.disks[{at}]"
        if bool(params) == bool(disk.get("source")):
            raise invalid(where, "", "Exactly one of 'source' and 'initializeParams' must be given.")
        if disk.get("source"):
            source = common.referred(call, str(disk["source"]), "disks", f"{where}.source", scope=f"zones/{zone}")
            if source.body.get("users"):
                raise ApiError(400, "resourceInUseByAnotherResource", f"The disk resource '{source.path}' is already being "
                               f"used by '{path_of(source.body['users'][0])}'")  # fmt: skip
            result.append({**disk, "source": source.link, "index": at})
            continue
        kind = (words_of(str(params.get("diskType", "pd-standard"))) or [""])[-1]
        if kind not in DISK_TYPES:
            raise not_found(f"projects/{call.project.id}/zones/{zone}/diskTypes/{kind}")
        common.check_labels(params.get("labels", {}), f"{where}.initializeParams.labels")
        image = (
            _image(call, str(params.get("sourceImage", "")), where) if params.get("sourceImage") or at == 0 else None
        )
        least = int(image["diskSizeGb"]) if image else 1
        size = int(params.get("diskSizeGb", disk.get("diskSizeGb", least)))
        if size < least:
            why = f"Requested disk size cannot be smaller than the image size ({least} GB)"
            raise invalid(f"{where}.initializeParams.diskSizeGb", size, why)
        params |= {"diskSizeGb": str(size), "diskType": kind}
        if image:
            params["sourceImage"] = image["selfLink"]
        result.append({**disk, "initializeParams": params, "index": at})
    return result


def _image(call: Call, reference: str, where: str) -> Json:
    words = words_of(reference)
    project = call.project
    if words[:1] == ["projects"] and len(words) > 1:
        found = call.cloud.project(words[1]) or call.cloud.library(words[1])
        if found is None:
            raise not_found(f"projects/{words[1]}")
        project, words = found, words[2:]
    if words[:2] != ["global", "images"] or len(words) not in (3, 4):
        raise invalid(f"{where}.initializeParams.sourceImage", reference, "The URL is malformed.")
    if len(words) == 4:
        if words[2] != "family":
            raise invalid(f"{where}.initializeParams.sourceImage", reference, "The URL is malformed.")
        return images.newest(project, words[3])
    return images.image(project, words[2])


def _interfaces(call: Call, interfaces: Sequence[Mapping[str, Any]], zone: str, field: str) -> list[Json]:
    if not interfaces:
        raise invalid(f"{field}.networkInterfaces", "", "At least one network interface is required.")
    result = []
    for at, interface in enumerate(interfaces):
        where, region = f"{field}.networkInterfaces[{at}]", region_of(zone)
        subnetwork = None
        if interface.get("subnetwork"):
            subnetwork = common.referred(
                call, str(interface["subnetwork"]), "subnetworks", f"{where}.subnetwork", scope=f"regions/{region}"
            )
            if subnetwork.scope != f"regions/{region}":
                raise invalid(f"{where}.subnetwork", interface["subnetwork"],
                              f"Subnetwork must be in the same region as the instance ('{region}').")  # fmt: skip
        reference = str(interface.get("network", "") or ("" if subnetwork else "global/networks/default"))
        network = common.referred(call, reference, "networks", f"{where}.network") if reference else None
        if network is None and subnetwork is not None:
            network = common.referred(call, subnetwork.body["network"], "networks", f"{where}.network")
        if network is None:
            raise invalid(f"{where}.network", "", "A network is required.")
        if subnetwork is None and not network.body.get("autoCreateSubnetworks"):
            raise invalid(where, "", "Network interface must specify a subnet if the network resource is in custom subnet "
                          "mode.")  # fmt: skip
        if subnetwork is not None and subnetwork.body["network"] != network.link:
            raise invalid(f"{where}.subnetwork", subnetwork.link, "The subnetwork is not one of the network.")
        shown: Json = {
            **interface, "kind": "compute#networkInterface", "name": f"nic{at}", "network": network.link,
            "stackType": "IPV4_ONLY", "fingerprint": fingerprint(where, network.link, call.project.now),
        }  # fmt: skip
        if subnetwork is not None:
            shown["subnetwork"] = subnetwork.link
        result.append(shown)
    return result


def _scheduling(order: Mapping[str, Any], wanted: Mapping[str, Any], field: str) -> Json:
    """Return the scheduling, completed. Spot and accelerators cannot be moved, and spot is not restarted."""
    spot = wanted.get("provisioningModel") == "SPOT" or bool(wanted.get("preemptible"))
    shown: Json = {
        "provisioningModel": "SPOT" if spot else "STANDARD", "preemptible": spot, "automaticRestart": not spot,
        "onHostMaintenance": "TERMINATE" if spot else "MIGRATE", **wanted,
    }  # fmt: skip
    shown["preemptible"] = spot
    if spot and shown["automaticRestart"]:
        raise invalid(
            f"{field}.scheduling", "", "Scheduling must have automaticRestart be false when preemptible is true."
        )
    if spot and shown["onHostMaintenance"] != "TERMINATE":
        raise invalid(f"{field}.scheduling.onHostMaintenance", shown["onHostMaintenance"],
                      "Preemptible instances must have onHostMaintenance TERMINATE.")  # fmt: skip
    if order["guestAccelerators"] and shown["onHostMaintenance"] != "TERMINATE":
        raise ApiError(400, "badRequest", "Instances with guest accelerators do not support live migration.")
    if "instanceTerminationAction" in wanted and not (spot or "maxRunDuration" in wanted):
        raise invalid(f"{field}.scheduling.instanceTerminationAction", wanted["instanceTerminationAction"],
                      "It can be given for Spot instances and those with a limited run time only.")  # fmt: skip
    if spot and wanted.get("provisioningModel") == "SPOT":
        shown.setdefault("instanceTerminationAction", "STOP")
    return shown
