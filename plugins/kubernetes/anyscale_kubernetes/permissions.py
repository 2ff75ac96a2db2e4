"""The least that the cluster must allow: RBAC rules by feature, without a wildcard. Pure."""

from collections.abc import Iterable, Mapping

from anyscale_core.models.identity import Permission
from anyscale_kubernetes import kinds
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.kinds import Kind

WHOLE_CLUSTER = ""
"""Where a right is needed for what is in no namespace."""
APPLY = "create,patch"
"""Server-side apply of what is not there yet takes both."""

Need = tuple[str, Kind, str]
"""Verbs, of what, and why. A resource with a subresource is written ``serviceaccounts/token``."""

_SPEND: Need = (APPLY, kinds.EVENT, "which tokens are spent")
_SPENT: Need = ("list", kinds.EVENT, "what was deleted of what the token has made")
_RECORD = "the record of the thing, and what it was asked for by"

NEEDS: Mapping[str, tuple[Need, ...]] = {
    "cluster.create": (
        (APPLY, kinds.POD, "an instance is a Pod"),
        ("get", kinds.POD, "who has a name that is taken"),
        ("list", kinds.POD, "what the token has made before"),
        (APPLY, kinds.SECRET, "the bootstraps of the instances; they are never read"),
        _SPENT,
    ),
    "cluster.get": (("get", kinds.POD, "the Pod of the instance"),),
    "cluster.list": (("list", kinds.POD, "the Pods of the instances"),),
    "cluster.delete": (
        ("get", kinds.POD, "whose the Pod is"),
        _SPEND,
        ("delete", kinds.POD, "an instance is a Pod"),
    ),
    "cluster.delete_volume": (
        (APPLY, kinds.VOLUME_CLAIM, "a volume is made with the first instance that names it"),
        ("get", kinds.VOLUME_CLAIM, "whose the volume is"),
        ("list", kinds.POD, "who has the volume"),
        ("delete", kinds.VOLUME_CLAIM, "a volume is a PersistentVolumeClaim"),
    ),
    "cluster.quotas": (("list", kinds.RESOURCE_QUOTA, "the limits of the namespace"),),
    "identity.create": (
        _SPENT,
        (APPLY, kinds.SERVICE_ACCOUNT, "an identity is a ServiceAccount"),
        ("get", kinds.SERVICE_ACCOUNT, "that what is adopted is there, and who has a name that is taken"),
        ("list", kinds.SERVICE_ACCOUNT, "what the token has made before"),
        (APPLY, kinds.CONFIG_MAP, "the record of an identity that was adopted"),
        ("get", kinds.CONFIG_MAP, _RECORD),
        ("list", kinds.CONFIG_MAP, _RECORD),
    ),
    "identity.get": (
        ("get", kinds.SERVICE_ACCOUNT, "the identity's ServiceAccount"),
        ("get", kinds.CONFIG_MAP, "the record of an identity that was adopted"),
    ),
    "identity.list": (
        ("list", kinds.SERVICE_ACCOUNT, "the identities' ServiceAccounts"),
        ("list", kinds.CONFIG_MAP, "the records of identities that were adopted"),
    ),
    "identity.delete": (
        _SPEND,
        ("delete", kinds.SERVICE_ACCOUNT, "an identity is a ServiceAccount"),
        ("list", kinds.CONFIG_MAP, "the grants of the identity, which go first"),
        ("delete", kinds.CONFIG_MAP, "the grants of the identity, and its record"),
    ),
    "identity.credentials": (("create", kinds.Kind(kind="", plural="serviceaccounts/token"), "short-lived tokens"),),
    "identity.verify": (
        ("create", kinds.TOKEN_REVIEW, "the API server knows its tokens"),
        ("get", kinds.POD, "that the Pod of a proof is one of this cloud, and lives"),
    ),
    "storage.create": (
        _SPENT,
        (APPLY, kinds.CONFIG_MAP, "the record of the bucket"),
        ("get", kinds.CONFIG_MAP, _RECORD),
        ("list", kinds.CONFIG_MAP, _RECORD),
        ("get", kinds.SECRET, "the one Secret with the keys of the store"),
    ),
    "storage.get": (("get", kinds.CONFIG_MAP, "the record of the bucket"),),
    "storage.list": (("list", kinds.CONFIG_MAP, "the records of the buckets"),),
    "storage.delete": (
        _SPEND,
        ("delete", kinds.CONFIG_MAP, "the record of the bucket, and its grants"),
        ("get", kinds.SECRET, "the one Secret with the keys of the store"),
    ),
    "storage.grant": (
        _SPENT,
        (APPLY, kinds.CONFIG_MAP, "the record of the grant"),
        ("get", kinds.CONFIG_MAP, "the bucket and the grant"),
        ("list", kinds.CONFIG_MAP, "what the token has made before"),
        ("get", kinds.SECRET, "the one Secret with the keys of the store"),
    ),
    "storage.revoke": (
        _SPEND,
        ("get", kinds.CONFIG_MAP, "the grant"),
        ("delete", kinds.CONFIG_MAP, "the record of the grant"),
    ),
    "storage.objects": (
        ("get", kinds.CONFIG_MAP, "the record of the bucket"),
        ("get", kinds.SECRET, "the one Secret with the keys of the store"),
    ),
    "storage.signed_url": (
        ("get", kinds.CONFIG_MAP, "the record of the bucket"),
        ("get", kinds.SECRET, "the one Secret with the keys of the store"),
    ),
    "networking.create": (
        _SPENT,
        (APPLY, kinds.CONFIG_MAP, "the record of the network"),
        ("get", kinds.CONFIG_MAP, _RECORD),
        ("list", kinds.CONFIG_MAP, _RECORD),
        (APPLY, kinds.NETWORK_POLICY, "a network is a NetworkPolicy"),
    ),
    "networking.get": (
        ("get", kinds.CONFIG_MAP, "the record of the network"),
        ("list", kinds.CONFIG_MAP, "the records of its endpoints"),
    ),
    "networking.list": (("list", kinds.CONFIG_MAP, "the records of networks and endpoints"),),
    "networking.delete": (
        _SPEND,
        ("list", kinds.CONFIG_MAP, "the endpoints in the network"),
        ("list", kinds.POD, "the instances in the network"),
        ("delete", kinds.CONFIG_MAP, "the record of the network, with which its policy goes"),
    ),
    "networking.expose": (
        _SPENT,
        (APPLY, kinds.CONFIG_MAP, "the record of the endpoint"),
        (APPLY, kinds.SERVICE, "the address of the endpoint"),
        (APPLY, kinds.ENDPOINT_SLICE, "where the endpoint leads to"),
        (APPLY, kinds.NETWORK_POLICY, "who may come in"),
    ),
    "networking.withdraw": (
        _SPEND,
        ("delete", kinds.CONFIG_MAP, "the record of the endpoint, with which all of it goes"),
    ),
    "networking.check": (("get", kinds.NETWORK_POLICY, "that the policy of the network is there"),),
}  # fmt: skip
"""Feature -> what it needs, apart from what the setting ``route`` adds."""

