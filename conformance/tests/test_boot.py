"""Machines that really run."""

import time
from collections.abc import Callable, Iterator

import pytest
from anyscale_conformance.simulators.boot import Machines

WAIT = 20.0


@pytest.fixture
def machines() -> Iterator[Machines]:
    machines = Machines()
    yield machines
    machines.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def test_a_machine_runs_its_script_in_an_environment_of_its_own(machines: Machines) -> None:
    address = machines.address()
    machines.boot(
        "i-1", '#!/bin/sh\necho "$ANYSCALE_CORE_ADDRESS $METADATA $ANYSCALE_CORE_ROOT"\n', address=address,
        environment={"METADATA": "here"},
    )  # fmt: skip
    until(lambda: not machines.is_alive("i-1"))
    assert machines.console("i-1").split()[:2] == [address, "here"]


def test_a_machine_lives_while_any_of_its_processes_does_and_no_longer(machines: Machines) -> None:
    address = machines.address()
    machines.boot("i-1", "#!/bin/sh\nsleep 1000 & \n", address=address)
    machines.boot("i-2", ["sleep", "1000"], address=machines.address())
    until(lambda: machines.is_alive("i-1"))
    machines.stop("i-1")
    assert not machines.is_alive("i-1")
    assert machines.is_alive("i-2"), "the other one goes on"
    folder = machines.boot("i-3", ["true"], address=machines.address()).folder
    machines.remove("i-3")
    machines.remove("i-3")
    assert not folder.exists()


def test_no_two_machines_have_one_address(machines: Machines) -> None:
    addresses = [machines.address() for _ in range(1000)]
    assert len(set(addresses)) == 1000
