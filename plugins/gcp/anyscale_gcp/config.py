"""The provider's settings, checked once."""

import re
from collections.abc import Mapping

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Fault, SpecError
from anyscale_core.models import wire

ENDPOINTS: Mapping[str, str] = {
    "compute": "https://compute.googleapis.com/compute/v1/",
    "iam": "https://iam.googleapis.com/",
    "iamcredentials": "https://iamcredentials.googleapis.com/",
    "sts": "https://sts.googleapis.com/",
    "storage": "https://storage.googleapis.com/storage/v1/",
    "objects": "https://storage.googleapis.com",
}
"""Where each API is; ``objects`` is the XML API that objects travel through."""

SUBJECT = "settings of provider gcp"
PROJECT = re.compile(r"[a-z][-a-z0-9]{4,28}[a-z0-9]")
"""A project's id: cloud.google.com/resource-manager/docs/creating-managing-projects."""


@attrs.frozen(kw_only=True)
class Federation:
    """How the control plane comes in: its own OIDC token is exchanged at ``audience``; from a file, when that is named.

    ``audience``: ``//iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/POOL/providers/PROVIDER``.
    """

    audience: str
    token_file: str = ""


@attrs.frozen(kw_only=True)
class Settings:
    """What a cloud may set for this provider; the keys are explained in ``plugin``."""

    project: str = ""
    service_account: str = ""
    federation: Federation | None = None
    endpoints: Mapping[str, str] = attrs.field(factory=dict)
    anonymous: bool = False
    metadata_url: str = ""
    certs_url: str = "https://www.googleapis.com/oauth2/v3/certs"
    image: str = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
    disk_gb: int = 50
    python: str = "python3"
    prepare: str = ""
    node_service_account: str = "default"
    subnetwork: str = ""
    network_tags: tuple[str, ...] = ()
    ingress_ranges: tuple[str, ...] = ()

    def endpoint(self, api: str) -> str:
        """Return where an API is, with '/' at the end where its paths are appended to it."""
        return self.endpoints.get(api, ENDPOINTS[api])


def read_settings(config: DriverConfig) -> Settings:
    """Return the settings of a cloud. Raises SpecError with every fault."""
    settings = wire.structure(dict(config.settings), Settings, subject=SUBJECT)
    faults = []
    if not PROJECT.fullmatch(settings.project):
        faults.append(Fault(path="project", message=f"{settings.project!r} is not the id of a project; give one"))
    faults += [
        Fault(path=f"endpoints.{api}", message=f"is no API of this provider; it has {', '.join(ENDPOINTS)}")
        for api in sorted(set(settings.endpoints) - set(ENDPOINTS))
    ]
    if settings.federation is not None and not settings.service_account:
        faults.append(Fault(path="service_account", message="is missing; federation has to know whom to act as"))
    if settings.disk_gb < 10:
        faults.append(Fault(path="disk_gb", message=f"{settings.disk_gb} is below 10, the least of a boot disk"))
    if faults:
        raise SpecError(faults, subject=SUBJECT)
    return settings
