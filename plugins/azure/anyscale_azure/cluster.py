"""The cluster driver: instances are single virtual machines, each made by one call with all that comes along (decision 0021)."""

import builtins
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import attrs

from anyscale_azure import machines, offerings
from anyscale_azure import tags as tagging
from anyscale_azure.client import Azure, begun
from anyscale_azure.config import Settings, read_settings
from anyscale_azure.identities import identity_path
from anyscale_azure.machines import Look, Place
from anyscale_azure.networks import NIC, VERSION, place_of
from anyscale_azure.tags import Stamp
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.errors import (
    Applied,
    CapacityUnavailable,
    CloudError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Scope,
    Throttled,
    Transient,
    Unauthenticated,
    Unclassified,
    Unsupported,
)
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import (
    Created,
    Deletion,
    Instance,
    InstanceSpec,
    InstanceState,
    NotCreated,
    Offering,
    Outcome,
    Quota,
)
from anyscale_core.models.owner import TAG_NAME, Owner

VM = "Microsoft.Compute/virtualMachines"
VM_VERSION, SKUS_VERSION = "2025-04-01", "2021-07-01"
"""The versions of Microsoft.Compute by which lists are read, as plain dicts: the SDK's models take milliseconds for a machine."""
WHOLE_CALL = (Transient, Throttled, DeadlineExceeded, Unauthenticated, PermissionDenied, Unclassified)
"""Errors that strike the call, whichever item they came at: it is to be repeated with its token."""
Machine = Mapping[str, Any]


