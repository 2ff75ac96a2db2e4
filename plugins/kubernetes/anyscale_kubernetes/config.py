"""The provider's settings, checked once."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Fault, SpecError
from anyscale_core.models import wire
from anyscale_kubernetes.flavors import FLAVORS

SETTINGS = "settings of provider kubernetes"
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SIGHTS = ("list", "watch")
ROUTES = ("service", "loadbalancer", "httproute", "ingress")

TOKEN_VARIABLE = "ANYSCALE_KUBERNETES_TOKEN_FILE"
"""Tells a node where the token is that it proves itself with; set by the cluster driver."""

NODE_AGENT = (
    *("-m", "anyscale_core.node", "--bootstrap", "{bootstrap}"),
    *("--home", "{home}", "--name", "{name}", "--address", "$(POD_IP)", "--volume", "{volume}"),
)


@attrs.frozen(kw_only=True)
class Patch:
    """A JSON patch (RFC 6902) for the Pods whose annotations a selector fits; parents of an ``add`` are made."""

    patch: tuple[Mapping[str, Any], ...]
    selector: str = ""


@attrs.frozen(kw_only=True)
class Gateway:
    """The customer's Gateway (gateway.networking.k8s.io) that HTTPRoutes hang on."""

    name: str
    namespace: str = ""
    section: str = ""


@attrs.frozen(kw_only=True)
class Store:
    """An S3-compatible store, and the Secret with ``access_key_id`` and ``secret_access_key`` (and ``session_token``)."""

    endpoint: str
    secret: str
    region: str = "us-east-1"
    path_style: bool = True


@attrs.frozen(kw_only=True)
class Settings:
    """What a cloud may set for this provider; the keys are explained in ``plugin``. No value is a secret."""

    namespace: str = "default"
    kubeconfig: str = ""
    context: str = ""
    connections: int = 16
    page_size: int = 500
    sight: str = "watch"
    image: str = ""
    python: str = "python3"
    command: tuple[str, ...] = ()
    flavor: str = "generic"
    zones: tuple[str, ...] = ()
    instance_types: Mapping[str, Any] = attrs.field(factory=dict)
    instance_types_config_map: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    patches: tuple[Patch, ...] = ()
    unschedulable_minutes: float = 5.0
    grace_seconds: int = 30
    storage_class: str = ""
    volume_gigabytes: int = 10
    service_accounts: Mapping[str, str] = attrs.field(factory=dict)
    service_account_annotations: Mapping[str, str] = attrs.field(factory=dict)
    pod_labels: Mapping[str, str] = attrs.field(factory=dict)
    operator_service_account: str = "anyscale-operator"
    issuer: str = ""
    jwks: Mapping[str, Any] = attrs.field(factory=dict)
    store: Store | None = None
    route: str = "service"
    gateway: Gateway | None = None
    ingress_class: str = ""
    ingress_annotations: Mapping[str, str] = attrs.field(factory=dict)
    service_annotations: Mapping[str, str] = attrs.field(factory=dict)
    hostname: str = ""
    gateway_namespaces: tuple[str, ...] = ()
    client_cidrs: tuple[str, ...] = ()
    run_as_user: int = 0


def read_settings(config: DriverConfig) -> Settings:
    """Return the settings of a cloud. Raises SpecError with every fault."""
    settings = wire.structure(dict(config.settings), Settings, subject=SETTINGS)
    faults = list(_faults(settings))
    if faults:
        raise SpecError(faults, subject=SETTINGS)
    return settings


def _faults(settings: Settings) -> "list[Fault]":
    out = [
        Fault(path=key, message=f"{value!r} is none of {', '.join(known)}")
        for key, value, known in (
            ("flavor", settings.flavor, tuple(FLAVORS)),
            ("sight", settings.sight, SIGHTS),
            ("route", settings.route, ROUTES),
        )
        if value not in known
    ]
    if not DNS_LABEL.fullmatch(settings.namespace):
        out.append(Fault(path="namespace", message=f"{settings.namespace!r} is not the name of a namespace"))
    out += [
        Fault(path=key, message=f"{value} is not above 0")
        for key, value in (
            ("connections", settings.connections), ("page_size", settings.page_size),
            ("unschedulable_minutes", settings.unschedulable_minutes), ("volume_gigabytes", settings.volume_gigabytes),
        )
        if value <= 0
    ]  # fmt: skip
    out += [
        Fault(path=key, message=f"{value} is negative")
        for key, value in (("grace_seconds", settings.grace_seconds), ("run_as_user", settings.run_as_user))
        if value < 0
    ]
    out += [
        Fault(path=f"client_cidrs[{place}]", message=f"{range!r} is not a range of addresses, such as 10.0.0.0/8")
        for place, range in enumerate(settings.client_cidrs)
        if not _is_network(range)
    ]
    if settings.client_cidrs and settings.route != "loadbalancer":
        out.append(Fault(path="client_cidrs", message="binds load balancers alone, and route is another"))
    if settings.route == "httproute" and settings.gateway is None:
        out.append(Fault(path="gateway", message="is needed: an HTTPRoute hangs on a Gateway"))
    if settings.route in ("httproute", "ingress") and not settings.hostname:
        out.append(Fault(path="hostname", message="is needed: routes are told apart by it ('{name}.ray.example.com')"))
    if settings.route == "ingress" and not settings.ingress_class:
        out.append(Fault(path="ingress_class", message="is needed: it says who serves the Ingress"))
    if settings.hostname and "{name}" not in settings.hostname:
        out.append(Fault(path="hostname", message="needs {name}: each head has a name of its own"))
    if settings.instance_types and settings.instance_types_config_map:
        out.append(Fault(path="instance_types", message="and instance_types_config_map are both set; keep one"))
    if settings.jwks and not settings.issuer:
        out.append(Fault(path="issuer", message="is needed with jwks: it says whose keys they are"))
    return out


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
