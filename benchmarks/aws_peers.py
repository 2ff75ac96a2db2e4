"""What others need for the same fleet: create, list and terminate, each with its own code. Runs in the peer's environment alone.

``python aws_peers.py PEER JOB`` prints one line of JSON: seconds from before the peer's first import, those of its calls, and
peak memory. JOB is the JSON of ``benchmarks.aws.Job``. Nothing of this project is imported, and a peer by its own function.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Ready = Callable[[], None]
"""To be called when imports are done and clients made."""


def skypilot(job: Job, ready: Ready) -> list[Any]:
    """SkyPilot's provisioner."""
    from sky.provision.aws import instance
    from sky.provision.common import ProvisionConfig

    provider = {
        "region": job["region"],
        "use_internal_ips": True,
        "security_group": {"GroupName": "default", "ManagedBySkyPilot": False},
    }
    node = {
        "ImageId": job["image"],
        "InstanceType": job["type"],
        "SubnetIds": [job["subnet"]],
        "SecurityGroupIds": [job["group"]],
    }
    config = ProvisionConfig(
        provider_config=provider,
        authentication_config={},
        docker_config={},
        node_config=node,
        count=job["size"],
        tags={},
        resume_stopped_nodes=False,
        ports_to_open_on_launch=None,
    )
    ready()
    instance.run_instances(job["region"], job["mark"], job["mark"], config)
    found = instance.query_instances(job["mark"], job["mark"], provider)
    instance.terminate_instances(job["mark"], provider)
    return list(found)


def ray(job: Job, ready: Ready) -> list[Any]:
    """The node provider of Ray's autoscaler."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.cli_logger import cli_logger

    cli_logger.configure(log_style="record", verbosity=-999)
    provider = AWSNodeProvider({"region": job["region"], "cache_stopped_nodes": False}, job["mark"])
    node = {"ImageId": job["image"], "InstanceType": job["type"], "SubnetIds": [job["subnet"]]}
    ready()
    provider.create_node(node, {"ray-node-type": "worker"}, job["size"])
    found = provider.non_terminated_nodes({})
    provider.terminate_nodes(found)
    return list(found)


def dstack(job: Job, ready: Ready) -> list[Any]:
    """dstack's compute, which knows one instance at a time, and no list."""
    from dstack._internal.core.backends.aws.compute import AWSCompute
    from dstack._internal.core.backends.aws.models import AWSConfig
    from dstack._internal.core.models.instances import (
        Disk,
        InstanceAvailability,
        InstanceConfiguration,
        InstanceOfferWithAvailability,
        InstanceType,
        Resources,
    )

    image = {"name": job["image_name"], "owner": job["image_owner"], "user": "ubuntu"}
    compute = AWSCompute(
        AWSConfig.model_validate({
            "type": "aws", "regions": [job["region"]], "creds": {"type": "default"}, "os_images": {"cpu": image},
            "vpc_ids": {job["region"]: job["vpc"]},
        })
    )  # fmt: skip
    resources = Resources(cpus=2, memory_mib=4096, gpus=[], spot=False, disk=Disk(size_mib=102400))
    offer = InstanceOfferWithAvailability(
        backend="aws",
        instance=InstanceType(name=job["type"], resources=resources),
        region=job["region"],
        price=0.1,
        availability=InstanceAvailability.AVAILABLE,
        availability_zones=[job["zone"]],
    )
    ready()
    made = []
    for number in range(job["size"]):
        config = InstanceConfiguration(
            project_name="bench", instance_name=f"{job['mark']}-{number}", user="bench", ssh_keys=[]
        )
        made.append(compute.create_instance(offer, config, None))
    for each in made:
        compute.terminate_instance(each.instance_id, job["region"], each.backend_data)
    return [each.instance_id for each in made]


def libcloud(job: Job, ready: Ready) -> list[Any]:
    """libcloud's driver of EC2, which takes one node down at a time."""
    from urllib.parse import urlsplit

    from libcloud.compute.base import NodeImage, NodeSize
    from libcloud.compute.providers import get_driver
    from libcloud.compute.types import Provider

    where = urlsplit(job["url"])
    driver = get_driver(Provider.EC2)(
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        region=job["region"],
        host=where.hostname,
        port=where.port,
        secure=False,
        signature_version="4",
    )
    size = NodeSize(id=job["type"], name=job["type"], ram=0, disk=0, bandwidth=0, price=0, driver=driver)
    image = NodeImage(id=job["image"], name="", driver=driver)
    ready()
    driver.create_node(name=job["mark"], size=size, image=image, ex_mincount=job["size"], ex_maxcount=job["size"])
    found = driver.list_nodes(ex_filters={"tag:Name": job["mark"]})
    for node in found:
        driver.destroy_node(node)
    return list(found)


PEERS = {peer.__name__: peer for peer in (skypilot, ray, dstack, libcloud)}


def main(peer: str, text: str) -> None:
    job = json.loads(text)
    times = [time.perf_counter()]
    found = PEERS[peer](job, lambda: times.append(time.perf_counter()))
    times.append(time.perf_counter())
    if len(found) != job["size"]:
        raise SystemExit(f"{len(found)} instances of {job['size']}")
    peak_kb = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print(json.dumps({"s": times[2] - times[0], "calls_s": times[2] - times[1], "mb": peak_kb / 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
