"""A control plane may die between any two of its steps. A forked child does, at each of them in turn."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyscale_local.testing import Machine, eventually, owned, soon, specified

from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Created, Deletion, InstanceState

STEPS = ("mkdir", "open", "replace", "rename", "rmdir", "unlink", "pipe", "posix_spawn", "write", "close", "kill")
"""Every way in which the driver changes anything outside itself."""

NAMES = ("a", "b")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine.lent(tmp_path) as lent:
        yield lent


def create(machine: Machine) -> list[str]:
    specs = [specified(name) for name in NAMES]
    outcomes = machine.cluster().create(specs, token=Token("t1"), deadline=soon())
    assert all(isinstance(outcome, Created) for outcome in outcomes), outcomes
    return [outcome.instance.id for outcome in outcomes if isinstance(outcome, Created)]


def delete(machine: Machine) -> None:
    ids = [item.id for item in machine.cluster().list(owned(), deadline=soon())]
    machine.cluster().delete(ids, owner=owned(), deadline=soon())


def has_processes(machine: Machine, count: int) -> bool:
    return len(machine.processes()) == count


def is_empty(machine: Machine) -> bool:
    return machine.cluster().list(owned(), deadline=soon()) == ()


def count_steps(act: Callable[[], object]) -> int:
    """Return how many steps the act takes when nothing goes wrong, counted in a child."""
    read_end, write_end = os.pipe()

    def all_of_it(report: Callable[[int, bytes], int]) -> None:
        taken = [0]
        _watch(lambda: taken.__setitem__(0, taken[0] + 1))
        act()
        report(write_end, str(taken[0]).encode())

    status = _in_child(all_of_it)
    os.close(write_end)
    answer = os.read(read_end, 16)
    os.close(read_end)
    assert status == 0
    return int(answer)


def die_at(position: int, act: Callable[[], object]) -> None:
    """Run the act in a child that is killed just before its step of this number, which is just after the one before."""

    def until_then(_: Callable[[int, bytes], int]) -> None:
        taken = [0]

        def before() -> None:
            taken[0] += 1
            if taken[0] == position:
                os.kill(os.getpid(), signal.SIGKILL)

        _watch(before)
        act()

    status = _in_child(until_then)
    assert os.WIFSIGNALED(status), f"the child was not killed at step {position}"


def _watch(before: Callable[[], None]) -> None:
    plain_kill = os.kill

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **fields: Any) -> Any:
            before()
            return step(*args, **fields)

        return call

    for name in STEPS:
        setattr(os, name, watched(getattr(os, name)))
    os.kill = plain_kill
    signal.pidfd_send_signal = watched(signal.pidfd_send_signal)


def _in_child(body: Callable[[Callable[[int, bytes], int]], None]) -> int:
    plain_write = os.write
    pid = os.fork()
    if pid == 0:
        try:
            body(plain_write)
        except BaseException as error:
            plain_write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_a_create_killed_at_any_step_is_finished_by_its_token_and_makes_nothing_twice(machine: Machine) -> None:
    steps = count_steps(partial(create, machine))
    ids = create(machine)
    machine.cluster().delete([InstanceId(each) for each in ids], owner=owned(), deadline=soon())
    assert steps > 20
    for position in range(1, steps + 1):
        fresh = Machine(home=machine.home / str(position))
        die_at(position, partial(create, fresh))
        try:
            again = create(fresh)
            assert create(fresh) == again
            # A child that was left at its gate sees the end of its input and goes; two sleepers stay.
            eventually(partial(has_processes, fresh, len(NAMES)))
            shown = fresh.cluster().list(owned(), deadline=soon())
            assert [item.name for item in shown] == list(NAMES)
            assert {item.state for item in shown} == {InstanceState.RUNNING}
            gone = fresh.cluster().delete([item.id for item in shown], owner=owned(), deadline=soon())
            assert set(gone.values()) == {Deletion.GONE}
            assert fresh.processes() == ()
            assert fresh.leftovers() == []
        finally:
            fresh.clear()


def test_a_create_killed_at_any_step_and_never_repeated_leaves_nothing_that_a_delete_does_not_find(
    machine: Machine,
) -> None:
    steps = count_steps(partial(create, machine))
    delete(machine)
    for position in range(1, steps + 1):
        fresh = Machine(home=machine.home / str(position))
        die_at(position, partial(create, fresh))
        try:
            shown = fresh.cluster().list(owned(), deadline=soon())
            fresh.cluster().delete([item.id for item in shown], owner=owned(), deadline=soon())
            # What was still at its gate has no record to be found by; it goes by itself.
            eventually(partial(has_processes, fresh, 0))
            assert fresh.cluster().list(owned(), deadline=soon()) == ()
            assert fresh.leftovers() == []
        finally:
            fresh.clear()


def test_a_delete_killed_at_any_step_is_finished_by_whoever_looks_next(machine: Machine) -> None:
    create(machine)
    steps = count_steps(partial(delete, machine))
    assert machine.processes() == ()
    for position in range(1, steps + 1):
        fresh = Machine(home=machine.home / str(position))
        create(fresh)
        die_at(position, partial(delete, fresh))
        try:
            delete(fresh)
            eventually(partial(is_empty, fresh))
            assert fresh.processes() == ()
            assert fresh.leftovers() == []
        finally:
            fresh.clear()
