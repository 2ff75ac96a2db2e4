"""What this plugin owes a cloud whose clusters are of EKS: roles that Kubernetes' service accounts become, and a bucket."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyscale_aws import policies
from anyscale_conformance.simulators.aws import AwsSimulator, sts, web_identity
from anyscale_conformance.simulators.aws.signing import Refusal
from botocore import UNSIGNED
from botocore.exceptions import ClientError
from joserfc import jwt
from joserfc.jwk import RSAKey

from anyscale_core.controlplane.foundations import Data
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.settings import Settings
from anyscale_core.errors import AlreadyExists, InvalidRequest
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.models.identity import Access, Identity, IdentitySpec
from anyscale_core.models.ids import CloudName
from anyscale_core.models.owner import Owner
from anyscale_core.models.storage import BucketSpec
from anyscale_core.testing.clock import ManualClock
from tests.conformance.aws import REGION, the_code
from tests.conformance.aws_cases import CLOUD, Town

ISSUER = "https://oidc.eks.us-west-2.amazonaws.com/id/ABCDEF"
WORKLOADS, OTHERS = "system:serviceaccount:ray:workloads", "system:serviceaccount:ray:others"


@pytest.fixture(scope="module")
def simulator() -> Iterator[AwsSimulator]:
    simulator = AwsSimulator()
    yield simulator
    simulator.close()


@attrs.define(kw_only=True)
class Eks:
    """An account that trusts an EKS cluster's issuer."""

    town: Town
    provider: str
    key: RSAKey

    def irsa(self, account: str) -> str:
        return f"oidc:{self.provider}#{account}"

    def identity(self, *subjects: str, name: str = "nodes") -> Identity:
        spec = IdentitySpec(name=name, owner=CLOUD, subjects=subjects)
        return self.town.base.identity.create(spec, token=self.town.token(), deadline=self.town.soon())

    def token(self, account: str, **claims: Any) -> str:
        """Return a token as the cluster projects it into a Pod of a service account."""
        ends = int((self.town.clock.now() + timedelta(hours=1)).timestamp())
        known = {"iss": ISSUER, "sub": account, "aud": "sts.amazonaws.com", "exp": ends}
        return jwt.encode({"alg": "RS256"}, known | claims, self.key, algorithms=["RS256"])

    def assume(self, role: str, token: str) -> Any:
        """Become a role as a Pod does by AWS_WEB_IDENTITY_TOKEN_FILE; return the client of S3 that it has then."""
        client = self.town.client("sts", signature_version=UNSIGNED)
        found = client.assume_role_with_web_identity(RoleArn=role, RoleSessionName="pod", WebIdentityToken=token)
        return self.town.client("s3", self.town.simulator.keys[found["Credentials"]["AccessKeyId"]])

    def refused(self, role: str, token: str) -> str:
        with pytest.raises(ClientError) as caught:
            self.assume(role, token)
        return the_code(caught.value)

    def pod(self, role: str, account: str) -> Any:
        """Become a role by EKS Pod Identity."""
        _, _, namespace, name = account.split(":")
        return sts.pod_identity(
            self.town.simulator, self.town.at, role, cluster="eks", namespace=namespace, service_account=name
        )


@pytest.fixture
def eks(simulator: AwsSimulator, tmp_path: Path) -> Eks:
    town = Town(simulator, 1 + len(simulator.accounts), tmp_path)
    key = RSAKey.generate_key(2048)
    provider = web_identity.trust(town.at, ISSUER, {"keys": [key.as_dict(private=False)]})
    return Eks(town=town, provider=provider, key=key)


def test_a_service_account_becomes_its_identity_by_irsa_and_may_what_that_is_granted(eks: Eks) -> None:
    made = eks.identity(eks.irsa(WORKLOADS))
    assert made.principal.startswith(f"arn:aws:iam::{eks.town.at.id}:role/"), (
        "what its ServiceAccount is annotated with"
    )
    storage, who = eks.town.base.storage, eks.town.who
    bucket = storage.create(BucketSpec(name="logs-of-pln-1"), token=eks.town.token(), **who())
    storage.grant(bucket.name, "a/", identity="nodes", access=Access.WRITE, token=eks.town.token(), **who())
    s3, name = eks.assume(made.principal, eks.token(WORKLOADS)), bucket.url.removeprefix("s3://")
    s3.put_object(Bucket=name, Key="a/x", Body=b"mine")
    assert s3.get_object(Bucket=name, Key="a/x")["Body"].read() == b"mine"
    with pytest.raises(ClientError, match="s3:PutObject"):
        s3.put_object(Bucket=name, Key="b/x", Body=b"not mine")


def test_irsa_lets_nobody_else_in(eks: Eks) -> None:
    role = eks.identity(eks.irsa(WORKLOADS)).principal
    other = RSAKey.generate_key(2048)
    past = int(eks.town.clock.now().timestamp()) - 1
    forged = jwt.encode({"alg": "RS256"}, {"iss": ISSUER, "sub": WORKLOADS}, other, algorithms=["RS256"])
    assert eks.refused(role, eks.token(OTHERS)) == "AccessDenied"
    assert eks.refused(role, eks.token(f"{WORKLOADS}x")) == "AccessDenied"
    assert eks.refused(role, eks.token(WORKLOADS, aud="somebody")) == "InvalidIdentityToken"
    assert eks.refused(role, eks.token(WORKLOADS, iss="https://another")) == "InvalidIdentityToken"
    assert eks.refused(role, eks.token(WORKLOADS, exp=past)) == "ExpiredTokenException"
    assert eks.refused(role, forged) == "InvalidIdentityToken"
    assert eks.refused(role, "nonsense") == "InvalidIdentityToken"


