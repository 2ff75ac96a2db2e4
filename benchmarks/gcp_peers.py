"""What libcloud needs to make, list and delete so many nodes on Compute Engine. Runs in its environment alone.

``python gcp_peers.py JOB`` prints one line of JSON: seconds of the calls and the nodes that there were. JOB is JSON with
``host``, ``port``, ``project``, ``token``, ``zone``, ``type``, ``image``, ``mark`` and ``size``. Nothing of this project is
imported.
"""

import json
import sys
import tempfile
import time
from types import SimpleNamespace


def libcloud(job):
    """Make nodes with the driver's own call for many, list them, and delete them with its call for many."""
    from libcloud.compute.drivers import gce

    class Here(gce.GCEConnection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs, host=job["host"], port=job["port"])

    gce.GCENodeDriver.connectionCls = Here
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"access_token": job["token"], "token_type": "Bearer", "expire_time": "2100-01-01T00:00:00Z"}, file)
        file.flush()
        driver = gce.GCENodeDriver(
            "nobody", "none", project=job["project"], auth_type="IA", credential_file=file.name, secure=False
        )  # fmt: skip
    zone = driver.ex_get_zone(job["zone"])
    size = driver.ex_get_size(job["type"], zone)
    disk = {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": job["image"]}}
    standard = SimpleNamespace(name="pd-standard", extra={"selfLink": ""})  # looked up otherwise, and not used here
    began = time.monotonic()
    driver.ex_create_multiple_nodes(
        job["mark"], size, None, job["size"], location=zone, ex_network="default", ex_subnetwork="default",
        ex_disks_gce_struct=[disk], ex_disk_type=standard, poll_interval=0.1, timeout=120,
    )  # fmt: skip
    nodes = [node for node in driver.list_nodes(zone) if node.name.startswith(job["mark"])]
    driver.ex_destroy_multiple_nodes(nodes, poll_interval=0.1, timeout=120)
    return time.monotonic() - began, len(nodes)


if __name__ == "__main__":
    seconds, seen = libcloud(json.loads(sys.argv[1]))
    print(json.dumps({"s": seconds, "nodes": seen}))
