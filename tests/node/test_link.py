"""What an agent does when it is refused, lied to or left alone: real agents, real TLS, no Ray needed."""

import json
import os
import stat
import time

import attrs
import pytest

from anyscale_core.errors import Refused
from anyscale_core.models import wire
from anyscale_core.models.identity import Proof
from anyscale_core.models.ids import NodeId
from anyscale_core.models.instance import Bootstrap, NodeKind
from anyscale_core.models.node import Orders, RayStatus, Registration
from anyscale_core.models.secret import Secret
from anyscale_core.node.beats import LAST_RETRY, Backoff
from anyscale_core.node.home import Home
from anyscale_core.node.link import Away, Link
from tests.node.scripted import Authority, Cluster, ControlPlane, eventually


def waiting(cluster: Cluster, plane: ControlPlane) -> None:
    cluster.start(cluster.config("w1", kind=NodeKind.WORKER, group="cpu", head=None), address="127.0.0.3")
    plane.until("w1", lambda beat: beat.ray is RayStatus.WAITING, within=20)


def bootstrap(plane: ControlPlane, ca_pem: str) -> Bootstrap:
    return Bootstrap(
        url=f"https://127.0.0.1:{plane.port}",
        ca_pem=ca_pem,
        node_id=NodeId("nod_1"),
        join_token=Secret("join"),
        identity_provider="nodetest",
    )


REGISTRATION = Registration(
    join_token=Secret("join"),
    nonce=Secret("n"),
    proof=Proof(provider="nodetest", document=Secret("I am w1")),
    agent_version="1",
)


def test_a_refused_agent_ends_with_3_says_why_and_leaves_nothing(cluster: Cluster, plane: ControlPlane) -> None:
    plane.refuse = 403
    agent = cluster.start(cluster.config("w1", kind=NodeKind.WORKER, head=None), address="127.0.0.3")
    assert agent.wait(20) == 3
    assert "this node is not known. Remedy:" in cluster.log("w1")
    assert cluster.session("w1") == []


def test_an_agent_whose_provider_is_not_installed_ends_with_2_and_says_so(
    cluster: Cluster, plane: ControlPlane
) -> None:
    (cluster.plugins / "nodetest-1.0.dist-info" / "entry_points.txt").write_text("")
    agent = cluster.start(cluster.config("w1", kind=NodeKind.WORKER, head=None), address="127.0.0.3")
    assert agent.wait(20) == 2
    assert "no provider 'nodetest' is installed" in cluster.log("w1")


def test_a_server_with_a_foreign_certificate_never_gets_a_word(plane: ControlPlane) -> None:
    with pytest.raises(Away, match="CERTIFICATE_VERIFY_FAILED"):
        Link(bootstrap(plane, Authority.make().ca_pem)).register(REGISTRATION)
    assert plane.registrations == []


def test_plain_http_is_not_taken(plane: ControlPlane, authority: Authority) -> None:
    with pytest.raises(ValueError, match="https://host:port"):
        Link(attrs.evolve(bootstrap(plane, authority.ca_pem), url="http://127.0.0.1:1"))


def test_a_refusal_tells_the_control_planes_own_words(plane: ControlPlane, authority: Authority) -> None:
    plane.refuse = 401
    with pytest.raises(Refused, match="this node is not known"):
        Link(bootstrap(plane, authority.ca_pem)).register(REGISTRATION)


def test_a_server_error_is_worth_another_try(plane: ControlPlane, authority: Authority) -> None:
    plane.refuse = 503
    with pytest.raises(Away, match="answered 503"):
        Link(bootstrap(plane, authority.ca_pem)).register(REGISTRATION)


def test_a_link_survives_a_restart_of_the_control_plane(
    cluster: Cluster, plane: ControlPlane, authority: Authority
) -> None:
    plane.configure(cluster.config("w1"))
    link = Link(bootstrap(plane, authority.ca_pem))
    link.register(REGISTRATION)
    plane.close()
    plane.open()
    assert link.register(REGISTRATION).config.instance_name == "w1"


def test_a_fresh_credential_replaces_the_old_one_and_is_kept_from_others(cluster: Cluster, plane: ControlPlane) -> None:
    waiting(cluster, plane)
    # The scripted control plane knows agents by their credentials: with the new one this agent is w2.
    plane.configure(attrs.evolve(plane.configs["w1"], instance_name="w2"))
    plane.give("w1", Orders(credential=Secret("credential-of-w2")))
    plane.until("w2", lambda beat: beat.ray is RayStatus.WAITING, within=10)
    kept = cluster.home("w1") / "registered.json"
    assert json.loads(kept.read_text())["credential"] == "credential-of-w2"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "credential-of" not in cluster.log("w1")


def test_an_agent_waits_for_a_control_plane_that_comes_late(cluster: Cluster, plane: ControlPlane) -> None:
    plane.close()
    cluster.start(cluster.config("w1", kind=NodeKind.WORKER, group="cpu", head=None), address="127.0.0.3")
    eventually(lambda: "trying again" in cluster.log("w1"), within=20, what="it says so")
    plane.open()
    plane.until("w1", lambda beat: beat.ray is RayStatus.WAITING, within=20)
    assert cluster.log("w1").count("trying again") == 1


def test_a_known_nodes_refused_credential_makes_it_register_again_with_the_same_nonce(
    cluster: Cluster, plane: ControlPlane
) -> None:
    waiting(cluster, plane)
    heard = len(plane.beats["w1"])
    plane.revoked = "credential-of-w1"
    plane.give("w1", Orders())
    eventually(lambda: len(plane.registrations) == 2, within=20, what="it registers again")
    plane.until("w1", lambda _: len(plane.beats["w1"]) > heard, within=20)
    assert plane.registrations[0].nonce == plane.registrations[1].nonce


def test_same_orders_again_and_again_are_not_asked_for_in_a_hot_loop(cluster: Cluster, plane: ControlPlane) -> None:
    waiting(cluster, plane)
    plane.give("w1", Orders(stop_jobs=("j-1",)))
    heard = len(plane.beats["w1"])
    begin = time.monotonic()
    eventually(lambda: len(plane.beats["w1"]) >= heard + 4, within=10, what="it asks on")
    assert time.monotonic() - begin > 0.3


def test_backoff_grows_with_jitter_to_its_cap_and_starts_anew() -> None:
    backoff = Backoff()
    pauses = [backoff.pause() for _ in range(12)]
    assert pauses[0] <= 0.1
    assert all(LAST_RETRY / 2 <= pause <= LAST_RETRY for pause in pauses[8:])
    backoff.reset()
    assert backoff.pause() <= 0.1


def test_a_home_keeps_its_nonce_and_only_for_its_owner(cluster: Cluster) -> None:
    home = Home(cluster.root / "n")
    nonce = home.nonce()
    assert Home(cluster.root / "n").nonce() == nonce
    assert stat.S_IMODE(os.stat(cluster.root / "n" / "nonce.json").st_mode) == 0o600
    assert wire.unstructure(nonce) == "***"


def test_a_home_written_by_another_version_counts_as_empty(cluster: Cluster) -> None:
    home = Home(cluster.root / "n")
    home.save("x.json", {"field": "of a later version"})
    assert home.load_as("x.json", Registration) is None
