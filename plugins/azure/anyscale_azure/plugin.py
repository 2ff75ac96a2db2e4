"""The hook of the Azure provider. Its factories import the drivers when they are called, and nothing before."""

from datetime import timedelta

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.hookspecs import Provider, hookimpl

NAME = "azure"

CAPABILITIES = Capabilities(
    supported=frozenset(
        {
            "adopt",
            "cluster.batch",
            "cluster.images",
            "cluster.quotas",
            "cluster.spot",
            "cluster.zones",
            "identity.binds_instance",
            "identity.create",
            "identity.prove",
            "networking.create",
            "networking.expose",
            "storage.grants",
            "storage.signed_urls",
        }
    ),
    unsupported={
        "cluster.notices": "Azure announces an eviction on the machine alone, 30 s ahead; no list of ARM shows it",
        "cluster.volumes": "a machine's disk goes with it",
        "identity.credentials": "a managed identity's credentials are handed out on machines that have it, and nowhere else",
    },
    numbers={"list.lists": 3, "name.max_len": 58, "tags.max": 43, "create.batch_max": 500},
    windows={
        "consistency.delete": timedelta(minutes=2),
        "consistency.list": timedelta(seconds=30),
        "token.lifetime": timedelta(hours=24),
    },
)


@hookimpl
def anyscale_provider() -> Provider:
    """Return the provider of Azure."""
    return Provider(
        name=NAME,
        contract=">=1.0,<2",
        summary="Ray clusters on Azure: virtual machines, managed identities, Blob storage, virtual networks",
        capabilities=CAPABILITIES,
        settings={
            "admin_username": "The user of the machines (default azureuser).",
            "authority": "Where tokens come from (default https://login.microsoftonline.com).",
            "blob_endpoint": "An account's blob service, with {account} in it (default https://{account}.blob.core.windows.net).",
            "ca_file": "A file with the authority that signed the endpoints' certificates, where that is none of the usual.",
            "client_id": "The application or managed identity that the control plane signs in as.",
            "credential": "How it signs in: default, workload_identity, managed_identity or client_assertion.",
            "dfs_suffix": "What abfss:// names end in (default dfs.core.windows.net).",
            "endpoint": "Azure Resource Manager (default https://management.azure.com).",
            "hierarchical_namespace": "Whether a storage account that is made has folders: ADLS (default true).",
            "image": "The machines' image: a path, or publisher:offer:sku:version (default Ubuntu 24.04).",
            "inbound_from": "Who may reach public ways in: a service tag or a range (default Internet).",
            "location": "The region (default: the cloud's region).",
            "max_calls_at_once": "How many requests a batch makes at a time (default 16).",
            "oidc_issuer": "Who vouches for service accounts: the OIDC issuer of the AKS cluster.",
            "os_disk_gb": "The size of a machine's disk (default 64).",
            "prepare": "Lines of shell that a machine runs before the node agent.",
            "proof_audience": "What Entra ID calls our audience (default api://{tenant}/{audience}).",
            "python": "The interpreter on the machines (default python3).",
            "resource_group": "The resource group that everything is made in; it exists.",
            "ssh_public_key": "Who may sign in to the machines (default: nobody).",
            "storage_account": "The storage account that buckets are in; it is made when there is none.",
            "subnet_id": "The subnet of machines that are in no network of the core's.",
            "subscription_id": "The subscription.",
            "tenant_id": "The tenant of Entra ID that the subscription trusts.",
            "token_file": "The file with the token that is exchanged, for workload_identity and client_assertion.",
            "token_scope": "What tokens for ARM are asked for (default https://management.azure.com/.default).",
            "zones": "The zones to use; empty in regions that have none (default 1, 2, 3).",
        },
        cluster=_cluster,
        identity=_identity,
        storage=_storage,
        networking=_networking,
    )


def _cluster(config: DriverConfig) -> ClusterDriver:
    from anyscale_azure.cluster import AzureCluster

    return AzureCluster(config)


def _identity(config: DriverConfig) -> IdentityDriver:
    from anyscale_azure.identity import AzureIdentity

    return AzureIdentity(config)


def _storage(config: DriverConfig) -> StorageDriver:
    from anyscale_azure.storage import AzureStorage

    return AzureStorage(config)


def _networking(config: DriverConfig) -> NetworkingDriver:
    from anyscale_azure.networking import AzureNetworking

    return AzureNetworking(config)
