"""Heads on a volume: one holder at a time, and nothing of it is left when the cluster has ended."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from anyscale_core.errors import Transient
from anyscale_core.models.cluster import HeadRecovery
from anyscale_core.models.node import GcsStorage
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.testing import Remains
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World.new(tmp_path)
    yield world
    world.plane.close()


def volumes(world: World) -> list[str]:
    return [item.name for item in world.cloud.inventory() if item.kind == "volume"]


def test_the_next_head_is_made_when_nothing_is_left_of_the_last_and_has_its_volume(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    (volume,), head = volumes(world), world.head()
    world.cloud.kill(head.name, Remains.STOPPED)
    world.until(lambda: any(node.id == head.id and node.phase is NodePhase.DELETING for node in world.record().nodes))
    assert len([node for node in world.record().nodes if node.group == "head"]) == 1
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    assert world.head().id != head.id
    assert world.cloud.machine(world.head().name).spec.volume == volume
    assert volumes(world) == [volume]


def test_nodes_are_told_where_the_gcs_keeps_what_it_knows(world: World) -> None:
    world.up(a_spec("kept", workers(min_nodes=1)))
    world.up(a_spec("memory", head_recovery=HeadRecovery.NONE))
    told = {
        agent.name.split("-")[0]: agent.config.gcs_storage for agent in world.agents.agents.values() if agent.config
    }
    assert told == {"kept": GcsStorage.VOLUME, "memory": GcsStorage.MEMORY}
    assert len(volumes(world)) == 1


def test_a_volume_that_cannot_be_deleted_is_told_again_and_the_cluster_has_not_ended_before(world: World) -> None:
    world.up(a_spec("demo"))
    away = world.cloud.refuse("cluster.delete_volume", Transient("not now", reason="SERVER"), 40)
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: any(event.kind == "volume.retry" for event in world.plane.events()), steps=200)
    assert world.phase() is ClusterPhase.TERMINATING
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED, steps=2000)
    assert volumes(world) == []
    assert away.spent


def test_a_worker_whose_certificate_comes_to_its_end_is_drained_and_replaced_once(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1, max_nodes=2)))
    (worker,) = [node for node in world.ready() if node.group == "workers"]
    world.agents.agent(worker.name).renew_at = world.clock.now() + timedelta(seconds=5)
    world.until(lambda: any(node.id == worker.id and node.phase is NodePhase.GONE for node in world.record().nodes))
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    world.run(steps=20)
    assert [node.phase for node in world.record().nodes if node.group == "workers"] == [NodePhase.GONE, NodePhase.READY]
    assert any("its certificate comes to its end" in event.message for event in world.plane.events())
