"""A cloud in pull mode: the engine is the same, the arm is longer."""

from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from anyscale_core.errors import (
    Applied,
    CapacityUnavailable,
    DeadlineExceeded,
    QuotaExceeded,
    Refused,
    Retry,
    Scope,
    Transient,
    Vendor,
)
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created, InstanceState
from anyscale_core.models.order import Dispatch, OperatorState, Poll
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.models.secret import Secret
from anyscale_core.testing.builders import a_spec, an_instance_spec, owner, workers
from tests.operator.pull import CLOUD, Pull

SILENCE = timedelta(seconds=30)


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    return Pull.new(tmp_path)


def test_a_cluster_of_a_cloud_in_pull_mode_comes_up_and_ends_and_leaves_nothing(pull: Pull) -> None:
    world = pull.world
    world.plane.apply(a_spec("demo", workers(min_nodes=2)), actor="tester")
    pull.until(lambda: world.phase() is ClusterPhase.RUNNING and len(world.ready()) == 2)
    assert len(world.instances()) == 3
    world.plane.terminate("demo", actor="tester")
    pull.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    assert not world.instances()


def test_while_the_operator_is_away_nodes_live_on_and_when_it_returns_nothing_is_made_twice(pull: Pull) -> None:
    world = pull.world
    world.plane.apply(a_spec("demo", workers(min_nodes=2)), actor="tester")
    pull.until(lambda: len(world.ready()) == 2)
    nodes, creates = world.nodes(), world.creates()
    pull.alive = False
    pull.run(steps=60)
    assert world.plane.operators.view(CLOUD).state is OperatorState.DISCONNECTED
    assert [node.phase for node in world.nodes()] == [NodePhase.READY] * 3
    assert world.phase() is ClusterPhase.RUNNING
    pull.alive = True
    pull.run(steps=30)
    assert world.plane.operators.view(CLOUD).state is OperatorState.CONNECTED
    assert [node.id for node in world.nodes()] == [node.id for node in nodes]
    assert world.creates() == creates
    told = [event.kind for event in world.plane.events() if event.kind.startswith("cloud.")]
    assert told == ["cloud.connected", "cloud.unreadable", "cloud.disconnected", "cloud.connected"]
    audited = [record.action for record in world.plane.store.audit() if record.action != "operator.login"]
    assert [action for action in audited if action.startswith("operator.")] == [
        "operator.connected", "operator.disconnected", "operator.connected",
    ]  # fmt: skip
    assert {record.subject for record in world.plane.store.audit() if record.action == "operator.disconnected"} == {
        CLOUD
    }


def test_a_wish_is_recorded_while_the_operator_is_away_and_met_when_it_is_back(pull: Pull) -> None:
    world = pull.world
    assert world.plane.clouds.get(CLOUD).offerings()
    pull.alive = False
    pull.run(steps=40)
    pull.restart()  # what was known of the catalogue in memory is gone
    world.plane.apply(a_spec("demo"), actor="tester")
    pull.run(steps=40)
    assert world.phase() is ClusterPhase.STARTING
    assert "has not been heard of since" in world.record().reason
    pull.alive = True
    pull.until(lambda: world.phase() is ClusterPhase.RUNNING)
    assert world.creates() == 1


def test_a_node_that_is_lost_while_the_operator_is_away_is_replaced_when_it_is_back(pull: Pull) -> None:
    world = pull.world
    world.plane.apply(a_spec("demo", workers(min_nodes=2)), actor="tester")
    pull.until(lambda: len(world.ready()) == 2)
    pull.alive = False
    pull.run(steps=40)
    lost = world.ready()[0]
    world.cloud.kill(lost.name)
    pull.run(steps=20)
    assert lost in world.nodes(), "nothing is decided from ignorance"
    pull.alive = True
    pull.until(lambda: len(world.ready()) == 2 and lost.name not in world.instances())


def test_a_call_fails_at_once_and_was_not_made_when_no_operator_is_there(pull: Pull) -> None:
    world, cloud = pull.world, pull.world.plane.clouds.get(CLOUD)
    pull.alive = False
    pull.run(steps=40)
    before = world.clock.now()
    with pytest.raises(Transient, match="has not been heard of since") as caught:
        cloud.cluster.list(cloud.owner, deadline=cloud.deadline())
    assert (caught.value.applied, caught.value.retry) == (Applied.NO, Retry.SAME)
    assert world.clock.now() == before


