"""What is decided about a valid object before it is stored: namespaces that end, accounts, priorities, limits, quotas."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from anyscale_conformance.simulators.kubernetes import pod_security, quantities
from anyscale_conformance.simulators.kubernetes.kinds import Kind
from anyscale_conformance.simulators.kubernetes.problems import forbidden, not_found
from anyscale_conformance.simulators.kubernetes.store import Entry, Object
from anyscale_conformance.simulators.kubernetes.world import World

MISSING_NODE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
DEFAULT_STORAGE = "storageclass.kubernetes.io/is-default-class"
TOKENS_AT = "/var/run/secrets/kubernetes.io/serviceaccount"
PRIORITIES = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}
_COUNTED = {
    "pods",
    "services",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "resourcequotas",
    "replicationcontrollers",
}


def namespace(world: World, kind: Kind, name: str, object_name: str) -> None:
    """Refuse what would be made in a namespace that is not there (404) or ends (403 with the cause NamespaceTerminating)."""
    entry = world.get("namespaces", "", name)
    if entry is None:
        raise not_found("namespaces", "", name)
    if "deletionTimestamp" in entry.meta:
        why = f"unable to create new content in namespace {name} because it is being terminated"
        cause = {
            "reason": "NamespaceTerminating",
            "message": f"namespace {name} is being terminated",
            "field": "metadata.namespace",
        }
        raise forbidden(kind.plural, kind.group, object_name, why, [cause])


def mutate(world: World, kind: Kind, obj: Object, namespace: str) -> None:
    """Fill in what admission adds to a Pod: account, token, tolerations, priority, the defaults of a LimitRange."""
    if kind.plural == "persistentvolumeclaims" and "storageClassName" not in obj["spec"]:
        default = default_class(world)
        obj["spec"] |= {"storageClassName": default.name} if default else {}
    if kind.plural == "pods":
        _runtime(world, obj)
        _account(world, obj, namespace)
        _webhooks(world, obj, namespace)
        _tolerations(obj["spec"])
        _priority(world, obj)
        _limits(world, obj, namespace)


def admit(world: World, kind: Kind, obj: Object, namespace: str) -> None:
    """Refuse what the namespace's standard of security, or a quota, does not allow. Raises Problem 403 with its words."""
    home = world.get("namespaces", "", namespace) if kind.plural == "pods" else None
    why = pod_security.violations(obj["spec"], home.labels) if home is not None else ""
    if why:
        raise forbidden("pods", "", obj["metadata"].get("name", ""), why)
    if kind.is_namespaced:
        _quota(world, kind, obj, namespace, None)


def readmit(world: World, kind: Kind, obj: Object, old: Entry) -> None:
    """As ``admit``, for an update: only what it adds counts."""
    if kind.is_namespaced:
        _quota(world, kind, obj, old.namespace, old.obj)


def default_class(world: World) -> Entry | None:
    """Return the StorageClass of claims that name none, or None."""
    classes = world.entries("storageclasses", group="storage.k8s.io")
    return next((one for one in classes if one.meta.get("annotations", {}).get(DEFAULT_STORAGE) == "true"), None)


