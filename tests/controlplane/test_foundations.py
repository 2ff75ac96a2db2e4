"""A cloud's own life: set up, looked over, taken down; killed anywhere, it goes on."""

from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

import attrs
import pytest

from anyscale_core.controlplane.clouds import KNOWN_TTL
from anyscale_core.controlplane.foundations import Data
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.errors import NameTaken, PermissionDenied, SpecError, UnknownName
from anyscale_core.models.cloud import CloudSpec, IdentityRule, NodeIdentity, Unmapped
from anyscale_core.models.identity import Access
from anyscale_core.models.ids import Token
from anyscale_core.models.job import JobSpec
from anyscale_core.models.networking import CheckStatus
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.registry import Registry
from anyscale_core.testing import FakeCloud, FakeProvider, ManualClock
from anyscale_core.testing.builders import a_spec, an_instance_spec, workers
from tests.controlplane.watched import Killed
from tests.controlplane.world import World

HERE = CloudSpec(name="here", provider="fake", region="fake-1")
MAPPED = attrs.evolve(
    HERE,
    identity_rules=(
        IdentityRule(selector="project=nlp, workload-type=job", identity=NodeIdentity(name="nlp-jobs")),
        IdentityRule(selector="user in (ann@example.com, bob@example.com)", identity=NodeIdentity(name="research")),
        IdentityRule(selector="project=nlp", identity=NodeIdentity(name="research")),
    ),
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.new(tmp_path)


def set_up(world: World, spec: CloudSpec = HERE) -> None:
    world.plane.register_cloud(spec, actor="admin")
    while world.plane.foundations.status(spec.name).missing:
        world.plane.set_up_cloud(spec.name, actor="admin")


def take_down(world: World, *, data: Data = Data.REFUSE, steps: int = 40) -> None:
    for _ in range(steps):
        if world.plane.delete_cloud("here", data=data, actor="admin") is None:
            return
        world.clock.advance(timedelta(seconds=5))
    raise AssertionError(f"not gone after {steps} steps: {world.cloud.inventory()}")


def put(world: World, key: str) -> None:
    cloud = world.plane.clouds.get("here")
    (bucket, _) = cloud.made() or pytest.fail("the cloud has no bucket")
    cloud.storage.objects(bucket.name, owner=cloud.owner).put(key, b"x")


def test_each_step_makes_one_thing_and_the_last_leaves_nothing_missing(world: World) -> None:
    world.plane.register_cloud(HERE, actor="admin")
    kinds = []
    while (status := world.plane.foundations.status("here")).missing:
        world.plane.set_up_cloud("here", actor="admin")
        kinds.append(status.missing[0])
    assert kinds == ["network", "bucket", "identity"]
    assert sorted(item.kind for item in world.cloud.inventory()) == sorted(kinds)
    assert all(resource.id for resource in world.plane.foundations.status("here").resources)


def test_a_cluster_uses_what_was_set_up(world: World) -> None:
    set_up(world)
    before = {(item.kind, item.name) for item in world.cloud.inventory()}
    world.up(a_spec("demo", workers(min_nodes=1), cloud="here"))
    after = {
        (item.kind, item.name) for item in world.cloud.inventory() if item.kind in ("network", "bucket", "identity")
    }
    assert after == before


def test_the_nodes_identity_is_made_as_the_cloud_says(world: World) -> None:
    subjects = ("system:serviceaccount:ray:nodes",)
    set_up(world, attrs.evolve(HERE, node_identity=NodeIdentity(name="ray-nodes", subjects=subjects)))
    drivers = world.plane.clouds.get("here")
    found = drivers.identity.get("ray-nodes", owner=drivers.owner, deadline=drivers.deadline())
    assert found.subjects == subjects
    assert "ray-nodes" in {resource.name for resource in world.plane.foundations.status("here").resources}


def test_registering_again_with_an_equal_spec_changes_nothing_and_with_another_is_refused(world: World) -> None:
    assert world.plane.register_cloud(HERE, actor="admin")
    assert not world.plane.register_cloud(HERE, actor="admin")
    with pytest.raises(NameTaken):
        world.plane.register_cloud(CloudSpec(name="here", provider="fake", region="fake-2"), actor="admin")


def test_what_was_set_up_passes_and_what_was_not_is_said(world: World) -> None:
    world.plane.register_cloud(HERE, actor="admin")
    (failed,) = (check for check in world.plane.foundations.verify("here") if check.status is CheckStatus.FAILED)
    assert (failed.id, failed.remedy) == ("cloud.setup", "anyscale-core cloud setup -f SPEC, with the spec of here")
    set_up(world)
    found = {check.id: check.status for check in world.plane.foundations.verify("here")}
    assert {"cluster.offerings", "cluster.list", "identity.get", "storage.private", "storage.objects"} <= set(found)
    assert CheckStatus.FAILED not in found.values()


def test_a_look_that_the_cloud_refuses_is_a_failed_check_with_its_remedy_and_the_others_go_on(world: World) -> None:
    set_up(world)
    world.cloud.refuse("cluster.list", PermissionDenied("may not list", hint="grant it list"))
    found = {check.id: check for check in world.plane.foundations.verify("here")}
    assert (found["cluster.list"].status, found["cluster.list"].remedy) == (CheckStatus.FAILED, "grant it list")
    assert found["storage.objects"].status is CheckStatus.PASSED


def test_verifying_leaves_no_object_behind(world: World) -> None:
    set_up(world)
    world.plane.foundations.verify("here")
    take_down(world)  # refuses a bucket that holds anything
    assert world.cloud.inventory() == ()


def test_a_cloud_with_a_live_cluster_is_not_taken_down_and_goes_on(world: World) -> None:
    set_up(world)
    world.up(a_spec("demo", workers(min_nodes=1), cloud="here"))
    with pytest.raises(SpecError, match=r"live clusters \(demo\)"):
        world.plane.delete_cloud("here", actor="admin")
    assert not world.plane.foundations.status("here").ends
    world.plane.apply(a_spec("other", cloud="here"), actor="tester")


def test_a_cloud_that_ends_takes_no_new_cluster_and_makes_nothing_more(world: World) -> None:
    set_up(world)
    world.plane.delete_cloud("here", actor="admin")
    with pytest.raises(SpecError, match="here is being taken down"):
        world.plane.apply(a_spec("demo", cloud="here"), actor="tester")
    with pytest.raises(SpecError, match="is being taken down"):
        world.plane.set_up_cloud("here", actor="admin")
    with pytest.raises(NameTaken):
        world.plane.register_cloud(HERE, actor="admin")


def test_after_the_end_the_name_is_free_and_the_cloud_can_be_made_anew(world: World) -> None:
    set_up(world)
    take_down(world)
    with pytest.raises(UnknownName):
        world.plane.foundations.status("here")
    set_up(world)
    world.up(a_spec("demo", workers(min_nodes=1), cloud="here"))


def test_another_process_uses_the_cloud_that_is_there_now_not_the_one_it_knew(world: World) -> None:
    set_up(world)
    other = ControlPlane(
        world.plane.settings, clock=world.clock, registry=Registry.of(FakeProvider(world.cloud).provider())
    )
    old = other.clouds.get("here").shared()
    take_down(world)
    world.clock.advance(KNOWN_TTL)
    set_up(world, CloudSpec(name="here", provider="fake", region="fake-2"))
    assert other.clouds.get("here").spec.region == "fake-2"
    assert other.clouds.get("here").shared() != old
    other.close()


def test_a_bucket_that_holds_objects_is_kept_deleted_or_refused_as_it_is_said(world: World) -> None:
    set_up(world)
    put(world, "logs/a")
    with pytest.raises(SpecError, match=r"holds objects.*--delete-data or --keep-data"):
        take_down(world)
    assert [item.kind for item in world.cloud.inventory()] == ["bucket"], "the rest went, the data did not"
    take_down(world, data=Data.DELETE)
    assert world.cloud.inventory() == ()

    set_up(world)
    put(world, "logs/a")
    take_down(world, data=Data.KEEP)
    assert [item.kind for item in world.cloud.inventory()] == ["bucket"]


def test_instances_that_nobody_knows_of_go_with_the_cloud(world: World) -> None:
    set_up(world)
    world.up(a_spec("demo", workers(min_nodes=1), cloud="here"))
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    drivers = world.plane.clouds.get("here")
    drivers.cluster.create(
        [an_instance_spec("stray", owner=drivers.owner)], token=Token("stray"), deadline=drivers.deadline()
    )
    take_down(world, data=Data.DELETE)
    assert world.cloud.inventory() == ()


# -- identities by rule ------------------------------------------------------------------------------------------------


def test_a_cluster_runs_as_the_identity_of_the_first_rule_that_fits_it(world: World) -> None:
    set_up(world, MAPPED)
    wanted = {
        "job": "nlp-jobs", "nlp": "research", "anns": "research", "others": "",
    }  # fmt: skip
    apply = world.plane.apply
    apply(a_spec("job", cloud="here", project="nlp"), actor="eve@example.com", job=JobSpec(entrypoint="true"))
    apply(a_spec("nlp", cloud="here", project="nlp"), actor="eve@example.com")
    apply(a_spec("anns", cloud="here"), actor="ann@example.com")
    apply(a_spec("others", cloud="here"), actor="eve@example.com")
    assert {name: world.record(name).identity for name in wanted} == wanted
    world.until(lambda: all(world.nodes(name, NodePhase.READY) for name in wanted))
    own = next(one.name for one in world.plane.foundations.status("here").resources if one.kind == "identity")
    runs_as = {machine.spec.name: machine.spec.identity for machine in world.cloud.running()}
    assert {name: runs_as[world.head(name).name] for name in wanted} == {
        key: value or own for key, value in wanted.items()
    }
    granted = {(grant.identity, grant.prefix) for grant in world.cloud.grants.values() if grant.access is Access.WRITE}
    assert granted >= {(wanted[name] or own, f"clusters/{world.record(name).id}/") for name in wanted}


def test_what_a_mapped_identity_was_granted_goes_with_the_cluster_and_the_identity_with_the_cloud(world: World) -> None:
    set_up(world, MAPPED)
    assert sorted(item.name for item in world.cloud.inventory("identity") if "here" not in item.name) == [
        "nlp-jobs", "research",
    ]  # fmt: skip
    world.plane.apply(a_spec("demo", cloud="here"), actor="ann@example.com")
    world.until(lambda: world.phase() is ClusterPhase.RUNNING)
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: world.phase() is ClusterPhase.TERMINATED)
    assert world.cloud.grants == {}
    assert {check.status for check in world.plane.foundations.verify("here") if "identity" in check.id} == {
        CheckStatus.PASSED
    }
    take_down(world, data=Data.DELETE)
    assert world.cloud.inventory() == ()


