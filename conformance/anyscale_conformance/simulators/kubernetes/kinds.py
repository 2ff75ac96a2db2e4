"""The kinds of objects that the simulated API server keeps, and the paths they are at."""

import enum
from collections.abc import Iterable

import attrs

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
REVIEW_VERBS = ("create",)
GATEWAY_GROUP = "gateway.networking.k8s.io"


class Scope(enum.Enum):
    """Where objects of a kind live."""

    NAMESPACED = "Namespaced"
    CLUSTER = "Cluster"


@attrs.frozen(kw_only=True, eq=False)
class Kind:
    """One kind. ``model``: its class in the ``kubernetes`` client, where its schema is from (empty: an own schema)."""

    group: str
    version: str
    plural: str
    kind: str
    model: str
    scope: Scope = Scope.NAMESPACED
    subresources: tuple[str, ...] = ()
    short_names: tuple[str, ...] = ()
    verbs: tuple[str, ...] = VERBS

    @property
    def is_namespaced(self) -> bool:
        """Whether its objects are in namespaces."""
        return self.scope is Scope.NAMESPACED

    @property
    def api_version(self) -> str:
        """The words of an object's ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def has_status(self) -> bool:
        """Whether its status is written through a subresource of its own."""
        return "status" in self.subresources

    @property
    def is_review(self) -> bool:
        """Whether it is asked and answered, and never kept."""
        return self.verbs == REVIEW_VERBS

    @property
    def head(self) -> bytes:
        """How an object of it begins as JSON."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'.encode()

    @property
    def qualified(self) -> str:
        """The resource with its group, as rules and messages say it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _kind(
    group_version: str,
    plural: str,
    kind: str,
    *subresources: str,
    model: str | None = None,
    scope: Scope = Scope.NAMESPACED,
    short: str = "",
    verbs: tuple[str, ...] = VERBS,
) -> Kind:
    group, _, version = group_version.rpartition("/")
    return Kind(
        group=group, version=version, plural=plural, kind=kind, model=f"V1{kind}" if model is None else model,
        scope=scope, subresources=subresources, short_names=tuple(short.split()), verbs=verbs,
    )  # fmt: skip


KINDS: tuple[Kind, ...] = (
    _kind("v1", "namespaces", "Namespace", "status", "finalize", scope=Scope.CLUSTER, short="ns"),
    _kind("v1", "nodes", "Node", "status", scope=Scope.CLUSTER, short="no"),
    _kind("v1", "persistentvolumes", "PersistentVolume", "status", scope=Scope.CLUSTER, short="pv"),
    _kind("v1", "pods", "Pod", "status", "log", "eviction", "binding", short="po"),
    _kind("v1", "services", "Service", "status", short="svc"),
    _kind("v1", "endpoints", "Endpoints", short="ep"),
    _kind("v1", "secrets", "Secret"),
    _kind("v1", "configmaps", "ConfigMap", short="cm"),
    _kind("v1", "serviceaccounts", "ServiceAccount", "token", short="sa"),
    _kind("v1", "events", "Event", model="CoreV1Event", short="ev"),
    _kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim", "status", short="pvc"),
    _kind("v1", "resourcequotas", "ResourceQuota", "status", short="quota"),
    _kind("v1", "limitranges", "LimitRange", short="limits"),
    _kind("apps/v1", "deployments", "Deployment", "status", "scale", short="deploy"),
    _kind("apps/v1", "replicasets", "ReplicaSet", "status", "scale", short="rs"),
    _kind("networking.k8s.io/v1", "ingresses", "Ingress", "status", short="ing"),
    _kind("networking.k8s.io/v1", "ingressclasses", "IngressClass", scope=Scope.CLUSTER),
    _kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", short="netpol"),
    _kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "status", short="pdb"),
    _kind("rbac.authorization.k8s.io/v1", "roles", "Role"),
    _kind("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    _kind("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", scope=Scope.CLUSTER),
    _kind("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", scope=Scope.CLUSTER),
    _kind("coordination.k8s.io/v1", "leases", "Lease"),
    _kind("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    _kind("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", scope=Scope.CLUSTER, short="pc"),
    _kind("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", scope=Scope.CLUSTER),
    _kind("storage.k8s.io/v1", "storageclasses", "StorageClass", scope=Scope.CLUSTER, short="sc"),
    _kind(f"{GATEWAY_GROUP}/v1", "gatewayclasses", "GatewayClass", "status", model="", scope=Scope.CLUSTER, short="gc"),
    _kind(f"{GATEWAY_GROUP}/v1", "gateways", "Gateway", "status", model="", short="gtw"),
    _kind(f"{GATEWAY_GROUP}/v1", "httproutes", "HTTPRoute", "status", model=""),
    _kind("authentication.k8s.io/v1", "tokenreviews", "TokenReview", scope=Scope.CLUSTER, verbs=REVIEW_VERBS),
    _kind("authentication.k8s.io/v1", "selfsubjectreviews", "SelfSubjectReview", scope=Scope.CLUSTER, verbs=REVIEW_VERBS),
    _kind("authorization.k8s.io/v1", "subjectaccessreviews", "SubjectAccessReview", scope=Scope.CLUSTER, verbs=REVIEW_VERBS),
    _kind(
        "authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
        scope=Scope.CLUSTER, verbs=REVIEW_VERBS,
    ),
    _kind(
        "authorization.k8s.io/v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview",
        scope=Scope.CLUSTER, verbs=REVIEW_VERBS,
    ),
    _kind("authorization.k8s.io/v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", verbs=REVIEW_VERBS),
)  # fmt: skip


class Catalogue:
    """The kinds that one API server serves, found by path and by the words in an object."""

    def __init__(self, kinds: Iterable[Kind] = KINDS) -> None:
        self.kinds = tuple(kinds)
        self._by_path = {(kind.group, kind.version, kind.plural): kind for kind in self.kinds}
        self._by_plural = {(kind.plural, kind.group): kind for kind in self.kinds}
        self._by_words = {(kind.api_version, kind.kind): kind for kind in self.kinds}

    def at(self, group: str, version: str, plural: str) -> Kind | None:
        """Return the kind at a path, or None."""
        return self._by_path.get((group, version, plural))

    def of(self, api_version: str, kind: str) -> Kind | None:
        """Return the kind of an ``apiVersion`` and a ``kind``, or None."""
        return self._by_words.get((api_version, kind))

    def plural(self, plural: str, group: str = "") -> Kind:
        """Return the kind of a resource that is surely served. Raises KeyError."""
        return self._by_plural[plural, group]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The versions of each group, in the order of the kinds; the core group is the empty word."""
        found: dict[str, list[str]] = {}
        for kind in self.kinds:
            versions = found.setdefault(kind.group, [])
            if kind.version not in versions:
                versions.append(kind.version)
        return found


WITH_GATEWAYS = Catalogue()
WITHOUT_GATEWAYS = Catalogue(kind for kind in KINDS if kind.group != GATEWAY_GROUP)
