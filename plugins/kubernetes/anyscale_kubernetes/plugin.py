"""The hook of the Kubernetes provider. Its factories import the drivers when they are called, and nothing before."""

from datetime import timedelta

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.hookspecs import Provider, hookimpl

NAME = "kubernetes"

CAPABILITIES = Capabilities(
    supported=frozenset(
        {
            "adopt",
            "cluster.batch",
            "cluster.images",
            "cluster.notices",
            "cluster.quotas",
            "cluster.spot",
            "cluster.volumes",
            "cluster.zones",
            "identity.binds_instance",
            "identity.create",
            "identity.credentials",
            "identity.prove",
            "networking.create",
            "networking.expose",
            "storage.signed_urls",
        }
    ),
    emulated={
        "storage.grants": "a grant is a record and the store's own key: an S3-compatible store has one key for a bucket, so "
        "nothing stops an identity that goes around its prefix",
    },
    numbers={"list.page_size": 500, "name.max_len": 63},
    windows={
        "consistency.delete": timedelta(0),
        "consistency.list": timedelta(seconds=5),
        "token.lifetime": timedelta(hours=1),
    },
)

SETTINGS = {
    "client_cidrs": "Ranges that clients come from, with route: loadbalancer (default: from anywhere).",
    "command": "Words that a Pod runs instead of the node agent; {bootstrap}, {home}, {name}, {address} and {volume} are "
    "filled in.",
    "connections": "How many connections to the API server there are at most (default 16).",
    "context": "The context of the kubeconfig (default: its current one).",
    "flavor": "How nodes tell their market and accelerator: generic, aks, eks, gke or karpenter (default generic).",
    "gateway": "The Gateway that HTTPRoutes hang on: name, and if need be namespace and section.",
    "gateway_namespaces": "Namespaces whose Pods may reach heads (default: the gateway's, else the cloud's own).",
    "grace_seconds": "How long a Pod has to end by itself (default 30).",
    "hostname": "The name that clients reach a head by, with {name} for the endpoint's.",
    "image": "The image of Pods whose cluster gives none.",
    "image_pull_secrets": "Names of the Secrets that images are pulled with.",
    "ingress_annotations": "Annotations of Ingresses, such as the one that says that the backend speaks HTTPS.",
    "ingress_class": "The IngressClass, with route: ingress.",
    "instance_types": "The catalogue: instance types by name, each with resources and where its Pods may run.",
    "instance_types_config_map": "A ConfigMap with the catalogue under the key instance_types.yaml, instead.",
    "issuer": "The issuer of the cluster's tokens, with jwks.",
    "jwks": "The cluster's public keys: proofs are verified with them and without an API server.",
    "kubeconfig": "The path of a kubeconfig (default: the account of the Pod that this runs in, else the user's own).",
    "namespace": "The namespace of everything that is made (default 'default').",
    "operator_service_account": "The account of the operator, which no workload may run as (default anyscale-operator).",
    "page_size": "How many objects a page of a list has (default 500).",
    "patches": "JSON patches of Pods, in order: patch, and a selector over their annotations.",
    "pod_labels": "Labels of all Pods, such as azure.workload.identity/use.",
    "python": "The interpreter in the image that runs the node agent (default python3).",
    "route": "How clients reach heads: service, loadbalancer, httproute or ingress (default service: within the cluster).",
    "run_as_user": "The user that Pods run as, by its number, where the image's own may be root (default: the image's own).",
    "service_account_annotations": "Annotations of ServiceAccounts that bind them to the cloud's own identities; {identity} "
    "is filled in.",
    "service_accounts": "ServiceAccounts to run as, by the name of the identity; '*' is for all others.",
    "service_annotations": "Annotations of Services, such as those that make a load balancer internal.",
    "sight": "How Pods are seen: watch keeps one watch open for all of the cloud, list asks each time (default watch).",
    "storage_class": "The StorageClass of volumes (default: the cluster's own).",
    "store": "An S3-compatible store: endpoint, secret, and if need be region and path_style.",
    "unschedulable_minutes": "How long the scheduler may find no node for a Pod before it is told as STOPPED (default 5).",
    "volume_gigabytes": "The size of a volume (default 10).",
    "zones": "The zones of the cluster's nodes.",
}


@hookimpl
def anyscale_provider() -> Provider:
    """Return the provider of any Kubernetes."""
    return Provider(
        name=NAME,
        contract=">=1.0,<2",
        summary="Ray clusters as Pods of any Kubernetes",
        capabilities=CAPABILITIES,
        settings=SETTINGS,
        cluster=_cluster,
        identity=_identity,
        storage=_storage,
        networking=_networking,
    )


def _cluster(config: DriverConfig) -> ClusterDriver:
    from anyscale_kubernetes.cluster import KubernetesCluster

    return KubernetesCluster(config)


def _identity(config: DriverConfig) -> IdentityDriver:
    from anyscale_kubernetes.identity import KubernetesIdentity

    return KubernetesIdentity(config)


def _storage(config: DriverConfig) -> StorageDriver:
    from anyscale_kubernetes.storage import KubernetesStorage

    return KubernetesStorage(config)


def _networking(config: DriverConfig) -> NetworkingDriver:
    from anyscale_kubernetes.networking import KubernetesNetworking

    return KubernetesNetworking(config)
