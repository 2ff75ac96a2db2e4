"""What nodes hear: registration, and heartbeats that are held until there is news."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import attrs
import pytest

from anyscale_core.errors import Refused
from anyscale_core.models.identity import Proof
from anyscale_core.models.node import PROOF_AUDIENCE, Drain, Heartbeat, Orders, RayStatus, Registered, Registration
from anyscale_core.models.phases import ClusterPhase
from anyscale_core.models.secret import Secret
from anyscale_core.testing.agents import FakeAgent
from anyscale_core.testing.builders import workers
from anyscale_core.testing.fake_identity import sign_proof
from tests.api.serving import OverHttp, Service, beat, eventually, spec_body

LONG = timedelta(seconds=8)
NOW = timedelta()


@attrs.define(eq=False)
class Node:
    """One node of a cluster, with the two connections that an agent has."""

    held: OverHttp
    urgent: OverHttp
    registered: Registered
    seq: int = 0

    def beat(self, wait: timedelta, *, ray: RayStatus = RayStatus.STARTING, version: str | None = None) -> Orders:
        self.seq += 1
        heartbeat = beat(self.seq, version or self.registered.config.version, wait, ray)
        return (self.held if wait else self.urgent).heartbeat(self.registered.credential, heartbeat)


@pytest.fixture
def node(service: Service, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A head that has registered, in a cluster of its own."""
    assert service.serving is not None
    name = f"n{abs(hash(request.node.name)) % 10**9}"
    with service.client() as client:
        client.apply(spec_body(name))
        held, urgent = OverHttp(service.serving), OverHttp(service.serving)
        yield Node(held=held, urgent=urgent, registered=held.register(_registration(service, name)))
        held.close()
        urgent.close()
        client.delete(name)


def _registration(service: Service, cluster: str, nonce: str = "once") -> Registration:
    def machine() -> object:
        return next((one for one in service.cloud.machines.values() if one.spec.name.startswith(cluster)), None)

    found = eventually(machine, what=f"a machine of {cluster}")
    bootstrap = found.spec.bootstrap
    return Registration(
        join_token=bootstrap.join_token, nonce=Secret(nonce), agent_version="test",
        proof=sign_proof(service.cloud, audience=PROOF_AUDIENCE, subject=found.spec.name, provider="fake"),
    )  # fmt: skip


def _settled(node: Node) -> None:
    """Beat until there is nothing new: the head has its configuration and the plane has taken note of the status."""

    def quiet() -> bool:
        orders = node.beat(NOW)
        if orders.config is not None:
            node.registered = attrs.evolve(node.registered, config=orders.config)
        return orders == Orders()

    eventually(quiet, what="no orders")


def _in_background(work: object, *args: object, **kwargs: object) -> "Future[Orders]":
    return ThreadPoolExecutor(1).submit(work, *args, **kwargs)  # type: ignore[arg-type]


def _name(node: Node) -> str:
    return node.registered.config.cluster_name


def test_a_registration_gives_a_credential_in_clear_and_a_second_one_with_another_nonce_is_refused(
    service: Service, node: Node
) -> None:
    assert node.registered.credential.reveal().count(".") == 2
    assert node.registered.config.ray_token.reveal() != "***"
    again = node.held.register(_registration(service, _name(node)))
    assert again.config.node_id == node.registered.config.node_id
    with pytest.raises(Refused) as caught:
        node.held.register(_registration(service, _name(node), nonce="thief"))
    assert caught.value.why == "replayed"


def test_a_join_token_that_is_forged_and_a_proof_that_is_made_up_are_refused(service: Service, node: Node) -> None:
    good = _registration(service, _name(node))
    for bad, why in (
        (attrs.evolve(good, join_token=Secret("a.b.c")), "forged"),
        (attrs.evolve(good, proof=Proof(provider="fake", document=Secret("made up"))), "unproven"),
    ):
        with pytest.raises(Refused) as caught:
            node.held.register(bad)
        assert caught.value.why == why


def test_a_heartbeat_without_a_credential_or_with_a_users_token_is_refused(service: Service) -> None:
    assert service.serving is not None
    body = b'{"seq": 1, "wait_s": 0, "config_version": "", "epoch": "", "ray": "waiting"}'
    user = service.serving.connection.token.reveal()
    for token, why in ((None, "missing"), (user, "foreign"), ("a.b.c", "forged")):
        status, problem = service.raw("POST", "/v1/nodes/heartbeat", token=token, body=body)
        assert (status, problem["why"]) == (401, why)