class AzureCluster(ClusterDriver):
    """Instances are virtual machines of one resource group."""

    provider = "azure"

    def __init__(self, config: DriverConfig, azure: Azure | None = None) -> None:
        self._settings: Settings = azure.settings if azure else read_settings(config)
        self._azure = azure or Azure(self._settings, config.clock)

    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        if not specs:
            return ()
        owner = _one_owner(specs)
        stamp = tagging.stamp(token, tuple(specs))
        before = [vm for vm in self._all(deadline) if tagging.is_same_cloud(_owner(vm), owner)]
        for vm in before:
            found = tagging.stamped(vm.get("tags"))
            if found.token == stamp.token and found.request != stamp.request:
                raise tagging.mismatch("instance", _name(vm))
        places = {name: place_of(self._azure, name, owner, deadline) for name in {spec.network for spec in specs}}
        people = {name: identity_path(self._azure, name, owner, deadline) for name in {spec.identity for spec in specs}}
        looks = self._looks([vm for vm in before if tagging.stamped(vm.get("tags")).token == stamp.token], deadline)
        standing: dict[str, list[Machine]] = {}
        for vm in before:
            standing.setdefault(_name(vm), []).append(vm)
        acts = [
            partial(
                self._make, spec, stamp, places[spec.network], people[spec.identity], standing.get(spec.name, ()), looks,
                deadline,
            )
            for spec in specs
        ]  # fmt: skip
        try:
            return self._azure.at_once(acts)
        except CloudError as error:
            if len(specs) > 1 and error.applied is Applied.NO:
                error.applied = Applied.UNKNOWN  # of the other items
            raise

    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        machine = self._find(id, owner, deadline)
        left = self._remains(id, owner, deadline) if machine is None else None
        if left is not None:
            return machines.remains(left)
        if machine is None:
            raise NotFound(f"no instance {id}", reason="RESOURCE", resource=id)
        statuses = machine.get("properties", {}).get("instanceView", {}).get("statuses")
        look = machines.look_at(statuses)
        if machines.view(machine, look).state is InstanceState.RUNNING:
            look = attrs.evolve(look, address=self._address(machine, deadline))
        return machines.view(machine, look)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        tagging.check_owner(owner)
        # Interfaces first: one whose machine is not in the later list has lost it, and goes after it.
        nics = self._nics(deadline)
        every = self._all(deadline)
        found = [vm for vm in every if owner.owns(tagging.shown(vm.get("tags")))]
        looks = self._looks(found, deadline, nics)
        lives = {tagging.life_of(vm.get("tags")) for vm in every}
        left = (nic for nic in nics if owner.owns(tagging.shown(nic.get("tags"))))
        going = (machines.remains(nic) for nic in left if tagging.life_of(nic.get("tags")) not in lives)
        return (*(machines.view(vm, looks.get(_key(vm), Look())) for vm in found), *going)

    def delete(self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime) -> Mapping[InstanceId, Deletion]:
        tagging.check_owner(owner)
        wanted = tuple(dict.fromkeys(ids))
        if len(wanted) == 1:
            machine = self._find(wanted[0], owner, deadline)
            there = {} if machine is None else {wanted[0]: machine}
        else:
            owned = (vm for vm in self._all(deadline) if owner.owns(tagging.shown(vm.get("tags"))))
            there = {machines.id_of(vm): vm for vm in owned}
        answers = self._azure.at_once([partial(self._delete, id, there.get(id), owner, deadline) for id in wanted])
        return dict(zip(wanted, answers, strict=True))

    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        path = f"{self._settings.subscription}/providers/Microsoft.Compute/skus"
        only_here = {"$filter": f"location eq '{self._settings.location}'"}
        found = self._azure.pages(path, SKUS_VERSION, deadline=deadline, params=only_here)
        return tuple(offerings.offered(found, self._settings))

    def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
        where = self._settings.location
        usages = f"{self._settings.subscription}/providers/{{}}/locations/{where}/usages"
        cores = self._azure.pages(usages.format("Microsoft.Compute"), VM_VERSION, deadline=deadline)
        addresses = self._azure.pages(usages.format("Microsoft.Network"), VERSION, deadline=deadline)
        return tuple(offerings.quotas([*cores, *addresses], where))

    def close(self) -> None:
        self._azure.close()

    def _make(
        self, spec: InstanceSpec, stamp: Stamp, place: Place, identity_id: str, there: Sequence[Machine],
        looks: Mapping[str, Look], deadline: datetime,
    ) -> Outcome:  # fmt: skip
        """Make one item, or return the one that an earlier call with the token has made. ``there``: what has its name."""
        try:
            tagging.check_name(spec.name)
            self._check(spec)
            if there and not self._are_ours(there, spec, stamp):
                # A list may be old: what stands in the way is looked at itself.
                looked = (self._read(str(vm["name"]), deadline) for vm in there)
                there = [vm for vm in looked if vm is not None]
            if there:
                return Created(instance=self._made_before(there, spec, stamp, looks))
            return Created(instance=self._launch(spec, stamp, place, identity_id, deadline))
        except WHOLE_CALL:
            raise
        except CloudError as error:
            return NotCreated(name=spec.name, error=error)

    def _made_before(
        self, there: Sequence[Machine], spec: InstanceSpec, stamp: Stamp, looks: Mapping[str, Look]
    ) -> Instance:
        """Return what this token has made already. Raises what stands in the way of making it now."""
        theirs = [tagging.taken("instance", spec.name, vm.get("tags") or {}, spec.owner, stamp) for vm in there]
        ours = [vm for vm, error in zip(there, theirs, strict=True) if error is None]
        if not ours and all(_provisioned(vm) == "deleting" for vm in there):
            raise Conflict(f"{spec.name} is being deleted", reason="BEING_DELETED", resource=spec.name)
        if len(ours) > 1:
            hint = "delete all but one of them"
            raise Conflict(
                f"{len(ours)} instances are called {spec.name}", reason="AMBIGUOUS", resource=spec.name, hint=hint
            )
        if not ours:
            raise next(error for error in theirs if error is not None)
        instance = machines.view(ours[0], looks.get(_key(ours[0]), Look()))
        if instance.state is InstanceState.DELETING:
            raise tagging.spent("instance", spec.name)
        return instance

    def _are_ours(self, there: Sequence[Machine], spec: InstanceSpec, stamp: Stamp) -> bool:
        return all(tagging.stamped(vm.get("tags")) == stamp and _owner(vm) == spec.owner for vm in there)

    def _launch(self, spec: InstanceSpec, stamp: Stamp, place: Place, identity_id: str, deadline: datetime) -> Instance:
        """Ask for the machine by market and then by zone, as the spec names them, until it is not refused for want of room."""
        body = machines.render(spec, stamp, place, self._settings, identity_id=identity_id)
        is_either = spec.market_type is MarketType.PREFER_SPOT
        markets = (MarketType.SPOT, MarketType.ON_DEMAND) if is_either else (spec.market_type,)
        tries = [(market, zone) for market in markets for zone in spec.zones or (None,)]
        for market, zone in tries:
            try:
                return self._put(machines.placed(body, zone, market, self._settings), spec, stamp, deadline)
            except CapacityUnavailable as error:
                if error.reason == "SUBNET_ADDRESSES":
                    raise
                last = error
        is_one_zone = len(spec.zones) == 1
        last.scope = Scope.ZONE if is_one_zone else Scope.REGION
        last.reason = "ZONE" if is_one_zone else "SKU"
        raise last

    def _put(self, body: dict[str, Any], spec: InstanceSpec, stamp: Stamp, deadline: datetime) -> Instance:
        name = tagging.named(spec.name, spec.owner)
        group = self._settings.resource_group
        put = self._azure.compute.virtual_machines.begin_create_or_update
        try:
            answer = self._azure.first(
                f"{VM}/write", put, group, name, body, resource=spec.name, deadline=deadline, **self._azure.match()
            )
        except Conflict as error:
            if error.reason != "ETAG":
                raise
            machine = self._read(name, deadline)
            if machine is None:
                raise
        else:
            return machines.view(answer.body or begun(self._settings.resource(VM, name), body), Look())
        return self._made_before([machine], spec, stamp, self._looks([machine], deadline))

    def _delete(self, id: str, machine: Machine | None, owner: Owner, deadline: datetime) -> Deletion:
        if machine is None:
            left = self._remains(id, owner, deadline)
            return Deletion.ALREADY_ABSENT if left is None else Deletion.GOING
        if machines.view(machine, Look()).state is InstanceState.DELETING:
            return Deletion.GOING
        name, group = str(machine["name"]), self._settings.resource_group
        delete = self._azure.compute.virtual_machines.begin_delete
        answer = self._azure.first(f"{VM}/delete", delete, group, name, resource=name, deadline=deadline)
        return Deletion.ALREADY_ABSENT if answer.status == 204 else Deletion.GOING

    def _find(self, id: str, owner: Owner, deadline: datetime) -> Machine | None:
        name = machines.name_in(id)
        machine = self._read(name, deadline) if name else None
        if machine is None or not owner.owns(tagging.shown(machine.get("tags"))) or machines.id_of(machine) != id:
            return None
        return machine

    def _remains(self, id: str, owner: Owner, deadline: datetime) -> Machine | None:
        """Return what came along with a machine that is gone, and has not gone yet: its interface goes first, its disk last."""
        name = machines.name_in(id)
        if not name:
            return None
        life, group = id.rpartition(".")[2], self._settings.resource_group
        disk, nic = machines.part_of(name, life, "os"), machines.part_of(name, life, "nic")
        get, action = self._azure.compute.disks.get, "Microsoft.Compute/disks/read"
        # Each by its own name, as a list may be old. The disk goes last.
        for look in (
            partial(self._azure.first, action, get, group, disk, deadline=deadline),
            partial(self._azure.send, "GET", self._settings.resource(NIC, nic), VERSION, deadline=deadline),
        ):
            try:
                found = look().body
            except NotFound as error:
                _check_group(error)
                continue
            if owner.owns(tagging.shown(found.get("tags"))):
                return found
        return None

    def _read(self, name: str, deadline: datetime) -> Machine | None:
        read = self._azure.compute.virtual_machines.get
        try:
            answer = self._azure.first(
                f"{VM}/read", read, self._settings.resource_group, name, expand="instanceView", deadline=deadline
            )
        except NotFound as error:
            _check_group(error)
            return None
        return answer.body

    def _all(self, deadline: datetime) -> builtins.list[dict[str, Any]]:
        """Return every machine of the resource group that a plane owns."""
        found = self._azure.pages(self._settings.collection(VM), VM_VERSION, deadline=deadline)
        return [vm for vm in found if _owner(vm).plane]

    def _nics(self, deadline: datetime) -> builtins.list[dict[str, Any]]:
        """Return every interface of the resource group that came along with a machine of a plane's."""
        found = self._azure.pages(self._settings.collection(NIC), VERSION, deadline=deadline)
        return [nic for nic in found if tagging.life_of(nic.get("tags"))]

    def _looks(
        self, vms: Iterable[Machine], deadline: datetime, nics: Sequence[Machine] | None = None
    ) -> dict[str, Look]:
        """Return what other lists say of these machines, where it is needed: their power and their addresses."""
        settled = {_key(vm) for vm in vms if _provisioned(vm) not in ("creating", "deleting")}
        if not settled:
            return {}
        every = f"{self._settings.subscription}/providers/{VM}"
        shown = self._azure.pages(every, VM_VERSION, deadline=deadline, params={"statusOnly": "true"})
        statuses = {_key(vm): vm.get("properties", {}).get("instanceView", {}).get("statuses") for vm in shown}
        addresses = {
            _word(nic["properties"].get("virtualMachine")): _private(nic)
            for nic in (self._nics(deadline) if nics is None else nics)
        }
        return {key: machines.look_at(statuses.get(key), addresses.get(key, "")) for key in settled}

    def _address(self, machine: Machine, deadline: datetime) -> str:
        """Return a machine's address in its network: what the first of its interfaces has."""
        nics = machine["properties"].get("networkProfile", {}).get("networkInterfaces") or ()
        if not nics:
            return ""
        try:
            return _private(self._azure.send("GET", str(nics[0]["id"]), VERSION, deadline=deadline).body)
        except NotFound:  # it goes before its machine does
            return ""

    def _check(self, spec: InstanceSpec) -> None:
        if spec.volume is not None:
            raise Unsupported("volumes are not offered on Azure yet", reason="cluster.volumes", resource=spec.name)
        unknown = [zone for zone in spec.zones if zone not in self._settings.zones]
        if unknown:
            hint = f"one of {', '.join(self._settings.zones) or 'none: this cloud has no zones'}"
            raise InvalidRequest(f"no zone {', '.join(unknown)}", reason="FIELD", resource=spec.name, hint=hint)


