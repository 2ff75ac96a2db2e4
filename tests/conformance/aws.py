"""One account of the simulated AWS, and the real clients that its tests drive it with."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import boto3
from anyscale_conformance.simulators.aws import Account, AwsSimulator, Key, Timing
from botocore.config import Config
from botocore.exceptions import ClientError

from anyscale_core.clock import Clock
from anyscale_core.testing.clock import ManualClock

REGION, IMAGE, TYPE = "us-west-2", "ami-0123456789abcdef0", "c7i.large"
PLANE = "999999999999"
EXTERNAL_ID = "org-7"


class World:
    """An account, its clock (moved by hand, unless another is given), and clients of it that try once."""

    def __init__(
        self, simulator: AwsSimulator, number: int, *, timing: Timing | None = None, clock: Clock | None = None
    ) -> None:
        self.simulator, self.clock = simulator, clock or ManualClock()
        self.at: Account = simulator.account(
            f"{100_000_000_000 + number}", region=REGION, clock=self.clock, timing=timing
        )
        self.at.images[IMAGE] = "x86_64"
        self.admin: Key = simulator.issue(self.at.administrator())

    def client(self, service: str, key: Key | None = None, **config: Any) -> Any:
        """Return a client of boto3; the administrator's unless a key is given."""
        who = key or self.admin
        return boto3.client(
            service, region_name=REGION, endpoint_url=self.simulator.url, aws_access_key_id=who.id,
            aws_secret_access_key=who.secret, aws_session_token=who.session_token or None,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **config),
        )  # fmt: skip

    def wait(self, time: timedelta = timedelta(minutes=5)) -> None:
        """Let time pass."""
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(time)

    def calls(self, action: str) -> int:
        """Return how many requests of an action have come."""
        return sum(1 for call in self.at.requests if call.action == action)

    def role(self, name: str, trust: Mapping[str, Any]) -> str:
        """Make a role; return its ARN."""
        role = self.at.iam.create_role(
            role_name=name, assume_role_policy_document=json.dumps(trust), path="/", permissions_boundary=None,
            description="", tags=[], max_session_duration="3600",
        )  # fmt: skip
        return str(role.arn)


def trusting(account: str, *, external_id: str = "") -> dict[str, Any]:
    """Return a trust policy for an account, with an ExternalId if one is given."""
    statement: dict[str, Any] = {
        "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{account}:root"}, "Action": "sts:AssumeRole",
    }  # fmt: skip
    if external_id:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return {"Version": "2012-10-17", "Statement": [statement]}


def the_code(error: ClientError) -> str:
    """Return the code of an error of AWS."""
    return str(error.response["Error"]["Code"])
