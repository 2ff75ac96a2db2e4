"""Two clusters never touch each other; whoever is not expected is refused, and the refusal is on record."""

import hashlib
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from anyscale_core.controlplane.keys import JOIN, NODE
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.errors import Refused
from anyscale_core.models.identity import Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.node import Heartbeat, RayStatus, Registration
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.models.secret import Secret
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World


def test_ending_one_cluster_leaves_its_neighbour_as_it_was(world: World) -> None:
    world.up(a_spec("one", workers(min_nodes=2)))
    world.up(a_spec("two", workers(min_nodes=2)))
    before = {node.name for node in world.nodes("two")}
    world.plane.terminate("one", actor="tester")
    world.until(lambda: world.phase("one") is ClusterPhase.TERMINATED)
    world.run(steps=60)
    assert set(world.instances()) == before
    assert world.phase("two") is ClusterPhase.RUNNING


def test_two_clusters_have_tokens_and_prefixes_of_their_own(world: World) -> None:
    one, two = world.up(a_spec("one")), world.up(a_spec("two"))
    configs = [agent.config for agent in world.agents.agents.values() if agent.config is not None]
    assert len({config.ray_token for config in configs}) == 2
    assert len({config.store.url for config in configs}) == 2
    assert {config.cluster_id for config in configs} == {one.id, two.id}


def test_two_planes_in_one_cloud_never_see_each_others_instances(world: World, tmp_path: Path) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    settings = attrs.evolve(world.plane.settings, home=tmp_path / "other")
    other = ControlPlane(settings, registry=world.plane.registry, clock=world.clock)
    assert other.clouds.get("fake").sweep().instances == ()
    other.collector.collect()
    assert len(world.instances()) == 2


def registration(world: World, node_id: str, **fields: object) -> Registration:
    """Return what the agent of a node that is expected would say."""
    record = world.record()
    node = next(node for node in record.nodes if node.id == node_id)
    cloud = world.plane.clouds.get("fake")
    proof = cloud.identity.prove("anyscale-core/register", subject=node.name, deadline=cloud.deadline())
    token = world.plane.heartbeats.bootstrap(record, node).join_token
    said = Registration(join_token=token, nonce=Secret("n1"), proof=proof, agent_version="test")
    return attrs.evolve(said, **fields)  # type: ignore[arg-type]


def expected(world: World) -> NodeId:
    """Apply a cluster and return a node that has not registered yet."""
    world.plane.apply(a_spec("demo", workers(min_nodes=1)), actor="tester")
    world.plane.tick()
    return world.head().id


def refusals(world: World) -> list[str]:
    return [record.detail.split(":")[0] for record in world.plane.store.audit() if record.outcome == "refused"]


def test_a_join_token_is_good_once_and_its_own_agent_may_repeat_a_lost_answer(world: World) -> None:
    said = registration(world, expected(world))
    first = world.plane.register(said)
    again = world.plane.register(said)
    assert again.config == first.config
    with pytest.raises(Refused) as caught:
        world.plane.register(attrs.evolve(said, nonce=Secret("thief")))
    assert caught.value.why == "replayed"
    assert refusals(world) == ["replayed"]


def test_an_expired_join_token_is_refused(world: World) -> None:
    said = registration(world, expected(world))
    world.clock.advance(timedelta(hours=2))
    with pytest.raises(Refused) as caught:
        world.plane.register(said)
    assert caught.value.why == "expired"


def test_a_forged_join_token_is_refused(world: World) -> None:
    said = registration(world, expected(world))
    forged = Secret(said.join_token.reveal()[:-6] + "AAAAAA")
    with pytest.raises(Refused) as caught:
        world.plane.register(attrs.evolve(said, join_token=forged))
    assert caught.value.why == "forged"


def test_a_token_of_another_plane_is_refused(world: World, tmp_path: Path) -> None:
    said = registration(world, expected(world))
    other = World.new(tmp_path / "other")
    foreign = registration(other, expected(other)).join_token
    with pytest.raises(Refused) as caught:
        world.plane.register(attrs.evolve(said, join_token=foreign))
    assert caught.value.why == "forged"


