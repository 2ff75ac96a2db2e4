"""The fake networking driver."""

import ipaddress
from collections.abc import Iterator
from datetime import datetime

import attrs

from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.errors import Conflict, InvalidRequest, NotFound
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import (
    Check,
    CheckStatus,
    Endpoint,
    EndpointSpec,
    EndpointState,
    Network,
    NetworkSpec,
)
from anyscale_core.models.owner import Owner
from anyscale_core.testing.catalogue import ZONES
from anyscale_core.testing.driver import FakeDriver, check_name, name_taken
from anyscale_core.testing.world import Net, WayIn, key_of


class FakeNetworkingDriver(FakeDriver, NetworkingDriver):
    """Networks of the fake cloud and the ways in; names are unique in a cloud of a plane."""

    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        return self._call(
            "create", lambda: self._create(spec, owner, token), deadline=deadline, names=(spec.name,), token=token,
            owner=owner,
        )  # fmt: skip

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        def act() -> Network:
            return self._view(self._owned(name, owner), owner)

        return self._call("get", act, deadline=deadline, names=(name,), owner=owner)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        def shown() -> Iterator[tuple[str, Network]]:
            self._cloud.settle()
            nets = (net for net in self._cloud.networks.values() if owner.owns(net.network.owner.tags()))
            return ((net.network.name, self._view(net, owner)) for net in nets)

        return self._pages(shown, deadline=deadline, owner=owner)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        return self._call("delete", lambda: self._delete(name, owner), deadline=deadline, names=(name,), owner=owner)

    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        return self._call(
            "expose", lambda: self._expose(spec, token), deadline=deadline, names=(spec.name,), token=token,
            owner=spec.owner,
        )  # fmt: skip

    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        def act() -> Deletion:
            self._cloud.settle()
            way = self._cloud.endpoints.get(key_of(owner, name))
            if way is None or not owner.owns(way.spec.owner.tags()):
                return Deletion.ALREADY_ABSENT
            now = self._cloud.clock.now()
            way.goes_at = way.goes_at or now + self._cloud.delete_takes
            self._cloud.settle()
            return Deletion.GOING if way.goes_at > now else Deletion.GONE

        return self._call("withdraw", act, deadline=deadline, names=(name,), owner=owner)

    def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
        def act() -> tuple[Check, ...]:
            net = self._owned(name, owner)
            usual = (
                Check(id="network.exists", status=CheckStatus.PASSED, detail=f"{net.network.id} is there"),
                Check(id="network.inbound", status=CheckStatus.PASSED, detail="inbound is denied by default"),
                Check(id="network.outbound", status=CheckStatus.PASSED, detail="the control plane can be reached"),
            )
            return tuple(({check.id: check for check in usual} | self._cloud.checks).values())

        return self._call("check", act, deadline=deadline, names=(name,), owner=owner)

    def _create(self, spec: NetworkSpec, owner: Owner, token: Token) -> Network:
        self._cloud.settle()
        nets = self._cloud.networks
        key = key_of(owner, spec.name)

        def is_alive(name: str) -> bool:
            net = nets.get(key_of(owner, name))
            return net is not None and net.goes_at is None

        made = self._cloud.once(("networking", "create", owner.plane, owner.cloud), token, (spec, owner), is_alive)
        if made:
            return self._view(nets[key], owner)
        check_name(spec.name)
        if key in nets:
            raise name_taken("network", spec.name, nets[key].network.owner, owner)
        if spec.adopt is not None and ("network", spec.adopt) not in self._cloud.foreign:
            raise NotFound(f"no network {spec.adopt!r} to adopt", reason="REFERENCE", hint="name one that exists")
        cidr = "" if spec.adopt else self._free_range(spec)
        network = Network(
            name=spec.name,
            owner=owner,
            id=spec.adopt or f"net-{self._cloud.serial():06d}",
            mode=spec.mode,
            adopted=spec.adopt is not None,
            zones=ZONES,
        )
        nets[key] = Net(network=network, cidr=cidr)
        made.append(spec.name)
        return network

    def _free_range(self, spec: NetworkSpec) -> str:
        """Return the range of a new network: the one that it asks for when that is free, else the first free one."""
        taken = [ipaddress.ip_network(net.cidr) for net in self._cloud.networks.values() if net.cidr]
        if not spec.cidr:
            candidates = (ipaddress.ip_network(f"10.{number}.0.0/16") for number in range(256))
            return str(next(free for free in candidates if not any(free.overlaps(other) for other in taken)))
        try:
            wanted = ipaddress.IPv4Network(spec.cidr)
        except ValueError as error:
            hint = "write it like 10.0.0.0/16"
            raise InvalidRequest(f"{spec.cidr!r} is not a range: {error}", reason="FIELD", hint=hint) from error
        overlap = next((other for other in taken if wanted.overlaps(other)), None)
        if overlap is not None:
            raise Conflict(f"{wanted} overlaps {overlap}", reason="IN_USE", resource=spec.name, hint="use a free range")
        return str(wanted)

    def _expose(self, spec: EndpointSpec, token: Token) -> Endpoint:
        self._cloud.settle()
        ways, key = self._cloud.endpoints, key_of(spec.owner, spec.name)

        def is_alive(name: str) -> bool:
            way = ways.get(key_of(spec.owner, name))
            return way is not None and way.goes_at is None

        made = self._cloud.once(("networking", "expose", spec.owner.plane, spec.owner.cloud), token, spec, is_alive)
        if made:
            return self._endpoint(ways[key])
        check_name(spec.name)
        net = self._cloud.networks.get(key_of(spec.owner, spec.network))
        if net is None or net.goes_at is not None:
            raise NotFound(f"no network {spec.network!r}", reason="PARENT", resource=spec.network)
        old = ways.get(key)
        if old is not None and old.goes_at is not None:
            raise Conflict(f"{spec.name} is being taken down", reason="BEING_DELETED", resource=spec.name)
        if old is not None and old.spec.owner != spec.owner:
            raise name_taken("endpoint", spec.name, old.spec.owner, spec.owner)
        ways[key] = WayIn(spec=spec, ready_at=self._cloud.clock.now() + self._cloud.exposes_in)
        made.append(spec.name)
        return self._endpoint(ways[key])

    def _delete(self, name: str, owner: Owner) -> Deletion:
        self._cloud.settle()
        net = self._cloud.networks.get(key_of(owner, name))
        if net is None or not owner.owns(net.network.owner.tags()):
            return Deletion.ALREADY_ABSENT
        if net.network.adopted:
            del self._cloud.networks[key_of(owner, name)]
            self._cloud.spend(("networking", "create", owner.plane, owner.cloud), name)
            return Deletion.GONE
        users = [way.spec.name for way in self._ways(net)] + [
            machine.spec.name
            for machine in self._cloud.machines.values()
            if machine.spec.network == name and key_of(machine.spec.owner, name) == key_of(owner, name)
        ]
        if users:
            shown = ", ".join(users[:5])
            raise Conflict(f"{name} is used by {shown}", reason="IN_USE", resource=name, hint="delete those first")
        now = self._cloud.clock.now()
        net.goes_at = net.goes_at or now + self._cloud.delete_takes
        self._cloud.settle()
        return Deletion.GOING if net.goes_at > now else Deletion.GONE

    def _owned(self, name: str, owner: Owner) -> Net:
        self._cloud.settle()
        net = self._cloud.networks.get(key_of(owner, name))
        if net is None or not owner.owns(net.network.owner.tags()):
            raise NotFound(f"no network {name!r}", reason="RESOURCE", resource=name)
        return net

    def _ways(self, net: Net) -> "tuple[WayIn, ...]":
        owner = net.network.owner
        return tuple(
            way
            for way in self._cloud.endpoints.values()
            if key_of(way.spec.owner, way.spec.network) == key_of(owner, net.network.name)
        )

    def _view(self, net: Net, owner: Owner) -> Network:
        ways = (way for way in self._ways(net) if owner.owns(way.spec.owner.tags()))
        return attrs.evolve(net.network, endpoints=tuple(self._endpoint(way) for way in ways))

    def _endpoint(self, way: WayIn) -> Endpoint:
        spec = way.spec
        if way.goes_at is not None:
            return Endpoint(name=spec.name, owner=spec.owner, state=EndpointState.DELETING)
        if self._cloud.clock.now() < way.ready_at:
            return Endpoint(name=spec.name, owner=spec.owner, state=EndpointState.PENDING)
        url = f"https://{spec.name}.{spec.owner.plane}.invalid"
        return Endpoint(name=spec.name, owner=spec.owner, state=EndpointState.READY, url=url.replace("_", "-"))
