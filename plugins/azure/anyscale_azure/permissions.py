"""The least that the control plane must be allowed on Azure: pure, offline, and as a custom role to be made."""

from collections.abc import Iterable
from typing import Any

from anyscale_azure.config import Settings
from anyscale_core.errors import InvalidRequest
from anyscale_core.models.identity import Permission

_VM = "Microsoft.Compute/virtualMachines"
_NET = "Microsoft.Network"
_UAI = "Microsoft.ManagedIdentity/userAssignedIdentities"
_ROLE = "Microsoft.Authorization/roleAssignments"
_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers"
_ACCOUNT = "Microsoft.Storage/storageAccounts"
_SUB, _GROUP = "subscription", "group"
Need = tuple[str, str, str]

_FIND_NETWORK: Need = (f"{_NET}/networkSecurityGroups/read", _GROUP, "the network's record")
_FIND_PERSON: Need = (f"{_UAI}/read", _SUB, "identities, adopted ones among them")
_SEE_VMS: tuple[Need, ...] = (
    (f"{_VM}/read", _SUB, "machines, their tags and their power"),
    (f"{_NET}/networkInterfaces/read", _GROUP, "their addresses"),
)
_SEE_DISK: Need = ("Microsoft.Compute/disks/read", _GROUP, "what is left of a machine that is gone")
_FIND_BUCKET: tuple[Need, ...] = ((f"{_BLOBS}/read", _GROUP, "containers and their metadata"),)
_KEEP: tuple[Need, ...] = (
    (f"{_ACCOUNT}/managementPolicies/read", _GROUP, "when objects expire"),
    (f"{_ACCOUNT}/managementPolicies/write", _GROUP, "when objects expire"),
    (f"{_ACCOUNT}/blobServices/read", _GROUP, "which web pages may use signed URLs"),
    (f"{_ACCOUNT}/blobServices/write", _GROUP, "which web pages may use signed URLs"),
)
_SIGN: Need = (
    "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action", _GROUP, "the key that signs",
)  # fmt: skip

_SEE_WAYS: tuple[Need, ...] = (
    _FIND_NETWORK,
    (f"{_NET}/loadBalancers/read", _GROUP, "ways in"),
    (f"{_NET}/publicIPAddresses/read", _GROUP, "their addresses"),
)

