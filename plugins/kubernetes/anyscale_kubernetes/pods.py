"""A Ray node is a Pod: how one is written, and how it is read back. Pure; ``parse(render(spec)).name == spec.name``."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_core.drivers.startup import ROOT
from anyscale_core.errors import CapacityUnavailable, InvalidRequest, Scope, Vendor
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.identity import Identity
from anyscale_core.models.ids import InstanceId, NodeId, Token
from anyscale_core.models.instance import Instance, InstanceSpec, InstanceState, Notice, NoticeKind
from anyscale_core.models.node import PROOF_AUDIENCE
from anyscale_core.models.owner import TAG_NAME, TAG_NODE
from anyscale_kubernetes.config import NODE_AGENT, TOKEN_VARIABLE, Settings
from anyscale_kubernetes.flavors import ACCELERATOR_TAINT, CAPACITY_TAINT, FLAVORS
from anyscale_kubernetes.names import PREFIX, object_name, short_name
from anyscale_kubernetes.offerings import InstanceType
from anyscale_kubernetes.patches import merged, patched
from anyscale_kubernetes.tags import KIND_LABEL, NETWORK_LABEL, Body, annotation, marks, owner_of, tags_of

SLOT = "cluster"
NODE_TYPE = f"{PREFIX}/ray-node-type"
INSTANCE_TYPE = f"{PREFIX}/instance-type"
MARKET_TYPE = f"{PREFIX}/market-type"
ZONE = f"{PREFIX}/zone"
ACCELERATOR_TYPE = f"{PREFIX}/accelerator-type"
IDENTITY = f"{PREFIX}/identity"
VOLUME_LABEL = f"{PREFIX}-volume"
ZONE_LABEL = "topology.kubernetes.io/zone"
"""On nodes, and since Kubernetes 1.35 on every Pod that is bound to one (KEP 4742)."""

BOOTSTRAP = "/var/run/secrets/anyscale-core/bootstrap"
BOOTSTRAP_FILE = f"{BOOTSTRAP}/bootstrap.json"
TOKEN_FOLDER = "/var/run/secrets/anyscale-core/token"
TOKEN_FILE = f"{TOKEN_FOLDER}/token"
VOLUME = "/var/lib/anyscale-core-volume"
TOKEN_LIFETIME_S = 3600
ANY_IDENTITY = "*"
"""The key of ``service_accounts`` that stands for every identity that has no entry of its own."""

SUBJECT = re.compile(r"(?:^|#)system:serviceaccount:(?P<namespace>[^:]+):(?P<name>[^:]+)$")
"""A ServiceAccount as an issuer of tokens calls it; what is before a '#' says which issuer."""

DISRUPTIONS: Mapping[str, NoticeKind] = {
    # kubernetes.io/docs/concepts/workloads/pods/disruptions, "Pod disruption conditions"
    "PreemptionByScheduler": NoticeKind.PREEMPTION,
    "DeletionByTaintManager": NoticeKind.PREEMPTION,
    "TerminationByKubelet": NoticeKind.PREEMPTION,
    "EvictionByEvictionAPI": NoticeKind.MAINTENANCE,
    "DeletionByPodGC": NoticeKind.MAINTENANCE,
}
"""The reasons of the condition DisruptionTarget; one that is not here is a preemption."""


@attrs.frozen(kw_only=True)
class Order:
    """What all Pods of one create have in common."""

    token: Token
    fingerprint: str
    secret: str
    """The name of the Secret that the Pod's bootstrap is in, under the instance's name."""


def render(spec: InstanceSpec, type: InstanceType, order: Order, settings: Settings) -> dict[str, Any]:
    """Return the Pod of a spec, patches and advanced_instance_config applied. Raises InvalidRequest for what those may not do."""
    mark = marks(
        spec.owner, spec.name, slot=SLOT, token=order.token, fingerprint=order.fingerprint,
        tags=spec.tags, node=spec.node_id,
    )  # fmt: skip
    account = account_of(spec, settings)
    pod: dict[str, Any] = {
        "metadata": {
            "name": object_name(spec.owner, spec.name),
            "labels": {
                **(spec.bound_identity.binding.workload if spec.bound_identity else {}),
                **settings.pod_labels,
                **mark.labels,
                KIND_LABEL: spec.kind.value,
                **({NETWORK_LABEL: short_name(spec.owner, spec.network, "network")} if spec.network else {}),
                **({VOLUME_LABEL: claim_name(spec)} if spec.volume else {}),
            },
            "annotations": {**_lasting(spec, settings), **mark.annotations, **_selectable(spec, type)},
        },
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": account,
            # What the workload is, its projected token proves; the API server is none of its business.
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": _security(settings),
            "terminationGracePeriodSeconds": settings.grace_seconds,
            "containers": [_container(spec, type, settings)],
            "volumes": _volumes(spec, order),
            **_placement(spec, type, settings),
        },
    }
    if settings.image_pull_secrets:
        pod["spec"]["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return merged(patched(pod, settings.patches), spec.advanced_instance_config)


def account_of(spec: InstanceSpec, settings: Settings) -> str:
    """Return the ServiceAccount that a workload runs as: the settings', else the one that another cloud's identity is bound to,
    else the one that the identity driver made.

    Raises InvalidRequest for the operator's own, whose rights are not the workload's, and for an identity that is bound to none.
    """
    known, bound = settings.service_accounts, spec.bound_identity
    if spec.identity is None:
        account = "default"
    elif spec.identity in known or ANY_IDENTITY in known:
        account = known.get(spec.identity) or known[ANY_IDENTITY]
    elif bound is not None:
        account = _bound_account(spec, bound, settings.namespace)
    else:
        account = short_name(spec.owner, spec.identity, "identity")
    if account == settings.operator_service_account:
        raise InvalidRequest(
            f"{spec.name} would run as the operator's own account {account}", reason="FIELD", resource=spec.name,
            hint="give workloads a ServiceAccount of their own in the setting service_accounts",
        )  # fmt: skip
    return account


def bound_accounts(subjects: Iterable[str], namespace: str) -> tuple[str, ...]:
    """Return the ServiceAccounts of a namespace among an identity's subjects, which other clouds may write a word before."""
    found = (SUBJECT.search(subject) for subject in subjects)
    return tuple(match["name"] for match in found if match is not None and match["namespace"] == namespace)