def test_a_cluster_that_no_rule_fits_is_refused_where_the_cloud_says_so_and_nothing_is_made(world: World) -> None:
    set_up(world, attrs.evolve(MAPPED, unmapped=Unmapped.FAIL))
    before = world.cloud.inventory()
    with pytest.raises(SpecError, match=r"no identity of cloud here is for user=eve, workload-type=workspace"):
        world.plane.apply(a_spec("demo", cloud="here"), actor="eve")
    world.run(steps=30)
    assert world.cloud.inventory() == before
    with pytest.raises(UnknownName):
        world.record()


def test_rules_may_change_and_a_cluster_keeps_the_identity_that_it_began_with(world: World) -> None:
    set_up(world, MAPPED)
    world.plane.apply(a_spec("old", workers(max_nodes=2), cloud="here"), actor="ann@example.com")
    world.until(lambda: world.phase("old") is ClusterPhase.RUNNING)
    rules = (IdentityRule(selector="user=ann@example.com", identity=NodeIdentity(name="ann")),)
    assert not world.plane.register_cloud(attrs.evolve(HERE, identity_rules=rules), actor="admin")
    assert world.plane.foundations.status("here").missing == ("identity:ann",)
    world.plane.apply(a_spec("new", cloud="here"), actor="ann@example.com")
    world.plane.apply(a_spec("old", workers(min_nodes=1, max_nodes=2), cloud="here"), actor="ann@example.com")
    world.until(lambda: len(world.ready("old")) == 1 and world.phase("new") is ClusterPhase.RUNNING)
    runs_as = {machine.spec.name: machine.spec.identity for machine in world.cloud.running()}
    assert (runs_as[world.ready("old")[0].name], runs_as[world.head("new").name]) == ("research", "ann")
    for name in ("old", "new"):
        world.plane.terminate(name, actor="admin")
    world.until(lambda: {world.phase(name) for name in ("old", "new")} == {ClusterPhase.TERMINATED})
    assert world.cloud.grants == {}
    take_down(world, data=Data.DELETE)
    assert world.cloud.inventory() == ()


