"""Capabilities: claims are checked offline, and absence is refused by name."""

import pytest

from anyscale_core.drivers.capability import CAPABILITIES, Capabilities, Level
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.errors import Retry, Unsupported

DRIVERS = {driver.slot: driver for driver in (ClusterDriver, IdentityDriver, StorageDriver, NetworkingDriver)}
CORE = {
    "cluster": {"cluster.batch"},
    "identity": {"identity.prove"},
    "storage": {"storage.grants"},
    "networking": {"networking.expose"},
}


def test_every_capability_belongs_to_a_slot_and_a_verb_of_its_driver() -> None:
    for id, capability in CAPABILITIES.items():
        assert capability.id == id
        assert capability.says.endswith(".")
        if capability.slot:
            assert id.startswith(f"{capability.slot}.")
            assert capability.verb == "" or capability.verb in DRIVERS[capability.slot].__abstractmethods__
        else:
            assert all(capability.verb in driver.__abstractmethods__ for driver in DRIVERS.values())


@pytest.mark.parametrize("slot", sorted(DRIVERS))
def test_the_core_of_a_slot_is_missed_by_name(slot: str) -> None:
    assert set(Capabilities().faults([slot])) == {f"core capability {id} is missing" for id in CORE[slot]}
    assert Capabilities(supported=frozenset(CORE[slot])).faults([slot]) == ()
    assert {c.id for c in CAPABILITIES.values() if c.level is Level.CORE and c.slot == slot} == CORE[slot]


def test_a_provider_answers_only_for_the_slots_that_it_fills() -> None:
    assert Capabilities().faults([]) == ()
    assert len(Capabilities().faults(DRIVERS)) == 4


def test_an_emulated_capability_counts_as_had() -> None:
    claims = Capabilities(emulated={"cluster.batch": "one call each"})
    assert claims.faults(["cluster"]) == ()
    assert claims.has("cluster.batch")
    claims.require("cluster.batch")


def test_claims_that_nobody_knows_or_that_contradict_each_other_are_faults() -> None:
    claims = Capabilities(
        supported=frozenset({"cluster.batch", "cluster.spto"}), unsupported={"cluster.batch": "no", "odd": ""}
    )
    assert claims.faults(["cluster"]) == (
        "unknown capability 'cluster.spto'",
        "unknown capability 'odd'",
        "cluster.batch is both claimed and unsupported",
    )


def test_what_is_absent_is_refused_with_its_id_and_the_reason_that_was_declared() -> None:
    claims = Capabilities(unsupported={"cluster.spot": "this machine has no market"})
    with pytest.raises(Unsupported, match="this machine has no market") as caught:
        claims.require("cluster.spot")
    assert caught.value.reason == "cluster.spot"
    assert caught.value.retry is Retry.NEVER
    with pytest.raises(Unsupported, match="does not declare it"):
        claims.require("cluster.quotas")
