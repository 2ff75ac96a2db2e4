"""A volume outlives its instance: the next one finds what the last one left, at the same address."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from anyscale_local.testing import Machine, eventually, owned, soon, specified

from anyscale_core.errors import Conflict
from anyscale_core.models.ids import InstanceId, PlaneId, Token
from anyscale_core.models.instance import Created, Deletion, Instance, NotCreated, Outcome
from anyscale_core.models.owner import Owner

KEEP = ("sh", "-c", 'date +%N >> "$2/kept"; pwd; exec sleep 60', "sh", "{name}", "{volume}")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine.lent(tmp_path) as lent:
        yield lent


def create(machine: Machine, name: str, *, volume: str | None = "v") -> Outcome:
    spec = attrs.evolve(specified(name), volume=volume)
    (outcome,) = machine.cluster(command=KEEP).create([spec], token=Token(f"t-{name}"), deadline=soon())
    return outcome


def made(outcome: Outcome) -> Instance:
    assert isinstance(outcome, Created), outcome
    return outcome.instance


def drop(machine: Machine, id: InstanceId) -> None:
    driver = machine.cluster()
    driver.delete([id], owner=owned(), deadline=soon())
    eventually(lambda: not driver.list(owned(), deadline=soon()))


def kept(machine: Machine) -> list[str]:
    return [line for path in (machine.state / "volumes").glob("*/kept") for line in path.read_text().split()]


def test_the_next_instance_has_the_volume_and_the_address_of_the_one_before(machine: Machine) -> None:
    first = made(create(machine, "one"))
    eventually(lambda: len(kept(machine)) == 1)
    drop(machine, first.id)
    other = made(create(machine, "other", volume=None))
    second = made(create(machine, "two"))
    assert second.address == first.address != other.address
    eventually(lambda: len(kept(machine)) == 2)


def test_one_instance_at_a_time_has_a_volume_and_it_stays_while_one_has_it(machine: Machine) -> None:
    first = made(create(machine, "one"))
    second = create(machine, "two")
    assert isinstance(second, NotCreated)
    assert (type(second.error), second.error.reason) == (Conflict, "IN_USE")
    with pytest.raises(Conflict, match="one has the volume") as caught:
        machine.cluster().delete_volume("v", owner=owned(), deadline=soon())
    assert caught.value.reason == "IN_USE"
    drop(machine, first.id)


def test_a_deleted_volume_is_gone_and_a_foreign_one_counts_as_absent(machine: Machine) -> None:
    drop(machine, made(create(machine, "one")).id)
    driver = machine.cluster()
    stranger: Owner = attrs.evolve(owned(), plane=PlaneId("pln_stranger"))
    assert driver.delete_volume("v", owner=stranger, deadline=soon()) is Deletion.ALREADY_ABSENT
    assert driver.delete_volume("v", owner=owned(), deadline=soon()) is Deletion.GONE
    assert driver.delete_volume("v", owner=owned(), deadline=soon()) is Deletion.ALREADY_ABSENT
    assert list((machine.state / "volumes").iterdir()) == []