def test_a_change_of_rules_that_would_need_another_identity_of_the_same_name_is_refused(world: World) -> None:
    set_up(world, MAPPED)
    world.cloud.exists("identity", "arn:research")
    rule = IdentityRule(selector="", identity=NodeIdentity(name="research", adopt="arn:research"))
    with pytest.raises(SpecError, match=r"identity_rules\[0\].identity: 'research' was made otherwise"):
        world.plane.register_cloud(attrs.evolve(HERE, identity_rules=(rule,)), actor="admin")
    assert world.plane.foundations.status("here").spec == MAPPED


def test_every_fault_of_the_rules_is_told_at_once(world: World) -> None:
    bad = attrs.evolve(
        HERE, node_identity=NodeIdentity(name="own"),
        identity_rules=(
            IdentityRule(selector="team=x, user in y", identity=NodeIdentity(name="a")),
            IdentityRule(selector="team=x", identity=NodeIdentity()),
            IdentityRule(selector="", identity=NodeIdentity(name="own")),
            IdentityRule(selector="user=x", identity=NodeIdentity(name="b")),
            IdentityRule(selector="user=y", identity=NodeIdentity(name="b", adopt="arn:b")),
        ),
    )  # fmt: skip
    with pytest.raises(SpecError) as caught:
        world.plane.register_cloud(bad, actor="admin")
    assert [fault.path for fault in caught.value.faults] == [
        "identity_rules[0].selector", "identity_rules[1].selector", "identity_rules[1].identity.name",
        "identity_rules[2].identity.name", "identity_rules[4].identity",
    ]  # fmt: skip


@pytest.mark.parametrize("side", ["before", "after"])
def test_killed_at_any_call_of_setup_or_delete_the_same_words_again_end_as_undisturbed(
    side: str, tmp_path: Path
) -> None:
    struck, made = 0, ["bucket", "identity", "identity", "identity", "network"]
    for nth in count(1):
        world = World.new(tmp_path / f"{nth}", cloud=FakeCloud(ManualClock()))

        def die() -> None:
            raise Killed

        hook = world.cloud.before if side == "before" else world.cloud.after
        rule = hook("*", die, nth=nth)
        stories = (partial(set_up, world, MAPPED), partial(take_down, world))
        for story in stories:
            try:
                story()
            except Killed:
                struck += 1
                world.restart()
                story()
            kinds = sorted(item.kind for item in world.cloud.inventory())
            assert kinds == (made if story is stories[0] else []), f"killed {side} call {nth}"
        world.plane.close()
        if not rule.fired:
            break
    assert struck >= 12
