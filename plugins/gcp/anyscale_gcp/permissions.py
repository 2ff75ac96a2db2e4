"""The least permissions of the control plane, by driver verb: the parts of a custom role."""

from collections.abc import Iterable, Mapping

from anyscale_core.models.identity import Permission
from anyscale_gcp.config import Settings

Need = tuple[str, str]
"""A permission of IAM, and what for."""

_INSTANCE: Need = ("compute.instances.list", "one sweep finds every instance")
_GOING: Need = ("compute.globalOperations.list", "whether an instance that stops is being deleted")
_OPERATION: Need = ("compute.zoneOperations.get", "why an instance that was asked for did not come")
_NETWORK: Need = ("compute.networks.get", "where a network is")
_ADOPTED: Need = ("compute.healthChecks.get", "a health check remembers an adopted network")
_REGION: Need = ("compute.regions.get", "the region's zones and quotas")
_ACCOUNT: Need = ("iam.serviceAccounts.get", "which service account an identity is")
_ACCOUNTS: Need = ("iam.serviceAccounts.list", "every identity that is ours")
_ACCOUNT_POLICY: Need = ("iam.serviceAccounts.getIamPolicy", "who may become an identity")
_BUCKET: Need = ("storage.buckets.get", "whose a bucket is")
_BUCKETS: Need = ("storage.buckets.list", "every bucket that is ours")
_POLICY: Need = ("storage.buckets.getIamPolicy", "the grants of a bucket")
_SET_POLICY: Need = ("storage.buckets.setIamPolicy", "grants are conditions in a bucket's policy")
_TOKEN: Need = ("iam.serviceAccounts.getAccessToken", "a token of the identity's, for an hour")
_RULES: Need = ("compute.firewalls.list", "every way in that is ours")

NEEDS: Mapping[str, tuple[Need, ...]] = {
    "cluster.create": (
        ("compute.instances.create", "an instance is inserted"),
        ("compute.disks.create", "with its boot disk"),
        ("compute.instances.setMetadata", "with the startup script"),
        ("compute.instances.setLabels", "with its owner's labels"),
        ("compute.instances.setServiceAccount", "with the service account of its identity"),
        ("compute.instances.setTags", "with network tags, where the settings have some"),
        ("compute.subnetworks.use", "in a subnetwork"),
        ("compute.subnetworks.useExternalIp", "with a public address in a public network"),
        ("compute.images.useReadOnly", "from an image"),
        ("iam.serviceAccounts.actAs", "as the service account of its identity"),
        _INSTANCE, ("compute.instances.get", "whose an instance is that has the name already"),
        _GOING, _REGION, _NETWORK, _ADOPTED, _ACCOUNT,
    ),
    "cluster.get": (("compute.instances.get", "one instance"), _GOING, _OPERATION),
    "cluster.list": (_INSTANCE, _GOING, _OPERATION),
    "cluster.delete": (
        ("compute.instances.delete", "an instance is deleted with its disk"),
        _INSTANCE, ("compute.instances.get", "whose an instance is"), _GOING,
    ),
    "cluster.offerings": (
        _REGION, ("compute.machineTypes.list", "what is sold"), ("compute.acceleratorTypes.list", "what can be added to N1"),
    ),
    "cluster.quotas": (_REGION,),
    "identity.create": (
        ("iam.serviceAccounts.create", "an identity is a service account"), _ACCOUNTS, _ACCOUNT,
        ("iam.serviceAccounts.setIamPolicy", "who may become it"), _ACCOUNT_POLICY,
    ),
    "identity.get": (_ACCOUNT, _ACCOUNT_POLICY),
    "identity.list": (_ACCOUNTS, _ACCOUNT_POLICY),
    "identity.delete": (
        ("iam.serviceAccounts.delete", "the service account is deleted"), _ACCOUNT, _BUCKETS, _POLICY, _SET_POLICY,
    ),
    "identity.credentials": (_TOKEN, _ACCOUNT),
    "storage.create": (("storage.buckets.create", "a bucket is made"), _BUCKETS, _BUCKET, _POLICY),
    "storage.get": (_BUCKET,),
    "storage.list": (_BUCKETS,),
    "storage.delete": (("storage.buckets.delete", "an empty bucket is deleted"), _BUCKET, _POLICY, _SET_POLICY),
    "storage.grant": (_BUCKET, _ACCOUNT, _POLICY, _SET_POLICY, _TOKEN),
    "storage.revoke": (_BUCKET, _ACCOUNT, _POLICY, _SET_POLICY),
    "storage.objects": (
        _BUCKET, ("storage.objects.get", "objects are read"), ("storage.objects.list", "and listed"),
        ("storage.objects.create", "and written"), ("storage.objects.delete", "and deleted or overwritten"),
    ),
    "storage.signed_url": (_BUCKET, ("iam.serviceAccounts.signBlob", "IAM signs, for no key is at hand")),
    "networking.create": (
        ("compute.networks.create", "a network is made"), ("compute.networks.list", "every network that is ours"), _NETWORK,
        ("compute.subnetworks.create", "with a subnetwork"), ("compute.subnetworks.get", "whether it is there already"),
        ("compute.networks.updatePolicy", "with rules"), ("compute.firewalls.create", "that let its machines at each other"),
        ("compute.firewalls.get", "whether it is there already"),
        ("compute.routers.create", "and a way out when it is private"), ("compute.routers.get", "whether it is there already"),
        ("compute.healthChecks.create", "a health check remembers an adopted network"),
        ("compute.healthChecks.list", "every adopted network"), _ADOPTED, _RULES,
    ),
    "networking.get": (_NETWORK, _ADOPTED, _RULES),
    "networking.list": (("compute.networks.list", "every network"), ("compute.healthChecks.list", "every adopted one"), _RULES),
    "networking.delete": (
        ("compute.networks.delete", "a network is deleted"), ("compute.subnetworks.delete", "with its subnetwork"),
        ("compute.routers.delete", "its way out"), ("compute.firewalls.delete", "and its rule"),
        ("compute.subnetworks.list", "what is in one that cannot go"), ("compute.routers.list", "what is in one that cannot go"),
        ("compute.healthChecks.delete", "an adopted one is forgotten"), _NETWORK, _ADOPTED, _RULES,
    ),
    "networking.expose": (
        ("compute.firewalls.create", "a way in is a rule"), ("compute.firewalls.update", "which is changed when it moves"),
        ("compute.firewalls.get", "whose a rule of that name is"), ("compute.networks.updatePolicy", "in a network"),
        _NETWORK, _ADOPTED, _RULES, _INSTANCE,
    ),
    "networking.withdraw": (
        ("compute.firewalls.delete", "the rule is deleted"), ("compute.firewalls.get", "whose it is"),
    ),
    "networking.check": (
        _NETWORK, _ADOPTED, ("compute.subnetworks.get", "its range"), _RULES, ("compute.routers.list", "its way out"),
    ),
}  # fmt: skip
"""Sources: cloud.google.com/compute/docs/access/iam-permissions, .../iam/docs/permissions-reference."""


def permissions_for(features: Iterable[str], settings: Settings) -> tuple[Permission, ...]:
    """Return what these features need, each once; a feature that has no requests needs nothing."""
    return tuple(
        Permission(action=action, resource=f"projects/{settings.project}", feature=feature, reason=reason)
        for feature in dict.fromkeys(features)
        for action, reason in NEEDS.get(feature, ())
    )
