"""The rules that an object has to keep, kind by kind; every breach is named. Source: kubernetes.io, API reference."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from anyscale_conformance.simulators.kubernetes import names, quantities
from anyscale_conformance.simulators.kubernetes.kinds import Kind
from anyscale_conformance.simulators.kubernetes.pods_validation import pod, template
from anyscale_conformance.simulators.kubernetes.problems import (
    Fault,
    duplicate,
    forbidden_field,
    invalid_value,
    required,
    unsupported,
)
from anyscale_conformance.simulators.kubernetes.store import Object
from anyscale_conformance.simulators.kubernetes.world import World

IMMUTABLE = "field is immutable"
SECRET_LIMIT = 1024 * 1024
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_REQUIRED_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/basic-auth": (), "kubernetes.io/dockercfg": (".dockercfg",),
}  # fmt: skip


def faults(world: World, kind: Kind, obj: Object, old: Object | None) -> list[Fault]:
    """Return everything that is wrong with an object, or with the change of one."""
    found = names.of_object(kind.plural, obj["metadata"])
    rule = _RULES.get(kind.plural)
    if rule is not None:
        found += rule(world, obj, old)
    return found


def _service(world: World, obj: Object, old: Object | None) -> list[Fault]:
    spec = obj["spec"]
    found = []
    if spec["type"] not in _SERVICE_TYPES:
        found.append(unsupported("spec.type", spec["type"], _SERVICE_TYPES))
    ports = spec.get("ports", [])
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        found.append(required("spec.ports"))
    if spec["type"] == "ExternalName" and not spec.get("externalName"):
        found.append(required("spec.externalName", "may not be empty"))
    found += names.labels("spec.selector", spec.get("selector") or {})
    if spec.get("loadBalancerSourceRanges") and spec["type"] != "LoadBalancer":
        found.append(forbidden_field("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'"))
    seen, seen_names = set(), set()
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        found += port_number(f"{at}.port", port.get("port"))
        if isinstance(port.get("targetPort"), int):
            found += port_number(f"{at}.targetPort", port["targetPort"])
        if port.get("protocol") not in ("TCP", "UDP", "SCTP"):
            found.append(unsupported(f"{at}.protocol", port.get("protocol"), ("TCP", "UDP", "SCTP")))
        if len(ports) > 1 and not port.get("name"):
            found.append(required(f"{at}.name"))
        elif port.get("name"):
            found += names.dns_label(f"{at}.name", port["name"])
        key = (port.get("port"), port.get("protocol"))
        if key in seen:
            found.append(duplicate(at, port))
        if port.get("name") and port["name"] in seen_names:
            found.append(duplicate(f"{at}.name", port["name"]))
        seen.add(key)
        seen_names.add(port.get("name"))
        if (number := port.get("nodePort")) and not 30000 <= number <= 32767 and old is None:
            found.append(
                invalid_value(
                    f"{at}.nodePort",
                    number,
                    "provided port is not in the valid range. The range of valid ports is 30000-32767",
                )
            )
    if old is not None and spec["type"] != "ExternalName":
        before = old["spec"].get("clusterIP")
        if before and spec.get("clusterIP") != before:
            found.append(invalid_value("spec.clusterIPs[0]", spec.get("clusterIP", ""), "may not change once set"))
    elif spec.get("clusterIP") not in (None, "", "None"):
        taken = {entry.obj["spec"].get("clusterIP") for entry in world.entries("services")}
        if spec["clusterIP"] in taken:
            found.append(invalid_value(
                "spec.clusterIPs", [spec["clusterIP"]], "failed to allocate IP: provided IP is already allocated"
            ))  # fmt: skip
    return found


def port_number(field: str, port: Any) -> list[Fault]:
    """Return the fault of a number that is no port."""
    if isinstance(port, int) and 1 <= port <= 65535:
        return []
    return [invalid_value(field, port if port is not None else 0, "must be between 1 and 65535, inclusive")]


def _secret(_: World, obj: Object, old: Object | None) -> list[Fault]:
    found = _data(obj, ("data",))
    for key in _REQUIRED_KEYS.get(obj.get("type", ""), ()):
        if key not in obj.get("data", {}):
            found.append(required(f"data[{key}]"))
    if old is not None and obj.get("type") != old.get("type"):
        found.append(invalid_value("type", obj.get("type"), IMMUTABLE))
    return found + _kept_whole(obj, old)


def _config_map(_: World, obj: Object, old: Object | None) -> list[Fault]:
    found = _data(obj, ("data", "binaryData"))
    both = set(obj.get("data", {})) & set(obj.get("binaryData", {}))
    found += [invalid_value("data", key, "duplicate of key present in binaryData") for key in sorted(both)]
    return found + _kept_whole(obj, old)


def _data(obj: Object, parts: tuple[str, ...]) -> list[Fault]:
    found, size = [], 0
    for part in parts:
        for key, value in obj.get(part, {}).items():
            size += len(value)
            if not _KEY.fullmatch(key) or key in (".", ".."):
                found.append(invalid_value(
                    f"{part}[{key}]", key,
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
                    "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ))  # fmt: skip
    if size > SECRET_LIMIT * (4 / 3 if parts == ("data",) else 1):
        found.append(Fault(
            reason="FieldValueTooLong", field="data" if parts == ("data",) else "",
            message=f"Too long: may not be more than {SECRET_LIMIT} bytes",
        ))  # fmt: skip
    return found


def _kept_whole(obj: Object, old: Object | None) -> list[Fault]:
    if old is None or not old.get("immutable"):
        return []
    return [
        forbidden_field(key, "field is immutable when `immutable` is set")
        for key in ("immutable", "data", "binaryData")
        if obj.get(key) != old.get(key)
    ]


def _claim(_: World, obj: Object, old: Object | None) -> list[Fault]:
    spec = obj["spec"]
    if old is not None:
        is_bound = old.get("status", {}).get("phase") == "Bound"
        free = ("resources", "volumeName") if is_bound else ("volumeName",)

        def fixed(one: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in one.items() if key not in free}

        if fixed(spec) != fixed(old["spec"]):
            return [
                forbidden_field(
                    "spec",
                    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
                )
            ]
        asked, had = (quantities.value(one["resources"]["requests"]["storage"]) for one in (spec, old["spec"]))
        if asked < had:
            return [forbidden_field("spec.resources.requests.storage", "field can not be less than status.capacity")]
        return []
    found = []
    if not spec.get("accessModes"):
        found.append(required("spec.accessModes", "at least 1 access mode is required"))
    if "storage" not in spec.get("resources", {}).get("requests", {}):
        found.append(required("spec.resources[storage]"))
    return found


def _slice(_: World, obj: Object, old: Object | None) -> list[Fault]:
    """Source: ValidateEndpointSlice. Loopback addresses are let through: Pods that boot here have them."""
    if old is not None and obj.get("addressType") != old.get("addressType"):
        return [invalid_value("addressType", obj.get("addressType"), "field is immutable")]
    versions = {"IPv4": 4, "IPv6": 6}
    wanted = versions.get(str(obj.get("addressType")))
    if wanted is None:
        return []
    found = []
    for index, endpoint in enumerate(obj.get("endpoints") or ()):
        for place, address in enumerate(endpoint.get("addresses") or ()):
            try:
                is_fine = ipaddress.ip_address(address).version == wanted
            except ValueError:
                is_fine = False
            if not is_fine:
                field = f"endpoints[{index}].addresses[{place}]"
                found.append(invalid_value(field, address, f"must be a valid {obj['addressType']} address"))
    return found


def _budget(_: World, obj: Object, _old: Object | None) -> list[Fault]:
    spec = obj.get("spec", {})
    if "minAvailable" in spec and "maxUnavailable" in spec:
        return [invalid_value("spec", "", "minAvailable and maxUnavailable cannot be both set")]
    found = []
    for key in ("minAvailable", "maxUnavailable"):
        value = spec.get(key)
        if isinstance(value, str) and not re.fullmatch(r"[0-9]+%", value):
            found.append(
                invalid_value(
                    f"spec.{key}",
                    value,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or "
                    " '93%', regex used for validation is '[0-9]+%')",
                )
            )
        if isinstance(value, int) and value < 0:
            found.append(invalid_value(f"spec.{key}", value, "must be greater than or equal to 0"))
    return found


def _deployment(_: World, obj: Object, old: Object | None) -> list[Fault]:
    spec = obj["spec"]
    found = template(spec.get("template", {}), "spec.template")
    selector = spec.get("selector") or {}
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        found.append(required("spec.selector"))
    labels = spec.get("template", {}).get("metadata", {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        found.append(
            invalid_value("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
        )
    if spec.get("replicas", 0) < 0:
        found.append(invalid_value("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    if old is not None and selector != old["spec"].get("selector"):
        found.append(invalid_value("spec.selector", selector, IMMUTABLE))
    return found


def _binding(_: World, obj: Object, old: Object | None) -> list[Fault]:
    found = []
    ref = obj.get("roleRef", {})
    if ref.get("kind") not in ("Role", "ClusterRole"):
        found.append(unsupported("roleRef.kind", ref.get("kind", ""), ("ClusterRole", "Role")))
    for index, subject in enumerate(obj.get("subjects", ())):
        if subject.get("kind") not in ("User", "Group", "ServiceAccount"):
            found.append(
                unsupported(f"subjects[{index}].kind", subject.get("kind", ""), ("Group", "ServiceAccount", "User"))
            )
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            found.append(required(f"subjects[{index}].namespace"))
    if old is not None and ref != old.get("roleRef"):
        found.append(invalid_value("roleRef", ref, "cannot change roleRef"))
    return found


def _role(_: World, obj: Object, _old: Object | None) -> list[Fault]:
    found = []
    for index, rule in enumerate(obj.get("rules") or ()):
        if not rule.get("verbs"):
            found.append(required(f"rules[{index}].verbs", "verbs must contain at least one value"))
        if not rule.get("nonResourceURLs") and not rule.get("resources"):
            found.append(required(f"rules[{index}].resources", "resource rules must supply at least one resource"))
        if rule.get("resources") and not rule.get("apiGroups"):
            found.append(required(f"rules[{index}].apiGroups", "resource rules must supply at least one api group"))
    return found


def _ingress(_: World, obj: Object, _old: Object | None) -> list[Fault]:
    spec = obj.get("spec") or {}
    found = []
    if not spec.get("rules") and not spec.get("defaultBackend"):
        found.append(invalid_value("spec", [], "either `defaultBackend` or `rules` must be specified"))
    for index, rule in enumerate(spec.get("rules", ())):
        for place, path in enumerate((rule.get("http") or {}).get("paths", ())):
            at = f"spec.rules[{index}].http.paths[{place}]"
            if path.get("pathType") not in ("Exact", "Prefix", "ImplementationSpecific"):
                found.append(
                    required(f"{at}.pathType", "pathType must be specified") if not path.get("pathType")
                    else unsupported(f"{at}.pathType", path["pathType"], ("Exact", "ImplementationSpecific", "Prefix"))
                )  # fmt: skip
            elif path["pathType"] != "ImplementationSpecific" and not str(path.get("path", "")).startswith("/"):
                found.append(invalid_value(f"{at}.path", path.get("path", ""), "must be an absolute path"))
            service = (path.get("backend") or {}).get("service")
            if (
                service is not None
                and not (service.get("port") or {}).get("number")
                and not (service.get("port") or {}).get("name")
            ):
                found.append(required(f"{at}.backend", "port name or number is required"))
    return found


def _lease(_: World, obj: Object, _old: Object | None) -> list[Fault]:
    spec = obj.get("spec") or {}
    found = []
    if spec.get("leaseDurationSeconds") is not None and spec["leaseDurationSeconds"] <= 0:
        found.append(invalid_value("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0"))
    if spec.get("leaseTransitions") is not None and spec["leaseTransitions"] < 0:
        found.append(
            invalid_value("spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0")
        )
    return found


def _priority_class(_: World, obj: Object, old: Object | None) -> list[Fault]:
    value = obj.get("value", 0)
    found = []
    if value > 1_000_000_000 and not obj["metadata"].get("name", "").startswith("system-"):
        found.append(forbidden_field("value", "maximum allowed value of a user defined priority is 1000000000"))
    if old is not None and value != old.get("value"):
        found.append(forbidden_field("value", "may not be changed in an update."))
    return found


def _gateway(_: World, obj: Object, _old: Object | None) -> list[Fault]:
    listeners = obj.get("spec", {}).get("listeners", [])
    found = (
        [] if listeners else [invalid_value("spec.listeners", 0, "spec.listeners in body should have at least 1 items")]
    )
    for index, listener in enumerate(listeners):
        if "port" in listener:
            found += port_number(f"spec.listeners[{index}].port", listener["port"])
    return found


def _event(_: World, obj: Object, old: Object | None) -> list[Fault]:
    namespace = obj["metadata"].get("namespace", "")
    about = obj.get("involvedObject", {}).get("namespace", "")
    found = []
    if about != namespace and (about or namespace != "default"):
        found.append(invalid_value("involvedObject.namespace", about, "does not match event.namespace"))
    if old is None and obj.get("eventTime"):
        # Only what is written the new way has to be whole; source: ValidateEventCreate.
        for field, key in (
            ("reportingController", "reportingComponent"),
            ("reportingInstance",) * 2,
            ("action",) * 2,
            ("reason",) * 2,
        ):
            if not obj.get(key):
                found.append(required(field))
    return found


_RULES: Mapping[str, Callable[[World, Object, Object | None], list[Fault]]] = {
    "pods": pod, "services": _service, "secrets": _secret, "configmaps": _config_map, "persistentvolumeclaims": _claim,
    "poddisruptionbudgets": _budget, "deployments": _deployment, "replicasets": _deployment, "rolebindings": _binding,
    "clusterrolebindings": _binding, "roles": _role, "clusterroles": _role, "ingresses": _ingress, "leases": _lease,
    "endpointslices": _slice, "priorityclasses": _priority_class, "events": _event, "gateways": _gateway,
}  # fmt: skip
