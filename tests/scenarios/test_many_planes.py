"""Three control planes share their clusters; one is killed, frozen or cut off in the middle of a call, under load."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyscale_core.models.phases import CLUSTER_ENDED, NODE_ENDED, ClusterPhase
from anyscale_core.models.records import ClusterRecord
from anyscale_core.testing.builders import a_spec, workers
from tests.scenarios.fleet import LEASE, Fleet, Strike

CLUSTERS = 8
NODES = 3


@pytest.fixture
def fleet(tmp_path: Path, database: str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, database)
    yield fleet
    fleet.close()


def records(fleet: Fleet) -> tuple[ClusterRecord, ...]:
    return tuple(fleet.ask("clusters"))


def are_running(fleet: Fleet, count: int) -> bool:
    running = [record for record in records(fleet) if record.phase is ClusterPhase.RUNNING]
    return len(running) == count and all(len(alive(record)) == NODES for record in running)


def alive(record: ClusterRecord) -> list[str]:
    return [node.name for node in record.nodes if node.phase not in NODE_ENDED]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", Strike, ids=lambda how: how.name.lower())
def test_a_plane_struck_in_the_middle_of_a_call_makes_nothing_twice_and_the_others_take_over(
    how: Strike, fleet: Fleet
) -> None:
    fleet.until(lambda: fleet.ask("clusters") == (), "the planes to answer")
    fleet.strike_at(how, "cluster.create", nth=CLUSTERS // 2)
    for number in range(CLUSTERS):
        fleet.ask("apply", a_spec(f"demo-{number}", workers(min_nodes=NODES - 1)), actor="tester")
    fleet.until(lambda: fleet.struck is not None, "a plane to be struck")
    assert fleet.struck is not None
    victim = fleet.struck[0]
    pid = str(victim.process.pid)
    took = fleet.until(lambda: pid not in fleet.holders().values(), "its leases to be taken over")
    took_all = fleet.until(lambda: are_running(fleet, CLUSTERS), "all clusters to run")
    names = [name for record in records(fleet) for name in alive(record)]
    assert fleet.instances() == sorted(names), "every instance has its node, and every node its instance, once"
    print(
        f"{how.value}: {CLUSTERS} clusters of {NODES} nodes; its leases ({LEASE.total_seconds():g} s) were others' after"
        f" {took:.1f} s, all ran after {took_all:.1f} s more"
    )

    fleet.recover(how)
    if how is not Strike.KILLED:
        # What it was in the middle of is not its business any more. Alone again, it does all there is to do.
        fleet.until(lambda: victim.ask("clusters") != (), "the plane to be back")
        for seat in fleet.seats:
            if seat is not victim:
                seat.process.kill()
    for number in range(CLUSTERS):
        fleet.ask("terminate", f"demo-{number}", actor="tester")
    fleet.until(
        lambda: all(fleet.ask("status", f"demo-{n}").record.phase in CLUSTER_ENDED for n in range(CLUSTERS)),
        "all clusters to end",
    )
    kinds = Counter(item.kind for item in fleet.cloud.inventory())
    assert kinds == {"network": 1, "bucket": 1, "identity": 1}, "nothing is left but what the cloud's clusters share"
    for token, made in tokens(fleet).items():
        assert len(made) == 1, f"{token} was used for {len(made)} different batches"


def tokens(fleet: Fleet) -> dict[str, set[tuple[str, ...]]]:
    """Return what each token was used for, by the cloud's own journal."""
    used: dict[str, set[tuple[str, ...]]] = {}
    for call in fleet.cloud.calls:
        if call.action == "cluster.create" and call.token is not None:
            used.setdefault(call.token, set()).add(call.names)
    return used
