"""Everything that an operator on Kubernetes needs, as objects: a pure function of what is known of it.

The Helm chart in ``deploy`` has the same content. There are no CustomResourceDefinitions: the state is the control plane's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from anyscale_core.errors import Fault, SpecError
from anyscale_core.models import wire
from anyscale_core.models.manifest import ManifestConfig
from anyscale_core.models.order import OPERATOR_AUDIENCE
from anyscale_kubernetes import kinds
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.kinds import Kind
from anyscale_kubernetes.permissions import NEEDS, WHOLE_CLUSTER, needs_of, resource_of
from anyscale_kubernetes.pods import ANY_IDENTITY, TOKEN_FOLDER, bound_accounts
from anyscale_kubernetes.tags import KIND_LABEL

PROVIDER = "kubernetes"
OF_MACHINES = ("identity.prove", "identity.verify")
"""What the provider does for its Pods whoever makes the identities that they run as."""
NAME = "anyscale-operator"
CONFIG = "/etc/anyscale-core"
HOME = "/var/lib/anyscale-core"
USER = 65532
"""The user that the operator runs as: any but root."""
LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "anyscale-core"}
POLICY = Kind(kind="PodDisruptionBudget", plural="poddisruptionbudgets", group_version="policy/v1")
RBAC = "rbac.authorization.k8s.io/v1"
MORE_THAN_ALL = 1_000_000
"""More heads than any cluster has."""

Object = dict[str, Any]


def manifest(config: ManifestConfig) -> list[Object]:
    """Return the objects of an operator's installation, in the order in which they are to be applied.

    Raises SpecError for settings of the provider that have faults, and for an identity that is bound to no account there.
    """
    raw = {**config.settings.get("kubernetes", {}), "namespace": config.namespace}
    settings = wire.structure(raw, Settings, subject="settings of provider kubernetes")
    known = {**config.settings, "kubernetes": raw}
    return [
        _account(config),
        *_workload_accounts(config, settings),
        *_rights(config, settings),
        _files(config, known),
        *_secrets(config),
        _deployment(config),
        _budget(config),
        _closed(config),
    ]


def rules_of(settings: Settings, slots: Mapping[str, str] | None = None) -> dict[str, list[Object]]:
    """Return the least RBAC rules for everything that the drivers do with these settings, by where they are needed.

    That is a namespace, or ``WHOLE_CLUSTER``. ``slots``: who fills each; nobody else unless it says so.
    """
    features = tuple(_features(settings, slots or {}))
    places = {resource_of(kind, settings) for feature in features for _, kind, _ in needs_of(feature, settings)}
    return {place: _rules_in(place, features, settings) for place in sorted(places)}


def _rules_in(place: str, features: Sequence[str], settings: Settings) -> list[Object]:
    verbs: dict[tuple[str, str, str], set[str]] = {}
    for feature in features:
        for told, kind, _ in needs_of(feature, settings):
            if resource_of(kind, settings) == place:
                verbs.setdefault((kind.group, kind.plural, _only(told, kind, settings)), set()).update(told.split(","))
    return [
        {
            "apiGroups": [group], "resources": [resource], "verbs": sorted(words),
            **({"resourceNames": [only]} if only else {}),
        }
        for (group, resource, only), words in sorted(verbs.items())
    ]  # fmt: skip


def _features(settings: Settings, slots: Mapping[str, str]) -> Iterator[str]:
    for feature in NEEDS:
        slot = feature.partition(".")[0]
        is_ours = slots.get(slot, PROVIDER) == PROVIDER or feature in OF_MACHINES
        if is_ours and (slot != "storage" or settings.store is not None):
            yield feature


def _only(verbs: str, kind: Kind, settings: Settings) -> str:
    """Return the one object that a right is for: of Secrets, the operator reads the store's keys and nothing else."""
    return settings.store.secret if verbs == "get" and kind is kinds.SECRET and settings.store else ""


def _account(config: ManifestConfig) -> Object:
    metadata = _metadata(config)
    if config.binding.account:
        metadata["annotations"] = dict(config.binding.account)
    return {**kinds.SERVICE_ACCOUNT.head(), "metadata": metadata}


def _workload_accounts(config: ManifestConfig, settings: Settings) -> Iterator[Object]:
    """Yield the accounts, bound to another cloud's identity, that workloads run as; they get no token of the API server.

    Accounts that the settings name are the customer's own.
    """
    faults = []
    for identity in config.node_identities:
        if {identity.name, ANY_IDENTITY} & set(settings.service_accounts):
            continue
        names = [name for name in bound_accounts(identity.subjects, config.namespace) if name != NAME]
        for name in names:
            metadata = {**_metadata(config), "name": name, "annotations": dict(identity.binding.account)}
            yield {**kinds.SERVICE_ACCOUNT.head(), "metadata": metadata, "automountServiceAccountToken": False}
        if not names:
            where = f"no ServiceAccount of workloads in the namespace {config.namespace} may become it"
            hint = f"give --namespace, or subjects: [system:serviceaccount:{config.namespace}:NAME] to the cloud"
            faults.append(Fault(path=f"identity {identity.name}", message=f"{where}; {hint}"))
    if faults:
        raise SpecError(faults, subject=f"cloud {config.cloud!r}")


