"""The hook of the Google Cloud provider. Its factories import the drivers when they are called, and nothing before."""

from datetime import timedelta

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.hookspecs import Provider, hookimpl

NAME = "gcp"

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
            "identity.credentials",
            "identity.prove",
            "networking.create",
            "storage.grants",
            "storage.signed_urls",
        }
    ),
    emulated={
        "networking.expose": "an endpoint is the head's own address, opened to the ranges of the setting by a firewall rule of "
        "its own; no load balancer stands before it",
    },
    unsupported={
        "cluster.notices": "Compute Engine announces a preemption to the machine alone, 30 seconds before it",
        "cluster.volumes": "instances have no disk that outlives them",
    },
    numbers={"list.lists": 3, "list.page_size": 500, "name.max_len": 63, "tags.max": 58},
    windows={
        "consistency.delete": timedelta(0),
        "consistency.list": timedelta(0),
        "token.lifetime": timedelta(hours=1),
    },
)


@hookimpl
def anyscale_provider() -> Provider:
    """Return the provider of Google Cloud."""
    return Provider(
        name=NAME,
        contract=">=1.0,<2",
        summary="Ray clusters on Compute Engine",
        capabilities=CAPABILITIES,
        settings={
            "project": "The project that instances, identities, buckets and networks are made in. Required.",
            "service_account": "The service account to act as, by short-lived tokens; also the signer of URLs "
            "(default: whoever the application default credentials are).",
            "federation": "Workload Identity Federation: {audience, token_file}. The control plane's own token is exchanged "
            "for a federated one, and that for one of service_account.",
            "endpoints": "URLs by API (compute, iam, iamcredentials, sts, storage, objects), "
            "for private endpoints and other implementations.",
            "anonymous": "Send no credentials at all: for implementations that ask for none.",
            "metadata_url": "The metadata server of a machine (default: http://metadata.google.internal).",
            "certs_url": "Where the keys are that sign the tokens of machines (default: Google's).",
            "image": "The image of an instance whose spec has none (default: the family ubuntu-2404-lts-amd64).",
            "disk_gb": "The size of an instance's boot disk (default 50).",
            "python": "The interpreter on the image that has anyscale-core[node] and this plugin (default python3).",
            "prepare": "Shell lines that run before the node agent, an installation for instance.",
            "node_service_account": "The service account of an instance whose spec names no identity, to prove itself by "
            "(default: the project's default one, with no scope but its own name).",
            "subnetwork": "The subnetwork of an instance whose spec names no network (default: the region's 'default').",
            "network_tags": "Network tags of every instance, for firewall rules of the customer's.",
            "ingress_ranges": "Who may reach endpoints (default: anybody in a public network, private addresses else).",
        },
        cluster=_cluster,
        identity=_identity,
        storage=_storage,
        networking=_networking,
    )


def _cluster(config: DriverConfig) -> ClusterDriver:
    from anyscale_gcp.cluster import GcpCluster

    return GcpCluster(config)


def _identity(config: DriverConfig) -> IdentityDriver:
    from anyscale_gcp.identity import GcpIdentity

    return GcpIdentity(config)


def _storage(config: DriverConfig) -> StorageDriver:
    from anyscale_gcp.storage import GcpStorage

    return GcpStorage(config)


def _networking(config: DriverConfig) -> NetworkingDriver:
    from anyscale_gcp.networking import GcpNetworking

    return GcpNetworking(config)
