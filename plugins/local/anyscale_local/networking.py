"""NetworkingDriver: every network is this machine's loopback; an endpoint is the address of a head's own gateway."""

import errno
import ipaddress
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import attrs

from anyscale_core.drivers.base import DriverConfig
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
    NetworkMode,
    NetworkSpec,
)
from anyscale_core.models.owner import Owner
from anyscale_local.config import read_settings, state_folder
from anyscale_local.errors import check_deadline, translated
from anyscale_local.instances import InstanceStore
from anyscale_local.offerings import ZONE
from anyscale_local.state import Record, State, already_exists, check_name, digest, fingerprint, tagged

LOOPBACK = "lo"
CONNECT_TIMEOUT_S = 0.2
FEW_PORTS = 1000
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
SOCKETS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


@attrs.frozen(kw_only=True)
class NetworkRecord(Record):
    """A network as it is remembered."""

    adopted: bool


@attrs.frozen(kw_only=True)
class EndpointRecord(Record):
    """An endpoint as it is remembered: where the head's gateway listens."""

    network: str
    address: str
    port: int


class LocalNetworking(NetworkingDriver):
    """Loopback networks and ways in to heads on this machine."""

    provider = "local"

    def __init__(self, config: DriverConfig) -> None:
        settings = read_settings(config)
        self._clock = config.clock
        self._state = State(state_folder(config, settings), config.clock)
        self._networks = self._state.shelf("networks", NetworkRecord)
        self._endpoints = self._state.shelf("endpoints", EndpointRecord)
        self._instances = InstanceStore(self._state, settings)

    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "a network")
        _refuse_unsupported(spec)
        with translated(resource=spec.name), self._state.lock(deadline):
            record = self._state.settle(
                self.slot,
                self._networks,
                _key(owner, spec.name),
                name=spec.name,
                owner=owner,
                token=token,
                fingerprint=fingerprint(spec),
            )
            if record is None:
                tags = tagged(spec.tags, owner)
                record = NetworkRecord(name=spec.name, tags=tags, token=token, adopted=spec.adopt is not None)
                self._networks.write(_key(owner, spec.name), record)
            return self._show(record, deadline)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        check_deadline(deadline, self._clock)
        with translated(resource=name):
            return self._show(self._read(name, owner), deadline)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        check_deadline(deadline, self._clock)
        with translated():
            return tuple(self._show(record, deadline) for record in self._networks.all() if owner.owns(record.tags))

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with translated(resource=name), self._state.lock(deadline):
            record = self._networks.read(_key(owner, name))
            if record is None or not owner.owns(record.tags):
                return Deletion.ALREADY_ABSENT
            users = self._users(record)
            if users:
                raise Conflict(
                    f"{name} is used by {', '.join(users)}",
                    reason="IN_USE",
                    resource=name,
                    hint="withdraw its endpoints and delete its instances first",
                )
            self._state.spend(self.slot, record)
            self._networks.remove(_key(owner, name))
            return Deletion.GONE

    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "an endpoint")
        _check_target(spec)
        with translated(resource=spec.name), self._state.lock(deadline):
            if spec.network:  # without one it is the loopback itself, which needs no record
                self._read(spec.network, attrs.evolve(spec.owner, cluster=None))
            record = self._move(spec, token)
            return self._show_endpoint(record, deadline)

    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with translated(resource=name), self._state.lock(deadline):
            record = self._endpoints.read(_key(owner, name))
            if record is None or not owner.owns(record.tags):
                return Deletion.ALREADY_ABSENT
            self._state.spend("endpoint", record)
            self._endpoints.remove(_key(owner, name))
            return Deletion.GONE

    def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
        check_deadline(deadline, self._clock)
        with translated(resource=name):
            record = self._read(name, owner)
            endpoints = tuple(
                _check_endpoint(self._show_endpoint(item, deadline), item) for item in self._endpoints_of(record)
            )
            return (_check_loopback(), _check_alias(self._state.path), _check_ports(), *endpoints)

    def _read(self, name: str, owner: Owner) -> NetworkRecord:
        record = self._networks.read(_key(owner, name))
        if record is None or not owner.owns(record.tags):
            raise NotFound(f"there is no network {name}", reason="RESOURCE", resource=name)
        return record

    def _move(self, spec: EndpointSpec, token: Token) -> EndpointRecord:
        """Point the endpoint at its target; a late repeat of an order that another one replaced changes nothing."""
        claim = self._state.claim("endpoint", token, owner=spec.owner, fingerprint=fingerprint(spec))
        record = self._endpoints.read(_key(spec.owner, spec.name))
        if record is not None and not spec.owner.owns(record.tags):
            raise already_exists(spec.name, owner=spec.owner, tags=record.tags)
        if spec.name in claim.spent and (record is None or record.token != token):
            if record is not None:
                return record
            raise Conflict(
                f"what this token made, {spec.name}, has been withdrawn", reason="TOKEN_SPENT", hint="mint a new token"
            )
        if record is not None and record.token != token:
            self._state.spend("endpoint", record)
        self._state.remember("endpoint", token, claim, owner=spec.owner)
        record = EndpointRecord(
            name=spec.name,
            tags=spec.owner.tags(),
            token=token,
            network=spec.network,
            address=spec.target_address,
            port=spec.target_port,
        )
        self._endpoints.write(_key(spec.owner, spec.name), record)
        return record

    def _endpoints_of(self, network: NetworkRecord) -> tuple[EndpointRecord, ...]:
        owner = attrs.evolve(network.owner(), cluster=None)
        return tuple(
            record for record in self._endpoints.all() if record.network == network.name and owner.owns(record.tags)
        )

    def _users(self, network: NetworkRecord) -> tuple[str, ...]:
        owner = attrs.evolve(network.owner(), cluster=None)
        instances = (
            record.name
            for record in self._instances.all()
            if record.network == network.name and owner.owns(record.tags) and not record.deleting
        )
        return tuple(sorted({*instances, *(record.name for record in self._endpoints_of(network))}))

    def _show(self, record: NetworkRecord, deadline: datetime) -> Network:
        return Network(
            name=record.name,
            owner=record.owner(),
            id=LOOPBACK,
            mode=NetworkMode.PRIVATE,
            adopted=record.adopted,
            zones=(ZONE,),
            endpoints=tuple(self._show_endpoint(item, deadline) for item in self._endpoints_of(record)),
        )

    def _show_endpoint(self, record: EndpointRecord, deadline: datetime) -> Endpoint:
        remaining_s = (deadline - self._clock.now()).total_seconds()
        ready = _reachable(record.address, record.port, timeout_s=max(0.001, min(CONNECT_TIMEOUT_S, remaining_s)))
        return Endpoint(
            name=record.name,
            owner=record.owner(),
            state=EndpointState.READY if ready else EndpointState.PENDING,
            url=f"https://{record.address}:{record.port}" if ready else "",
        )