def test_a_heartbeat_that_may_not_wait_is_answered_at_once(node: Node) -> None:
    _settled(node)
    began = time.monotonic()
    assert node.beat(NOW) == Orders()
    assert time.monotonic() - began < 1


def test_a_heartbeat_is_held_for_its_wait_while_there_is_nothing_new(node: Node) -> None:
    _settled(node)
    began = time.monotonic()
    assert node.beat(timedelta(seconds=0.5)) == Orders()
    assert 0.45 < time.monotonic() - began < 3


def test_a_held_heartbeat_is_let_go_within_half_a_second_when_the_node_is_to_drain(
    service: Service, node: Node
) -> None:
    _settled(node)
    answer = _in_background(node.beat, LONG)
    time.sleep(0.2)  # let it be held, for this is what is tested
    assert not answer.done()
    began = time.monotonic()
    with service.client() as client:
        client.delete(_name(node))
    orders = answer.result(timeout=LONG.total_seconds())
    took = time.monotonic() - began
    assert isinstance(orders.drain, Drain) or orders.forget
    assert took < 1.5, f"{took:.3f} s"


def test_orders_that_were_given_are_repeated_only_when_the_wait_is_over(node: Node) -> None:
    _settled(node)
    first = node.beat(LONG, version="old")
    assert first.config is not None
    began = time.monotonic()
    again = node.beat(timedelta(seconds=0.5), version="old")
    assert again == first
    assert time.monotonic() - began > 0.45


def test_an_urgent_heartbeat_is_not_blocked_and_its_orders_let_the_older_held_one_go(node: Node) -> None:
    _settled(node)
    older = _in_background(node.beat, LONG)
    time.sleep(0.2)  # let it be held, for this is what is tested
    assert node.beat(NOW) == Orders()
    assert not older.done(), "an answer without orders lets nobody go"
    began = time.monotonic()
    orders = node.beat(NOW, version="old")
    assert orders.config is not None
    assert older.result(timeout=LONG.total_seconds()) == orders
    assert time.monotonic() - began < 1


def test_a_newer_held_heartbeat_takes_the_place_of_an_older_one(service: Service, node: Node) -> None:
    assert service.serving is not None
    _settled(node)
    older = _in_background(node.beat, LONG)
    time.sleep(0.2)  # let it be held, for this is what is tested
    third = OverHttp(service.serving)
    newer = beat(node.seq + 1, node.registered.config.version, timedelta(seconds=1))
    newer_answer = _in_background(third.heartbeat, node.registered.credential, newer)
    assert older.result(timeout=2) == Orders()
    assert not newer_answer.done()
    assert newer_answer.result(timeout=5) == Orders()
    third.close()


def test_twelve_held_heartbeats_cost_no_thread_and_are_all_let_go_when_their_cluster_ends(service: Service) -> None:
    assert service.serving is not None
    agents = service.agents()
    with service.client() as client, ThreadPoolExecutor(12) as pool:
        client.apply(spec_body("many", workers(min_nodes=12, max_nodes=12)))

        def up() -> bool:
            agents.step()
            return client.get("many").phase is ClusterPhase.RUNNING

        eventually(up, within=30, what="many is RUNNING")
        agents.step()
        mine = [agent for agent in agents.agents.values() if agent.name.startswith("many-") and not agent.is_head]
        assert len(mine) == 12
        answers = []
        for agent in mine:
            link, held = OverHttp(service.serving), _as_before(agent)
            assert agent.credential is not None
            answers.append(pool.submit(link.heartbeat, agent.credential, held))
        time.sleep(0.5)  # let them be held, for this is what is tested
        assert not any(answer.done() for answer in answers)
        assert sum(thread.name.startswith("machines") for thread in threading.enumerate()) <= 4
        client.delete("many")
        began = time.monotonic()
        orders = [answer.result(timeout=LONG.total_seconds()) for answer in answers]
        assert time.monotonic() - began < 4
        assert all(one.drain is not None or one.forget for one in orders)


def _as_before(agent: FakeAgent) -> Heartbeat:
    """Return a heartbeat that says what the agent's last one said."""
    assert agent.config is not None
    agent.seq += 1
    return Heartbeat(
        seq=agent.seq, wait=LONG, config_version=agent.config.version, epoch=agent.epoch, ray=agent.ray,
        ray_id=agent.ray_node.ray_id if agent.ray_node else "", detail=agent.detail,
    )  # fmt: skip
