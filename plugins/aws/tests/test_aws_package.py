"""The package as a whole."""

import subprocess
import sys

import pytest
from anyscale_aws.launch import check

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


def test_a_spec_cannot_set_what_is_the_control_planes_to_set() -> None:
    mine = {"IamInstanceProfile": {"Name": "admin"}, "UserData": "", "EbsOptimized": True}
    with pytest.raises(InvalidRequest, match=r"IamInstanceProfile, UserData cannot be set by advanced_instance_config"):
        check([an_instance_spec("a", advanced_instance_config=mine)])
