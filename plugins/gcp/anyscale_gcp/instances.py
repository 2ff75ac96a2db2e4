"""An instance as Compute Engine has it: its body rendered from a spec, and read back; twins."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from anyscale_core.drivers import startup
from anyscale_core.errors import InvalidRequest, Unsupported
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import InstanceId, NodeId, Token
from anyscale_core.models.instance import Instance, InstanceSpec, InstanceState
from anyscale_core.models.owner import TAG_NODE
from anyscale_gcp.config import Settings
from anyscale_gcp.tags import Note, brief, check_name, fingerprint, labels, note, parse, plain, render, resource_name

FIELDS = (
    "id,name,zone,status,statusMessage,machineType,creationTimestamp,description,labels,scheduling(provisioningModel),"
    "networkInterfaces(networkIP),guestAccelerators"
)
"""What of an instance is read: its metadata, which is long and holds a join token, is not."""

STATES: Mapping[str, InstanceState] = {
    "PENDING": InstanceState.PENDING,
    "PROVISIONING": InstanceState.PENDING,
    "STAGING": InstanceState.PENDING,
    "RUNNING": InstanceState.RUNNING,
    "REPAIRING": InstanceState.STOPPED,
    "PENDING_STOP": InstanceState.STOPPED,
    "STOPPING": InstanceState.STOPPED,
    "SUSPENDING": InstanceState.STOPPED,
    "SUSPENDED": InstanceState.STOPPED,
    "STOPPED": InstanceState.STOPPED,
    "TERMINATED": InstanceState.STOPPED,
    "DEPROVISIONING": InstanceState.DELETING,
}
"""cloud.google.com/compute/docs/instances/instance-lifecycle. STOPPING is DELETING when a delete is what stops it."""

ID = re.compile(r"(?P<zone>[a-z]+-[a-z]+\d+-[a-z])/(?P<name>[a-z][-a-z0-9]{0,62})/(?P<number>\d+)")
TYPE = re.compile(r"(?P<machine>[a-z][a-z0-9-]*)(\+(?P<accelerator>[a-z][a-z0-9-]*):(?P<count>\d+))?")
"""``n1-standard-8``, or with accelerators put in: ``n1-standard-8+nvidia-tesla-t4:2``."""


@attrs.frozen(kw_only=True)
class Place:
    """Where an instance is and which one of that name: all of its id."""

    zone: str
    name: str
    number: str

    @property
    def id(self) -> InstanceId:
        """The id that the core knows it by."""
        return InstanceId(f"{self.zone}/{self.name}/{self.number}")


@attrs.frozen(kw_only=True)
class Surroundings:
    """What the names in a spec stand for: the subnetwork, whether nodes have public addresses, the service account."""

    subnetwork: str
    service_account: str = ""
    is_public: bool = False


def place_of(id: str) -> Place | None:
    """Return the place that an id names; None for a word that is no id of ours."""
    found = ID.fullmatch(id)
    return None if found is None else Place(**found.groupdict())


def validate(spec: InstanceSpec, region: str) -> None:
    """Refuse what can never work, before anything is written. Raises InvalidRequest and Unsupported."""
    check_name(spec.name, "an instance")
    if spec.volume is not None:
        raise Unsupported(f"{spec.name}: instances have no volumes here", reason="cluster.volumes", resource=spec.name)
    if not TYPE.fullmatch(spec.instance_type):
        raise InvalidRequest(
            f"{spec.instance_type!r} is no machine type", reason="UNSUPPORTED_VALUE", resource=spec.name,
            hint="write it as n2-standard-8, or n1-standard-8+nvidia-tesla-t4:1 with accelerators",
        )  # fmt: skip
    elsewhere = [zone for zone in spec.zones if zone.rpartition("-")[0] != region]
    if elsewhere:
        raise InvalidRequest(
            f"{', '.join(elsewhere)} is not in the region {region}", reason="UNSUPPORTED_VALUE", resource=spec.name,
            hint=f"name zones of the region, such as {region}-a",
        )  # fmt: skip


def note_of(spec: InstanceSpec, *, token: Token, wanted: str) -> Note:
    """Return what an instance's description holds. Raises InvalidRequest for tags that are reserved."""
    return note(
        spec.owner, spec.name, spec.tags, token=token, wanted=wanted, reserved={TAG_NODE: spec.node_id},
        more={"type": spec.instance_type},
    )  # fmt: skip


