import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyscale_local.testing import Machine, eventually, owned, soon, specified

from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, Deletion, InstanceState

RAY = (
    *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address={address}"),
    *("--port=0", "--temp-dir={home}/r", "--num-cpus=1", "--include-dashboard=false", "--object-store-memory=80000000"),
    *("--include-log-monitor=false", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"),
    "--dashboard-agent-listen-port=0",
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine.lent(tmp_path) as lent:
        yield lent


def named(machine: Machine) -> set[str]:
    return {Path(f"/proc/{process.pid}/comm").read_text().strip() for process in machine.processes()}


@pytest.mark.real_ray
def test_a_whole_ray_runs_in_one_instance_and_is_gone_with_its_delete(machine: Machine) -> None:

    driver = machine.cluster(command=RAY)
    (outcome,) = driver.create([specified()], token=Token("t1"), deadline=soon())
    assert isinstance(outcome, Created)
    eventually(lambda: {"raylet", "gcs_server"} <= named(machine), within_s=60)

    assert driver.get(outcome.instance.id, owner=owned(), deadline=soon()).state is InstanceState.RUNNING
    # A raylet under load may take longer to die than one delete looks; it is seen to be gone by list.
    gone = driver.delete([outcome.instance.id], owner=owned(), deadline=soon())[outcome.instance.id]
    assert gone in (Deletion.GONE, Deletion.GOING)
    eventually(lambda: driver.list(owned(), deadline=soon()) == ())
    assert machine.processes() == ()
    assert machine.leftovers() == []
