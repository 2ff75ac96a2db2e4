"""The control plane is away: nodes and jobs live on, and afterwards nothing is made twice and nothing has gone unsaid."""

from datetime import timedelta

from anyscale_core.models.instance import Notice, NoticeKind
from anyscale_core.models.job import JobSpec
from anyscale_core.models.node import RayStatus
from anyscale_core.models.phases import ClusterPhase, JobPhase, NodePhase
from anyscale_core.testing.agents import JobScript
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World

HOUR = timedelta(hours=1)


def away(world: World, how_long: timedelta, *, step: timedelta = timedelta(minutes=1)) -> None:
    """Let the control plane be away: its words and the nodes' do not meet, and time passes for nodes and jobs."""
    names = [agent.name for agent in world.agents.agents.values()]
    for name in names:
        world.agents.silence(name)
    for _ in range(how_long // step):
        world.clock.advance(step)
        world.agents.step()
    for name in names:
        world.agents.speak(name)
    world.restart()


def test_after_an_hour_away_the_same_nodes_run_and_nothing_is_made_twice(world: World) -> None:
    world.agents.script("long", JobScript(takes=timedelta(minutes=90)))
    world.up(a_spec("demo", workers(min_nodes=2)), JobSpec(entrypoint="long"))
    world.until(lambda: world.record().jobs[0].phase is JobPhase.RUNNING)
    before, instances, creates = world.record(), world.instances(), world.creates()
    away(world, HOUR)
    assert all(agent.ray is RayStatus.ALIVE for agent in world.agents.agents.values()), "nodes live on"
    world.run(steps=60)
    after = world.record()
    assert [(node.id, node.phase) for node in after.nodes] == [(node.id, NodePhase.READY) for node in before.nodes]
    assert (world.instances(), world.creates()) == (instances, creates)
    assert not [agent.refusals for agent in world.agents.agents.values() if agent.refusals], "credentials outlast it"
    world.until(lambda: world.record().jobs[0].phase is JobPhase.SUCCEEDED, step=timedelta(seconds=3))
    assert world.record().jobs[0].attempt == 1


def test_what_happened_while_it_was_away_stands_in_the_events(world: World) -> None:
    world.agents.script("short", JobScript(takes=timedelta(minutes=10)))
    world.up(a_spec("demo", workers(min_nodes=3, max_nodes=4)), JobSpec(entrypoint="short"))
    world.until(lambda: world.record().jobs[0].phase is JobPhase.RUNNING)
    lost, noticed, kept = world.ready()
    seen, before = world.plane.events()[-1].id, len(world.record().nodes)
    world.cloud.kill(lost.name)
    notice = Notice(kind=NoticeKind.PREEMPTION, at=world.clock.now() + HOUR + timedelta(minutes=5))
    world.cloud.announce(noticed.name, notice)
    away(world, HOUR)
    world.until(lambda: len(world.ready()) == 3 and noticed.name not in world.instances())
    said = [(event.kind, event.node) for event in world.plane.events("demo", after=seen)]
    assert said.count(("node.lost", lost.name)) == 1
    assert said.count(("node.draining", noticed.name)) == 1
    assert said.count(("job.succeeded", "")) == 1
    assert not [kind for kind, node in said if node == kept.name and kind in ("node.lost", "node.draining")]
    assert len(world.record().nodes) - before == 2, "one for the lost, one for the one that is taken back"
    assert sorted(node.name for node in world.nodes()) == world.instances()
    assert world.phase() is ClusterPhase.RUNNING


def test_a_credential_is_renewed_from_half_its_life_on_and_lasts_eleven_hours_more(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1), idle_termination_minutes=0))
    (node,) = world.ready()
    agent = world.agents.agent(node.name)
    first = agent.credential
    away(world, timedelta(hours=5, minutes=58))
    world.run(steps=2)
    assert agent.credential is first, "not before half its life is over"
    away(world, timedelta(minutes=4))
    world.run(steps=2)
    assert agent.credential is not first
    away(world, timedelta(hours=11, minutes=50), step=timedelta(minutes=5))
    world.run(steps=10)
    assert agent.refusals == []
    assert [one.id for one in world.ready()] == [node.id]


def test_nodes_whose_credentials_ran_out_are_replaced_and_never_let_in_again(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1), idle_termination_minutes=0))
    (node,) = world.ready()
    away(world, timedelta(hours=12, minutes=5), step=timedelta(minutes=5))
    world.until(
        lambda: world.phase() is ClusterPhase.RUNNING and [one.id for one in world.ready()] not in ([], [node.id])
    )
    world.until(lambda: len(world.instances()) == len(world.nodes()) == 2)
    assert node.name not in world.instances()
