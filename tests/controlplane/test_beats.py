"""Heartbeats as they are recorded: together, against the row, and heard by several control planes."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import attrs
import pytest
from sqlalchemy import event

from anyscale_core.controlplane import beats
from anyscale_core.controlplane.beats import Said
from anyscale_core.controlplane.heartbeats import Taken
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.errors import Refused
from anyscale_core.models.ids import NodeId
from anyscale_core.models.node import Heartbeat, RayStatus
from anyscale_core.models.records import NodeRecord, NodeStatus
from anyscale_core.models.secret import Secret
from anyscale_core.testing.agents import FakeAgent
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World


@attrs.define
class Rig:
    """A running cluster, one of its workers, and a second control plane on the same store."""

    world: World
    other: ControlPlane
    agent: FakeAgent
    node: NodeRecord

    @property
    def credential(self) -> Secret[str]:
        assert self.agent.credential is not None
        return self.agent.credential

    def says(self, seq: int, *, ray: RayStatus = RayStatus.ALIVE) -> Heartbeat:
        """Return what the worker said last, under another number."""
        return attrs.evolve(said_last(self.agent), seq=seq, ray=ray)

    def status(self) -> NodeStatus:
        return self.world.plane.store.statuses(self.node.cluster_id)[self.node.id]

    def version(self) -> int:
        return self.world.plane.store.version(self.node.cluster_id)


@pytest.fixture
def rig(world: World) -> Iterator[Rig]:
    world.up(a_spec("demo", workers(min_nodes=3), idle_termination_minutes=0))
    world.run(steps=3)
    node = world.ready()[0]
    other = ControlPlane(world.plane.settings, registry=world.plane.registry, clock=world.clock)
    yield Rig(world, other, world.agents.agent(node.name), node)
    other.close()


def said_last(agent: FakeAgent) -> Heartbeat:
    assert agent.config is not None
    return Heartbeat(
        seq=agent.seq, wait=timedelta(), config_version=agent.config.version, epoch=agent.epoch, ray=agent.ray,
        ray_id=agent.ray_node.ray_id if agent.ray_node else "", detail=agent.detail,
    )  # fmt: skip


def test_a_heartbeat_that_says_nothing_new_writes_when_it_came_and_wakes_nobody(rig: Rig) -> None:
    before, number = rig.version(), rig.agent.seq + 1
    rig.world.clock.advance(timedelta(seconds=2))
    rig.world.plane.heartbeat(rig.credential, rig.says(number))
    assert rig.version() == before
    assert (rig.status().seen_at, rig.status().seq) == (rig.world.clock.now(), number)
    assert rig.world.plane.store.next_due(now=rig.world.clock.now()) != rig.world.clock.now()


def test_a_heartbeat_that_says_something_new_makes_the_cluster_due_at_once(rig: Rig) -> None:
    before, number = rig.version(), rig.agent.seq + 1
    rig.world.plane.heartbeat(rig.credential, rig.says(number, ray=RayStatus.DOWN))
    assert rig.version() == before + 1
    assert rig.status().ray is RayStatus.DOWN
    assert rig.world.plane.store.next_due(now=rig.world.clock.now()) == rig.world.clock.now()


def test_what_a_head_shows_as_idle_is_written_though_it_is_no_news(rig: Rig) -> None:
    head = rig.world.head()
    before = rig.world.plane.store.statuses(head.cluster_id)[head.id]
    rig.world.run(steps=3)
    after = rig.world.plane.store.statuses(head.cluster_id)[head.id]
    assert before.head is not None
    assert after.head is not None
    assert max(ray.idle for ray in after.head.ray_nodes) > max(ray.idle for ray in before.head.ray_nodes)


def test_heartbeats_of_many_nodes_share_one_transaction_and_none_fails_for_anothers_sake(rig: Rig) -> None:
    plane = rig.world.plane
    commits: list[object] = []
    agents = [agent for agent in rig.world.agents.agents.values() if not agent.is_head]
    known = [(plane.heartbeats.identify(_of(agent)), said_last(agent)) for agent in agents]
    said = [(bearer, attrs.evolve(beat, seq=beat.seq + 1)) for bearer, beat in known]
    stranger = attrs.evolve(said[0][0], node_id=NodeId("nod_stranger"))
    event.listen(plane.store._loose, "commit", commits.append)
    outcomes = plane.heartbeats.take([said[0], (stranger, said[0][1]), *said[1:]])
    assert len(commits) == 1
    assert [type(outcome) for outcome in outcomes] == [Taken, Refused, *([Taken] * (len(said) - 1))]
    seqs = {status.node_id: status.seq for status in plane.store.statuses(rig.node.cluster_id).values()}
    assert all(seqs[bearer.node_id] == beat.seq for bearer, beat in said)


def test_two_heartbeats_of_one_node_in_one_transaction_are_believed_in_their_order(rig: Rig) -> None:
    plane, number = rig.world.plane, rig.agent.seq + 1
    bearer = plane.heartbeats.identify(rig.credential)
    plane.heartbeats.take([(bearer, rig.says(number + 1)), (bearer, rig.says(number, ray=RayStatus.DOWN))])
    assert (rig.status().seq, rig.status().ray) == (number + 1, RayStatus.ALIVE)


def test_news_that_one_plane_heard_is_undone_by_what_another_hears_next(rig: Rig) -> None:
    """One plane must not take for known what only itself knew: the row decides."""
    first, second, number = rig.world.plane, rig.other, rig.agent.seq + 1
    first.heartbeat(rig.credential, rig.says(number))
    second.heartbeat(rig.credential, rig.says(number + 1, ray=RayStatus.DOWN))
    before = rig.version()
    first.heartbeat(rig.credential, rig.says(number + 2))
    assert rig.status().ray is RayStatus.ALIVE
    assert rig.version() == before + 1


def test_a_late_heartbeat_is_not_believed_by_a_plane_that_never_saw_the_newer_one(rig: Rig) -> None:
    number = rig.agent.seq + 1
    rig.world.plane.heartbeat(rig.credential, rig.says(number + 1))
    before = rig.version()
    rig.other.heartbeat(rig.credential, rig.says(number, ray=RayStatus.DOWN))
    assert (rig.status().seq, rig.status().ray, rig.version()) == (number + 1, RayStatus.ALIVE, before)


def test_orders_of_a_plane_that_did_not_decide_them_are_those_that_another_recorded(rig: Rig) -> None:
    rig.other.heartbeat(rig.credential, rig.says(rig.agent.seq + 1))
    rig.world.plane.terminate("demo", actor="tester")
    rig.world.plane.tick()
    assert rig.other.heartbeat(rig.credential, rig.says(rig.agent.seq + 2)).drain is not None


def test_a_row_that_was_written_since_it_was_read_is_not_written_over(rig: Rig) -> None:
    store, number, now = rig.world.plane.store, rig.agent.seq + 1, rig.world.clock.now()
    with store._reader.connect() as connection:
        rows = beats._read(connection, [rig.node.id])
    beats._believe(rows[rig.node.id], rig.says(number, ray=RayStatus.DOWN), now, rig.world.timing)
    rig.other.heartbeat(rig.credential, rig.says(number + 1))
    with pytest.raises(beats._Overtaken), store.telemetry() as connection:
        beats._write(connection, rows, now)
    assert (rig.status().seq, rig.status().ray) == (number + 1, RayStatus.ALIVE)


def test_of_heartbeats_that_two_planes_hear_at_the_same_time_the_last_one_stands(rig: Rig) -> None:
    first = rig.agent.seq + 1
    numbers = list(range(first, first + 40))
    start = threading.Barrier(2)

    def speak(plane: ControlPlane, mine: list[int]) -> None:
        start.wait()
        for number in mine:
            said = [
                Said(node_id=rig.node.id, beat=rig.says(number, ray=RayStatus.DOWN if number % 3 else RayStatus.ALIVE))
            ]
            beats.record(plane.store, said, now=rig.world.clock.now(), timing=rig.world.timing)

    threads = [
        threading.Thread(target=speak, args=(plane, numbers[half::2]))
        for half, plane in enumerate((rig.world.plane, rig.other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = numbers[-1]
    assert (rig.status().seq, rig.status().ray) == (last, RayStatus.DOWN if last % 3 else RayStatus.ALIVE)


def test_what_was_heard_outlives_a_control_plane_that_is_killed(rig: Rig) -> None:
    number = rig.agent.seq + 1
    rig.world.plane.heartbeat(rig.credential, rig.says(number))
    rig.world.restart()
    assert rig.status().seq == number
    rig.world.plane.heartbeat(rig.credential, rig.says(number, ray=RayStatus.DOWN))
    assert rig.status().ray is RayStatus.ALIVE, "the same number again is not believed"


def test_a_credential_that_is_known_is_refused_when_it_has_expired_and_a_forged_one_always(rig: Rig) -> None:
    credential = rig.credential
    rig.world.plane.heartbeat(credential, rig.says(rig.agent.seq + 1))
    with pytest.raises(Refused) as caught:
        rig.world.plane.heartbeat(Secret(credential.reveal()[:-8] + "AAAAAAAA"), rig.says(rig.agent.seq + 2))
    assert caught.value.why == "forged"
    rig.world.clock.advance(rig.world.plane.settings.credential_ttl)
    with pytest.raises(Refused) as caught:
        rig.world.plane.heartbeat(credential, rig.says(rig.agent.seq + 2))
    assert caught.value.why == "expired"


def _of(agent: FakeAgent) -> Secret[str]:
    assert agent.credential is not None
    return agent.credential