ROUTES: Mapping[str, Mapping[str, tuple[Need, ...]]] = {
    "service": {},
    "loadbalancer": {
        "networking.get": (("get", kinds.SERVICE, "the address that the load balancer has"),),
        "networking.list": (("list", kinds.SERVICE, "the addresses that load balancers have"),),
    },
    "httproute": {
        "networking.expose": (
            (APPLY, kinds.HTTP_ROUTE, "the way from the Gateway to the endpoint"),
            ("get", kinds.GATEWAY, "that there is a Gateway at all"),
        ),
        "networking.get": (("list", kinds.HTTP_ROUTE, "whether the Gateway took the route"),),
        "networking.list": (("list", kinds.HTTP_ROUTE, "whether the Gateway took the routes"),),
        "networking.check": (("get", kinds.GATEWAY, "the state of the Gateway"),),
    },
    "ingress": {
        "networking.expose": (
            (APPLY, kinds.INGRESS, "the way from the controller to the endpoint"),
            ("get", kinds.INGRESS_CLASS, "that somebody serves the Ingress"),
        ),
        "networking.get": (("list", kinds.INGRESS, "whether the controller took the Ingress"),),
        "networking.list": (("list", kinds.INGRESS, "whether the controller took the Ingresses"),),
        "networking.check": (("get", kinds.INGRESS_CLASS, "that somebody serves Ingresses"),),
    },
}
"""What each way in needs beside that."""


def needs_of(feature: str, settings: Settings) -> tuple[Need, ...]:
    """Return what a feature needs with these settings."""
    needs = NEEDS.get(feature, ()) + ROUTES[settings.route].get(feature, ())
    if feature in ("cluster.create", "cluster.offerings") and settings.instance_types_config_map:
        needs += (("get", kinds.CONFIG_MAP, "the catalogue of instance types"),)
    if feature == "cluster.list" and settings.sight == "watch":
        needs += (("watch", kinds.POD, "changes of the Pods, as they come"),)
    return needs


def permissions_for(features: Iterable[str], settings: Settings) -> tuple[Permission, ...]:
    """Return what these features need, each once; a feature that the provider has not got needs nothing."""
    return tuple(
        Permission(
            action=f"{verbs} {kind.plural}{f'.{kind.group}' if kind.group else ''}",
            resource=f"namespace {place}" if (place := resource_of(kind, settings)) else "cluster",
            feature=feature, reason=reason,
        )
        for feature in dict.fromkeys(features)
        for verbs, kind, reason in needs_of(feature, settings)
    )  # fmt: skip


def resource_of(kind: Kind, settings: Settings) -> str:
    """Return where a right is needed: in which namespace, or in ``WHOLE_CLUSTER``."""
    if not kind.is_namespaced:
        return WHOLE_CLUSTER
    if kind is kinds.GATEWAY and settings.gateway is not None and settings.gateway.namespace:
        return settings.gateway.namespace
    return settings.namespace
