"""What the clouds' own webhooks put into Pods, so that a Pod becomes one of the cloud's identities by its account's token.

Each is a function for ``Hands.add_webhook``. GKE has none: there a metadata server on each node answers its Pods.
"""

from collections.abc import Callable, Mapping
from typing import Any

from anyscale_conformance.simulators.kubernetes.store import Object

Webhook = Callable[[Object, Mapping[str, str]], None]
"""Changes a Pod that is about to be stored; given the annotations of its account."""


def azure_workload_identity(*, tenant: str, authority: str) -> Webhook:
    """Return the webhook of AKS (azure.github.io/azure-workload-identity, "Mutating admission webhook").

    It is asked for Pods with the label ``azure.workload.identity/use: "true"`` alone.
    """

    def mutate(pod: Object, annotations: Mapping[str, str]) -> None:
        words = "azure.workload.identity"
        if (pod["metadata"].get("labels") or {}).get(f"{words}/use") != "true":
            return
        folder, file = "/var/run/secrets/azure/tokens", "azure-identity-token"
        variables = {
            "AZURE_CLIENT_ID": annotations.get(f"{words}/client-id", ""),
            "AZURE_TENANT_ID": annotations.get(f"{words}/tenant-id", tenant),
            "AZURE_FEDERATED_TOKEN_FILE": f"{folder}/{file}",
            "AZURE_AUTHORITY_HOST": authority,
        }
        _bind(pod, volume=file, folder=folder, file=file, audience="api://AzureADTokenExchange", seconds=3600,
              variables=variables)  # fmt: skip

    return mutate


def eks_pod_identity(*, region: str) -> Webhook:
    """Return the webhook of EKS for IRSA (github.com/aws/amazon-eks-pod-identity-webhook): for accounts with a role's ARN."""

    def mutate(pod: Object, annotations: Mapping[str, str]) -> None:
        role = annotations.get("eks.amazonaws.com/role-arn")
        if role is None:
            return
        folder = "/var/run/secrets/eks.amazonaws.com/serviceaccount"
        variables = {
            "AWS_STS_REGIONAL_ENDPOINTS": "regional", "AWS_DEFAULT_REGION": region, "AWS_REGION": region,
            "AWS_ROLE_ARN": role, "AWS_WEB_IDENTITY_TOKEN_FILE": f"{folder}/token",
        }  # fmt: skip
        _bind(pod, volume="aws-iam-token", folder=folder, file="token", audience="sts.amazonaws.com", seconds=86400,
              variables=variables)  # fmt: skip

    return mutate


def _bind(
    pod: Object, *, volume: str, folder: str, file: str, audience: str, seconds: int, variables: Mapping[str, str]
) -> None:
    """Project a token into every container of a Pod, and say where it is; what the Pod says itself stays."""
    spec: dict[str, Any] = pod["spec"]
    token = {"audience": audience, "expirationSeconds": seconds, "path": file}
    spec.setdefault("volumes", []).append({
        "name": volume, "projected": {"defaultMode": 0o644, "sources": [{"serviceAccountToken": token}]},
    })  # fmt: skip
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        mount = {"name": volume, "mountPath": folder, "readOnly": True}
        container.setdefault("volumeMounts", []).append(mount)
        env = container.setdefault("env", [])
        known = {each["name"] for each in env}
        env.extend({"name": name, "value": value} for name, value in variables.items() if name not in known)
