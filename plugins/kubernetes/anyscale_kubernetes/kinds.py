"""The kinds of objects that this provider reads and writes, and where they are."""

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Kind:
    """One kind: ``group_version`` as in ``apiVersion``. A cluster-wide one has no namespace in its path."""

    kind: str
    plural: str
    group_version: str = "v1"
    is_namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core one. What RBAC rules name."""
        return self.group_version.rpartition("/")[0]

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Return the path of the collection, or of the object of that name."""
        root = f"/apis/{self.group_version}" if self.group else f"/api/{self.group_version}"
        parts = (root, *(("namespaces", namespace) if self.is_namespaced else ()), self.plural, name, subresource)
        return "/".join(part for part in parts if part)

    def head(self) -> dict[str, Any]:
        """Return the two fields that every object of the kind begins with."""
        return {"apiVersion": self.group_version, "kind": self.kind}


GATEWAY_API = "gateway.networking.k8s.io/v1"

NAMESPACE = Kind(kind="Namespace", plural="namespaces", is_namespaced=False)
NODE = Kind(kind="Node", plural="nodes", is_namespaced=False)
POD = Kind(kind="Pod", plural="pods")
SECRET = Kind(kind="Secret", plural="secrets")
CONFIG_MAP = Kind(kind="ConfigMap", plural="configmaps")
EVENT = Kind(kind="Event", plural="events")
SERVICE_ACCOUNT = Kind(kind="ServiceAccount", plural="serviceaccounts")
SERVICE = Kind(kind="Service", plural="services")
VOLUME_CLAIM = Kind(kind="PersistentVolumeClaim", plural="persistentvolumeclaims")
RESOURCE_QUOTA = Kind(kind="ResourceQuota", plural="resourcequotas")
ENDPOINT_SLICE = Kind(kind="EndpointSlice", plural="endpointslices", group_version="discovery.k8s.io/v1")
NETWORK_POLICY = Kind(kind="NetworkPolicy", plural="networkpolicies", group_version="networking.k8s.io/v1")
INGRESS = Kind(kind="Ingress", plural="ingresses", group_version="networking.k8s.io/v1")
INGRESS_CLASS = Kind(
    kind="IngressClass", plural="ingressclasses", group_version="networking.k8s.io/v1", is_namespaced=False
)
GATEWAY = Kind(kind="Gateway", plural="gateways", group_version=GATEWAY_API)
HTTP_ROUTE = Kind(kind="HTTPRoute", plural="httproutes", group_version=GATEWAY_API)
TOKEN_REVIEW = Kind(
    kind="TokenReview", plural="tokenreviews", group_version="authentication.k8s.io/v1", is_namespaced=False
)