def usage(kind: Kind, obj: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return what an object counts for in quotas."""
    used = {f"count/{kind.qualified}": Decimal(1)}
    if kind.plural in _COUNTED:
        used[kind.plural] = Decimal(1)
    if kind.plural == "services":
        type = obj.get("spec", {}).get("type")
        used["services.loadbalancers"] = Decimal(type == "LoadBalancer")
        used["services.nodeports"] = Decimal(
            len(obj["spec"].get("ports", ())) if type in ("NodePort", "LoadBalancer") else 0
        )
    if kind.plural == "persistentvolumeclaims":
        asked = obj.get("spec", {}).get("resources", {}).get("requests", {})
        used["requests.storage"] = quantities.value(asked.get("storage", "0"))
    if kind.plural != "pods":
        return used
    if obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return {"count/pods": Decimal(1)}
    for word, amount in requests(obj["spec"]).items():
        used[f"requests.{word}"] = amount
        if word in ("cpu", "memory", "ephemeral-storage"):
            used[word] = amount
    for word, amount in _summed(obj["spec"], "limits").items():
        used[f"limits.{word}"] = amount
    return used


def requests(spec: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return what a Pod asks of a node: the sum of its containers, or more where an init container asks for more."""
    return _summed(spec, "requests")


def _summed(spec: Mapping[str, Any], which: str) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for container in spec.get("containers", ()):
        for word, text in ((container.get("resources") or {}).get(which) or {}).items():
            total[word] = total.get(word, Decimal()) + quantities.value(text)
    for container in spec.get("initContainers", ()):
        for word, text in ((container.get("resources") or {}).get(which) or {}).items():
            total[word] = max(total.get(word, Decimal()), quantities.value(text))
    for word, text in (spec.get("overhead") or {}).items():
        total[word] = total.get(word, Decimal()) + quantities.value(text)
    return total


def _webhooks(world: World, obj: Object, namespace: str) -> None:
    account = world.get("serviceaccounts", namespace, obj["spec"]["serviceAccountName"])
    annotations = account.meta.get("annotations", {}) if account is not None else {}
    for webhook in world.webhooks:
        webhook(obj, annotations)


def _runtime(world: World, obj: Object) -> None:
    name = obj["spec"].get("runtimeClassName")
    if name and world.get("runtimeclasses", "", name, group="node.k8s.io") is None:
        why = f'pod rejected: RuntimeClass "{name}" not found'
        raise forbidden("pods", "", obj["metadata"].get("name", ""), why)


def _account(world: World, obj: Object, namespace: str) -> None:
    spec, name = obj["spec"], obj["metadata"].get("name", "")
    account = spec.get("serviceAccountName") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = account
    entry = world.get("serviceaccounts", namespace, account)
    if entry is None:
        raise forbidden(
            "pods", "", name,
            f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found',
        )  # fmt: skip
    if not spec.get("imagePullSecrets") and entry.obj.get("imagePullSecrets"):
        spec["imagePullSecrets"] = entry.obj["imagePullSecrets"]
    wants = spec.get("automountServiceAccountToken", entry.obj.get("automountServiceAccountToken", True))
    containers = [*spec.get("initContainers", ()), *spec.get("containers", ())]
    without = [
        one
        for one in containers
        if not any(mount.get("mountPath") == TOKENS_AT for mount in one.get("volumeMounts", ()))
    ]
    if not wants or not without:
        return
    volume = f"kube-api-access-{world.letters(5)}"
    for container in without:
        container.setdefault("volumeMounts", []).append({"name": volume, "readOnly": True, "mountPath": TOKENS_AT})
    namespace_file = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    spec.setdefault("volumes", []).append({
        "name": volume,
        "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace_file]}},
        ]},
    })  # fmt: skip


def _tolerations(spec: Object) -> None:
    tolerations = spec.setdefault("tolerations", [])
    for key in MISSING_NODE:
        if not any(
            one.get("key", key) == key and one.get("effect", "NoExecute") in ("NoExecute", "") for one in tolerations
        ):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})


def _priority(world: World, obj: Object) -> None:
    spec = obj["spec"]
    name = spec.get("priorityClassName")
    if not name:
        default = next(
            (
                one
                for one in world.entries("priorityclasses", group="scheduling.k8s.io")
                if one.obj.get("globalDefault")
            ),
            None,
        )
        spec["priority"] = default.obj["value"] if default else 0
        spec["preemptionPolicy"] = default.obj["preemptionPolicy"] if default else "PreemptLowerPriority"
        if default:
            spec["priorityClassName"] = default.name
        return
    entry = world.get("priorityclasses", "", name, group="scheduling.k8s.io")
    if entry is None and name not in PRIORITIES:
        raise forbidden("pods", "", obj["metadata"].get("name", ""), f"no PriorityClass with name {name} was found")
    spec["priority"] = entry.obj["value"] if entry else PRIORITIES[name]
    spec["preemptionPolicy"] = entry.obj["preemptionPolicy"] if entry else "PreemptLowerPriority"


