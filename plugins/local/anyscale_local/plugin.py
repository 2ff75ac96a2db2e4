"""The hook of the local provider. Its factories import the drivers when they are called, and nothing before."""

from datetime import timedelta

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.hookspecs import Provider, hookimpl
from anyscale_core.models.cloud import CloudSpec

NAME = "local"

CAPABILITIES = Capabilities(
    supported=frozenset(
        {
            "adopt",
            "cluster.batch",
            "cluster.quotas",
            "cluster.volumes",
            "cluster.zones",
            "identity.binds_instance",
            "identity.credentials",
            "identity.prove",
        }
    ),
    emulated={
        "identity.create": "an identity is a name that tokens are signed for; every process runs as one user all the same",
        "networking.create": "a network is a record; all of them are this machine's loopback",
        "networking.expose": "an endpoint is the head's own loopback address, open to this machine and no other",
        "storage.grants": "a grant is a folder; every process runs as one user, so nothing stops one that goes around it",
    },
    unsupported={
        "cluster.images": "instances are processes of this machine and use its own Python, not an image",
        "cluster.notices": "nobody takes this machine's processes back with a warning",
        "cluster.spot": "this machine has one market",
        "storage.signed_urls": "a bucket is a folder and no server stands in front of it",
    },
    numbers={"name.max_len": 63},
    windows={
        "consistency.delete": timedelta(0),
        "consistency.list": timedelta(0),
        "token.lifetime": timedelta(minutes=5),
    },
)


@hookimpl
def anyscale_provider() -> Provider:
    """Return the provider of this machine."""
    return Provider(
        name=NAME,
        contract=">=1.0,<2",
        summary="Ray clusters as processes on this machine",
        capabilities=CAPABILITIES,
        settings={
            "command": "Words to boot an instance with instead of the node agent; "
            "{bootstrap}, {home}, {name}, {address} and {volume} are filled in.",
            "max_instances": "How many instances there may be at once on this machine (default 16).",
            "python": "The interpreter that runs the node agent (default: the one that runs the control plane).",
            "state": "The folder to keep instances, buckets and keys in (default: 'local' in the plane's home).",
        },
        default_cloud=CloudSpec(name=NAME, provider=NAME),
        cluster=_cluster,
        identity=_identity,
        storage=_storage,
        networking=_networking,
    )


def _cluster(config: DriverConfig) -> ClusterDriver:
    from anyscale_local.cluster import LocalCluster

    return LocalCluster(config)


def _identity(config: DriverConfig) -> IdentityDriver:
    from anyscale_local.identity import LocalIdentity

    return LocalIdentity(config)


def _storage(config: DriverConfig) -> StorageDriver:
    from anyscale_local.storage import LocalStorage

    return LocalStorage(config)


def _networking(config: DriverConfig) -> NetworkingDriver:
    from anyscale_local.networking import LocalNetworking

    return LocalNetworking(config)
