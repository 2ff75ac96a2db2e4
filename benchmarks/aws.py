"""Instances on EC2 beside raw boto3: create, list and terminate against one simulated AWS. Each run is a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row

SIZES = (1, 10, 100)
DELAYS_MS = (0, 50)
REGION, IMAGE, TYPE = "us-west-2", "ami-0123456789abcdef0", "c7i.large"
PEERS = "SkyPilot, Ray's node provider, dstack and libcloud are not driven by this benchmark"


def aws(rounds: int) -> Iterator[Row]:
    """Yield seconds, requests and peak RSS of create + list + terminate, ours beside boto3's, for each size and delay."""
    from anyscale_conformance.simulators.aws import AwsSimulator

    simulator = AwsSimulator()
    try:
        account = simulator.account("123456789012", region=REGION)
        account.images[IMAGE] = "x86_64"
        key = simulator.issue(account.administrator())
        for delay_ms in DELAYS_MS:
            account.delay_s = delay_ms / 1000
            for size in SIZES:
                ours: list[dict[str, float]] = []
                floor: list[dict[str, float]] = []
                for number in range(rounds):
                    for who, out in (("ours", ours), ("boto3", floor)):
                        before = len(account.requests)
                        found = _run(who, size, simulator.url, key.id, key.secret, number)
                        calls = [call.action for call in account.requests[before:]]
                        out.append({**found, "requests": float(len(calls))})
                name = f"aws {size} nodes, {delay_ms} ms"
                yield row(f"{name}: time", "s", [each["s"] for each in ours], [each["s"] for each in floor], PEERS)
                yield row(
                    f"{name}: requests",
                    "requests",
                    [each["requests"] for each in ours],
                    [each["requests"] for each in floor],
                )
                yield row(f"{name}: peak RSS", "MB", [each["mb"] for each in ours], [each["mb"] for each in floor])
    finally:
        simulator.close()


def _run(who: str, size: int, url: str, key: str, secret: str, number: int) -> dict[str, float]:
    env = {**os.environ, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    words = [sys.executable, "-m", "benchmarks.aws", who, str(size), url, f"{number}-{time.time_ns()}"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _ours(size: int, url: str, mark: str) -> Any:
    from datetime import UTC, datetime, timedelta

    import attrs
    from anyscale_aws.cluster import AwsCluster

    from anyscale_core.drivers.base import DriverConfig
    from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId, Token
    from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
    from anyscale_core.models.owner import Owner
    from anyscale_core.models.secret import Secret

    owner = Owner(plane=PlaneId(f"pln_{mark}"), cloud=CloudName("bench"), cluster=ClusterId("clu_1"))
    settings = {"endpoint_url": url, "image": IMAGE}
    driver = AwsCluster(DriverConfig(owner=owner, home=Path(), region=REGION, settings=settings))

    def soon() -> datetime:
        return datetime.now(UTC) + timedelta(minutes=2)

    specs = [
        InstanceSpec(
            name=f"n{index}", node_id=NodeId(f"nod_{index}"), owner=owner, kind=NodeKind.WORKER, group="workers",
            instance_type=TYPE,
            bootstrap=Bootstrap(
                url="https://plane", ca_pem="", node_id=NodeId(f"nod_{index}"), join_token=Secret(f"token-{index}"),
                identity_provider="aws",
            ),
        )
        for index in range(size)
    ]  # fmt: skip
    driver.list(attrs.evolve(owner, cluster=None), deadline=soon())  # as a control plane does before its first create
    driver.create(specs, token=Token(mark), deadline=soon())
    ids = [instance.id for instance in driver.list(owner, deadline=soon())]
    driver.delete(ids, owner=owner, deadline=soon())
    return ids


def _boto3(size: int, url: str, mark: str) -> Any:
    import boto3

    ec2 = boto3.client("ec2", region_name=REGION, endpoint_url=url)
    ec2.describe_instances(Filters=[{"Name": "tag:owner", "Values": [mark]}], MaxResults=1000)
    tags = [{"Key": "owner", "Value": mark}]
    kinds = [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")]
    ec2.run_instances(
        ImageId=IMAGE, InstanceType=TYPE, MinCount=1, MaxCount=size, ClientToken=mark, TagSpecifications=kinds
    )
    found = ec2.describe_instances(Filters=[{"Name": "tag:owner", "Values": [mark]}], MaxResults=1000)
    ids = [each["InstanceId"] for reservation in found["Reservations"] for each in reservation["Instances"]]
    ec2.terminate_instances(InstanceIds=ids)
    return ids


def _measure(who: str, size: str, url: str, mark: str) -> None:
    """Print what one run took, from before its imports; the number of instances is checked."""
    began = time.perf_counter()
    ids = (_ours if who == "ours" else _boto3)(int(size), url, mark)
    took = time.perf_counter() - began
    if len(ids) != int(size):
        raise SystemExit(f"{len(ids)} instances of {size}")
    # Not getrusage: what it tells includes the parent's memory from before the exec.
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps({"s": took, "mb": peak_kb / 1024}))


if __name__ == "__main__":
    _measure(*sys.argv[1:])
