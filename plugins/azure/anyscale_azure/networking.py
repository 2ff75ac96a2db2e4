"""The networking driver: virtual networks made or adopted, and a Standard Load Balancer before each head."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from anyscale_azure import balancers, networks
from anyscale_azure import tags as tagging
from anyscale_azure.balancers import LB, PIP
from anyscale_azure.checks import look_over
from anyscale_azure.client import Azure
from anyscale_azure.config import read_settings
from anyscale_azure.networks import NSG, VERSION, VNET
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.errors import AlreadyExists, Conflict, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import Check, Endpoint, EndpointSpec, Network, NetworkMode, NetworkSpec
from anyscale_core.models.owner import TAG_NAME, Owner

ONLY_NEW = {"If-None-Match": "*"}


class AzureNetworking(NetworkingDriver):
    """Networks and ways in of one resource group."""

    provider = "azure"

    def __init__(self, config: DriverConfig, azure: Azure | None = None) -> None:
        self._settings = azure.settings if azure else read_settings(config)
        self._azure = azure or Azure(self._settings, config.clock)

    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        tagging.check_owner(owner)
        tagging.check_name(spec.name)
        stamp = tagging.stamp(token, [spec, owner])
        records = self._records(deadline)
        for each in records:
            found = tagging.stamped(each.get("tags"))
            same = tagging.is_same_cloud(_owner(each), owner)
            if same and found.token == stamp.token and found.request != stamp.request:
                raise tagging.mismatch("network", _name(each))
        record = self._standing(records, spec.name, owner, stamp)
        if spec.adopt is not None:
            adopted = networks.adopt(self._azure, spec, deadline)
            record = record or self._write_record(spec, owner, stamp, adopted.subnets, deadline)
            return networks.view(record, self._settings)
        vnets = self._azure.pages(self._settings.collection(VNET), VERSION, deadline=deadline)
        name = tagging.named(spec.name, owner)
        rest = [vnet for vnet in vnets if str(vnet["name"]).lower() != name]
        if len(rest) < len(vnets) and record is not None:
            return networks.view(record, self._settings)
        cidr = networks.free_range(spec.cidr, networks.ranges_of(rest))
        record = record or self._write_record(spec, owner, stamp, (), deadline)
        body = networks.vnet_of(spec, owner, stamp, self._settings, cidr)
        path = self._settings.resource(VNET, name)
        self._azure.send("PUT", path, VERSION, deadline=deadline, body=body)
        return networks.view(record, self._settings)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        record = self._owned(name, owner, deadline)
        return networks.view(record, self._settings, self._endpoints(owner, deadline).get(_key(record), ()))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        tagging.check_owner(owner)
        found = [record for record in self._records(deadline) if owner.owns(tagging.shown(record.get("tags")))]
        if not found:
            return ()
        ways = self._endpoints(owner, deadline)
        return tuple(networks.view(record, self._settings, ways.get(_key(record), ())) for record in found)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        tagging.check_owner(owner)
        record = networks.find(self._azure, name, owner, deadline)
        if record is None or not owner.owns(tagging.shown(record.get("tags"))):
            return Deletion.ALREADY_ABSENT
        users = self._users(record, deadline)
        if users:
            hint = "withdraw and delete those first"
            raise Conflict(f"{name} is used by {', '.join(users[:5])}", reason="IN_USE", resource=name, hint=hint)
        if not networks.adopted_subnets(record):
            # First, as it is refused while a machine is in it. The two do not hang on each other: one call ends both.
            self._azure.send("DELETE", networks.vnet_path(record, self._settings), VERSION, deadline=deadline)
        answer = self._azure.send("DELETE", str(record["id"]), VERSION, deadline=deadline)
        return Deletion.GOING if answer.status == 202 else Deletion.GONE

    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        tagging.check_owner(spec.owner)
        tagging.check_name(spec.name)
        stamp = tagging.stamp(token, spec)
        record = networks.find(self._azure, spec.network, spec.owner, deadline)
        if record is None:
            raise NotFound(f"no network {spec.network!r}", reason="PARENT", resource=spec.network)
        if stamp.token in balancers.past(record):
            raise tagging.superseded("endpoint", spec.name)
        old = self._way(spec, stamp, deadline)
        is_public = networks.mode_of(record) is NetworkMode.PUBLIC
        if old is not None and tagging.stamped(old.get("tags")) == stamp:
            self._finish(spec, record, deadline)
            return balancers.view(old, self._addresses(deadline) if is_public else {})
        address = balancers.address_path(spec, self._settings)
        # One that is there already is left as it is: to write it again would let the load balancer wait for it again.
        if is_public and self._read(address, deadline) is None:
            body = balancers.address_of(spec, self._settings)
            self._azure.send("PUT", address, VERSION, deadline=deadline, body=body)
        body = balancers.render(spec, stamp, record, self._settings, before=old)
        # A way in that stands is moved by the same request: the newest order counts.
        headers = ONLY_NEW if old is None else {"If-Match": str(old["etag"])} if old.get("etag") else {}
        path = balancers.path_of(spec, self._settings)
        made = self._write_way(path, body, headers, stamp, deadline)
        self._finish(spec, record, deadline)
        return balancers.view(made, self._addresses(deadline) if is_public else {})

    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        tagging.check_owner(owner)
        if not tagging.is_name(name):
            return Deletion.ALREADY_ABSENT
        path = self._settings.resource(LB, tagging.named(name, owner))
        way = self._read(path, deadline)
        address = self._settings.resource(PIP, tagging.named(name, owner))
        found = way or self._read(address, deadline)
        if found is None or not owner.owns(tagging.shown(found.get("tags"))):
            return Deletion.ALREADY_ABSENT
        rule = balancers.rule_path(found, self._settings)
        is_public = way is None or balancers.is_public(way)
        if is_public:
            self._azure.send("DELETE", rule, VERSION, deadline=deadline)
        if way is None:
            answer = self._azure.send("DELETE", address, VERSION, deadline=deadline)
            return Deletion.GONE if answer.status == 204 else Deletion.GOING
        if balancers.past(way):
            self._remember(way, deadline)
        if _state(way) != "deleting":
            if is_public and not balancers.is_going(way):
                # It lets go of its address, so that both can go by this one call.
                self._azure.send("PUT", path, VERSION, deadline=deadline, body=balancers.let_go(way))
            self._azure.send("DELETE", path, VERSION, deadline=deadline)
        if is_public:
            self._release(address, deadline)
        return Deletion.GOING

    def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
        record = self._owned(name, owner, deadline)
        path = networks.vnet_path(record, self._settings)
        return look_over(record, self._read(path, deadline), self._settings)

    def close(self) -> None:
        self._azure.close()

    def _write_way(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], stamp: tagging.Stamp, deadline: datetime
    ) -> Mapping[str, Any]:
        try:
            return self._azure.send("PUT", path, VERSION, deadline=deadline, body=body, headers=headers).body
        except Conflict as error:
            found = self._read(path, deadline) if error.reason == "ETAG" else None
            if found is None or tagging.stamped(found.get("tags")) != stamp:
                raise
            return found  # it was this very request that made it, and lists do not show it yet

    def _remember(self, way: Mapping[str, Any], deadline: datetime) -> None:
        """Let the network know which orders for a way in came too late, when that is no more: they may be repeated yet."""
        record = self._read(balancers.network_key(way, self._settings), deadline)
        if record is None:
            return
        tokens = dict.fromkeys((*balancers.past(way), *balancers.past(record)))
        if tuple(tokens)[: balancers.PAST_MAX] == balancers.past(record):
            return
        body = {
            "operation": "Merge",
            "properties": {"tags": {balancers.TAG_PAST: " ".join(tuple(tokens)[: balancers.PAST_MAX])}},
        }
        path = f"{record['id']}/providers/Microsoft.Resources/tags/default"
        self._azure.send("PATCH", path, networks.TAGS_VERSION, deadline=deadline, body=body)

    def _release(self, address: str, deadline: datetime) -> None:
        """Give an address back, unless its load balancer has it still: then the next call does."""
        try:
            self._azure.send("DELETE", address, VERSION, deadline=deadline)
        except Conflict as error:
            if error.reason != "IN_USE":
                raise

    def _standing(
        self, records: tuple[dict[str, Any], ...], name: str, owner: Owner, stamp: tagging.Stamp
    ) -> dict[str, Any] | None:
        """Return the record that this token has made. Raises what stands in the way of making it now."""
        path = self._settings.resource(NSG, tagging.named(name, owner)).lower()
        record = next((each for each in records if _key(each) == path), None)
        if record is None:
            return None
        error = tagging.taken("network", name, record.get("tags") or {}, owner, stamp)
        if error is not None:
            raise error
        if _state(record) == "deleting":
            raise tagging.spent("network", name)
        return record

    def _write_record(
        self, spec: NetworkSpec, owner: Owner, stamp: tagging.Stamp, subnets: tuple[str, ...], deadline: datetime
    ) -> dict[str, Any]:
        path = self._settings.resource(NSG, tagging.named(spec.name, owner))
        body = networks.record_of(spec, owner, stamp, self._settings, subnets)
        try:
            return dict(self._azure.send("PUT", path, VERSION, deadline=deadline, body=body, headers=ONLY_NEW).body)
        except Conflict as error:
            if error.reason != "ETAG":
                raise
            found = self._read(path, deadline)
            standing = None if found is None else self._standing((found,), spec.name, owner, stamp)
            if standing is None:
                raise
            return standing

    def _way(self, spec: EndpointSpec, stamp: tagging.Stamp, deadline: datetime) -> dict[str, Any] | None:
        """Return the way in of this name, if there is one. Raises what stands in the way of making or moving it."""
        ways = self._azure.pages(self._settings.collection(LB), VERSION, deadline=deadline)
        for way in ways:
            found = tagging.stamped(way.get("tags"))
            same = tagging.is_same_cloud(_owner(way), spec.owner)
            if same and found.token == stamp.token and found.request != stamp.request:
                raise tagging.mismatch("endpoint", _name(way))
        path = balancers.path_of(spec, self._settings).lower()
        old = next((way for way in ways if _key(way) == path), None)
        if old is None:
            return None
        if _owner(old) != spec.owner:
            reason = "OWNED" if tagging.is_same_cloud(_owner(old), spec.owner) else "FOREIGN"
            message = f"there is an endpoint {spec.name} already"
            raise AlreadyExists(message, reason=reason, resource=spec.name, hint="use another name")
        if stamp.token in balancers.past(old):
            raise tagging.superseded("endpoint", spec.name)
        if balancers.is_going(old):
            raise Conflict(f"{spec.name} is being taken down", reason="BEING_DELETED", resource=spec.name)
        return old

    def _finish(self, spec: EndpointSpec, record: Mapping[str, Any], deadline: datetime) -> None:
        """Let clients in to a public way in: by a rule of its own among the network's."""
        if networks.mode_of(record) is not NetworkMode.PUBLIC:
            return
        fresh = self._azure.send("GET", str(record["id"]), VERSION, deadline=deadline).body
        rule = balancers.rule_of(spec, fresh, self._settings)
        if rule is not None:
            path = f"{record['id']}/securityRules/{balancers.rule_name(spec.name, spec.owner)}"
            self._azure.send("PUT", path, VERSION, deadline=deadline, body=rule)

    def _users(self, record: Mapping[str, Any], deadline: datetime) -> tuple[str, ...]:
        """Return the ways in that use a network, whichever cluster of the cloud they belong to."""
        ways = self._azure.pages(self._settings.collection(LB), VERSION, deadline=deadline)
        return tuple(_name(way) for way in ways if balancers.network_key(way, self._settings) == _key(record))

    def _endpoints(self, owner: Owner, deadline: datetime) -> dict[str, tuple[Endpoint, ...]]:
        """Return an owner's ways in, by the network that they are in."""
        every = self._azure.pages(self._settings.collection(LB), VERSION, deadline=deadline)
        ways = [
            way
            for way in every
            if owner.owns(tagging.shown(way.get("tags"))) and balancers.network_key(way, self._settings)
        ]
        addresses = self._addresses(deadline)
        left = [
            address
            for address in addresses.values()
            if owner.owns(tagging.shown(address.get("tags"))) and balancers.network_key(address, self._settings)
        ]
        names = {_name(way) for way in ways}
        found: dict[str, tuple[Endpoint, ...]] = {}
        for thing in (*ways, *(address for address in left if _name(address) not in names)):
            key = balancers.network_key(thing, self._settings)
            found[key] = (*found.get(key, ()), balancers.view(thing, addresses))
        return found

    def _addresses(self, deadline: datetime) -> dict[str, dict[str, Any]]:
        found = self._azure.pages(self._settings.collection(PIP), VERSION, deadline=deadline)
        return {_key(address): address for address in found}

    def _records(self, deadline: datetime) -> tuple[dict[str, Any], ...]:
        found = self._azure.pages(self._settings.collection(NSG), VERSION, deadline=deadline)
        return tuple(
            record for record in found if _owner(record).plane and networks.TAG_MODE in (record.get("tags") or {})
        )

    def _owned(self, name: str, owner: Owner, deadline: datetime) -> dict[str, Any]:
        record = networks.find(self._azure, name, owner, deadline) if owner.plane else None
        if record is None or not owner.owns(tagging.shown(record.get("tags"))):
            raise NotFound(f"no network {name!r}", reason="RESOURCE", resource=name)
        return record

    def _read(self, path: str, deadline: datetime) -> dict[str, Any] | None:
        try:
            return dict(self._azure.send("GET", path, VERSION, deadline=deadline).body)
        except NotFound as error:
            if error.vendor is not None and error.vendor.code == "ResourceGroupNotFound":
                raise
            return None


def _owner(resource: Mapping[str, Any]) -> Owner:
    return tagging.owner_of(tagging.shown(resource.get("tags")))


def _name(resource: Mapping[str, Any]) -> str:
    return tagging.shown(resource.get("tags")).get(TAG_NAME, "")


def _key(resource: Mapping[str, Any]) -> str:
    return str(resource.get("id", "")).lower()


def _state(resource: Mapping[str, Any]) -> str:
    return str(resource.get("properties", {}).get("provisioningState", "")).lower()
