"""NetworkingDriver: a network is a NetworkPolicy that lets its Pods reach each other and nobody else in; a way in is a Service
with an HTTPRoute, an Ingress or a load balancer in front.

What there is, a ConfigMap records for each network and each way in. The other objects belong to it and are deleted with it by
Kubernetes, in the foreground: the record stays until they are gone.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

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
from anyscale_kubernetes.checks import checks_of
from anyscale_kubernetes.client import Api, Connection
from anyscale_kubernetes.config import read_settings
from anyscale_kubernetes.errors import check_deadline
from anyscale_kubernetes.kinds import CONFIG_MAP, GATEWAY, INGRESS_CLASS, NETWORK_POLICY, POD, Kind
from anyscale_kubernetes.names import check_name, manager
from anyscale_kubernetes.pods import SLOT as CLUSTER
from anyscale_kubernetes.records import Records, Request, find, is_adopted, name_of, taken
from anyscale_kubernetes.routes import (
    LISTED,
    child_metadata,
    children,
    network_policy,
    record_data,
    state_of,
    url_of,
    way_of,
)
from anyscale_kubernetes.tags import (
    NETWORK_LABEL,
    SLOT_LABEL,
    TAGS,
    Body,
    fingerprint,
    label,
    owner_of,
    tags_of,
    whole_cloud,
)

NETWORK, ENDPOINT = "network", "endpoint"


class KubernetesNetworking(NetworkingDriver):
    """Networks and ways in of one namespace. ``config.settings`` as explained in ``plugin``."""

    provider = "kubernetes"

    def __init__(self, config: DriverConfig, connection: Connection | None = None) -> None:
        self._settings = read_settings(config)
        self._clock = config.clock
        self._api = Api(self._settings, config.clock, connection)
        self._networks = Records(self._api, NETWORK, CONFIG_MAP)
        self._endpoints = Records(self._api, ENDPOINT, CONFIG_MAP)

    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "a network")
        _refuse_unsupported(spec)
        request = Request(
            slot=NETWORK, name=spec.name, owner=owner, token=token, fingerprint=fingerprint(spec), tags=spec.tags
        )
        record = self._networks.made(request, deadline=deadline)
        if record is None:
            if spec.adopt is not None and find(self._api, NETWORK_POLICY, spec.adopt, deadline=deadline) is None:
                raise NotFound(
                    f"there is no NetworkPolicy {spec.adopt}", reason="REFERENCE", resource=spec.adopt,
                    hint="adopt the name of a NetworkPolicy of the namespace",
                )  # fmt: skip
            body = {"data": {"adopted": spec.adopt} if spec.adopt is not None else {"kind": NETWORK}}
            record = self._networks.apply(CONFIG_MAP, request, body, deadline=deadline)
        if spec.adopt is None:
            policy = {"metadata": child_metadata(record), **network_policy(record["metadata"]["name"])}
            self._api.apply(
                NETWORK_POLICY, policy, manager=_manager(NETWORK_POLICY, policy), deadline=deadline, force=True
            )
        return self._shown(record, ())

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        check_deadline(deadline, self._clock)
        record = self._networks.read(name, owner=owner, deadline=deadline)
        return self._shown(record, self._ways(record, deadline))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        """Return the networks with their endpoints; a network of the whole cloud shows those of every cluster."""
        check_deadline(deadline, self._clock)
        records = self._records(owner, deadline)
        networks = [record for record in records if record["metadata"]["labels"][SLOT_LABEL] == NETWORK]
        ways = self._ways_of([record for record in records if record not in networks], deadline)
        return tuple(self._shown(record, ways.get(record["metadata"]["name"], ())) for record in networks)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        try:
            record = self._networks.read(name, owner=owner, deadline=deadline)
        except NotFound:
            return Deletion.ALREADY_ABSENT
        users = self._users(record, deadline)
        if users:
            raise Conflict(
                f"{name} is used by {', '.join(users)}", reason="IN_USE", resource=name,
                hint="withdraw its endpoints and delete its instances first",
            )  # fmt: skip
        return self._networks.delete(record, deadline=deadline, policy="Foreground")

    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "an endpoint")
        data = record_data(spec)
        self._refuse_unservable(deadline)
        request = Request(slot=ENDPOINT, name=spec.name, owner=spec.owner, token=token, fingerprint=fingerprint(spec))
        record = self._endpoints.made(request, deadline=deadline)
        if record is None:
            if spec.network:
                self._networks.read(spec.network, owner=whole_cloud(spec.owner), deadline=deadline)
            record = self._moved(request, data, deadline)
        for kind, body in children(record, self._settings):
            self._api.apply(kind, body, manager=_manager(kind, body), deadline=deadline, force=True)
        return self._shown_way(record, None)

    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        try:
            record = self._endpoints.read(name, owner=owner, deadline=deadline)
        except NotFound:
            return Deletion.ALREADY_ABSENT
        return self._endpoints.delete(record, deadline=deadline, policy="Foreground")

    def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
        check_deadline(deadline, self._clock)
        record = self._networks.read(name, owner=owner, deadline=deadline)
        waiting = tuple(
            Check(
                id=f"endpoint.{way.name}", status=CheckStatus.PASSED if way.url else CheckStatus.WARNING,
                detail=f"{way.name} is {way.state.value}",
                remedy="" if way.url else "see what its controller says: `kubectl describe` the route or the Service",
            )
            for way in self._ways(record, deadline)
        )  # fmt: skip
        return (*checks_of(self._api, self._settings, record, deadline=deadline), *waiting)

    def close(self) -> None:
        self._api.close()

    def _moved(self, request: Request, data: Mapping[str, str], deadline: datetime) -> Body:
        """Return the record of a way in, made, or pointed at its new target."""
        record = self._endpoints.find(CONFIG_MAP, request.object_name, deadline=deadline)
        if record is None:
            return self._endpoints.apply(CONFIG_MAP, request, {"data": dict(data)}, deadline=deadline)
        if record["metadata"].get("deletionTimestamp") or not request.owner.owns(tags_of(record)):
            raise taken(request, record)
        return self._endpoints.move(CONFIG_MAP, record, request, data, deadline=deadline)

    def _refuse_unservable(self, deadline: datetime) -> None:
        """Raise NotFound(REFERENCE) at once when nobody would serve the way in: it would be PENDING for ever."""
        gateway = self._settings.gateway
        if self._settings.route == "httproute" and gateway is not None:
            place = gateway.namespace or self._api.namespace
            if find(self._api, GATEWAY, gateway.name, namespace=place, deadline=deadline) is None:
                raise NotFound(
                    f"there is no Gateway {place}/{gateway.name}", reason="REFERENCE", resource=gateway.name,
                    hint="make it, or mend the setting 'gateway'",
                )  # fmt: skip
        name = self._settings.ingress_class
        if self._settings.route == "ingress" and find(self._api, INGRESS_CLASS, name, deadline=deadline) is None:
            raise NotFound(
                f"there is no IngressClass {name}", reason="REFERENCE", resource=name,
                hint="install an ingress controller, or mend the setting 'ingress_class'",
            )  # fmt: skip

    def _records(self, owner: Owner, deadline: datetime, *more: str) -> tuple[Body, ...]:
        ours = ",".join(f"{key}={label(value)}" for key, value in owner.tags().items())
        wanted = ",".join((ours, *(more or (f"{SLOT_LABEL} in ({NETWORK},{ENDPOINT})",))))
        return tuple(
            CONFIG_MAP.head() | body
            for body in self._api.list(CONFIG_MAP, selector=wanted, deadline=deadline)
            if owner.owns(tags_of(body)) and body["metadata"]["annotations"].get(TAGS)
        )

    def _ways(self, network: Body, deadline: datetime) -> tuple[Endpoint, ...]:
        owner = whole_cloud(owner_of(tags_of(network)))
        records = self._records(owner, deadline, f"{SLOT_LABEL}={ENDPOINT}")
        return self._ways_of(records, deadline).get(network["metadata"]["name"], ())

    def _ways_of(self, records: Iterable[Body], deadline: datetime) -> dict[str, tuple[Endpoint, ...]]:
        """Return the ways in by the network that each is in; what their controllers say is read once for all."""
        records = tuple(records)
        kind = LISTED[self._settings.route]
        routes = self._routes(kind, deadline) if records and kind is not None else {}
        out: dict[str, tuple[Endpoint, ...]] = {}
        for record in records:
            way = self._shown_way(record, routes.get(record["metadata"]["name"]))
            network = way_of(record).network
            out[network] = (*out.get(network, ()), way)
        return out

    def _routes(self, kind: Kind, deadline: datetime) -> dict[str, Body]:
        wanted = f"{SLOT_LABEL}={ENDPOINT}"
        return {body["metadata"]["name"]: body for body in self._api.list(kind, selector=wanted, deadline=deadline)}

    def _users(self, network: Body, deadline: datetime) -> tuple[str, ...]:
        name = network["metadata"]["name"]
        pods = self._api.list(POD, selector=f"{SLOT_LABEL}={CLUSTER},{NETWORK_LABEL}={name}", deadline=deadline)
        owner = whole_cloud(owner_of(tags_of(network)))
        ways = (
            record
            for record in self._records(owner, deadline, f"{SLOT_LABEL}={ENDPOINT}")
            if way_of(record).network == name
        )
        return tuple(sorted({*(tags_of(pod).get("Name", "") for pod in pods), *map(name_of, ways)}))

    def _shown(self, record: Body, ways: Iterable[Endpoint]) -> Network:
        adopted = is_adopted(record)
        return Network(
            name=name_of(record),
            owner=owner_of(tags_of(record)),
            id=record["data"]["adopted"] if adopted else record["metadata"]["name"],
            mode=NetworkMode.PRIVATE,
            adopted=adopted,
            zones=self._settings.zones,
            endpoints=tuple(ways),
        )

    def _shown_way(self, record: Body, route: Body | None) -> Endpoint:
        state = state_of(route, self._settings)
        if record["metadata"].get("deletionTimestamp"):
            state = EndpointState.DELETING
        url = url_of(way_of(record), route, self._settings) if state is EndpointState.READY else ""
        return Endpoint(name=name_of(record), owner=owner_of(tags_of(record)), state=state, url=url)


def _manager(kind: Kind, body: Mapping[str, Any]) -> str:
    """Return the field manager of an object that goes with a record: each has its own."""
    return manager("child", kind.kind, body["metadata"]["name"])


def _refuse_unsupported(spec: NetworkSpec) -> None:
    if spec.cidr or spec.subnets:
        raise InvalidRequest(
            "Pods have the cluster's own addresses", reason="FIELD", resource=spec.name,
            hint="leave cidr and subnets out",
        )  # fmt: skip
    if spec.mode is NetworkMode.PUBLIC:
        raise InvalidRequest(
            "Pods have no public addresses", reason="UNSUPPORTED_VALUE", resource=spec.name,
            hint="use mode private; what the Gateway or the load balancer shows is the customer's",
        )  # fmt: skip
