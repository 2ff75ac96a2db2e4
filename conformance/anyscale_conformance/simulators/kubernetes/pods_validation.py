"""The rules of Pods: what their containers and volumes need, and what of a Pod may change. Source: API reference, PodSpec."""

from collections.abc import Iterable, Mapping
from typing import Any

from anyscale_conformance.simulators.kubernetes import names, quantities
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

POLICIES = ("Always", "Never", "OnFailure")
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
UPDATES = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def pod(_: World, obj: Object, old: Object | None) -> list[Fault]:
    """Return the faults of a Pod, or of a change of one."""
    found = spec_faults(obj.get("spec", {}), "spec")
    return found if old is None else found + _changes(obj["spec"], old["spec"])


def template(of: Mapping[str, Any], at: str) -> list[Fault]:
    """Return the faults of the Pods that a controller would make."""
    found = names.labels(f"{at}.labels", of.get("metadata", {}).get("labels") or {})
    found += spec_faults(of.get("spec", {}), f"{at}.spec")
    if of.get("spec", {}).get("restartPolicy", "Always") != "Always":
        found.append(unsupported(f"{at}.spec.restartPolicy", of["spec"]["restartPolicy"], ("Always",)))
    return found


def spec_faults(spec: Mapping[str, Any], at: str) -> list[Fault]:
    """Return the faults of a Pod's spec at a path."""
    found = _volumes(spec, at)
    volumes = {volume.get("name") for volume in spec.get("volumes", ())}
    if not spec.get("containers"):
        found.append(required(f"{at}.containers"))
    seen: set[str] = set()
    for part in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(part, ())):
            found += _container(container, f"{at}.{part}[{index}]", volumes)
            if container.get("name") in seen:
                found.append(duplicate(f"{at}.{part}[{index}].name", container["name"]))
            seen.add(container.get("name", ""))
    if spec.get("restartPolicy") not in POLICIES:
        found.append(unsupported(f"{at}.restartPolicy", spec.get("restartPolicy"), POLICIES))
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        found.append(invalid_value(
            f"{at}.terminationGracePeriodSeconds", spec["terminationGracePeriodSeconds"], "must be greater than or equal to 0"
        ))  # fmt: skip
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and deadline < 1:
        found.append(
            invalid_value(f"{at}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
        )
    if account := spec.get("serviceAccountName"):
        found += names.subdomain(f"{at}.serviceAccountName", account)
    for word in ("hostname", "subdomain"):
        if spec.get(word):
            found += names.dns_label(f"{at}.{word}", spec[word])
    found += names.labels(f"{at}.nodeSelector", spec.get("nodeSelector") or {})
    found += tolerations(spec.get("tolerations", ()), f"{at}.tolerations")
    return found + _affinity(spec, at)


def tolerations(given: Iterable[Mapping[str, Any]], at: str) -> list[Fault]:
    """Return the faults of tolerations."""
    found = []
    for index, one in enumerate(given):
        here = f"{at}[{index}]"
        operator = one.get("operator", "Equal")
        if one.get("key"):
            found += names.qualified(f"{here}.key", one["key"])
        elif operator != "Exists":
            found.append(invalid_value(
                f"{here}.operator", operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ))  # fmt: skip
        if operator not in ("Equal", "Exists"):
            found.append(unsupported(f"{here}.operator", operator, ("Equal", "Exists")))
        if operator == "Exists" and one.get("value"):
            found.append(invalid_value(f"{here}.operator", one, "value must be empty when `operator` is 'Exists'"))
        if one.get("effect") and one["effect"] not in EFFECTS:
            found.append(unsupported(f"{here}.effect", one["effect"], EFFECTS))
        if one.get("tolerationSeconds") is not None and one.get("effect") != "NoExecute":
            found.append(invalid_value(
                f"{here}.effect", one.get("effect", ""), "effect must be 'NoExecute' when `tolerationSeconds` is set"
            ))  # fmt: skip
    return found


def _container(container: Mapping[str, Any], at: str, volumes: set[Any]) -> list[Fault]:
    name = container.get("name", "")
    found = names.dns_label(f"{at}.name", name) if name else [required(f"{at}.name")]
    if not container.get("image"):
        found.append(required(f"{at}.image"))
    elif container["image"] != container["image"].strip():
        found.append(invalid_value(f"{at}.image", container["image"], "must not have leading or trailing whitespace"))
    if container.get("imagePullPolicy") not in ("Always", "IfNotPresent", "Never"):
        found.append(
            unsupported(f"{at}.imagePullPolicy", container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never"))
        )
    for index, port in enumerate(container.get("ports", ())):
        number = port.get("containerPort", 0)
        if not 1 <= number <= 65535:
            found.append(
                invalid_value(f"{at}.ports[{index}].containerPort", number, "must be between 1 and 65535, inclusive")
            )
    for index, variable in enumerate(container.get("env", ())):
        found += _variable(variable, f"{at}.env[{index}]")
    seen: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts", ())):
        here = f"{at}.volumeMounts[{index}]"
        if mount.get("name") not in volumes:
            found.append(
                Fault(
                    reason="FieldValueNotFound", field=f"{here}.name", message=f'Not found: "{mount.get("name", "")}"'
                )
            )
        if not mount.get("mountPath"):
            found.append(required(f"{here}.mountPath"))
        elif mount["mountPath"] in seen:
            found.append(invalid_value(f"{here}.mountPath", mount["mountPath"], "must be unique"))
        seen.add(mount.get("mountPath", ""))
    return found + _resources(container.get("resources") or {}, f"{at}.resources")


def _variable(variable: Mapping[str, Any], at: str) -> list[Fault]:
    if not variable.get("name"):
        return [required(f"{at}.name")]
    if "=" in variable["name"]:
        return [
            invalid_value(
                f"{at}.name",
                variable["name"],
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            )
        ]
    source = variable.get("valueFrom")
    if source is None:
        return []
    if variable.get("value"):
        return [invalid_value(f"{at}.valueFrom", "", "may not be specified when `value` is not empty")]
    if len(source) != 1:
        return [
            invalid_value(
                f"{at}.valueFrom",
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            )
        ]
    return []


def _resources(resources: Mapping[str, Any], at: str) -> list[Fault]:
    found = []
    limits = resources.get("limits", {})
    for part in ("limits", "requests"):
        for word, text in resources.get(part, {}).items():
            if (
                "/" not in word
                and word not in ("cpu", "memory", "ephemeral-storage", "storage")
                and not word.startswith("hugepages-")
            ):
                found.append(
                    invalid_value(f"{at}.{part}[{word}]", word, "must be a standard resource type or fully qualified")
                )
            if quantities.value(text) < 0:
                found.append(invalid_value(f"{at}.{part}[{word}]", text, "must be greater than or equal to 0"))
    for word, text in resources.get("requests", {}).items():
        limit = limits.get(word)
        if limit is not None and quantities.value(text) > quantities.value(limit):
            found.append(
                invalid_value(f"{at}.requests", text, f"must be less than or equal to {word} limit of {limit}")
            )
        if "/" in word and limit != text:
            detail = (
                "Limit must be set for non overcommitable resources"
                if limit is None
                else f"must be equal to {word} limit of {limit}"
            )
            found.append(
                required(f"{at}.limits", detail) if limit is None else invalid_value(f"{at}.requests", text, detail)
            )
    return found


def _volumes(spec: Mapping[str, Any], at: str) -> list[Fault]:
    found, seen = [], set()
    for index, volume in enumerate(spec.get("volumes", ())):
        here = f"{at}.volumes[{index}]"
        name = volume.get("name", "")
        found += names.dns_label(f"{here}.name", name) if name else [required(f"{here}.name")]
        if name in seen:
            found.append(duplicate(f"{here}.name", name))
        seen.add(name)
        if len(volume) > 2:
            found.append(
                forbidden_field(
                    f"{here}.{sorted(set(volume) - {'name'})[1]}", "may not specify more than 1 volume type"
                )
            )
        if "secret" in volume and not volume["secret"].get("secretName"):
            found.append(required(f"{here}.secret.secretName"))
        if "configMap" in volume and not volume["configMap"].get("name"):
            found.append(required(f"{here}.configMap.name"))
        for place, source in enumerate((volume.get("projected") or {}).get("sources", ())):
            seconds = (source.get("serviceAccountToken") or {}).get("expirationSeconds", 3600)
            if seconds < 600:
                found.append(invalid_value(
                    f"{here}.projected.sources[{place}].serviceAccountToken.expirationSeconds", seconds,
                    "may not specify a duration less than 10 minutes",
                ))  # fmt: skip
    return found


def _affinity(spec: Mapping[str, Any], at: str) -> list[Fault]:
    needed = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if needed is None:
        return []
    here = f"{at}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    if not needed.get("nodeSelectorTerms"):
        return [required(here, "must have at least one node selector term")]
    found = []
    for index, term in enumerate(needed["nodeSelectorTerms"]):
        for place, one in enumerate(term.get("matchExpressions", ())):
            where = f"{here}[{index}].matchExpressions[{place}]"
            if one.get("operator") in ("In", "NotIn") and not one.get("values"):
                found.append(required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
            elif one.get("operator") not in ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"):
                found.append(
                    invalid_value(f"{where}.operator", one.get("operator", ""), "not a valid selector operator")
                )
    return found


def _changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[Fault]:
    before = list(old.get("tolerations", ()))
    after = list(new.get("tolerations", ()))
    found = [] if all(one in after for one in before) else [
        forbidden_field("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
    ]  # fmt: skip
    if _frozen(new) != _frozen(old):
        found.append(forbidden_field("spec", UPDATES))
    return found


def _frozen(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a Pod's spec never changes."""
    out = {key: value for key, value in spec.items() if key not in ("activeDeadlineSeconds", "tolerations")}
    for part in ("containers", "initContainers"):
        if part in out:
            out[part] = [{key: value for key, value in one.items() if key != "image"} for one in out[part]]
    return out