def _one_owner(specs: Sequence[InstanceSpec]) -> Owner:
    owner = specs[0].owner
    tagging.check_owner(owner)
    if any(not tagging.is_same_cloud(spec.owner, owner) for spec in specs):
        raise InvalidRequest("the specs of a batch belong to different clouds", reason="COMBINATION")
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"the batch has {', '.join(twice)} twice", reason="NAME", hint="make the names unique")
    return owner


def _check_group(error: NotFound) -> None:
    """Raise the error when it is the resource group that is not there: that proves nothing about what was in it."""
    if error.vendor is not None and error.vendor.code == "ResourceGroupNotFound":
        raise error


def _owner(machine: Machine) -> Owner:
    return tagging.owner_of(tagging.shown(machine.get("tags")))


def _name(machine: Machine) -> str:
    return tagging.shown(machine.get("tags")).get(TAG_NAME, "")


def _key(machine: Machine) -> str:
    return str(machine.get("id", "")).lower()


def _word(reference: Any) -> str:
    return str((reference or {}).get("id", "")).lower()


def _provisioned(machine: Machine) -> str:
    return str(machine.get("properties", {}).get("provisioningState", "")).lower()


def _private(nic: Machine) -> str:
    found = nic.get("properties", {}).get("ipConfigurations") or ()
    return str(found[0].get("properties", {}).get("privateIPAddress") or "") if found else ""
