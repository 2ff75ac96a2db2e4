"""What nodes are told, and when it changes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.drivers.layers import layered
from anyscale_core.models.job import JobSpec
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World


def test_a_configuration_keeps_its_version_while_nothing_in_it_changes(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    before = {agent.name: agent.config for agent in world.agents.agents.values()}
    world.run(steps=120)
    assert {agent.name: agent.config for agent in world.agents.agents.values()} == before


def test_short_lived_access_to_the_bucket_is_renewed_before_it_ends(tmp_path: Path) -> None:
    world = World.new(tmp_path)
    granted: list[Any] = []

    def fading(call: Any, next: Any) -> Any:
        answer = next(call)
        if call.action != "storage.grant":
            return answer
        granted.append(world.clock.now())
        return attrs.evolve(answer, store=attrs.evolve(answer.store, expires_at=world.clock.now() + timedelta(hours=1)))

    world.plane.close()
    world.plane = ControlPlane(
        world.plane.settings, registry=world.plane.registry, clock=world.clock,
        wrap=lambda driver, cloud: layered(driver, fading, cloud=cloud),
    )  # fmt: skip
    world.agents.plane = world.plane
    world.up(a_spec("demo", idle_termination_minutes=0))
    (agent,) = world.agents.agents.values()
    assert agent.config is not None
    first = agent.config.store.expires_at
    assert first is not None
    world.run(steps=50, step=timedelta(minutes=1))
    assert agent.config.store.expires_at is not None
    assert agent.config.store.expires_at > first
    assert len(granted) == 2, "asked for again when it had a quarter of an hour left, and not before"


def test_a_head_that_a_job_waits_for_does_not_hold_its_dashboard_back(world: World) -> None:
    world.up(a_spec("one", workers(min_nodes=2)), JobSpec(entrypoint="true"))
    world.up(a_spec("two", workers(min_nodes=2)))
    expected = {
        agent.config.cluster_name: agent.config.expected_workers
        for agent in world.agents.agents.values()
        if agent.config is not None and agent.is_head
    }
    assert expected == {"one": 0, "two": 2}


def test_nothing_is_kept_of_a_cluster_that_has_ended(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    assert world.plane.heartbeats._kept
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: world.phase().value == "TERMINATED")
    world.run(steps=5)
    assert world.plane.logs("demo", actor="tester").url
    assert not world.plane.heartbeats._kept
