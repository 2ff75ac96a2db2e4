"""What an object of a kind may hold, and how its lists are merged.

The fields come from the classes of the ``kubernetes`` client, which are generated from the API's published OpenAPI; what those
classes do not carry (keys of lists, patch strategies) is the table here, from the same document's ``x-kubernetes-*`` words.
"""

import importlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes.gateways import SCHEMAS
from anyscale_conformance.simulators.kubernetes.kinds import Kind


@attrs.frozen(kw_only=True)
class Scalar:
    """A leaf. ``name``: string, integer, number, boolean, quantity, time or any."""

    name: str


@attrs.frozen(kw_only=True)
class Struct:
    """An object whose fields are known. ``is_atomic``: it has one owner, and is replaced as a whole."""

    name: str
    fields: Mapping[str, "Shape"] = attrs.field(repr=False)
    required: frozenset[str] = frozenset()
    is_atomic: bool = False


@attrs.frozen(kw_only=True)
class Mapped:
    """An object whose keys are free (labels, data); every key has its own owner unless it is atomic."""

    item: "Shape"
    is_atomic: bool = False


@attrs.frozen(kw_only=True)
class Sequence:
    """A list. With ``keys`` its items are told apart by those fields; ``is_set``: by their value; else it is atomic.

    ``merge_key`` is that of strategic merge patches, which know one key, or ``""`` for a set of plain values; None replaces.
    """

    item: "Shape"
    keys: tuple[str, ...] = ()
    is_set: bool = False
    merge_key: str | None = None


Shape = Scalar | Struct | Mapped | Sequence

_SCALARS = {
    "str": "string", "int": "integer", "float": "number", "bool": "boolean", "datetime": "time", "object": "any",
    "bytes": "string", "bytearray": "string",
}  # fmt: skip
_QUANTITIES = {"limits", "requests", "capacity", "allocatable", "hard", "used", "overhead", "default", "defaultRequest", "max",
               "min", "maxLimitRequestRatio", "allocatedResources", "sizeLimit", "divisor"}  # fmt: skip
_QUANTITY_MODELS = {
    "V1ResourceRequirements", "V1VolumeResourceRequirements", "V1NodeStatus", "V1ResourceQuotaSpec", "V1ResourceQuotaStatus",
    "V1LimitRangeItem", "V1PersistentVolumeSpec", "V1PersistentVolumeClaimStatus", "V1PodSpec", "V1ContainerStatus",
    "V1EmptyDirVolumeSource", "V1ResourceFieldSelector",
}  # fmt: skip

# (model or *, field): the keys of server-side apply ("" for a set), and the key of strategic merge patches.
_LISTS: Mapping[tuple[str, str], tuple[tuple[str, ...], str | None]] = {
    ("V1ObjectMeta", "ownerReferences"): (("uid",), "uid"),
    ("V1ObjectMeta", "finalizers"): (("",), ""),
    ("V1PodSpec", "containers"): (("name",), "name"),
    ("V1PodSpec", "initContainers"): (("name",), "name"),
    ("V1PodSpec", "ephemeralContainers"): (("name",), "name"),
    ("V1PodSpec", "volumes"): (("name",), "name"),
    ("V1PodSpec", "imagePullSecrets"): (("name",), "name"),
    ("V1PodSpec", "hostAliases"): (("ip",), "ip"),
    ("V1PodSpec", "topologySpreadConstraints"): (("topologyKey", "whenUnsatisfiable"), "topologyKey"),
    ("V1PodSpec", "resourceClaims"): (("name",), "name"),
    ("V1PodSpec", "schedulingGates"): (("name",), "name"),
    ("V1PodStatus", "podIPs"): (("ip",), "ip"),
    ("V1PodStatus", "hostIPs"): ((), "ip"),
    ("V1Container", "env"): (("name",), "name"),
    ("V1Container", "ports"): (("containerPort", "protocol"), "containerPort"),
    ("V1Container", "volumeMounts"): (("mountPath",), "mountPath"),
    ("V1Container", "volumeDevices"): (("devicePath",), "devicePath"),
    ("V1ResourceRequirements", "claims"): (("name",), None),
    ("V1ServiceSpec", "ports"): (("port", "protocol"), "port"),
    ("V1ServiceAccount", "secrets"): (("name",), "name"),
    ("V1NodeSpec", "taints"): ((), "key"),
    ("V1NodeSpec", "podCIDRs"): (("",), ""),
    ("V1NodeStatus", "addresses"): (("type",), "type"),
    ("V1EndpointSlice", "ports"): ((), None),
    ("V1ServiceStatus", "conditions"): (("type",), "type"),
    ("V1ClusterRole", "rules"): ((), None),
    ("*", "conditions"): (("type",), "type"),
}  # fmt: skip
# Objects that are replaced as a whole. Source: x-kubernetes-map-type: atomic.
_ATOMIC = {
    "V1LabelSelector", "V1LocalObjectReference", "V1ObjectReference", "V1OwnerReference", "V1SecretKeySelector",
    "V1ConfigMapKeySelector", "V1ObjectFieldSelector", "V1ResourceFieldSelector", "V1NodeSelector", "V1NodeSelectorTerm",
    "V1TypedLocalObjectReference", "V1RoleRef", "RbacV1Subject", "V1SecretReference", "V1EndpointAddress",
    "CoreV1EndpointPort", "DiscoveryV1EndpointPort", "V1ScopeSelector", "V1TopologySelectorTerm",
}  # fmt: skip
_ATOMIC_MAPS = {("V1PodSpec", "nodeSelector"), ("V1ServiceSpec", "selector")}
_MODULE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
METADATA = "V1ObjectMeta"