def claim_name(spec: InstanceSpec) -> str:
    """Return the name of the PersistentVolumeClaim of a spec's volume."""
    return short_name(spec.owner, spec.volume or "", "volume")


def parse(pod: Body, *, now: datetime, patience: timedelta, is_spent: bool = False) -> Instance:
    """Return the instance that a Pod of ours is. ``patience``: how long none may find a node for it.

    ``is_spent``: whether we deleted it; a Pod that ends otherwise is shown with a notice as long as it runs.
    """
    tags = tags_of(pod)
    metadata, status = pod["metadata"], pod.get("status") or {}
    state, reason, notice = _state(pod, now=now, patience=patience, is_spent=is_spent)
    labels = metadata.get("labels") or {}
    return Instance(
        id=instance_id(pod),
        name=tags[TAG_NAME],
        node_id=NodeId(tags[TAG_NODE]) if tags.get(TAG_NODE) else None,
        owner=owner_of(tags),
        instance_type=annotation(pod, INSTANCE_TYPE),
        state=state,
        market_type=MarketType(annotation(pod, MARKET_TYPE) or "ON_DEMAND"),
        # Create knows no zone that nobody asked for: one that is PENDING shows what create showed.
        zone=(labels.get(ZONE_LABEL) if state is InstanceState.RUNNING else "") or annotation(pod, ZONE),
        address=str(status.get("podIP") or ""),
        created_at=instant(metadata.get("creationTimestamp")),
        notice=notice,
        reason=reason,
        failure=_stockout(pod, reason) if state is InstanceState.STOPPED and _is_unplaced(pod) else None,
        tags=tags,
    )


def instance_id(pod: Body) -> InstanceId:
    """Return a Pod's id: its namespace, its name, and its uid, which no other life of the name has."""
    metadata = pod["metadata"]
    return InstanceId(f"{metadata['namespace']}/{metadata['name']}/{metadata['uid']}")


