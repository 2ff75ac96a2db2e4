"""Changes to Pods before they are sent: JSON patches by annotation, and the strategic merge of advanced_instance_config.

Order: what the driver renders, the patches of the settings in their order, then the cluster's own advanced_instance_config.
Neither may change who the Pod is, whom it runs as or whose it is.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anyscale_core.errors import Fault, InvalidRequest
from anyscale_core.models.selector import Selector
from anyscale_kubernetes.config import Patch
from anyscale_kubernetes.names import PREFIX

MERGE_KEYS: Mapping[str, str] = {
    # k8s.io/api/core/v1 types.go: the patchMergeKey of each list; other lists are replaced as a whole.
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "volumes": "name", "env": "name",
    "volumeMounts": "mountPath", "volumeDevices": "devicePath", "imagePullSecrets": "name", "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey", "ports": "containerPort", "resourceClaims": "name",
    "schedulingGates": "name",
}  # fmt: skip
CLOSED = (
    "apiVersion", "kind", "status", "metadata.name", "metadata.namespace", "metadata.ownerReferences",
    "metadata.finalizers", "spec.serviceAccountName", "spec.serviceAccount", "spec.automountServiceAccountToken",
    "spec.nodeName", "spec.restartPolicy",
)  # fmt: skip
"""What nobody but the driver sets: a workload that chose its account would take the rights of another."""


def patched(pod: Mapping[str, Any], patches: Sequence[Patch]) -> dict[str, Any]:
    """Return a Pod with every patch whose selector fits its annotations. Raises InvalidRequest for one that cannot be applied."""
    import jsonpatch
    import jsonpointer

    body: Any = copy.deepcopy(dict(pod))
    annotations = pod["metadata"].get("annotations", {})
    for place, patch in enumerate(patches):
        if not fits(patch.selector, annotations):
            continue
        before = copy.deepcopy(body)
        try:
            for operation in patch.patch:
                if operation.get("op") == "add":
                    _make_parents(body, str(operation.get("path", "")))
                body = jsonpatch.apply_patch(body, [dict(operation)])
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError) as error:
            raise InvalidRequest(
                f"patches[{place}] cannot be applied: {error}", reason="FIELD",
                hint="mend the patch in the settings of provider kubernetes",
            ) from error  # fmt: skip
        _refuse(list(closed_changes(before, body)), f"patches[{place}]")
    return dict(body)


def merged(pod: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Pod with a strategic merge patch on it. Raises InvalidRequest(FIELD) naming everything that may not be set."""
    if not config:
        return dict(pod)
    before = dict(pod)
    after = merge(before, config)
    _refuse([*_unknown(config), *closed_changes(before, after)], "advanced_instance_config")
    return after


def merge(value: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategic merge: null takes away, objects merge, lists merge by their key, ``$patch`` replaces or deletes."""
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(part) for key, part in patch.items() if key != "$patch"}
    out = dict(value)
    for key, part in patch.items():
        if key.startswith("$"):
            continue
        if part is None:
            out.pop(key, None)
        elif isinstance(part, Mapping):
            known = out.get(key)
            out[key] = merge(known if isinstance(known, Mapping) else {}, part)
        elif isinstance(part, list | tuple) and key in MERGE_KEYS:
            out[key] = _merged_list(out.get(key) or [], part, MERGE_KEYS[key])
        else:
            out[key] = copy.deepcopy(part)
    return out


def fits(selector: str, values: Mapping[str, str]) -> bool:
    """Tell whether annotations fit a set-based selector, as Kubernetes reads one. Raises InvalidRequest."""
    try:
        return Selector.parse(selector).fits(values)
    except ValueError as error:
        raise InvalidRequest(str(error), reason="FIELD", hint="mend the selector of the patch") from None


def closed_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each closed field, and each label and annotation of ours, that differs."""
    for path in CLOSED:
        if _at(before, path) != _at(after, path):
            yield Fault(path=path, message="is set by the driver alone")
    for part in ("labels", "annotations"):
        old, new = (body.get("metadata", {}).get(part) or {} for body in (before, after))
        for key in sorted({*old, *new}):
            if key.startswith(PREFIX) and old.get(key) != new.get(key):
                yield Fault(path=f"metadata.{part}.{key}", message="says whose the Pod is; choose another key")


def _refuse(faults: Sequence[Fault], what: str) -> None:
    if faults:
        raise InvalidRequest(
            f"{what} may not set {'; '.join(map(str, faults))}", reason="FIELD",
            hint="leave these fields out; the account of a workload is its identity's",
        )  # fmt: skip


def _unknown(config: Mapping[str, Any]) -> Iterator[Fault]:
    for key in sorted(set(config) - {"metadata", "spec"}):
        yield Fault(path=key, message="is no part of a Pod that can be set: metadata and spec are")


def _at(body: Mapping[str, Any], path: str) -> Any:
    found: Any = body
    for word in path.split("."):
        found = found.get(word) if isinstance(found, Mapping) else None
    return found


def _merged_list(known: Sequence[Any], items: Sequence[Any], key: str) -> list[Any]:
    out = list(known)
    for item in items:
        if not isinstance(item, Mapping) or key not in item:
            raise InvalidRequest(
                f"an item of a list has no {key!r}, by which it is merged", reason="FIELD",
                hint="name the item in advanced_instance_config",
            )  # fmt: skip
        place = next((at for at, old in enumerate(out) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            out = [old for old in out if old.get(key) != item[key]]
        elif place is None:
            out.append(merge({}, item))
        else:
            out[place] = merge(out[place], item)
    return out


def _make_parents(body: Any, path: str) -> None:
    """Make the objects that lead to the path of an ``add``; a list is made where the path goes on with an index or '-'."""
    words = [word.replace("~1", "/").replace("~0", "~") for word in path.split("/")[1:]]
    for place, word in enumerate(words[:-1]):
        following = words[place + 1]
        if isinstance(body, list):
            if not word.isdigit() or int(word) >= len(body):
                return  # the patch itself says what is wrong
            body = body[int(word)]
        elif isinstance(body, dict):
            body = body.setdefault(word, [] if following == "-" or following.isdigit() else {})
        else:
            return
