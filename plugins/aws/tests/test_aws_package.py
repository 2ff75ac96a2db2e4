"""The package as a whole."""

import os
import subprocess
import sys

import pytest
from anyscale_aws.launch import check
from anyscale_conformance.simulators.aws import AwsSimulator

from anyscale_core.errors import InvalidRequest
from anyscale_core.testing.builders import an_instance_spec

SDKS = ("boto3", "botocore")

CODE = f"""
import sys
import anyscale_aws
loaded = [name for name in sys.modules if name.partition('.')[0] in {SDKS!r}]
sys.exit(f'loaded: {{loaded}}' if loaded else 0)
"""


def test_importing_the_package_loads_no_sdk() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


FIRST_CALL = f"""
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.registry import Registry
from anyscale_core.testing.builders import owner

def loaded():
    return sorted({{name.partition('.')[0] for name in sys.modules}} & set({SDKS!r}))

provider = Registry.load().provider('aws')
settings = {{'endpoint_url': sys.argv[1]}}
config = DriverConfig(owner=owner(cloud='aws'), home=Path(), region='us-west-2', settings=settings)
drivers = [getattr(provider, slot)(config) for slot in ('cluster', 'identity', 'storage', 'networking')]
drivers[1].permissions(['cluster.create'])
print(loaded())
drivers[0].list(owner(cloud='aws'), deadline=datetime.now(UTC) + timedelta(minutes=1))
print(loaded())
"""


def test_the_first_call_loads_botocore_alone_and_is_one_request() -> None:
    simulator = AwsSimulator()
    account = simulator.account("123456789012")
    key = simulator.issue(account.administrator())
    env = {**os.environ, "AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret}
    try:
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CALL, simulator.url], env=env, capture_output=True, text=True, check=False
        )
    finally:
        simulator.close()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "['botocore']"]
    assert [call.action for call in account.requests] == ["DescribeInstances"]


def test_a_spec_cannot_set_what_is_the_control_planes_to_set() -> None:
    mine = {"IamInstanceProfile": {"Name": "admin"}, "UserData": "", "EbsOptimized": True}
    with pytest.raises(InvalidRequest, match=r"IamInstanceProfile, UserData cannot be set by advanced_instance_config"):
        check([an_instance_spec("a", advanced_instance_config=mine)])