def test_a_token_for_another_purpose_is_refused(world: World) -> None:
    said = registration(world, expected(world))
    now = world.clock.now()
    wrong = world.plane.keys.sign(NODE, {"sub": "nod_x"}, issued=now, expires=now + timedelta(hours=1))
    with pytest.raises(Refused) as caught:
        world.plane.register(attrs.evolve(said, join_token=wrong))
    assert caught.value.why == "foreign"


def test_a_proof_of_another_instance_is_refused(world: World) -> None:
    node_id = expected(world)
    cloud = world.plane.clouds.get("fake")
    other = cloud.identity.prove("anyscale-core/register", subject="somebody-else", deadline=cloud.deadline())
    with pytest.raises(Refused) as caught:
        world.plane.register(registration(world, node_id, proof=other))
    assert caught.value.why == "foreign"


def test_a_proof_that_nobody_signed_is_refused(world: World) -> None:
    proof = Proof(provider="fake", document=Secret("nonsense"))
    with pytest.raises(Refused) as caught:
        world.plane.register(registration(world, expected(world), proof=proof))
    assert caught.value.why == "unproven"


def test_a_node_that_is_not_expected_any_more_is_refused(world: World) -> None:
    said = registration(world, expected(world))
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    with pytest.raises(Refused) as caught:
        world.plane.register(said)
    assert caught.value.why == "unexpected"


BEAT = Heartbeat(seq=1, wait=timedelta(), config_version="", epoch="", ray=RayStatus.WAITING)


def test_node_credentials_that_are_wrong_expired_or_for_something_else_are_refused(world: World) -> None:
    registered = world.plane.register(registration(world, expected(world)))
    now = world.clock.now()
    join = world.plane.keys.sign(JOIN, {"sub": "x"}, issued=now, expires=now + timedelta(hours=1))
    for credential, why in (
        (Secret("garbage"), "forged"),
        (Secret(registered.credential.reveal()[:-6] + "AAAAAA"), "forged"),
        (join, "foreign"),
    ):
        with pytest.raises(Refused) as caught:
            world.plane.heartbeat(credential, BEAT)
        assert caught.value.why == why
    world.clock.advance(timedelta(hours=13))
    with pytest.raises(Refused) as caught:
        world.plane.heartbeat(registered.credential, BEAT)
    assert caught.value.why == "expired"
    assert refusals(world) == ["forged", "forged", "foreign", "expired"]


def test_a_credential_is_renewed_at_half_its_life(world: World) -> None:
    registered = world.plane.register(registration(world, expected(world)))
    assert world.plane.heartbeat(registered.credential, BEAT).credential is None
    world.clock.advance(timedelta(hours=7))
    renewed = world.plane.heartbeat(registered.credential, attrs.evolve(BEAT, seq=2)).credential
    assert renewed is not None
    assert renewed != registered.credential


def test_a_node_that_was_given_up_is_told_to_forget(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=1)))
    (node,) = world.ready()
    agent = next(agent for agent in world.agents.agents.values() if agent.name == node.name)
    assert agent.credential is not None
    world.agents.silence(node.name)
    world.until(lambda: world.node(node.id).phase.value == "GONE")
    orders = world.plane.heartbeat(agent.credential, attrs.evolve(BEAT, seq=10**6))
    assert orders.forget


def test_no_secret_is_stored_in_clear(world: World) -> None:
    said = registration(world, expected(world))
    registered = world.plane.register(said)
    world.plane.store.close()
    stored = b"".join(path.read_bytes() for path in world.home.glob("plane.db*"))
    for secret in (said.join_token, said.nonce, registered.credential, registered.config.ray_token):
        assert secret.reveal().encode() not in stored or secret.reveal() == "n1"
    assert hashlib.sha256(b"n1").hexdigest().encode() in stored
