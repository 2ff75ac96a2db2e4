"""Volumes: a PersistentVolumeClaim for each, that one instance at a time mounts. It is made with the first and stays."""

from datetime import datetime
from typing import Any

from anyscale_core.errors import AlreadyExists, Conflict, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion, InstanceSpec
from anyscale_core.models.owner import Owner
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.kinds import POD, VOLUME_CLAIM
from anyscale_kubernetes.names import manager, object_name, short_name
from anyscale_kubernetes.pods import SLOT as CLUSTER
from anyscale_kubernetes.pods import VOLUME_LABEL, claim_name, is_going
from anyscale_kubernetes.records import find
from anyscale_kubernetes.tags import SLOT_LABEL, Body, marks, tags_of, whole_cloud

SLOT = "volume"


class Volumes:
    """The claims of one namespace."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self._settings, self._api = settings, api

    def ensure(self, spec: InstanceSpec, *, deadline: datetime) -> None:
        """Make the claim of a spec's volume unless it is there. Raises Conflict(IN_USE) while another instance has it."""
        name, owner = claim_name(spec), whole_cloud(spec.owner)
        holders = [pod for pod in self._holders(name, deadline) if pod["metadata"]["name"] != _pod_name(spec)]
        if holders:
            raise _in_use(spec.volume or "", holders[0])
        known = find(self._api, VOLUME_CLAIM, name, deadline=deadline)
        # One that is there stays as it is: most of a claim cannot be changed, and the settings may have been.
        claim = self._made(name, spec.volume or "", owner, deadline) if known is None else known
        if is_going(claim):
            raise Conflict(f"the volume {spec.volume} is being deleted", reason="BEING_DELETED", resource=name)
        if not owner.owns(tags_of(claim)):
            raise AlreadyExists(
                f"there is a claim {name} that is not of this cloud", reason="FOREIGN", resource=name,
                hint="choose another name for the volume",
            )  # fmt: skip

    def _made(self, name: str, volume: str, owner: Owner, deadline: datetime) -> Body:
        mark = marks(owner, volume, slot=SLOT, token=Token(""), fingerprint="", tags={})
        wanted = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{self._settings.volume_gigabytes}Gi"}},
            **({"storageClassName": self._settings.storage_class} if self._settings.storage_class else {}),
        }
        body = {
            "metadata": {"name": name, "labels": dict(mark.labels), "annotations": dict(mark.annotations)},
            "spec": wanted,
        }
        return self._api.apply(VOLUME_CLAIM, body, manager=manager(SLOT), deadline=deadline, force=True)

    def delete(self, volume: str, *, owner: Owner, deadline: datetime) -> Deletion:
        """Begin to delete a volume's claim. Raises Conflict(IN_USE) while an instance has it."""
        name = short_name(owner, volume, SLOT)
        try:
            claim = self._api.get(VOLUME_CLAIM, name, deadline=deadline)
        except NotFound as error:
            if error.reason != "RESOURCE":
                raise
            return Deletion.ALREADY_ABSENT
        if not whole_cloud(owner).owns(tags_of(claim)):
            return Deletion.ALREADY_ABSENT
        holders = self._holders(name, deadline)
        if holders:
            raise _in_use(volume, holders[0])
        if is_going(claim):
            return Deletion.GOING
        gone = self._api.delete_if_there(VOLUME_CLAIM, claim, deadline=deadline)
        return Deletion.ALREADY_ABSENT if gone else Deletion.GOING

    def _holders(self, claim: str, deadline: datetime) -> list[dict[str, Any]]:
        wanted = f"{SLOT_LABEL}={CLUSTER},{VOLUME_LABEL}={claim}"
        return self._api.list(POD, selector=wanted, deadline=deadline)


def _pod_name(spec: InstanceSpec) -> str:
    return object_name(spec.owner, spec.name)


def _in_use(volume: str, holder: Body) -> Conflict:
    name = tags_of(holder).get("Name", holder["metadata"]["name"])
    return Conflict(
        f"the instance {name} has the volume {volume}", reason="IN_USE", resource=volume, hint="delete it first"
    )
