"""What the predefined roles allow, as far as somebody who runs clusters meets them.

Source: cloud.google.com/iam/docs/roles-permissions. A role that is not listed here allows nothing; ``*`` stands for any words.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

OBJECT_READ = ("storage.objects.get", "storage.objects.list", "storage.folders.get", "storage.folders.list")
OBJECT_WRITE = (
    "storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list",
    "storage.objects.update", "storage.objects.restore", "storage.folders.*", "storage.multipartUploads.*",
)  # fmt: skip
CREATOR = (
    "storage.objects.create", "storage.folders.create", "storage.multipartUploads.abort",
    "storage.multipartUploads.create", "storage.multipartUploads.listParts",
)  # fmt: skip
READS = ("*.get", "*.list", "*.getIamPolicy")

ROLES: Mapping[str, tuple[str, ...]] = {
    "roles/owner": ("*",),
    "roles/editor": ("compute.*", "container.*", "storage.buckets.create", "storage.buckets.delete", "storage.buckets.get",
                     "storage.buckets.list", "iam.serviceAccounts.actAs", "iam.serviceAccounts.create",
                     "iam.serviceAccounts.delete", "iam.serviceAccounts.get", "iam.serviceAccounts.list",
                     "iam.serviceAccounts.update", "resourcemanager.projects.get", *READS),
    "roles/viewer": READS,
    "roles/browser": ("resourcemanager.projects.get", "resourcemanager.projects.list", "resourcemanager.projects.getIamPolicy"),
    "roles/compute.admin": ("compute.*", "resourcemanager.projects.get", "resourcemanager.projects.list"),
    "roles/compute.instanceAdmin.v1": (
        "compute.instances.*", "compute.disks.*", "compute.acceleratorTypes.*", "compute.machineTypes.*",
        "compute.images.get", "compute.images.list", "compute.images.useReadOnly", "compute.networks.get",
        "compute.networks.list", "compute.networks.use", "compute.networks.useExternalIp", "compute.subnetworks.get",
        "compute.subnetworks.list", "compute.subnetworks.use", "compute.subnetworks.useExternalIp",
        "compute.*Operations.get", "compute.*Operations.list", "compute.projects.get", "compute.regions.*", "compute.zones.*",
        "compute.addresses.get", "compute.addresses.list", "compute.addresses.use", "resourcemanager.projects.get",
    ),
    "roles/compute.networkAdmin": (
        "compute.networks.*", "compute.subnetworks.*", "compute.routes.*", "compute.routers.*", "compute.addresses.*",
        "compute.forwardingRules.*", "compute.backendServices.*", "compute.regionBackendServices.*", "compute.healthChecks.*",
        "compute.regionHealthChecks.*", "compute.targetPools.*", "compute.networkEndpointGroups.*",
        "compute.firewalls.get", "compute.firewalls.list", "compute.*Operations.get", "compute.*Operations.list",
        "compute.instances.get", "compute.instances.list", "compute.instances.use", "compute.projects.get", "compute.regions.*",
        "compute.zones.*",
    ),
    "roles/compute.securityAdmin": (
        "compute.firewalls.*", "compute.networks.get", "compute.networks.list", "compute.networks.updatePolicy",
        "compute.*Operations.get", "compute.*Operations.list",
    ),
    "roles/compute.networkUser": (
        "compute.networks.get", "compute.networks.list", "compute.networks.use", "compute.networks.useExternalIp",
        "compute.subnetworks.get", "compute.subnetworks.list", "compute.subnetworks.use", "compute.subnetworks.useExternalIp",
        "compute.firewalls.get", "compute.firewalls.list", "compute.projects.get", "compute.regions.*", "compute.zones.*",
    ),
    "roles/compute.viewer": ("compute.*.get", "compute.*.list", "compute.*.getIamPolicy"),
    "roles/container.admin": ("container.*", "resourcemanager.projects.get"),
    "roles/container.developer": (
        "container.clusters.get", "container.clusters.list", "container.pods.*", "container.services.*",
        "container.secrets.*", "container.configMaps.*", "container.operations.get",
    ),
    "roles/container.clusterViewer": ("container.clusters.get", "container.clusters.list"),
    "roles/iam.serviceAccountAdmin": (
        "iam.serviceAccounts.create", "iam.serviceAccounts.delete", "iam.serviceAccounts.disable",
        "iam.serviceAccounts.enable", "iam.serviceAccounts.get", "iam.serviceAccounts.getIamPolicy",
        "iam.serviceAccounts.list", "iam.serviceAccounts.setIamPolicy", "iam.serviceAccounts.undelete",
        "iam.serviceAccounts.update",
    ),
    "roles/iam.serviceAccountUser": ("iam.serviceAccounts.actAs", "iam.serviceAccounts.get", "iam.serviceAccounts.list"),
    "roles/iam.serviceAccountTokenCreator": (
        "iam.serviceAccounts.getAccessToken", "iam.serviceAccounts.getOpenIdToken", "iam.serviceAccounts.implicitDelegation",
        "iam.serviceAccounts.signBlob", "iam.serviceAccounts.signJwt", "iam.serviceAccounts.get", "iam.serviceAccounts.list",
    ),
    "roles/iam.serviceAccountOpenIdTokenCreator": ("iam.serviceAccounts.getOpenIdToken",),
    "roles/iam.workloadIdentityUser": (
        "iam.serviceAccounts.getAccessToken", "iam.serviceAccounts.getOpenIdToken", "iam.serviceAccounts.get",
        "iam.serviceAccounts.list",
    ),
    "roles/iam.workloadIdentityPoolAdmin": ("iam.workloadIdentityPools.*", "iam.workloadIdentityPoolProviders.*"),
    "roles/iam.roleAdmin": ("iam.roles.*", "resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy"),
    "roles/resourcemanager.projectIamAdmin": (
        "resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy", "resourcemanager.projects.setIamPolicy",
    ),
    "roles/storage.admin": ("storage.*", "resourcemanager.projects.get"),
    "roles/storage.objectAdmin": (*OBJECT_WRITE, "storage.objects.getIamPolicy", "storage.objects.setIamPolicy"),
    "roles/storage.objectUser": OBJECT_WRITE,
    "roles/storage.objectViewer": OBJECT_READ,
    "roles/storage.objectCreator": CREATOR,
    "roles/storage.bucketViewer": ("storage.buckets.get", "storage.buckets.list"),
    "roles/storage.legacyBucketOwner": (
        "storage.buckets.get", "storage.buckets.update", "storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy",
        "storage.objects.create", "storage.objects.delete", "storage.objects.list", "storage.multipartUploads.*",
    ),
    "roles/storage.legacyBucketWriter": (
        "storage.buckets.get", "storage.objects.create", "storage.objects.delete", "storage.objects.list",
        "storage.multipartUploads.*",
    ),
    "roles/storage.legacyBucketReader": ("storage.buckets.get", "storage.objects.list", "storage.multipartUploads.list"),
    "roles/storage.legacyObjectOwner": (
        "storage.objects.get", "storage.objects.update", "storage.objects.getIamPolicy", "storage.objects.setIamPolicy",
    ),
    "roles/storage.legacyObjectReader": ("storage.objects.get",),
}  # fmt: skip

NOT_OWNED = frozenset(
    f"iam.serviceAccounts.{word}"
    for word in ("getAccessToken", "getOpenIdToken", "implicitDelegation", "signBlob", "signJwt")
) | {"storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list"}
"""What owning a project does not allow: acting as its service accounts, and reading objects but by their buckets' policies."""


def allows(patterns: tuple[str, ...], permission: str) -> bool:
    """Return whether any of a role's patterns allows a permission."""
    if patterns in (ROLES["roles/owner"], ROLES["roles/viewer"], ROLES["roles/editor"]) and permission in NOT_OWNED:
        return False
    return any(fnmatchcase(permission, pattern) for pattern in patterns)
