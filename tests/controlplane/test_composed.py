"""A cloud of two providers: one runs the machines, the other makes the identities that they run as."""

import functools
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest

from anyscale_core.controlplane.foundations import Data
from anyscale_core.errors import Refused
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudMode, CloudSpec, IdentityRule, NodeIdentity
from anyscale_core.models.networking import Check, CheckStatus
from anyscale_core.models.node import PROOF_AUDIENCE, Registration
from anyscale_core.models.secret import Secret
from anyscale_core.testing import FakeCloud, ManualClock
from anyscale_core.testing.builders import a_spec, workers
from anyscale_core.testing.fake_identity import sign_proof
from tests.controlplane.watched import Killed
from tests.controlplane.world import World

SUBJECT = "system:serviceaccount:ray:workloads"
PODS, PEOPLE = "pods", "people"


def composed(mode: CloudMode = CloudMode.DIRECT, **fields: Any) -> CloudSpec:
    return CloudSpec(
        name="here", provider=PODS, identity=PEOPLE, storage=PEOPLE, region="fake-1", mode=mode,
        node_identity=NodeIdentity(subjects=(SUBJECT,)), **fields,
    )  # fmt: skip


def a_world(home: Path, cloud: FakeCloud | None = None) -> World:
    return World.new(home, cloud=cloud, providers=(PODS, PEOPLE))


def set_up(world: World, spec: CloudSpec) -> None:
    world.plane.register_cloud(spec, actor="admin")
    while world.plane.foundations.status("here").missing:
        world.plane.set_up_cloud("here", actor="admin")


def take_down(world: World) -> None:
    for _ in range(40):
        if world.plane.delete_cloud("here", data=Data.REFUSE, actor="admin") is None:
            return
        world.clock.advance(timedelta(seconds=5))
    raise AssertionError(f"not gone: {world.cloud.inventory()}")


def kinds(world: World) -> list[str]:
    return sorted(item.kind for item in world.cloud.inventory())


def test_machines_are_told_the_identity_that_another_provider_made_with_what_binds_them_to_it(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    set_up(world, composed())
    world.up(a_spec("demo", workers(min_nodes=1), cloud="here"))
    (identity,) = world.plane.foundations.status("here").identities
    assert identity.binding.account
    assert [machine.spec.bound_identity for machine in world.cloud.machines.values()] == [identity, identity]


def test_what_one_provider_alone_does_needs_no_binding(tmp_path: Path) -> None:
    world = World.new(tmp_path)
    world.up(a_spec("demo", workers(min_nodes=1)))
    assert {machine.spec.bound_identity for machine in world.cloud.machines.values()} == {None}


def test_an_identity_of_a_rule_is_bound_as_the_clouds_own_is(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    other = NodeIdentity(name="jobs", subjects=("system:serviceaccount:ray:jobs",))
    set_up(world, composed(identity_rules=(IdentityRule(selector="workload-type=workspace", identity=other),)))
    world.up(a_spec("demo", workers(min_nodes=1), cloud="here"))
    bound = {machine.spec.bound_identity for machine in world.cloud.machines.values()}
    assert [each.subjects for each in bound if each] == [other.subjects]
    assert [each.name for each in world.plane.foundations.status("here").identities][1:] == ["jobs"]


def test_machines_prove_themselves_by_the_provider_that_runs_them(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    set_up(world, composed())
    world.up(a_spec("demo", workers(min_nodes=1), cloud="here"))
    bootstraps = [machine.spec.bootstrap for machine in world.cloud.machines.values()]
    assert {each.identity_provider for each in bootstraps if each} == {PODS}
    (bootstrap, *_) = (each for each in bootstraps if each)
    proof = sign_proof(world.cloud, audience=PROOF_AUDIENCE, subject=world.head().name, provider=PEOPLE)
    stranger = Registration(join_token=bootstrap.join_token, nonce=Secret("n"), proof=proof, agent_version="1")
    with pytest.raises(Refused, match="not of this cloud's provider"):
        world.plane.register(stranger)


def test_the_composed_driver_asks_each_provider_for_what_it_knows(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    set_up(world, composed())
    cloud = world.plane.clouds.get("here")
    proof = cloud.identity.prove(PROOF_AUDIENCE, subject="a", deadline=cloud.deadline())
    assert proof.provider == PODS
    assert cloud.identity.verify(proof, audience=PROOF_AUDIENCE, deadline=cloud.deadline()).instance == "a"
    (identity,) = cloud.identity.list(cloud.owner, deadline=cloud.deadline())
    assert cloud.identity.get(identity.name, owner=cloud.owner, deadline=cloud.deadline()) == identity
    assert cloud.identity.provider == PEOPLE


def test_an_identity_that_nobody_outside_may_become_is_a_warning_with_its_remedy(tmp_path: Path) -> None:
    def looked_at(spec: CloudSpec) -> Check:
        world = a_world(tmp_path / ("bound" if spec.node_identity else "bare"))
        set_up(world, spec)
        found = [check for check in world.plane.foundations.verify("here") if check.id == "identity.subjects"]
        world.plane.close()
        return found[0]

    assert looked_at(composed()).detail == SUBJECT
    bare = looked_at(attrs.evolve(composed(), node_identity=None))
    assert bare.status is CheckStatus.WARNING
    assert bare.remedy


def test_an_identity_travels_with_its_binding(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    set_up(world, composed())
    (identity,) = world.plane.foundations.status("here").identities
    assert identity.binding.account
    assert wire.structure(wire.unstructure(identity), type(identity)) == identity


@pytest.mark.parametrize("mode", CloudMode)
@pytest.mark.parametrize("side", ["before", "after"])
def test_killed_at_any_call_of_setup_or_delete_a_composed_cloud_ends_as_undisturbed(
    side: str, mode: CloudMode, tmp_path: Path
) -> None:
    whole = ["bucket", "identity"] + (["network"] if mode is CloudMode.DIRECT else [])
    struck = 0
    for nth in count(1):
        world = a_world(tmp_path / f"{nth}", FakeCloud(ManualClock()))

        def die() -> None:
            raise Killed

        hook = world.cloud.before if side == "before" else world.cloud.after
        rule = hook("*", die, nth=nth)
        for story, left in ((functools.partial(set_up, spec=composed(mode)), whole), (take_down, [])):
            try:
                story(world)
            except Killed:
                struck += 1
                world.restart()
                story(world)
            assert kinds(world) == left, f"killed {side} call {nth}"
        world.plane.close()
        if not rule.fired:
            break
    assert struck >= 2 * len(whole)