@cache
def of(kind: Kind) -> Struct:
    """Return the schema of a kind."""
    if kind.model:
        return of_model(kind.model)
    fields: dict[str, Shape] = {
        "apiVersion": Scalar(name="string"),
        "kind": Scalar(name="string"),
        "metadata": of_model(METADATA),
    }
    return Struct(name=kind.kind, fields=fields | {key: _own(shape, key) for key, shape in SCHEMAS[kind.kind].items()})


@cache
def of_model(model: str) -> Struct:
    """Return the schema that a class of the client stands for."""
    module = importlib.import_module(f"kubernetes.client.models.{_MODULE.sub('_', model).lower()}")
    made = getattr(module, model)
    fields = {wire: _shape(model, wire, made.openapi_types[name]) for name, wire in made.attribute_map.items()}
    needed = {field.serialization_alias or name for name, field in made.model_fields.items() if field.is_required()}
    if model == METADATA:
        fields["managedFields"] = Sequence(item=Scalar(name="any"))
    return Struct(name=model, fields=fields, required=frozenset(needed), is_atomic=model in _ATOMIC)


def _shape(model: str, field: str, words: str) -> Shape:
    if field in _QUANTITIES and model in _QUANTITY_MODELS:
        quantity = Scalar(name="quantity")
        return Mapped(item=quantity) if words.lower().startswith("dict") else quantity
    if found := re.fullmatch(r"(?:list|List)\[(.+)\]", words):
        keys, merge_key = _LISTS.get((model, field), _LISTS.get(("*", field), ((), None)))
        is_set = keys == ("",)
        item = _shape(model, "", found[1])
        if not isinstance(item, Struct) and not is_set:
            keys = ()
        return Sequence(item=item, keys=() if is_set else keys, is_set=is_set, merge_key=merge_key)
    if found := re.fullmatch(r"(?:dict|Dict)(?:\[str, (.+)\]|\(str, (.+)\))", words):
        return Mapped(item=_shape(model, "", found[1] or found[2]), is_atomic=(model, field) in _ATOMIC_MAPS)
    if words in _SCALARS:
        return Scalar(name=_SCALARS[words])
    return of_model(words)


def _own(shape: Any, field: str) -> Shape:
    """Return the schema that the tables of ``gateways`` write in plain words: a name, a list, or the fields of a struct."""
    if isinstance(shape, str):
        return Mapped(item=Scalar(name="string")) if shape == "map" else Scalar(name=shape)
    if isinstance(shape, list):
        item, *keys = shape
        return Sequence(item=_own(item, field), keys=tuple(keys))
    fields = {key.rstrip("*"): _own(value, key) for key, value in shape.items()}
    return Struct(name=field, fields=fields, required=frozenset(key[:-1] for key in shape if key.endswith("*")))
