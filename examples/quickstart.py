"""Pi by throwing darts: tasks spread over the nodes of a cluster. The seed is fixed, so the number is always the same."""

import random
from collections import Counter

import ray

SEED, TASKS, DARTS = 42, 16, 1_000_000


@ray.remote  # type: ignore[untyped-decorator]  # Ray ships no types
def throw(task: int) -> tuple[str, int]:
    """Throw DARTS darts at a square; return the node this ran on and how many hit the circle in it."""
    dice = random.Random(SEED + task)
    hits = sum(dice.random() ** 2 + dice.random() ** 2 <= 1.0 for _ in range(DARTS))
    return ray.get_runtime_context().get_node_id()[:8], hits


def main() -> None:
    """Throw all the darts; tell which nodes worked and what came out."""
    ray.init(log_to_driver=False)  # the cluster that this job runs on: Ray finds its address in the environment
    print(f"{len(ray.nodes())} nodes, {ray.cluster_resources()['CPU']:.0f} CPUs", flush=True)
    pending = [throw.options(scheduling_strategy="SPREAD").remote(task) for task in range(TASKS)]
    worked: Counter[str] = Counter()
    hits = 0
    while pending:
        (done, *_), pending = ray.wait(pending)
        node, found = ray.get(done)
        worked[node] += 1
        hits += found
        print(f"{sum(worked.values()):2}/{TASKS} tasks done", flush=True)
    for node, tasks in sorted(worked.items()):
        print(f"node {node} did {tasks} tasks")
    print(f"pi is about {4 * hits / (TASKS * DARTS):.6f}")


if __name__ == "__main__":
    main()
