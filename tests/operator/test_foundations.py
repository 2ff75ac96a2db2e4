"""A cloud of mode operator is set up before its operator comes, looked over with and without it, and taken down."""

from datetime import timedelta
from pathlib import Path

import pytest

from anyscale_core.controlplane.foundations import Data
from anyscale_core.errors import Transient
from anyscale_core.models.cloud import CloudMode, CloudSpec
from anyscale_core.models.networking import CheckStatus
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World
from tests.operator.pull import CLOUD, Pull

SPEC = CloudSpec(name=CLOUD, provider="fake", region="fake-1", mode=CloudMode.OPERATOR)


def set_up(world: World) -> None:
    world.plane.register_cloud(SPEC, actor="admin")
    while world.plane.foundations.status(CLOUD).missing:
        world.plane.set_up_cloud(CLOUD, actor="admin")


def take_down(world: World) -> None:
    for _ in range(40):
        if world.plane.delete_cloud(CLOUD, data=Data.DELETE, actor="admin") is None:
            return
        world.clock.advance(timedelta(seconds=5))
    raise AssertionError("not gone")


def kinds(world: World) -> list[str]:
    return sorted(item.kind for item in world.cloud.inventory())


def test_its_identity_and_bucket_are_made_from_here_before_any_operator_comes(tmp_path: Path) -> None:
    world = World.new(tmp_path)
    set_up(world)
    assert kinds(world) == ["bucket", "identity"]
    found = {check.id: check.status for check in world.plane.foundations.verify(CLOUD)}
    assert found["cloud.operator"] is CheckStatus.SKIPPED
    assert found["storage.objects"] is found["identity.get"] is CheckStatus.PASSED
    take_down(world)
    assert kinds(world) == []


def test_what_was_set_up_is_what_its_clusters_use_and_all_goes_with_the_cloud(tmp_path: Path) -> None:
    pull = Pull.new(tmp_path)
    world = pull.world
    set_up(world)
    before = {(item.kind, item.name) for item in world.cloud.inventory()}
    world.plane.apply(a_spec("demo", workers(min_nodes=1)), actor="tester")
    pull.until(lambda: world.phase() is ClusterPhase.RUNNING)
    shared = {
        (item.kind, item.name) for item in world.cloud.inventory() if item.kind in ("bucket", "identity", "network")
    }
    assert shared - before == {item for item in shared if item[0] == "network"}
    assert CheckStatus.FAILED not in {check.status for check in world.plane.foundations.verify(CLOUD)}
    world.plane.terminate("demo", actor="tester")
    pull.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    take_down(world)
    assert kinds(world) == []


def test_without_its_operator_a_cloud_that_had_one_is_not_taken_down_by_halves(tmp_path: Path) -> None:
    pull = Pull.new(tmp_path)
    world = pull.world
    set_up(world)
    pull.alive = False
    with pytest.raises(Transient):
        world.plane.delete_cloud(CLOUD, actor="admin")
    assert kinds(world) == ["bucket", "identity"]
    pull.alive = True
    pull.connect()
    take_down(world)
    assert kinds(world) == []


def test_a_cloud_that_is_made_anew_has_its_catalogue_kept_anew(tmp_path: Path) -> None:
    pull = Pull.new(tmp_path)
    world, mailbox = pull.world, pull.world.plane.mailbox
    set_up(world)
    offerings = world.plane.clouds.get(CLOUD).offerings()
    assert mailbox.catalogue(CLOUD) == offerings
    take_down(world)
    set_up(world)
    mailbox.keep_catalogue(CLOUD, offerings)
    assert mailbox.catalogue(CLOUD) is None, "no operator has come yet"
    world.plane.operator_token(CLOUD, actor="admin")
    mailbox.keep_catalogue(CLOUD, offerings)
    assert mailbox.catalogue(CLOUD) == offerings
