"""EKS: Pods of Kubernetes with roles and a bucket of AWS, by IRSA."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyscale_conformance.simulators.aws import Account, AwsSimulator, web_identity
from anyscale_conformance.simulators.kubernetes import Cluster
from anyscale_conformance.simulators.kubernetes.webhooks import eks_pod_identity
from botocore.exceptions import ClientError
from botocore.session import Session

from anyscale_core.controlplane.grants import granted
from anyscale_core.models.cloud import CloudSpec, NodeIdentity
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from tests.compositions import pods

ACCOUNT, REGION = "123456789012", "us-west-2"


@pytest.fixture
def simulator() -> Iterator[AwsSimulator]:
    simulator = AwsSimulator()
    yield simulator
    simulator.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with pods.a_cluster() as cluster:
        cluster.add_webhook(eks_pod_identity(region=REGION))
        yield cluster


def refusal(call: Any, **fields: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**fields)
    return str(caught.value.response["Error"]["Code"])


def test_a_pods_own_token_becomes_the_role_and_reaches_its_prefix_alone(
    simulator: AwsSimulator, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account: Account = simulator.account(ACCOUNT, region=REGION)
    key = simulator.issue(account.administrator())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key.secret)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    provider = web_identity.trust(account, pods.ISSUER, cluster.tokens.keys())
    spec = CloudSpec(
        name="eks", provider="kubernetes", identity="aws", storage="aws", region=REGION,
        node_identity=NodeIdentity(subjects=(f"oidc:{provider}#{pods.WORKLOADS}",)),
        settings={"kubernetes": pods.kubernetes(cluster, tmp_path), "aws": {"endpoint_url": simulator.url}},
    )  # fmt: skip
    plane, identity, container = pods.first_pod(cluster, spec, tmp_path)
    assert container.account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": identity.principal}

    cloud = plane.clouds.get("eks")
    mine = granted(cloud, "mine/", Access.WRITE, token=Token("t"))
    bucket = mine.store.url.split("/")[2]
    environment = container.environment
    web = {"RoleArn": environment["AWS_ROLE_ARN"], "RoleSessionName": "pod"}
    session = Session()
    sts = session.create_client("sts", region_name=environment["AWS_REGION"], endpoint_url=simulator.url)
    token = container.files[environment["AWS_WEB_IDENTITY_TOKEN_FILE"]].decode()
    told = sts.assume_role_with_web_identity(**web, WebIdentityToken=token)
    assert told["SubjectFromWebIdentityToken"] == pods.WORKLOADS
    found = told["Credentials"]
    s3 = session.create_client(
        "s3", region_name=REGION, endpoint_url=simulator.url, aws_access_key_id=found["AccessKeyId"],
        aws_secret_access_key=found["SecretAccessKey"], aws_session_token=found["SessionToken"],
    )  # fmt: skip
    s3.put_object(Bucket=bucket, Key="mine/log", Body=b"said")
    assert s3.get_object(Bucket=bucket, Key="mine/log")["Body"].read() == b"said"
    assert refusal(s3.put_object, Bucket=bucket, Key="theirs/log", Body=b"said") == "AccessDenied"

    others = {
        "of another account": cluster.token(pods.NAMESPACE, "default", audiences=("sts.amazonaws.com",)),
        "for another audience": cluster.token(pods.NAMESPACE, "workloads", audiences=("vault",)),
        "of another issuer": f"{token[:-8]}AAAAAAAA",
    }
    refused = {
        why: refusal(sts.assume_role_with_web_identity, **web, WebIdentityToken=each) for why, each in others.items()
    }
    assert refused == {
        "of another account": "AccessDenied", "for another audience": "InvalidIdentityToken",
        "of another issuer": "InvalidIdentityToken",
    }  # fmt: skip
    plane.close()