def test_an_order_that_nobody_takes_is_withdrawn_long_before_its_deadline(pull: Pull) -> None:
    world, cloud = pull.world, pull.world.plane.clouds.get(CLOUD)
    pull.alive = False
    before = world.clock.now()
    with pytest.raises(Transient, match="no operator took it") as caught:
        cloud.cluster.create([an_instance_spec(owner=cloud.owner)], token=Token("t1"), deadline=cloud.deadline())
    assert caught.value.applied is Applied.NO
    assert world.clock.now() - before < timedelta(seconds=12)
    pull.alive = True
    pull.run(steps=2)
    assert world.instances() == [], "what was withdrawn is not performed any more"


def test_what_was_given_and_never_answered_may_have_been_done_and_a_repeat_joins_it(pull: Pull) -> None:
    world, cloud = pull.world, pull.world.plane.clouds.get(CLOUD)
    asked: list[Dispatch] = []

    def take_and_say_nothing(most: timedelta) -> None:
        asked.append(pull.operator._contact.poll(Poll()))
        world.clock.advance(max(most, timedelta(milliseconds=10)))

    world.plane.mailbox.idle = take_and_say_nothing
    specs = [an_instance_spec(owner=cloud.owner)]
    with pytest.raises(DeadlineExceeded) as caught:
        cloud.cluster.create(specs, token=Token("t1"), deadline=world.clock.now() + timedelta(seconds=5))
    assert caught.value.applied is Applied.UNKNOWN
    assert len({slip for dispatch in asked for slip in dispatch.slips}) == 1, "the same order, whoever asks"
    world.plane.mailbox.idle = pull.idle
    (outcome,) = cloud.cluster.create(specs, token=Token("t1"), deadline=cloud.deadline())
    assert isinstance(outcome, Created)
    assert len(world.instances()) == 1


def test_an_order_is_not_begun_once_its_time_is_over(pull: Pull) -> None:
    world, cloud = pull.world, pull.world.plane.clouds.get(CLOUD)
    pull.alive = False
    with pytest.raises(Transient):
        cloud.cluster.create([an_instance_spec(owner=cloud.owner)], token=Token("t1"), deadline=cloud.deadline())

    def take_late(most: timedelta) -> None:
        world.clock.advance(timedelta(seconds=3))
        pull.step()

    world.plane.mailbox.idle = take_late
    with pytest.raises((DeadlineExceeded, Transient)):
        cloud.cluster.create(
            [an_instance_spec(owner=cloud.owner)], token=Token("t2"), deadline=world.clock.now() + timedelta(seconds=2)
        )
    assert world.instances() == []


def test_a_second_replica_gets_no_orders_until_the_first_has_been_silent_and_then_resumes_its_work(pull: Pull) -> None:
    world, cloud, first = pull.world, pull.world.plane.clouds.get(CLOUD), pull.operator
    second = pull.make("second")
    assert second.turn() == 0
    assert not second.vitals.leads
    assert first.vitals.leads

    def performed_and_not_told(most: timedelta) -> None:
        pull.door = Mute(pull.door)
        first._contact._door = pull.door  # it performs, and its report never arrives
        with pytest.raises(ConnectionError):
            first.turn()
        pull.operator = second
        world.plane.mailbox.idle = pull.idle
        world.clock.advance(SILENCE)

    world.plane.mailbox.idle = performed_and_not_told
    (outcome,) = cloud.cluster.create(
        [an_instance_spec(owner=cloud.owner)], token=Token("t1"), deadline=cloud.deadline()
    )
    assert isinstance(outcome, Created)
    assert second.vitals.leads
    assert world.creates() == 2, "performed by both"
    assert len(world.instances()) == 1, "made once"


class Mute:
    """A door through which no report comes."""

    def __init__(self, door: object) -> None:
        self._door = door

    def __getattr__(self, name: str) -> object:
        return getattr(self._door, name)

    def report(self, *_: object, **__: object) -> None:
        raise ConnectionError("cut off")


def test_a_replica_that_leaves_is_followed_at_once(pull: Pull) -> None:
    second = pull.make("second")
    pull.operator._contact.poll(Poll(leaving=True))
    second.turn()
    assert second.vitals.leads
    assert pull.world.plane.operators.view(CLOUD).state is OperatorState.CONNECTED


