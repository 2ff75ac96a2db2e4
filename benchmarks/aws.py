"""A fleet on EC2 beside raw boto3 and four others: create, list and terminate against one simulated AWS.

Each run is a process of its own, and each peer has an environment of its own, made at its first use below the user's cache. A
peer that cannot be made or driven says why in its row. Every run looks at the fleet once before it creates, as a control plane
does; the floor does so, too.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs

from benchmarks.peers import environment
from benchmarks.rows import Row, interleaved, row

SIZES = (1, 10, 100)
DELAYS_MS = (0, 50)
REGION, TYPE = "us-west-2", "c7i.large"
PEERS: Mapping[str, tuple[str, ...]] = {
    "skypilot": ("skypilot[aws]==0.14.1",),
    "ray": ("ray[default]==2.60.0", "boto3==1.44.5"),
    "dstack": ("dstack[aws]==0.22.5",),
    "libcloud": ("apache-libcloud==3.9.1",),
}
"""What to install for each peer."""
PATIENCE_S = 180
COLUMNS = (
    ("s", "from its start", "s"),
    ("calls_s", "calls", "s"),
    ("requests", "requests", "requests"),
    ("mb", "peak RSS", "MB"),
)


@attrs.frozen(kw_only=True)
class Job:
    """One run: so many instances, marked by ``mark``, at the AWS of ``url``."""

    url: str
    size: int
    mark: str
    region: str
    type: str
    image: str
    image_name: str
    image_owner: str
    vpc: str
    subnet: str
    zone: str
    group: str


@attrs.frozen(kw_only=True)
class Cost:
    """What a run took: seconds from before its imports and of its calls alone, peak memory, requests on the wire."""

    s: float
    calls_s: float
    mb: float
    requests: int


def aws(rounds: int) -> Iterator[Row]:
    """Yield seconds, requests and peak RSS of create + list + terminate, for each size and delay."""
    from anyscale_conformance.simulators.aws import AwsSimulator, Timing

    yield _imported(rounds)
    interpreters = {peer: environment(peer, PEERS[peer]) for peer in PEERS}
    simulator = AwsSimulator()
    try:
        # dstack waits until its instances run, and looks for that once in 15 s.
        timing = Timing(pending=timedelta(), shutting_down=timedelta())
        account = simulator.account("123456789012", region=REGION, timing=timing)
        key = simulator.issue(account.administrator())
        job = _furnished(account, simulator.url, key)
        for delay_ms in DELAYS_MS:
            for size in SIZES:
                account.delay_s = delay_ms / 1000
                costs: dict[str, list[Cost]] = {"ours": [], "boto3": []}
                for _ in range(rounds):
                    for who, found in costs.items():
                        found.append(_run(who, sys.executable, attrs.evolve(job, size=size), account, key))
                peers = {
                    who: _tried(who, interpreters[who], attrs.evolve(job, size=size), account, key) for who in PEERS
                }
                account.delay_s = 0.0
                yield from _rows(f"aws {size} nodes, {delay_ms} ms", costs, peers)
    finally:
        simulator.close()


def _imported(rounds: int) -> Row:
    """Measure what the plugin costs before its first call, over the contract that it stands on."""
    bare = "import anyscale_core.hookspecs, anyscale_core.models.wire, anyscale_core.drivers.startup"
    code = "import anyscale_aws.plugin as p; p.anyscale_provider(); import anyscale_aws.cluster"
    tell = "import sys; print(sorted({name.partition('.')[0] for name in sys.modules} & {'boto3', 'botocore'}))"
    heavy = subprocess.run([sys.executable, "-c", f"{code}; {tell}"], capture_output=True, text=True, check=True)
    ours, floor = interleaved(rounds, lambda: _process_ms(code), lambda: _process_ms(bare))
    return row("aws import", "ms", ours, floor, f"a process each; of the SDK loaded: {heavy.stdout.strip()}")


def _process_ms(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - began) * 1000


def _rows(name: str, costs: Mapping[str, list[Cost]], peers: Mapping[str, "Cost | str"]) -> Iterator[Row]:
    for what, title, unit in COLUMNS:
        told = [
            f"{who} {cost}" if isinstance(cost, str) else f"{who} {getattr(cost, what):.4g}"
            for who, cost in peers.items()
        ]
        ours, floor = ([getattr(cost, what) for cost in costs[who]] for who in ("ours", "boto3"))
        yield row(f"{name}: {title}", unit, ours, floor, *told)


def _tried(who: str, interpreter: str, job: Job, account: Any, key: Any) -> "Cost | str":
    """Return what a peer took, or why it took nothing."""
    if not interpreter.startswith("/"):
        return f"not driven: {interpreter}"
    try:
        return _run(who, interpreter, job, account, key)
    except subprocess.TimeoutExpired:
        return f"not done within {PATIENCE_S} s"
    except subprocess.CalledProcessError as error:
        return f"failed: {(str(error.stderr).strip().splitlines() or ['?'])[-1][:120]}"


def _run(who: str, interpreter: str, job: Job, account: Any, key: Any) -> Cost:
    job = attrs.evolve(job, mark=f"{who}-{time.time_ns()}")
    here = Path(__file__).parent
    script = [str(here / "aws_peers.py")] if who in PEERS else ["-m", "benchmarks.aws"]
    before = len(account.requests)
    with tempfile.TemporaryDirectory() as home:
        # The address by its variable: each of them has its own way of being told, and all of boto3 hears this one.
        env = {
            **os.environ, "HOME": home, "AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret,
            "AWS_ENDPOINT_URL": job.url, "AWS_DEFAULT_REGION": job.region,
        }  # fmt: skip
        done = subprocess.run(
            [interpreter, *script, who, json.dumps(attrs.asdict(job))], env=env, capture_output=True, text=True, check=True,
            cwd=here.parent, timeout=PATIENCE_S,
        )  # fmt: skip
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Cost(**found, requests=len(account.requests) - before)


def _furnished(account: Any, url: str, key: Any) -> Job:
    """Give an account an image, and its default network a way out, as every account has it."""
    import boto3

    image = account.ec2.register_image(name="bench", description="")
    account.images[image.id] = "x86_64"
    ec2 = boto3.client(
        "ec2", region_name=REGION, endpoint_url=url, aws_access_key_id=key.id, aws_secret_access_key=key.secret
    )
    subnet = ec2.describe_subnets()["Subnets"][0]
    here = [{"Name": "vpc-id", "Values": [subnet["VpcId"]]}]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=subnet["VpcId"])
    table = ec2.describe_route_tables(Filters=here)["RouteTables"][0]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    group = ec2.describe_security_groups(Filters=here)["SecurityGroups"][0]["GroupId"]
    return Job(
        url=url, size=0, mark="", region=REGION, type=TYPE, image=image.id, image_name="bench", image_owner=account.id,
        vpc=subnet["VpcId"], subnet=subnet["SubnetId"], zone=subnet["AvailabilityZone"], group=group,
    )  # fmt: skip


def _ours(job: Job, ready: Callable[[], None]) -> Any:
    from datetime import UTC, datetime, timedelta

    import attrs
    from anyscale_aws.cluster import AwsCluster

    from anyscale_core.drivers.base import DriverConfig
    from anyscale_core.models.ids import CloudName, ClusterId, NodeId, PlaneId, Token
    from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
    from anyscale_core.models.owner import Owner
    from anyscale_core.models.secret import Secret

    owner = Owner(plane=PlaneId(f"pln_{job.mark}"), cloud=CloudName("bench"), cluster=ClusterId("clu_1"))
    settings = {"endpoint_url": job.url, "image": job.image}
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
        for index in range(job.size)
    ]  # fmt: skip
    driver.list(attrs.evolve(owner, cluster=None), deadline=soon())  # as a control plane does before its first create
    ready()
    driver.create(specs, token=Token(job.mark), deadline=soon())
    ids = [instance.id for instance in driver.list(owner, deadline=soon())]
    driver.delete(ids, owner=owner, deadline=soon())
    return ids


def _boto3(job: Job, ready: Callable[[], None]) -> Any:
    import boto3

    ec2 = boto3.client("ec2", region_name=REGION, endpoint_url=job.url)
    mine = [{"Name": "tag:owner", "Values": [job.mark]}]
    ec2.describe_instances(Filters=mine, MaxResults=1000)
    ready()
    tags = [{"Key": "owner", "Value": job.mark}]
    kinds = [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")]
    ec2.run_instances(
        ImageId=job.image,
        InstanceType=TYPE,
        MinCount=1,
        MaxCount=job.size,
        ClientToken=job.mark,
        TagSpecifications=kinds,
    )
    found = ec2.describe_instances(Filters=mine, MaxResults=1000)
    ids = [each["InstanceId"] for reservation in found["Reservations"] for each in reservation["Instances"]]
    ec2.terminate_instances(InstanceIds=ids)
    return ids


def _measure(who: str, text: str) -> None:
    """Print what one run took, from before its imports; the number of instances is checked."""
    job = Job(**json.loads(text))
    times = [time.perf_counter()]
    ids = (_ours if who == "ours" else _boto3)(job, lambda: times.append(time.perf_counter()))
    times.append(time.perf_counter())
    if len(ids) != job.size:
        raise SystemExit(f"{len(ids)} instances of {job.size}")
    # Not getrusage: what it tells includes the parent's memory from before the exec.
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps({"s": times[2] - times[0], "calls_s": times[2] - times[1], "mb": peak_kb / 1024}))


if __name__ == "__main__":
    _measure(*sys.argv[1:])