def test_a_service_account_becomes_its_identity_by_pod_identity_and_another_does_not(eks: Eks) -> None:
    role = eks.identity(WORKLOADS).principal.rpartition("/")[2]
    assert f":assumed-role/{role}/" in eks.pod(role, WORKLOADS).principal
    for account in (OTHERS, "system:serviceaccount:kube-system:workloads"):
        with pytest.raises(Refusal, match="may not assume"):
            eks.pod(role, account)


def test_a_pod_identity_and_a_federated_one_are_not_taken_for_each_other(eks: Eks) -> None:
    by_pod, by_token = eks.identity(WORKLOADS, name="pod"), eks.identity(eks.irsa(WORKLOADS), name="irsa")
    assert eks.refused(by_pod.principal, eks.token(WORKLOADS)) == "AccessDenied"
    with pytest.raises(Refusal):
        eks.pod(by_token.principal.rpartition("/")[2], WORKLOADS)


def test_several_subjects_become_one_identity_and_are_told_when_it_is_read(eks: Eks) -> None:
    subjects = (eks.irsa(WORKLOADS), eks.irsa(OTHERS), "system:serviceaccount:ray:pod")
    made = eks.identity(*subjects)
    assert made.subjects == subjects
    assert eks.town.base.identity.get("nodes", **eks.town.who()).subjects == subjects
    assert [one.subjects for one in eks.town.base.identity.list(**eks.town.who())] == [subjects]
    for account in (WORKLOADS, OTHERS):
        eks.assume(made.principal, eks.token(account))
    eks.pod(made.principal.rpartition("/")[2], "system:serviceaccount:ray:pod")


def test_a_subject_that_is_taken_away_with_the_identity_does_not_get_into_the_one_that_is_made_anew(eks: Eks) -> None:
    eks.identity(eks.irsa(WORKLOADS), eks.irsa(OTHERS))
    with pytest.raises(AlreadyExists):
        eks.identity(eks.irsa(WORKLOADS))
    eks.town.base.identity.delete("nodes", **eks.town.who())
    role = eks.identity(eks.irsa(WORKLOADS)).principal
    assert eks.refused(role, eks.token(OTHERS)) == "AccessDenied"
    eks.assume(role, eks.token(WORKLOADS))


def test_a_trust_policy_of_irsa_asks_for_both_subject_and_audience(eks: Eks) -> None:
    document = policies.trust([eks.irsa(WORKLOADS), OTHERS], assumed_by="arn:aws:iam::1:root")
    federated, pods = document["Statement"][2:]
    issuer = ISSUER.removeprefix("https://")
    assert federated["Principal"] == {"Federated": eks.provider}
    assert federated["Condition"] == {
        "StringEquals": {f"{issuer}:sub": WORKLOADS, f"{issuer}:aud": "sts.amazonaws.com"}
    }
    assert pods["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    assert pods["Action"] == ["sts:AssumeRole", "sts:TagSession"]


@pytest.mark.parametrize(
    "subject",
    [
        "system:serviceaccount:ray:*", "system:serviceaccount:*:workloads", "system:serviceaccount:ray", "ray:workloads", "",
        f"oidc:not-an-arn#{WORKLOADS}", f"somebody#{WORKLOADS}", "oidc:arn:aws:iam::1:oidc-provider/i#system:node:x",
    ],
)  # fmt: skip
def test_a_subject_that_would_let_in_more_than_one_account_is_refused(eks: Eks, subject: str) -> None:
    before = eks.town.inventory()
    with pytest.raises(InvalidRequest):
        eks.identity(subject)
    assert eks.town.inventory() == before


def test_a_cloud_of_kubernetes_has_its_identity_and_its_bucket_from_here(
    eks: Eks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    control = ControlPlane(Settings(home=tmp_path / "plane"), clock=clock)
    owner = Owner(plane=control.id, cloud=CloudName("eks"))
    town = Town(eks.town.simulator, 50, tmp_path, owner=owner, clock=clock)
    before = town.inventory()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", town.plane.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", town.plane.secret)
    control.register_cloud(_composed(town, (f"oidc:{eks.provider}#{WORKLOADS}",)), actor="test")
    while (status := control.set_up_cloud("eks", actor="test")).missing:
        continue
    made = {resource.kind: resource.id for resource in status.resources}
    assert made["identity"].startswith(f"arn:aws:iam::{town.at.id}:role/")
    assert made["bucket"].startswith("s3://")
    assert {kind for kind, _ in town.inventory()} - {kind for kind, _ in before} == {"bucket", "identity"}
    while control.delete_cloud("eks", data=Data.DELETE, actor="test") is not None:
        continue
    control.close()
    assert town.inventory() == before


def _composed(town: Town, subjects: Sequence[str]) -> CloudSpec:
    document = {
        "name": "eks", "provider": "kubernetes", "identity": "aws", "storage": "aws", "mode": "operator", "region": REGION,
        "node_identity": {"name": "nodes", "subjects": list(subjects)},
        "settings": {"kubernetes": {"namespace": "ray"}, "aws": dict(town.config().settings)},
    }  # fmt: skip
    return wire.structure(document, CloudSpec)
