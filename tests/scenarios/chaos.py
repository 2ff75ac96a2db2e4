"""Kills at random on real Ray while jobs run: ``python -m tests.scenarios.chaos --seed 1 --seconds 100``.

Raylets and whole nodes of workers, the head's gcs_server, its raylet and all of it, and the control plane. In the end the cluster
runs, every job has succeeded and left the right result, and nothing is left after its teardown: no process, no file, no port.
Takes minutes, so it is not part of the test run; a seed repeats the same choices.
"""

import argparse
import collections
import random
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import psutil

from anyscale_core.models.phases import JOB_ENDED, ClusterPhase, JobPhase
from tests.scenarios.machine import Machine, a_spec

JOB = """
import os, ray, sys, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1, max_retries=-1)
def square(i):
    time.sleep(0.3)
    return i * i
total = sum(ray.get([square.remote(i) for i in range(40)]))
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(total))
os.replace(sys.argv[1] + ".new", sys.argv[1])
"""
RESULT = "20540"
JOBS = 6
RETRIES = 50
"""A job is tried again whenever the head's raylet is killed, so it needs as many retries as there may be kills."""
VICTIMS = ("raylet", "node", "gcs", "head's raylet", "head", "plane", "plane")


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
            return _chaos(machine, random.Random(args.seed), args.seconds, script)
        finally:
            machine.close()


def _chaos(machine: Machine, dice: random.Random, seconds: float, script: Path) -> int:
    machine.serve()
    machine.up(a_spec(low=1, high=2, idle_worker_seconds=4))
    jobs, killed, addresses = dict[str, Path](), collections.Counter[str](), set[str]()

    def submit() -> None:
        result = script.with_name(f"result-{len(jobs)}")
        jobs[machine.job(f"python {script} {result}", max_retries=RETRIES)] = result

    submit()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(dice.uniform(4, 9))
        victim = dice.choice(VICTIMS)
        addresses |= {node.address for node in machine.get().nodes if node.address}
        if _kill(machine, victim, dice):
            killed[victim] += 1
            print(f"killed: {victim}", flush=True)
        if len(jobs) < JOBS:
            submit()
    machine.wait(lambda: machine.get().phase is ClusterPhase.RUNNING, "RUNNING", timedelta(seconds=90))
    machine.wait(lambda: all(machine.job_view(job).phase in JOB_ENDED for job in jobs), "jobs", timedelta(seconds=240))
    views = [machine.job_view(job) for job in jobs]
    machine.down()
    machine.kill()
    left = machine.leftovers() + _ports(addresses)
    results = {id: path.read_text() if path.exists() else "none" for id, path in jobs.items()}
    for view in views:
        print(f"{view.id} {view.phase.value} in attempt {view.attempt}, result {results[view.id]}: {view.message}")
    print(f"{killed.total()} kills ({dict(killed)}), {len(views)} jobs, left behind: {left or 'nothing'}")
    right = all(view.phase is JobPhase.SUCCEEDED and results[view.id] == RESULT for view in views)
    return 0 if right and not left else 1


def _ports(addresses: set[str]) -> list[str]:
    """Return what still listens at addresses that nodes had."""
    return [
        f"{one.laddr.ip}:{one.laddr.port} listens"
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.ip in addresses
    ]


def _kill(machine: Machine, victim: str, dice: random.Random) -> bool:
    """Kill; return whether there was anything to kill."""
    if victim == "plane":
        machine.kill()
        time.sleep(dice.uniform(0, 3))
        machine.serve()
        return True
    nodes = machine.nodes(group="workers" if victim in ("raylet", "node") else "head")
    if not nodes:
        return False
    node = dice.choice(nodes)
    if victim in ("node", "head"):
        machine.kill_node(node)
        return True
    doomed = machine.processes(node, having="gcs/gcs_server" if victim == "gcs" else "raylet/raylet ")
    for process in doomed:
        process.kill()
    return bool(doomed)


if __name__ == "__main__":
    sys.exit(main())
