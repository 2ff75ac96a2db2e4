"""What SkyPilot needs to bring so many Pods up, with its own code. Runs in its environment alone.

``python kubernetes_peers.py JOB`` prints one line of JSON: seconds of the call and peak memory. JOB is JSON with ``kubeconfig``,
``namespace``, ``context``, ``pod`` (a Pod's metadata and spec) and ``size``. Nothing of this project is imported.
"""

import json
import os
import resource
import sys
import time


def skypilot(job):
    """Bring the Pods up by SkyPilot's provisioner, which returns when all of them run."""
    os.environ["KUBECONFIG"] = job["kubeconfig"]
    from sky.provision.common import ProvisionConfig
    from sky.provision.kubernetes import instance

    config = ProvisionConfig(
        provider_config={"namespace": job["namespace"], "context": job["context"], "timeout": 600},
        authentication_config={},
        docker_config={},
        node_config=job["pod"],
        count=job["size"],
        tags={},
        resume_stopped_nodes=False,
        ports_to_open_on_launch=None,
    )
    began = time.monotonic()
    record = instance.run_instances(job["context"], "bench", "bench", config)
    took = time.monotonic() - began
    found = instance.query_instances("bench", "bench", config.provider_config)
    if len(found) != job["size"] or len(record.created_instance_ids) != job["size"]:
        raise RuntimeError(f"{len(found)} of {job['size']} Pods are there")
    return took


if __name__ == "__main__":
    seconds = skypilot(json.loads(sys.argv[1]))
    print(json.dumps({"s": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
