"""The benchmarks by name. Listing them loads none."""

from collections.abc import Callable, Iterable, Mapping

import attrs

from benchmarks.rows import Row

Measure = Callable[[int], Iterable[Row]]
"""Takes the number of rounds; gives one row per figure."""


@attrs.frozen(kw_only=True)
class Benchmark:
    """``target``: ``module:function`` in this package, a Measure. ``rounds``: how many unless told."""

    target: str
    rounds: int
    about: str


BENCHMARKS: Mapping[str, Benchmark] = {
    "cluster-start": Benchmark(
        target="clusters:cluster_start",
        rounds=5,
        about="apply to head + 2 workers ALIVE, and delete to TERMINATED (row cluster-stop); real Ray; at most 1.15 x",
    ),
    "scale-up": Benchmark(
        target="clusters:scale_up", rounds=5, about="demand seen in Ray to a new worker READY; real Ray; at most 2 s"
    ),
    "replace": Benchmark(
        target="clusters:replace",
        rounds=5,
        about="SIGKILL of a raylet to its replacement READY; real Ray; at most 5 s",
    ),
    "head-recovery": Benchmark(
        target="heads:head_recovery",
        rounds=3,
        about="a killed gcs_server, raylet or head instance to all ALIVE, with or without stored state; real Ray",
    ),
    "job": Benchmark(
        target="jobs:job", rounds=5, about="submit to first output, beside Ray's own REST; real Ray; at most +0.3 s"
    ),
    "import": Benchmark(
        target="startup:library", rounds=11, about="import of the library over bare Python; at most 60 ms and 20 MB"
    ),
    "cli-help": Benchmark(target="startup:cli_help", rounds=11, about="anyscale-core --help; at most 250 ms"),
    "cli-status": Benchmark(
        target="startup:cli_status",
        rounds=11,
        about="anyscale-core status of a running control plane; at most 200 ms",
    ),
    "kubernetes": Benchmark(
        target="kubernetes:kubernetes",
        rounds=3,
        about="100 and 1,000 Pods from order to all reported running, and requests on the wire; simulated API server",
    ),
    "engine": Benchmark(
        target="engine:engine",
        rounds=5,
        about="clusters of 10 nodes from apply to RUNNING on a fake cloud, beside their durable commits",
    ),
    "heartbeats": Benchmark(
        target="heartbeats:heartbeats",
        rounds=5,
        about="a heartbeat through the real server, beside a bare Litestar route; at least 0.5 of its rate",
    ),
    "operator": Benchmark(
        target="operators:operators",
        rounds=3,
        about="pull mode: 1,000 polling operators, an order over a slow line (at most 1.2 round trips), memory at rest",
    ),
    "azure": Benchmark(
        target="azure:azure",
        rounds=3,
        about="1, 10 and 100 machines on the simulated Azure: seconds and requests, beside bare PUTs and a scale set",
    ),
    "idle-tick": Benchmark(
        target="rest:idle_tick",
        rounds=5,
        about="a tick over 100, 1,000 and 10,000 clusters that did not change; it must not grow",
    ),
    "rest": Benchmark(
        target="rest:rest",
        rounds=3,
        about="a server process with 1,000 clusters at rest: CPU, memory, status; at most 1 %, 150 MB, 200 ms",
    ),
    "placement": Benchmark(
        target="placement:placement",
        rounds=3,
        about="price of a fleet beside a proven bound and Ray's autoscalers, 10 to 50,000 requests; many minutes",
    ),
    "placement-quick": Benchmark(target="placement:placement_quick", rounds=3, about="the same up to 1,000 requests"),
    "gcp": Benchmark(
        target="gcp:fleet", rounds=5, about="create, list and delete 1, 10 and 100 nodes of Google Cloud, simulated"
    ),
    "gcp-gets": Benchmark(
        target="gcp:gets", rounds=5, about="16 threads on one driver of Google Cloud; 1,000 gets a second, none wrong"
    ),
    "gcp-import": Benchmark(
        target="gcp:loaded", rounds=7, about="what the provider gcp loads before its first call, and a further client"
    ),
    "aws": Benchmark(
        target="aws:aws",
        rounds=3,
        about="create, list and terminate 1, 10 and 100 nodes on simulated EC2, beside raw boto3; at most 1.1 x",
    ),
}
