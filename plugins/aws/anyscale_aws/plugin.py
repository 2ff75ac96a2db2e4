"""The hook of the AWS provider. Its factories import the drivers when they are called, and nothing before."""

from datetime import timedelta

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.hookspecs import Provider, hookimpl

NAME = "aws"

CAPABILITIES = Capabilities(
    supported=frozenset(
        {
            "adopt",
            "cluster.batch",
            "cluster.images",
            "cluster.notices",
            "cluster.quotas",
            "cluster.spot",
            "cluster.zones",
            "identity.binds_instance",
            "identity.create",
            "identity.credentials",
            "identity.prove",
            "networking.create",
            "networking.expose",
            "storage.grants",
            "storage.signed_urls",
        }
    ),
    unsupported={"cluster.volumes": "a head's folder is not kept on a disk of its own here"},
    numbers={"create.batch_max": 1000, "list.page_size": 1000, "name.max_len": 63, "tags.max": 30},
    windows={
        "consistency.delete": timedelta(seconds=60),
        "consistency.list": timedelta(seconds=60),
        "token.lifetime": timedelta(hours=24),
    },
)

SETTINGS = {
    "region": "The region of a node that proves itself; set for nodes by this plugin (a cloud's own region is its spec's).",
    "role_arn": "The role in your account that the control plane assumes (default: the credentials that it runs with).",
    "external_id": "The ExternalId that the role's trust policy demands; needed with role_arn.",
    "adopted_roles": "ARNs of roles of yours that identities may adopt, so that the least permissions cover them.",
    "adopted_buckets": "Names of buckets of yours that are adopted, so that the least permissions cover them.",
    "endpoint_url": "Where AWS is, for an emulator: http://host:port (default: AWS itself).",
    "image": "The AMI of instances with x86_64 processors, with a Python that has anyscale-core[node] and this plugin.",
    "image_arm64": "The AMI of instances with arm64 processors.",
    "images": "AMIs by image_uri, for specs that name one.",
    "security_groups": "Security groups of instances that are in no network of this library's.",
    "subnets": "Subnets of instances that are in no network of this library's (default: the default VPC's).",
    "zones": "The availability zones that a network which is made gets a subnet in (default: the first three of the region).",
    "endpoint": "'address': clients reach a head at its own address; 'nlb': through a network load balancer (default address).",
    "allow_from": "Address ranges that may reach heads of public networks (default 0.0.0.0/0).",
    "python": "The interpreter on the image that runs the node agent (default python3).",
    "prepare": "Lines of shell that run on a new instance before the node agent.",
    "disk_gib": "The size of an instance's root disk in GiB (default: the image's).",
    "instance_types": "The instance types to offer (default: all of the price table).",
    "prices": "Dollars per hour by instance type, where yours are not the list prices of the table.",
}


@hookimpl
def anyscale_provider() -> Provider:
    """Return the provider of AWS."""
    return Provider(
        name=NAME,
        contract=">=1.0,<2",
        summary="Ray clusters on EC2, with IAM, S3 and VPC",
        capabilities=CAPABILITIES,
        settings=SETTINGS,
        cluster=_cluster,
        identity=_identity,
        storage=_storage,
        networking=_networking,
    )


def _cluster(config: DriverConfig) -> ClusterDriver:
    from anyscale_aws.cluster import AwsCluster

    return AwsCluster(config)


def _identity(config: DriverConfig) -> IdentityDriver:
    from anyscale_aws.identity import AwsIdentity

    return AwsIdentity(config)


def _storage(config: DriverConfig) -> StorageDriver:
    from anyscale_aws.storage import AwsStorage

    return AwsStorage(config)


def _networking(config: DriverConfig) -> NetworkingDriver:
    from anyscale_aws.networking import AwsNetworking

    return AwsNetworking(config)