VENDOR = Vendor(provider="fake", service="cluster.create", code="OutOfIt", http_status=409, request_id="req-1")


@pytest.mark.parametrize(
    "error",
    [
        CapacityUnavailable(
            "none left", reason="ZONE", scope=Scope.ZONE, vendor=VENDOR, hint="elsewhere", resource="x",
            retry_after=timedelta(seconds=90),
        ),
        QuotaExceeded("too many", reason="COUNT", metric="instances", limit=3.0, used=3.0, scope=Scope.ACCOUNT),
    ],
)  # fmt: skip
def test_an_error_of_the_cloud_arrives_whole(pull: Pull, error: CapacityUnavailable | QuotaExceeded) -> None:
    world, cloud = pull.world, pull.world.plane.clouds.get(CLOUD)
    world.cloud.refuse("cluster.create", error)
    with pytest.raises(type(error)) as caught:
        cloud.cluster.create([an_instance_spec(owner=cloud.owner)], token=Token("t1"), deadline=cloud.deadline())
    assert caught.value.record() == error.record()


def test_a_list_shows_what_was_there_after_it_was_asked_for(pull: Pull) -> None:
    world, cloud = pull.world, pull.world.plane.clouds.get(CLOUD)
    mine = attrs.evolve(cloud.owner, cluster=owner(cluster="clu_1").cluster)
    (outcome,) = cloud.cluster.create([an_instance_spec(owner=mine)], token=Token("t1"), deadline=cloud.deadline())
    assert isinstance(outcome, Created)
    world.clock.advance(timedelta(minutes=2))
    (listed,) = cloud.cluster.list(cloud.owner, deadline=cloud.deadline())
    assert (listed.id, listed.state) == (outcome.instance.id, InstanceState.RUNNING)
    assert cloud.cluster.delete([listed.id], owner=mine, deadline=cloud.deadline())
    world.clock.advance(timedelta(minutes=2))
    assert cloud.cluster.list(cloud.owner, deadline=cloud.deadline()) == ()


def test_a_revoked_operator_is_refused_until_it_shows_a_new_token(pull: Pull) -> None:
    plane = pull.world.plane
    old = plane.operator_token(CLOUD, actor="tester").token
    session = pull.operator._contact.session()
    plane.revoke_operator(CLOUD, actor="tester")
    with pytest.raises(Refused) as caught:
        plane.operators.poll(session.credential, Poll())
    assert caught.value.why == "revoked"
    with pytest.raises(Refused) as caught:
        plane.operators.login(pull.login(token=old))
    assert caught.value.why == "revoked"
    assert pull.step() == 0, "refused once, it logs in anew"
    pull.operator.turn()


def test_join_tokens_lie_in_the_store_sealed_and_show_in_no_repr(pull: Pull) -> None:
    world, cloud = pull.world, pull.world.plane.clouds.get(CLOUD)
    seen: list[Dispatch] = []

    def look(most: timedelta) -> None:
        if not seen:
            seen.append(pull.operator._contact.poll(Poll()))
        pull.idle(most)

    world.plane.mailbox.idle = look
    from anyscale_core.testing.builders import a_bootstrap

    spec = an_instance_spec(owner=cloud.owner, bootstrap=a_bootstrap("nod_secret"))
    cloud.cluster.create([spec], token=Token("t1"), deadline=cloud.deadline())
    secret = b"join-nod_secret"
    assert seen[0].slips, "the order was seen on the wire"
    assert secret.decode() not in repr(seen)
    files = [path.read_bytes() for path in world.home.glob("plane.db*")]
    assert files
    assert not any(secret in data for data in files)
    opened = pull.operator._opened(seen[0].slips[0])
    assert secret.decode() not in repr(opened)
    assert secret.decode() in str(opened.arguments)


def test_a_cloud_that_the_control_plane_calls_itself_has_no_operator(tmp_path: Path) -> None:
    pull = Pull.new(tmp_path)
    plane = pull.world.plane
    from anyscale_core.errors import SpecError
    from anyscale_core.models.cloud import CloudSpec

    plane.register_cloud(CloudSpec(name="ours", provider="fake"), actor="tester")
    with pytest.raises(SpecError, match="the control plane calls it itself"):
        plane.operator_token("ours", actor="tester")
    with pytest.raises(Refused) as caught:
        plane.operators.login(attrs.evolve(pull.login(token=Secret("x")), cloud="ours"))
    assert caught.value.why == "foreign"