def _rights(config: ManifestConfig, settings: Settings) -> Iterator[Object]:
    rules = rules_of(settings, config.slots)
    # What is in no namespace: tokens are reviewed, and IngressClasses looked at, for the cluster as a whole.
    whole = rules.pop(WHOLE_CLUSTER)
    own = rules.pop(config.namespace)
    name = f"{NAME}-{config.namespace}"
    yield from _bound("Role", _metadata(config), own, config)
    yield from _bound("ClusterRole", {"name": name, "labels": LABELS}, whole, config)
    for namespace, others in rules.items():  # the Gateway may be in a namespace of its own
        yield from _bound("Role", {"name": name, "namespace": namespace, "labels": LABELS}, others, config)


def _bound(kind: str, metadata: Object, rules: list[Object], config: ManifestConfig) -> Iterator[Object]:
    """Yield a role, and what binds it to the operator's account."""
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": config.namespace}
    role = {"apiGroup": RBAC.partition("/")[0], "kind": kind, "name": metadata["name"]}
    yield {"apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": rules}
    yield {
        "apiVersion": RBAC, "kind": f"{kind}Binding", "metadata": metadata, "roleRef": role, "subjects": [subject],
    }  # fmt: skip


def _files(config: ManifestConfig, settings: Mapping[str, Any]) -> Object:
    data = {"ca.pem": config.ca_pem, "settings.yaml": yaml.safe_dump(wire.unstructure(dict(settings)), sort_keys=True)}
    return {**kinds.CONFIG_MAP.head(), "metadata": _metadata(config), "data": data}


def _secrets(config: ManifestConfig) -> Iterator[Object]:
    if config.token is not None:
        data = {"token": config.token.reveal()}
        yield {**kinds.SECRET.head(), "metadata": _metadata(config), "type": "Opaque", "stringData": data}


def _deployment(config: ManifestConfig) -> Object:
    pod = {
        "serviceAccountName": NAME,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(config)],
        "volumes": list(_volumes(config)),
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(config),
        "spec": {
            "replicas": config.replicas,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": {**config.binding.workload, **LABELS}}, "spec": pod},
        },
    }


def _container(config: ManifestConfig) -> Object:
    proof = ("--identity", config.identity) if config.token is None else ("--token-file", f"{CONFIG}/secret/token")
    probes = {
        f"{name}Probe": {"httpGet": {"path": path, "port": "health"}, "periodSeconds": seconds}
        for name, path, seconds in (("liveness", "/healthz", 10), ("readiness", "/readyz", 5))
    }
    mounts = [
        {"name": "config", "mountPath": f"{CONFIG}/config", "readOnly": True},
        {"name": "home", "mountPath": HOME},
        {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
        *([{"name": "secret", "mountPath": f"{CONFIG}/secret", "readOnly": True}] if config.token is not None else []),
    ]
    return {
        "name": "operator",
        "image": config.image,
        "command": ["anyscale-core", "operator", "run"],
        "args": [
            *("--url", config.url, "--ca", f"{CONFIG}/config/ca.pem", "--cloud", config.cloud, "--home", HOME),
            *(*proof, "--settings", f"{CONFIG}/config/settings.yaml", "--health-port", str(config.health_port)),
        ],
        "env": [{"name": "TMPDIR", "value": HOME}],
        "ports": [{"name": "health", "containerPort": config.health_port}],
        **probes,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }  # fmt: skip


def _volumes(config: ManifestConfig) -> Iterable[Object]:
    yield {"name": "config", "configMap": {"name": NAME}}
    yield {"name": "home", "emptyDir": {}}
    token = {"audience": OPERATOR_AUDIENCE, "expirationSeconds": 3600, "path": "token"}
    yield {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}}
    if config.token is not None:
        yield {"name": "secret", "secret": {"secretName": NAME}}


def _budget(config: ManifestConfig) -> Object:
    """Return what keeps drains of nodes off the heads: nothing of a cluster survives its head unharmed.

    Heads are Pods without a controller, of which a budget can only say how many are to be there, as a plain number.
    Source: kubernetes.io/docs/tasks/run-application/configure-pdb, "Arbitrary workloads and arbitrary selectors".
    """
    spec = {
        "minAvailable": MORE_THAN_ALL, "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": {KIND_LABEL: "head"}},
    }  # fmt: skip
    return {**POLICY.head(), "metadata": _metadata(config, "heads"), "spec": spec}


def _closed(config: ManifestConfig) -> Object:
    """Return the policy that lets nobody in to the operator but the kubelet, whose probes no policy stops."""
    spec = {"podSelector": {"matchLabels": LABELS}, "policyTypes": ["Ingress"], "ingress": []}
    return {**kinds.NETWORK_POLICY.head(), "metadata": _metadata(config), "spec": spec}


def _metadata(config: ManifestConfig, suffix: str = "") -> Object:
    name = f"{NAME}-{suffix}" if suffix else NAME
    return {"name": name, "namespace": config.namespace, "labels": LABELS}
