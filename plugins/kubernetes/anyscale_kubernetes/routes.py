"""The objects of a way in: a Service that leads to the head's address, who may come, and what brings clients there. Pure."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from anyscale_core.errors import InvalidRequest
from anyscale_core.models.networking import EndpointSpec, EndpointState
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.kinds import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    HTTP_ROUTE,
    INGRESS,
    NETWORK_POLICY,
    SERVICE,
    Kind,
)
from anyscale_kubernetes.names import PREFIX, short_name
from anyscale_kubernetes.records import name_of
from anyscale_kubernetes.tags import KIND_LABEL, NETWORK_LABEL, Body

PORT = 443
PORT_NAME = "https"
LISTED: Mapping[str, Kind | None] = {
    "service": None, "loadbalancer": SERVICE, "httproute": HTTP_ROUTE, "ingress": INGRESS,
}  # fmt: skip
"""The kind of object whose status tells that a way in is ready, by the setting ``route``; a Service is so at once."""


@attrs.frozen(kw_only=True)
class Way:
    """A way in as its record says: its name, its object's name, its network, and where it leads."""

    called: str
    name: str
    network: str
    address: str
    port: int

    @property
    def target(self) -> str:
        """The address and the port, as one word."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def way_of(record: Body) -> Way:
    """Return the way in that a record tells of."""
    data = record["data"]
    return Way(
        called=name_of(record), name=record["metadata"]["name"], network=data["network"], address=data["address"],
        port=int(data["port"]),
    )  # fmt: skip


def record_data(spec: EndpointSpec) -> dict[str, str]:
    """Return what a record says of a way in. Raises InvalidRequest for a target that is no address and port."""
    try:
        ipaddress.ip_address(spec.target_address)
    except ValueError:
        raise InvalidRequest(
            f"{spec.target_address!r} is not an IP address", reason="FIELD", resource=spec.name,
            hint="expose the address that the instance shows",
        ) from None  # fmt: skip
    if not 0 < spec.target_port < 65536:
        raise InvalidRequest(
            f"{spec.target_port} is not a port", reason="FIELD", resource=spec.name, hint="from 1 to 65535"
        )
    return {
        "network": short_name(spec.owner, spec.network, "network") if spec.network else "",
        "address": spec.target_address, "port": str(spec.target_port),
    }  # fmt: skip


def network_policy(name: str) -> dict[str, Any]:
    """Return the policy of a network: its Pods reach each other, and nobody else comes in."""
    ours = {"podSelector": {"matchLabels": {NETWORK_LABEL: name}}}
    return {"spec": {**ours, "policyTypes": ["Ingress"], "ingress": [{"from": [ours]}]}}


def children(record: Body, settings: Settings) -> Iterator[tuple[Kind, dict[str, Any]]]:
    """Yield the objects of a way in, in the order in which they are made. All go with the record."""
    way = way_of(record)
    metadata = child_metadata(record)
    type = "LoadBalancer" if settings.route == "loadbalancer" else "ClusterIP"
    port = {"name": PORT_NAME, "port": PORT, "targetPort": way.port, "protocol": "TCP", "appProtocol": "https"}
    annotated = {**metadata, "annotations": {**metadata["annotations"], **settings.service_annotations}}
    ranges = {"loadBalancerSourceRanges": list(settings.client_cidrs)} if settings.client_cidrs else {}
    yield SERVICE, {"metadata": annotated, "spec": {"type": type, "ports": [port], **ranges}}
    yield ENDPOINT_SLICE, _slice(way, metadata)
    if way.network:
        yield NETWORK_POLICY, {"metadata": metadata, "spec": _entrance(way, settings)}
    if settings.route == "httproute":
        yield HTTP_ROUTE, {"metadata": metadata, "spec": _http_route(way, settings)}
    if settings.route == "ingress":
        annotations = {**metadata["annotations"], **settings.ingress_annotations}
        yield INGRESS, {"metadata": {**metadata, "annotations": annotations}, "spec": _ingress(way, settings)}


def child_metadata(record: Body) -> dict[str, Any]:
    """Return the metadata of an object that goes with a record, and tells whose it is as the record does."""
    metadata = record["metadata"]
    owner = {
        **CONFIG_MAP.head(), "name": metadata["name"], "uid": metadata["uid"], "blockOwnerDeletion": True,
        "controller": True,
    }  # fmt: skip
    # The slot stays the record's own: whoever lists records must not find children.
    labels = {key: value for key, value in metadata["labels"].items() if key.startswith(f"{PREFIX}-")}
    annotations = {key: value for key, value in metadata["annotations"].items() if key.startswith(f"{PREFIX}/")}
    return {"name": metadata["name"], "labels": labels, "annotations": annotations, "ownerReferences": [owner]}


def state_of(route: Body | None, settings: Settings) -> EndpointState:
    """Return how far a way in has come, by what its controller says of it."""
    if settings.route == "service":
        return EndpointState.READY
    if route is None:
        return EndpointState.PENDING
    status = route.get("status") or {}
    if settings.route == "httproute":
        ready = any(_took(parent) for parent in status.get("parents") or ())
    else:
        ready = bool((status.get("loadBalancer") or {}).get("ingress"))
    return EndpointState.READY if ready else EndpointState.PENDING


def url_of(way: Way, route: Body | None, settings: Settings) -> str:
    """Return where clients find a way in that is ready."""
    if settings.hostname:
        return f"https://{_host(way, settings)}"
    if settings.route == "loadbalancer" and route is not None:
        place = route["status"]["loadBalancer"]["ingress"][0]
        return f"https://{place.get('hostname') or place.get('ip')}:{PORT}"
    return f"https://{way.name}.{settings.namespace}.svc:{PORT}"


def _took(parent: Mapping[str, Any]) -> bool:
    conditions = {each.get("type"): each.get("status") for each in parent.get("conditions") or ()}
    return conditions.get("Accepted") == "True" and conditions.get("ResolvedRefs", "True") == "True"


def _slice(way: Way, metadata: Mapping[str, Any]) -> dict[str, Any]:
    labels = {
        **metadata["labels"], "kubernetes.io/service-name": way.name,
        "endpointslice.kubernetes.io/managed-by": PREFIX,
    }  # fmt: skip
    return {
        "metadata": {**metadata, "labels": labels},
        "addressType": "IPv6" if ":" in way.address else "IPv4",
        "endpoints": [{"addresses": [way.address], "conditions": {"ready": True}}],
        "ports": [{"name": PORT_NAME, "port": way.port, "protocol": "TCP", "appProtocol": "https"}],
    }


def _entrance(way: Way, settings: Settings) -> dict[str, Any]:
    """Return who may come to the heads of the network: Pods of the gateway's namespaces, else of this one.

    What comes through a load balancer has the address of a client or of a node, which no policy can know beforehand.
    """
    ports = [{"port": way.port, "protocol": "TCP"}]
    spaces = settings.gateway_namespaces or ((settings.gateway.namespace,) if settings.gateway else ())
    among = [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": [space for space in spaces if space]}]
    comers = {"namespaceSelector": {"matchExpressions": among}} if any(spaces) else {"podSelector": {}}
    origin = {} if settings.route == "loadbalancer" else {"from": [comers]}
    return {
        "podSelector": {"matchLabels": {NETWORK_LABEL: way.network, KIND_LABEL: "head"}},
        "policyTypes": ["Ingress"],
        "ingress": [{**origin, "ports": ports}],
    }


def _http_route(way: Way, settings: Settings) -> dict[str, Any]:
    gateway = settings.gateway
    parent = {"name": gateway.name if gateway else ""}
    if gateway is not None and gateway.namespace:
        parent["namespace"] = gateway.namespace
    if gateway is not None and gateway.section:
        parent["sectionName"] = gateway.section
    return {
        "parentRefs": [parent],
        "hostnames": [_host(way, settings)],
        "rules": [{"backendRefs": [{"name": way.name, "port": PORT}]}],
    }


def _ingress(way: Way, settings: Settings) -> dict[str, Any]:
    backend = {"service": {"name": way.name, "port": {"number": PORT}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    return {
        "ingressClassName": settings.ingress_class,
        "rules": [{"host": _host(way, settings), "http": {"paths": [path]}}],
    }


def _host(way: Way, settings: Settings) -> str:
    """Return the name that clients reach a way in by: what its URL says is what its route serves."""
    return settings.hostname.replace("{name}", way.called)