def _limits(world: World, obj: Object, namespace: str) -> None:
    rules = [
        limit
        for entry in world.entries("limitranges", namespace)
        for limit in entry.obj["spec"].get("limits", ())
        if limit.get("type") == "Container"
    ]
    for rule in rules:
        for container in obj["spec"].get("containers", ()):
            resources = container.setdefault("resources", {})
            limits = {**rule.get("default", {}), **resources.get("limits", {})}
            asked = {**rule.get("defaultRequest", rule.get("default", {})), **resources.get("requests", {})}
            container["resources"] = resources | {
                key: value for key, value in (("limits", limits), ("requests", asked)) if value
            }
            for word, most in rule.get("max", {}).items():
                have = limits.get(word)
                if have is None or quantities.value(have) > quantities.value(most):
                    detail = "no limit is specified" if have is None else f"limit is {have}"
                    raise forbidden(
                        "pods", "", obj["metadata"].get("name", ""),
                        f"maximum {word} usage per Container is {most}, but {detail}",
                    )  # fmt: skip


def _quota(world: World, kind: Kind, obj: Object, namespace: str, old: Object | None) -> None:
    quotas = world.entries("resourcequotas", namespace)
    if not quotas or kind.plural == "events":
        return
    before = usage(kind, old) if old is not None else {}
    asked = {word: amount - before.get(word, Decimal()) for word, amount in usage(kind, obj).items()}
    name = obj["metadata"].get("name", "")
    for quota in quotas:
        hard = quota.obj.get("spec", {}).get("hard", {})
        _quota_specified(kind, name, obj, quota, hard, is_new=old is None)
        more = {word: asked[word] for word in sorted(hard) if asked.get(word, Decimal()) > 0}
        used = used_of(world, quota, more)
        over = [word for word in more if used[word] + more[word] > quantities.value(hard[word])]
        if over:
            said = (
                ",".join(f"{word}={_show(word, amounts[word])}" for word in over)
                for amounts in (more, used, {word: quantities.value(hard[word]) for word in over})
            )
            requested, there, limited = said
            raise forbidden(
                kind.plural, kind.group, name,
                f"exceeded quota: {quota.name}, requested: {requested}, used: {there}, limited: {limited}",
            )  # fmt: skip


def used_of(world: World, quota: Entry, words: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return how much of some words of a quota is used."""
    used = dict.fromkeys(words, Decimal())
    kinds = [
        kind for kind in world.catalogue.kinds if kind.is_namespaced and not kind.is_review and kind.plural != "events"
    ]
    for kind in kinds:
        if not _concerns(kind, words):
            continue
        for entry in world.store.entries(kind, quota.namespace):
            for word, amount in usage(kind, entry.obj).items():
                if word in used:
                    used[word] += amount
    return used


def _concerns(kind: Kind, words: Mapping[str, Any]) -> bool:
    if kind.plural == "pods":
        return True
    starts = (kind.plural, f"count/{kind.qualified}")
    return any(word in starts or word.startswith(f"{kind.plural}.") for word in words) or (
        kind.plural == "persistentvolumeclaims" and "requests.storage" in words
    )


def _quota_specified(
    kind: Kind, name: str, obj: Object, quota: Entry, hard: Mapping[str, str], *, is_new: bool
) -> None:
    if kind.plural != "pods" or not is_new:
        return
    plain = {"cpu": "requests.cpu", "memory": "requests.memory"}
    wanted = {word: plain.get(word, word) for word in hard if word.endswith(("cpu", "memory"))}
    lacking = []
    for container in obj["spec"].get("containers", ()):
        have = container.get("resources") or {}
        missing = [
            word for word, long in wanted.items() if long.partition(".")[2] not in have.get(long.partition(".")[0], {})
        ]
        if missing:
            lacking.append(f"{','.join(sorted(missing))} for: {container.get('name')}")
    if lacking:
        raise forbidden("pods", "", name, f"failed quota: {quota.name}: must specify {'; '.join(lacking)}")


def _show(word: str, amount: Decimal) -> str:
    return quantities.show_binary(amount) if word.endswith(("memory", "storage")) else quantities.show(amount)