# feature -> (action, on what, why)
NEEDS: dict[str, tuple[Need, ...]] = {
    "cluster.create": (
        *_SEE_VMS,
        (f"{_VM}/write", _GROUP, "a machine with all that comes along"),
        (f"{_NET}/networkInterfaces/join/action", _GROUP, "its interface"),
        (f"{_NET}/networkInterfaces/write", _GROUP, "its interface"),
        (f"{_NET}/virtualNetworks/subnets/join/action", _SUB, "its interface in the subnet"),
        (f"{_NET}/networkSecurityGroups/join/action", _GROUP, "the network's rules on its interface"),
        (f"{_NET}/publicIPAddresses/write", _GROUP, "its address in a public network"),
        (f"{_NET}/publicIPAddresses/join/action", _GROUP, "its address in a public network"),
        ("Microsoft.Compute/disks/write", _GROUP, "its disk"),
        (f"{_UAI}/assign/action", _SUB, "the identity of its workloads"),
        _FIND_NETWORK,
        _FIND_PERSON,
    ),
    "cluster.get": (*_SEE_VMS, _SEE_DISK),
    "cluster.list": _SEE_VMS,
    "cluster.delete": (
        *_SEE_VMS,
        _SEE_DISK,
        (f"{_VM}/delete", _GROUP, "a machine with all that came along")),
    "cluster.delete_volume": (),
    "cluster.offerings": (("Microsoft.Compute/skus/read", _SUB, "the catalogue of sizes"),),
    "cluster.quotas": (
        ("Microsoft.Compute/locations/usages/read", _SUB, "limits of cores"),
        (f"{_NET}/locations/usages/read", _SUB, "limits of addresses"),
    ),
    "identity.create": (
        _FIND_PERSON,
        (f"{_UAI}/write", _GROUP, "the identity"),
        (f"{_UAI}/federatedIdentityCredentials/read", _GROUP, "who may become it"),
        (f"{_UAI}/federatedIdentityCredentials/write", _GROUP, "who may become it"),
        ("Microsoft.Resources/tags/write", _SUB, "the note on an adopted identity"),
    ),
    "identity.get": (_FIND_PERSON,),
    "identity.list": (_FIND_PERSON,),
    "identity.delete": (
        _FIND_PERSON,
        (f"{_UAI}/delete", _GROUP, "the identity"),
        (f"{_UAI}/federatedIdentityCredentials/delete", _GROUP, "who may become an adopted one"),
        (f"{_ROLE}/read", _SUB, "its rights"),
        (f"{_ROLE}/delete", _SUB, "its rights"),
        ("Microsoft.Resources/tags/write", _SUB, "the note on an adopted identity"),
    ),
    "identity.credentials": (),
    "identity.prove": (),
    "identity.verify": (),
    "storage.create": (
        (f"{_ACCOUNT}/read", _GROUP, "the storage account"),
        (f"{_ACCOUNT}/write", _GROUP, "the storage account, where there is none yet"),
        *_FIND_BUCKET,
        (f"{_BLOBS}/write", _GROUP, "the container and its metadata"),
        *_KEEP,
    ),
    "storage.get": _FIND_BUCKET,
    "storage.list": _FIND_BUCKET,
    "storage.delete": (
        *_FIND_BUCKET,
        (f"{_BLOBS}/write", _GROUP, "the note on an adopted container"),
        (f"{_BLOBS}/delete", _GROUP, "the container"),
        (f"{_ROLE}/read", _GROUP, "grants on the container"),
        (f"{_ROLE}/delete", _GROUP, "grants on the container"),
        *_KEEP,
        (f"{_ACCOUNT}/managementPolicies/delete", _GROUP, "the policy that no bucket needs any more"),
    ),
    "storage.grant": (
        *_FIND_BUCKET,
        _FIND_PERSON,
        (f"{_ROLE}/read", _GROUP, "grants on the container"),
        (f"{_ROLE}/write", _GROUP, "the grant"),
        _SIGN,
    ),
    "storage.revoke": (
        *_FIND_BUCKET,
        _FIND_PERSON,
        (f"{_ROLE}/read", _GROUP, "grants on the container"),
        (f"{_ROLE}/write", _GROUP, "what stays of an identity's grants"),
        (f"{_ROLE}/delete", _GROUP, "the grant"),
    ),
    "storage.objects": (
        (f"{_BLOBS}/blobs/read", _GROUP, "objects"),
        (f"{_BLOBS}/blobs/write", _GROUP, "objects"),
        (f"{_BLOBS}/blobs/delete", _GROUP, "objects"),
    ),
    "storage.signed_url": (
        *_FIND_BUCKET,
        _SIGN,
    ),
    "networking.create": (
        _FIND_NETWORK,
        (f"{_NET}/networkSecurityGroups/write", _GROUP, "the network's record and rules"),
        (f"{_NET}/virtualNetworks/read", _SUB, "ranges that are taken, and what is adopted"),
        (f"{_NET}/virtualNetworks/write", _GROUP, "the virtual network and its subnet"),
    ),
    "networking.get": _SEE_WAYS,
    "networking.list": _SEE_WAYS,
    "networking.delete": (
        _FIND_NETWORK,
        (f"{_NET}/loadBalancers/read", _GROUP, "ways in that use it"),
        (f"{_NET}/publicIPAddresses/read", _GROUP, "addresses that ways in left"),
        (f"{_NET}/virtualNetworks/delete", _GROUP, "the virtual network"),
        (f"{_NET}/networkSecurityGroups/delete", _GROUP, "the network's record"),
    ),
    "networking.expose": (
        _FIND_NETWORK,
        (f"{_NET}/networkSecurityGroups/join/action", _GROUP, "the network's rules"),
        (f"{_NET}/networkSecurityGroups/securityRules/write", _GROUP, "the rule that lets clients in"),
        (f"{_NET}/publicIPAddresses/read", _GROUP, "its address"),
        (f"{_NET}/publicIPAddresses/write", _GROUP, "its address"),
        (f"{_NET}/publicIPAddresses/join/action", _GROUP, "its address"),
        (f"{_NET}/loadBalancers/read", _GROUP, "the load balancer"),
        (f"{_NET}/loadBalancers/write", _GROUP, "the load balancer"),
        (f"{_NET}/virtualNetworks/subnets/join/action", _SUB, "its address in the network"),
        (f"{_NET}/virtualNetworks/join/action", _SUB, "the head behind it"),
    ),
    "networking.withdraw": (
        _FIND_NETWORK,
        (f"{_NET}/loadBalancers/read", _GROUP, "the load balancer"),
        (f"{_NET}/loadBalancers/write", _GROUP, "lets go of the address"),
        (f"{_NET}/loadBalancers/delete", _GROUP, "the load balancer"),
        ("Microsoft.Resources/tags/write", _GROUP, "the note on orders that came too late"),
        (f"{_NET}/publicIPAddresses/read", _GROUP, "its address"),
        (f"{_NET}/publicIPAddresses/delete", _GROUP, "its address"),
        (f"{_NET}/networkSecurityGroups/securityRules/delete", _GROUP, "the rule that let clients in"),
    ),
    "networking.check": (
        _FIND_NETWORK,
        (f"{_NET}/virtualNetworks/read", _SUB, "the network and its subnets"),
    ),
}  # fmt: skip