def body_of(spec: InstanceSpec, note: Note, around: Surroundings, settings: Settings, *, zone: str) -> dict[str, Any]:
    """Return the body of an insert: name, owner and labels, the startup script, all in the creating call."""
    type = _typed(spec.instance_type)
    marks = labels(note)
    disk = {
        "boot": True,
        "autoDelete": True,
        "initializeParams": {
            "sourceImage": spec.image_uri or settings.image,
            "diskSizeGb": str(settings.disk_gb),
            "labels": marks,
        },
    }
    access = [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}] if around.is_public else []
    body: dict[str, Any] = {
        "name": resource_name(spec.owner, spec.name),
        "description": render(note),
        "labels": marks,
        "machineType": f"zones/{zone}/machineTypes/{type['machine']}",
        "disks": [disk],
        "networkInterfaces": [{"subnetwork": around.subnetwork, **({"accessConfigs": access} if access else {})}],
        "scheduling": _scheduling(spec.market_type, has_accelerators=bool(type["accelerator"])),
        "metadata": {"items": _metadata(spec, settings)},
    }
    if settings.network_tags:
        body["tags"] = {"items": list(settings.network_tags)}
    body["serviceAccounts"] = [_account(around.service_account, settings)]
    if type["accelerator"]:
        kind = f"zones/{zone}/acceleratorTypes/{type['accelerator']}"
        body["guestAccelerators"] = [{"acceleratorType": kind, "acceleratorCount": int(type["count"] or 1)}]
    closed = {"name", "description", "zone", "metadata", "labels", "serviceAccounts"}
    taken = closed & set(spec.advanced_instance_config)
    if taken:
        raise InvalidRequest(
            f"advanced_instance_config sets {', '.join(sorted(taken))}, which say whose and who the instance is",
            reason="FIELD", resource=spec.name, hint="leave them out",
        )  # fmt: skip
    return body | dict(spec.advanced_instance_config)


def read(item: Mapping[str, Any], *, is_going: bool) -> Instance | None:
    """Return an instance as the cloud shows it; None for one that is not ours. ``is_going``: a delete of it runs."""
    found = parse(item.get("description"))
    if found is None:
        return None
    state = InstanceState.DELETING if is_going else STATES.get(str(item.get("status", "")), InstanceState.PENDING)
    place = Place(zone=plain(item.get("zone")), name=str(item["name"]), number=str(item["id"]))
    interfaces = item.get("networkInterfaces") or [{}]
    reason = str(item.get("statusMessage", "")) or f"its status is {item.get('status')}"
    return shown(
        found, place, state=state, market=_market(item.get("scheduling", {})),
        address=str(interfaces[0].get("networkIP", "")), created=item.get("creationTimestamp"),
        reason=reason if state is InstanceState.STOPPED else "", type=_type_of(item),
    )  # fmt: skip


def shown(
    note: Note,
    place: Place,
    *,
    state: InstanceState,
    market: MarketType,
    type: str,
    created: object = None,
    address: str = "",
    reason: str = "",
) -> Instance:
    """Return an instance. Its address is shown from RUNNING on: before that nobody answers there."""
    return Instance(
        id=place.id, name=note.name, node_id=NodeId(note.tags[TAG_NODE]) if TAG_NODE in note.tags else None,
        owner=note.owner(), instance_type=note.more.get("type", type), state=state, market_type=market, zone=place.zone,
        address="" if state is InstanceState.PENDING else address, reason=reason, tags=note.tags,
        created_at=datetime.fromisoformat(str(created)).astimezone(UTC) if created else None,
    )  # fmt: skip


def market_of(spec: InstanceSpec) -> MarketType:
    """Return the market that an instance is bought in; a preference is the core's to decide."""
    return MarketType.SPOT if spec.market_type is MarketType.SPOT else MarketType.ON_DEMAND


def _account(email: str, settings: Settings) -> dict[str, Any]:
    """Return whom an instance runs as. Without an identity it has a name to prove itself by, and may do nothing."""
    if email:
        return {"email": email, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
    return {"email": settings.node_service_account, "scopes": ["https://www.googleapis.com/auth/userinfo.email"]}


def _typed(instance_type: str) -> dict[str, str | None]:
    found = TYPE.fullmatch(instance_type)
    return {"machine": instance_type, "accelerator": None, "count": None} if found is None else found.groupdict()


def _type_of(item: Mapping[str, Any]) -> str:
    return plain(item.get("machineType"))


def _scheduling(market: MarketType, *, has_accelerators: bool) -> dict[str, Any]:
    if market is MarketType.SPOT:
        return {
            "provisioningModel": "SPOT",
            "instanceTerminationAction": "DELETE",
            "automaticRestart": False,
            "onHostMaintenance": "TERMINATE",
        }
    # What has accelerators cannot be moved to another host: cloud.google.com/compute/docs/gpus/gpu-host-maintenance.
    return {
        "provisioningModel": "STANDARD",
        "automaticRestart": False,
        "onHostMaintenance": "TERMINATE" if has_accelerators else "MIGRATE",
    }


def _metadata(spec: InstanceSpec, settings: Settings) -> list[dict[str, str]]:
    items = {"enable-oslogin": "TRUE", "block-project-ssh-keys": "TRUE"}
    if spec.bootstrap is not None:
        items["startup-script"] = startup.script(spec, python=settings.python, prepare=settings.prepare)
    return [{"key": key, "value": value} for key, value in sorted(items.items())]


def _market(scheduling: Mapping[str, Any]) -> MarketType:
    return MarketType.SPOT if scheduling.get("provisioningModel") == "SPOT" else MarketType.ON_DEMAND


def wanted_of(specs: Iterable[InstanceSpec]) -> str:
    """Return the fingerprint of a batch: without secrets, which are minted anew when a call is repeated."""
    return brief("\0".join(fingerprint(attrs.evolve(spec, bootstrap=None)) for spec in specs))
