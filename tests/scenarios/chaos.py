"""Kills at random on real Ray while jobs run: ``python -m tests.scenarios.chaos --seed 1 --seconds 100``.

Raylets, whole nodes, the head (once) and the control plane. In the end the cluster runs, every job has succeeded with the right
result, and nothing is left after its teardown. Takes minutes, so it is not part of the test run; a seed repeats the same choices.
"""

import argparse
import random
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from anyscale_core.models.phases import JOB_ENDED, ClusterPhase, JobPhase
from tests.scenarios.machine import Machine, a_spec

JOB = """
import ray, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1, max_retries=-1)
def square(i):
    time.sleep(0.3)
    return i * i
assert sum(ray.get([square.remote(i) for i in range(40)])) == 20540
"""
JOBS = 6
VICTIMS = ("raylet", "node", "head", "plane", "plane")


def main() -> int:
    """Run; return 0 when all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=100.0)
    args = parser.parse_args()
    machine = Machine()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.py"
        script.write_text(JOB)
        try:
            return _chaos(machine, random.Random(args.seed), args.seconds, f"python {script}")
        finally:
            machine.close()


def _chaos(machine: Machine, dice: random.Random, seconds: float, entrypoint: str) -> int:
    machine.serve()
    machine.up(a_spec(low=1, high=2, idle_worker_seconds=4))
    jobs, killed = [machine.job(entrypoint)], list[str]()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(dice.uniform(4, 9))
        victim = dice.choice(VICTIMS)
        if _kill(machine, victim, dice, killed):
            killed.append(victim)
            print(f"killed: {victim}", flush=True)
        if len(jobs) < JOBS:
            jobs.append(machine.job(entrypoint))
    machine.wait(lambda: machine.get().phase is ClusterPhase.RUNNING, "RUNNING", timedelta(seconds=90))
    machine.wait(lambda: all(machine.job_view(job).phase in JOB_ENDED for job in jobs), "jobs", timedelta(seconds=180))
    views = [machine.job_view(job) for job in jobs]
    machine.down()
    machine.kill()
    left = machine.leftovers()
    for view in views:
        print(f"{view.id} {view.phase.value} in attempt {view.attempt}: {view.message}")
    print(f"{len(killed)} kills, {len(views)} jobs, left behind: {left or 'nothing'}")
    return 0 if not left and all(view.phase is JobPhase.SUCCEEDED for view in views) else 1


def _kill(machine: Machine, victim: str, dice: random.Random, killed: list[str]) -> bool:
    """Kill; return whether there was anything to kill."""
    if victim == "plane":
        machine.kill()
        time.sleep(dice.uniform(0, 3))
        machine.serve()
        return True
    nodes = machine.nodes(group="head" if victim == "head" else "workers")
    if not nodes or (victim == "head" and "head" in killed):  # a job has one retry for a lost head
        return False
    node = dice.choice(nodes)
    if victim != "raylet":
        machine.kill_node(node)
        return True
    raylets = machine.processes(node, having="raylet/raylet")
    for process in raylets:
        process.kill()
    return bool(raylets)


if __name__ == "__main__":
    sys.exit(main())
