"""EKS on real Ray: Pods of Kubernetes that run as a role of AWS, with a bucket there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyscale_aws.kit_oracle import AccountOracle
from anyscale_conformance.simulators.aws import Account, AwsSimulator, web_identity
from anyscale_conformance.simulators.kubernetes.webhooks import eks_pod_identity

from tests.compositions import pods
from tests.compositions.stories import Story
from tests.conformance.stories import a_home

ACCOUNT, REGION = "123456789012", "us-west-2"


@pytest.fixture
def home() -> Iterator[Path]:
    with a_home("eks") as folder:
        yield folder


@pytest.fixture
def simulator() -> Iterator[AwsSimulator]:
    simulator = AwsSimulator()
    yield simulator
    simulator.close()


def made(account: Account) -> list[tuple[str, str]]:
    return sorted((item.kind, item.name) for item in AccountOracle(account).inventory())


@pytest.mark.real_ray
@pytest.mark.timeout(240)
def test_a_job_runs_on_eks_as_its_role_and_nothing_stays(simulator: AwsSimulator, home: Path) -> None:
    account = simulator.account(ACCOUNT, region=REGION)
    key = simulator.issue(account.administrator())
    env = {"AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret, "AWS_ALLOW_HTTP": "true"}
    with pods.a_running_cluster() as cluster:
        cluster.add_webhook(eks_pod_identity(region=REGION))
        provider = web_identity.trust(account, pods.ISSUER, cluster.tokens.keys())
        story = Story(name="eks", cluster=cluster, home=home, env=env)
        before, in_cluster = made(account), story.in_cluster()
        try:
            role = story.set_up({
                "provider": "kubernetes", "identity": "aws", "storage": "aws", "region": REGION,
                "node_identity": {"subjects": [f"oidc:{provider}#{pods.WORKLOADS}"]},
                "settings": {"kubernetes": story.kubernetes(), "aws": {"endpoint_url": simulator.url}},
            })  # fmt: skip
            assert role.startswith(f"arn:aws:iam::{ACCOUNT}:role/")
            story.run()
            stored = {key.rpartition("/")[2] for bucket in account.s3.buckets.values() for key in bucket.keys}
            assert stored >= {"raylet.out", "gcs_server.out"}
            story.cli("cloud", "delete", "eks", "--delete-data")
        finally:
            story.cli("stop")
        assert made(account) == before
        assert story.in_cluster() - in_cluster == {"serviceaccounts workloads"}