def _key(owner: Owner, name: str) -> str:
    """Return the key of a name that is unique within a cloud, not on the machine."""
    return digest(owner.plane, owner.cloud, name)


def _reachable(address: str, port: int, *, timeout_s: float) -> bool:
    try:
        socket.create_connection((address, port), timeout=timeout_s).close()
    except OSError:  # whatever the reason, it is not reached yet: PENDING says so
        return False
    return True


def _refuse_unsupported(spec: NetworkSpec) -> None:
    if spec.mode is not NetworkMode.PRIVATE:
        raise InvalidRequest(
            "instances here never have a public address", reason="UNSUPPORTED_VALUE", hint="use mode private"
        )
    if spec.cidr or spec.subnets:
        raise InvalidRequest(
            "loopback is one range without subnets", reason="UNSUPPORTED_VALUE", hint="leave cidr and subnets out"
        )
    if spec.adopt is not None and spec.adopt != LOOPBACK:
        raise NotFound(
            f"there is no network {spec.adopt!r} to adopt", reason="REFERENCE", hint=f"the one there is is {LOOPBACK!r}"
        )


def _check_target(spec: EndpointSpec) -> None:
    try:
        loopback = ipaddress.ip_address(spec.target_address).is_loopback
    except ValueError:
        loopback = False
    if not loopback or not 0 < spec.target_port < 65536:
        raise InvalidRequest(
            f"{spec.target_address}:{spec.target_port} is not a loopback address and port",
            reason="FIELD",
            resource=spec.name,
            hint="a head here has an address of 127.0.0.0/8",
        )


def _check_loopback() -> Check:
    return _binding(
        "loopback.reachable", "127.0.0.1", "bring the loopback interface up: ip link set lo up", connect=_connect
    )


def _check_alias(state: Path) -> Check:
    address = f"127.{1 + int(digest(str(state)), 16) % 254}.255.254"
    remedy = "let all of 127.0.0.0/8 be on the loopback interface: ip address add 127.0.0.1/8 dev lo"
    return _binding("loopback.aliases", address, remedy, connect=_connect)


def _connect(listener: socket.socket) -> None:
    socket.create_connection(listener.getsockname(), timeout=CONNECT_TIMEOUT_S).close()


def _binding(id: str, address: str, remedy: str, *, connect: Callable[[socket.socket], None]) -> Check:
    try:
        with socket.create_server((address, 0)) as listener:
            connect(listener)
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "timeout")
        return Check(id=id, status=CheckStatus.FAILED, detail=f"{address} cannot be used ({code})", remedy=remedy)
    return Check(id=id, status=CheckStatus.PASSED, detail=f"{address} can be bound and reached")


def _check_ports() -> Check:
    """Look whether Ray will find ports: it takes a dozen per node from the ephemeral range."""
    name = "ports.free"
    try:
        low, high = (int(word) for word in PORT_RANGE.read_text().split())
        used = len({line.split()[1] for path in SOCKETS if path.exists() for line in path.read_text().splitlines()[1:]})
    except (OSError, ValueError):
        return Check(id=name, status=CheckStatus.SKIPPED, detail="the kernel does not tell its port range")
    free = high - low + 1 - used
    detail = f"about {free} of the ports {low}-{high} are free"
    if free >= FEW_PORTS:
        return Check(id=name, status=CheckStatus.PASSED, detail=detail)
    remedy = "delete instances, or widen the range: sysctl net.ipv4.ip_local_port_range='20000 60999'"
    return Check(id=name, status=CheckStatus.WARNING, detail=detail, remedy=remedy)


def _check_endpoint(endpoint: Endpoint, record: EndpointRecord) -> Check:
    name, target = f"endpoint.{record.name}", f"{record.address}:{record.port}"
    if endpoint.state is EndpointState.READY:
        return Check(id=name, status=CheckStatus.PASSED, detail=f"{target} answers")
    remedy = "wait for the head's gateway, or see agent.log of the head's instance"
    return Check(id=name, status=CheckStatus.WARNING, detail=f"{target} does not answer", remedy=remedy)