LINKED = "in part"
WITHIN: dict[str, tuple[str, ...]] = {
    "cluster.create": (
        f"{_NET}/networkInterfaces/write", f"{_NET}/publicIPAddresses/write", "Microsoft.Compute/disks/write",
        f"{_UAI}/assign/action", _FIND_PERSON[0], _FIND_NETWORK[0],
    ),
    "identity.create": (
        f"{_UAI}/federatedIdentityCredentials/read", f"{_UAI}/federatedIdentityCredentials/write",
        "Microsoft.Resources/tags/write",
    ),
    "identity.delete": (
        f"{_UAI}/federatedIdentityCredentials/delete", f"{_ROLE}/delete", "Microsoft.Resources/tags/write",
    ),
    "storage.create": (f"{_ACCOUNT}/write", *(need[0] for need in _KEEP)),
    "storage.delete": (
        f"{_BLOBS}/write", f"{_ROLE}/delete", f"{_ACCOUNT}/managementPolicies/delete", *(need[0] for need in _KEEP),
    ),
}  # fmt: skip
"""Rights that a verb needs for some specs, or that ARM asks for as part of another request."""


def permissions_for(features: Iterable[str], settings: Settings) -> tuple[Permission, ...]:
    """Return what these features need, each once. Raises InvalidRequest for one that no driver has."""
    wanted = tuple(dict.fromkeys(features))
    if unknown := sorted(set(wanted) - set(NEEDS)):
        hint = f"one of {', '.join(NEEDS)}"
        raise InvalidRequest(f"no feature {', '.join(unknown)}", reason="FIELD", hint=hint)
    where = {_SUB: settings.subscription, _GROUP: settings.group}
    return tuple(
        Permission(action=action, resource=where[scope], feature=_feature(feature, action), reason=reason)
        for feature in wanted
        for action, scope, reason in dict.fromkeys(NEEDS[feature])
    )


def _feature(feature: str, action: str) -> str:
    """Return the verb; marked where ARM asks for the right along with another request, or for some specs alone."""
    return f"{feature} ({LINKED})" if action.endswith("/join/action") or action in WITHIN.get(feature, ()) else feature


def custom_role(permissions: Iterable[Permission], *, name: str, scope: str) -> dict[str, Any]:
    """Return a role definition of just these permissions, as ``az role definition create`` takes it."""
    actions = sorted({permission.action for permission in permissions})
    on_data = [action for action in actions if action.startswith(f"{_BLOBS}/blobs/")]
    return {
        "Name": name,
        "Description": "What a control plane of anyscale-core needs, and no more.",
        "Actions": [action for action in actions if action not in on_data],
        "DataActions": on_data,
        "AssignableScopes": [scope],
    }