def is_going(pod: Body) -> bool:
    """Tell whether a Pod is being deleted, by whomever."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def disruption(pod: Body) -> Mapping[str, Any] | None:
    """Return the condition that says that the cluster takes the Pod away, where there is one."""
    condition = _condition(pod, "DisruptionTarget")
    return condition if condition is not None and condition.get("status") == "True" else None


def instant(text: str | None) -> datetime | None:
    """Return a Kubernetes timestamp, which is in UTC."""
    return datetime.fromisoformat(text) if text else None


def _bound_account(spec: InstanceSpec, bound: Identity, namespace: str) -> str:
    accounts = bound_accounts(bound.subjects, namespace)
    if not accounts:
        raise InvalidRequest(
            f"no ServiceAccount of the namespace {namespace} may become the identity {bound.name}", reason="FIELD",
            resource=spec.name, hint=f"give the cloud node_identity.subjects: [system:serviceaccount:{namespace}:NAME]",
        )  # fmt: skip
    return accounts[0]


def _state(
    pod: Body, *, now: datetime, patience: timedelta, is_spent: bool
) -> tuple[InstanceState, str, Notice | None]:
    status = pod.get("status") or {}
    phase, taken = status.get("phase", "Pending"), disruption(pod)
    if phase in ("Failed", "Succeeded"):
        return (InstanceState.DELETING if is_going(pod) else InstanceState.STOPPED), _why_ended(pod), None
    if is_going(pod) and (taken is None or is_spent):
        return InstanceState.DELETING, "", None
    notice = None if taken is None else _notice(pod, taken)
    if phase in ("Running", "Unknown"):  # Unknown: its node is silent, which is no proof that it does not run
        return InstanceState.RUNNING, "", notice
    if _is_unplaced(pod):
        scheduled = _condition(pod, "PodScheduled") or {}
        reason = f"Unschedulable: {scheduled.get('message', '')}"
        since = instant(scheduled.get("lastTransitionTime")) or instant(pod["metadata"].get("creationTimestamp"))
        waited = since is not None and now - since >= patience
        return (InstanceState.STOPPED if waited else InstanceState.PENDING), reason, notice
    return InstanceState.PENDING, _why_waiting(pod), notice


def _is_unplaced(pod: Body) -> bool:
    """Tell whether the scheduler finds no node for a Pod."""
    status = pod.get("status") or {}
    condition = _condition(pod, "PodScheduled") or {}
    is_refused = condition.get("status") == "False" and condition.get("reason") == "Unschedulable"
    return is_refused and status.get("phase", "Pending") == "Pending"


def _stockout(pod: Body, reason: str) -> CapacityUnavailable:
    return CapacityUnavailable(
        reason, reason="ZONE", scope=Scope.ZONE, resource=pod["metadata"]["name"],
        vendor=Vendor(provider="kubernetes", service="scheduler", code="Unschedulable"),
        hint="add nodes that the instance type fits on, or name another type",
    )  # fmt: skip


def _notice(pod: Body, taken: Mapping[str, Any]) -> Notice:
    ends = instant(pod["metadata"].get("deletionTimestamp"))
    return Notice(kind=DISRUPTIONS.get(str(taken.get("reason")), NoticeKind.PREEMPTION), at=ends)


def _why_ended(pod: Body) -> str:
    status = pod.get("status") or {}
    told = [str(status.get(key)) for key in ("reason", "message") if status.get(key)]
    for container in status.get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended:
            told.append(f"{container.get('name')} {ended.get('reason', 'ended')} with {ended.get('exitCode')}")
    return ": ".join(told) or f"the Pod has {str(status.get('phase', 'ended')).lower()}"


def _why_waiting(pod: Body) -> str:
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in ("ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def _condition(pod: Body, type: str) -> Mapping[str, Any] | None:
    conditions: Sequence[Mapping[str, Any]] = (pod.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == type), None)


def _selectable(spec: InstanceSpec, type: InstanceType) -> dict[str, str]:
    """Return the annotations that the selectors of patches go by."""
    told = {
        NODE_TYPE: spec.kind.value,
        INSTANCE_TYPE: spec.instance_type,
        MARKET_TYPE: spec.market_type.value,
        ZONE: spec.zones[0] if len(spec.zones) == 1 else "",
        ACCELERATOR_TYPE: type.accelerator,
        IDENTITY: spec.identity or "",
    }
    return {key: value for key, value in told.items() if value}


def _lasting(spec: InstanceSpec, settings: Settings) -> Mapping[str, str]:
    return {} if spec.market_type is MarketType.SPOT else FLAVORS[settings.flavor].lasting


def _container(spec: InstanceSpec, type: InstanceType, settings: Settings) -> dict[str, Any]:
    blanks = {
        "{bootstrap}": BOOTSTRAP_FILE, "{home}": ROOT, "{name}": spec.name, "{address}": "$(POD_IP)",
        "{volume}": VOLUME if spec.volume else "",
    }  # fmt: skip
    words = list(settings.command or (settings.python, *NODE_AGENT))
    for blank, value in blanks.items():
        words = [word.replace(blank, value) for word in words]
    resources = type.pod_resources()
    mounts = [
        {"name": "bootstrap", "mountPath": BOOTSTRAP, "readOnly": True},
        {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
        {"name": "home", "mountPath": ROOT},
        {"name": "shm", "mountPath": "/dev/shm"},
        *([{"name": "volume", "mountPath": VOLUME}] if spec.volume else []),
    ]
    return {
        "name": "ray",
        "image": spec.image_uri or settings.image,
        "command": words[:1],
        "args": words[1:],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "ANYSCALE_CORE_INSTANCE", "value": spec.name},
            {"name": TOKEN_VARIABLE, "value": TOKEN_FILE},
        ],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }


def _security(settings: Settings) -> dict[str, Any]:
    """Return what the Pod Security Standard "restricted" asks of a Pod; of the user only where the settings name one.

    Source: kubernetes.io/docs/concepts/security/pod-security-standards.
    """
    user = settings.run_as_user
    # A volume's disk is root's own until the kubelet gives it to a group.
    named = {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user} if user else {}
    return {"seccompProfile": {"type": "RuntimeDefault"}, **named}


def _volumes(spec: InstanceSpec, order: Order) -> list[dict[str, Any]]:
    token = {"audience": PROOF_AUDIENCE, "expirationSeconds": TOKEN_LIFETIME_S, "path": "token"}
    return [
        {
            "name": "bootstrap",
            "secret": {"secretName": order.secret, "items": [{"key": spec.name, "path": "bootstrap.json"}]},
        },
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "home", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *([{"name": "volume", "persistentVolumeClaim": {"claimName": claim_name(spec)}}] if spec.volume else []),
    ]


def _placement(spec: InstanceSpec, type: InstanceType, settings: Settings) -> dict[str, Any]:
    """Return where the Pod may run: node labels of the market, the accelerator and the zone, and the taints it bears."""
    flavor = FLAVORS[settings.flavor]
    market = MarketType.SPOT if spec.market_type is MarketType.SPOT else MarketType.ON_DEMAND
    wanted = dict(type.node_selector) | dict(flavor.markets[market])
    tolerations: list[dict[str, Any]] = [dict(toleration) for toleration in type.tolerations]
    if market is MarketType.SPOT:
        for taint in (CAPACITY_TAINT, *flavor.spot_taints):
            tolerations.append({"key": taint, "operator": "Exists", "effect": "NoSchedule"})
    if type.resources.GPU:
        for taint in (type.gpu_resource, ACCELERATOR_TAINT):
            tolerations.append({"key": taint, "operator": "Exists", "effect": "NoSchedule"})
    if type.accelerator:
        wanted.setdefault(flavor.accelerator, type.accelerator)
    if type.cpu_architecture:
        wanted.setdefault("kubernetes.io/arch", type.cpu_architecture)
    if len(spec.zones) == 1:
        wanted[ZONE_LABEL] = spec.zones[0]
    out: dict[str, Any] = {"nodeSelector": wanted} if wanted else {}
    if tolerations:
        out["tolerations"] = tolerations
    return out | ({"affinity": {"nodeAffinity": _affinity(spec.zones)}} if len(spec.zones) > 1 else {})


def _affinity(zones: Sequence[str]) -> dict[str, Any]:
    """Return the affinity for several zones: nowhere else, and the first ones first."""

    def among(*values: str) -> dict[str, Any]:
        return {"matchExpressions": [{"key": ZONE_LABEL, "operator": "In", "values": list(values)}]}

    return {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [among(*zones)]},
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": max(1, 100 - place * 10), "preference": among(zone)} for place, zone in enumerate(zones)
        ],
    }
