"""Policy documents, purely: who may become an identity, and what a grant lets it do."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from anyscale_core.errors import InvalidRequest
from anyscale_core.models.identity import Access

VERSION = "2012-10-17"
EC2 = "ec2.amazonaws.com"
PODS = "pods.eks.amazonaws.com"
"""The service that EKS Pod Identity assumes roles as."""
SERVICE_ACCOUNT = "system:serviceaccount:"
OIDC = "oidc:"
READS = "s3:GetObject"
WRITES = ("s3:*Object", "s3:*Multipart*")
"""Get, put, delete, restore and replicate objects, and the parts of uploads: in few characters, of which a role has 10,240."""


def trust(subjects: Sequence[str], *, assumed_by: str) -> dict[str, Any]:
    """Return who may become an identity: EC2, the control plane, and the Kubernetes service accounts of ``subjects``.

    ``system:serviceaccount:NAMESPACE:NAME`` trusts EKS Pod Identity for that service account. With
    ``oidc:PROVIDER_ARN#system:serviceaccount:NAMESPACE:NAME`` it is IRSA: the cluster's OIDC provider, for that subject and the
    audience of STS. Raises InvalidRequest(FIELD) for any other subject.
    """
    statements: list[dict[str, Any]] = [
        _allow({"Service": EC2}, "sts:AssumeRole"),
        _allow({"AWS": assumed_by}, "sts:AssumeRole"),
    ]
    for subject in subjects:
        provider, _, account = subject.rpartition("#")
        namespace, name = _service_account(account)
        if provider:
            statements.append(_irsa(provider, f"{SERVICE_ACCOUNT}{namespace}:{name}"))
            continue
        tags = {"aws:RequestTag/kubernetes-namespace": namespace, "aws:RequestTag/kubernetes-service-account": name}
        statement = _allow({"Service": PODS}, ["sts:AssumeRole", "sts:TagSession"])
        statements.append({**statement, "Condition": {"StringEquals": tags}})
    return {"Version": VERSION, "Statement": statements}


def subjects_of(document: Any) -> tuple[str, ...]:
    """Return the subjects that a trust policy lets in: the twin of ``trust``."""
    found = json.loads(unquote(document)) if isinstance(document, str) else document
    subjects: list[str] = []
    for statement in found.get("Statement", ()):
        principal, equals = statement.get("Principal", {}), statement.get("Condition", {}).get("StringEquals", {})
        if not isinstance(principal, Mapping):
            continue
        if principal.get("Service") == PODS:
            namespace = equals.get("aws:RequestTag/kubernetes-namespace", "")
            subjects.append(
                f"{SERVICE_ACCOUNT}{namespace}:{equals.get('aws:RequestTag/kubernetes-service-account', '')}"
            )
        if "Federated" in principal:
            subject = next((value for key, value in equals.items() if key.endswith(":sub")), "")
            subjects.append(f"{OIDC}{principal['Federated']}#{subject}")
    return tuple(subjects)


def grant(bucket: str, prefix: str, access: Access) -> str:
    """Return the policy of a grant, in as few characters as can be: how many fit bounds the grants of a role."""
    below = _literal(prefix)
    statements = [
        {
            "Effect": "Allow", "Action": WRITES if access is Access.WRITE else READS,
            "Resource": f"arn:aws:s3:::{bucket}/{below}*",
        },
        {
            "Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}",
            "Condition": {"StringLike": {"s3:prefix": f"{below}*"}},
        },
    ]  # fmt: skip
    return compact({"Version": VERSION, "Statement": statements})


def tls_only(bucket: str) -> str:
    """Return the policy of a bucket that refuses whatever comes without TLS."""
    arn = f"arn:aws:s3:::{bucket}"
    statement = {
        "Sid": "TlsOnly", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }  # fmt: skip
    return compact({"Version": VERSION, "Statement": [statement]})


def compact(document: Mapping[str, Any]) -> str:
    """Return a document without blanks."""
    return json.dumps(document, separators=(",", ":"))


def _literal(prefix: str) -> str:
    """Return a prefix in which ``*``, ``?`` and ``$`` stand for themselves (IAM User Guide, "Policy variables")."""
    return "".join(f"${{{each}}}" if each in "*?$" else each for each in prefix)


def _allow(principal: Mapping[str, str], action: str | list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": dict(principal), "Action": action}


def _irsa(provider: str, subject: str) -> dict[str, Any]:
    arn = provider.removeprefix(OIDC)
    issuer = arn.partition(":oidc-provider/")[2]
    if not provider.startswith(OIDC) or not issuer:
        raise InvalidRequest(
            f"{provider!r} is not an OIDC provider of IAM", reason="FIELD",
            hint="write oidc:arn:aws:iam::ACCOUNT:oidc-provider/ISSUER#system:serviceaccount:NAMESPACE:NAME",
        )  # fmt: skip
    equals = {f"{issuer}:sub": subject, f"{issuer}:aud": "sts.amazonaws.com"}
    statement = _allow({"Federated": arn}, "sts:AssumeRoleWithWebIdentity")
    return {**statement, "Condition": {"StringEquals": equals}}


def _service_account(subject: str) -> tuple[str, str]:
    namespace, _, name = subject.removeprefix(SERVICE_ACCOUNT).partition(":")
    plain = all(part and "*" not in part and ":" not in part for part in (namespace, name))
    if not subject.startswith(SERVICE_ACCOUNT) or not plain:
        raise InvalidRequest(
            f"{subject!r} is not a Kubernetes service account", reason="FIELD",
            hint="write system:serviceaccount:NAMESPACE:NAME, without a pattern",
        )  # fmt: skip
    return namespace, name
