"""The provider's settings, checked once."""

import enum
from urllib.parse import urlsplit

import attrs

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import Fault, SpecError
from anyscale_core.models import wire

PUBLIC_CLOUD = "https://management.azure.com"
METADATA_VARIABLE = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
"""Where a machine's metadata service is, when not at its usual address; the variable that azure-identity reads too."""


class CredentialKind(enum.Enum):
    """How the control plane signs in."""

    DEFAULT = "default"
    """Whatever azure-identity's DefaultAzureCredential finds."""
    WORKLOAD_IDENTITY = "workload_identity"
    """A service account of Kubernetes, federated: ``client_id``, and the token's file unless its variable is set."""
    MANAGED_IDENTITY = "managed_identity"
    CLIENT_ASSERTION = "client_assertion"
    """A token of another issuer, read anew from ``token_file`` for every sign-in."""


@attrs.frozen(kw_only=True)
class Settings:
    """What a cloud may set for this provider; the keys are explained in ``plugin``."""

    subscription_id: str = ""
    resource_group: str = ""
    tenant_id: str = ""
    location: str = ""
    zones: tuple[str, ...] = ("1", "2", "3")
    subnet_id: str = ""
    image: str = "Canonical:ubuntu-24_04-lts:server:latest"
    admin_username: str = "azureuser"
    ssh_public_key: str = ""
    os_disk_gb: int = 64
    python: str = "python3"
    prepare: str = ""
    storage_account: str = ""
    hierarchical_namespace: bool = True
    inbound_from: str = "Internet"
    oidc_issuer: str = ""
    credential: CredentialKind = CredentialKind.DEFAULT
    client_id: str = ""
    token_file: str = ""
    endpoint: str = PUBLIC_CLOUD
    authority: str = "https://login.microsoftonline.com"
    token_scope: str = f"{PUBLIC_CLOUD}/.default"
    blob_endpoint: str = "https://{account}.blob.core.windows.net"
    dfs_suffix: str = "dfs.core.windows.net"
    proof_audience: str = "api://{tenant}/{audience}"
    ca_file: str = ""
    max_calls_at_once: int = 16

    @property
    def subscription(self) -> str:
        """The path of the subscription."""
        return f"/subscriptions/{self.subscription_id}"

    @property
    def group(self) -> str:
        """The path of the resource group."""
        return f"{self.subscription}/resourceGroups/{self.resource_group}"

    def resource(self, type: str, *names: str) -> str:
        """Return the path of a resource in the group: ``resource("Microsoft.Network/virtualNetworks", "v")``."""
        namespace, *types = type.split("/")
        path = "".join(f"/{kind}/{name}" for kind, name in zip(types, names, strict=True))
        return f"{self.group}/providers/{namespace}{path}"

    def collection(self, type: str) -> str:
        """Return the path of a collection in the group."""
        return f"{self.group}/providers/{type}"


def read_settings(config: DriverConfig) -> Settings:
    """Return the settings of a cloud. Raises SpecError with every fault."""
    subject = "settings of provider azure"
    settings = wire.structure(dict(config.settings), Settings, subject=subject)
    faults = [
        Fault(path=name, message="is missing")
        for name in ("subscription_id", "resource_group", "tenant_id")
        if not getattr(settings, name)
    ]
    for name in ("endpoint", "authority"):
        parts = urlsplit(getattr(settings, name))
        if parts.scheme != "https" or not parts.netloc:
            faults.append(
                Fault(path=name, message=f"{getattr(settings, name)!r} is not a URL that begins with https://")
            )
    if "{account}" not in settings.blob_endpoint:
        faults.append(Fault(path="blob_endpoint", message="has no place for the account's name: {account}"))
    if not 0 < settings.max_calls_at_once <= 100:
        faults.append(Fault(path="max_calls_at_once", message=f"{settings.max_calls_at_once} is not between 1 and 100"))
    kinds = (CredentialKind.CLIENT_ASSERTION,)
    if settings.credential in kinds and not (settings.client_id and settings.token_file):
        faults.append(Fault(path="credential", message="client_assertion needs client_id and token_file"))
    if faults:
        raise SpecError(faults, subject=subject)
    return settings if settings.location else attrs.evolve(settings, location=config.region)
