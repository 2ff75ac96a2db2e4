"""Quotas: a hard one is never exceeded and ends nothing, a soft one warns, and what ends is free again."""

from datetime import timedelta

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, update

from anyscale_core.controlplane import schema
from anyscale_core.errors import CapacityUnavailable, Scope, SpecError, UnknownName
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudSpec
from anyscale_core.models.instance import NodeKind
from anyscale_core.models.node import GangStrategy
from anyscale_core.models.phases import ClusterPhase, NodePhase
from anyscale_core.models.quota import BudgetPeriod, QuotaMode, QuotaSpec
from anyscale_core.testing.builders import a_spec, workers
from tests.controlplane.world import World

HOUR = timedelta(hours=1)


def quota(world: World, name: str = "team-a", *, actor: str = "admin", **fields: object) -> None:
    world.plane.set_quota(QuotaSpec(name=name, **fields), actor=actor)  # type: ignore[arg-type]


def used(world: World, name: str = "team-a") -> dict[str, float]:
    return next(dict(one.usage.used) for one in world.plane.quotas.all() if one.usage.quota.name == name)


def count(world: World, kind: str, cluster: str | None = None) -> int:
    return sum(1 for event in world.plane.events(cluster, limit=5000) if event.kind == kind)


def ended(world: World, name: str) -> bool:
    return world.phase(name) is ClusterPhase.TERMINATED


def test_a_hard_quota_pauses_growth_keeps_the_cluster_and_says_so_once(world: World) -> None:
    quota(world, resources={"CPU": 12.0})
    world.up(a_spec("demo", workers(max_nodes=10)))
    world.agents.demand("demo", {"CPU": 4.0}, 8)
    world.until(lambda: len(world.ready()) == 2)
    world.run(steps=120)
    assert len(world.instances()) == 3, "the head counts"
    assert world.phase() is ClusterPhase.RUNNING
    assert world.record().held_by == ("team-a",)
    assert world.record().reason == (
        "quota 'team-a': 12 of 12 CPU in use, too little left for all that Ray waits for; "
        "raise it with `anyscale-core quota set`, or wait until something else has ended"
    )
    assert count(world, "quota.reached", "demo") == 1


def test_a_raised_quota_lets_what_waits_grow_at_once(world: World) -> None:
    quota(world, nodes=2)
    world.up(a_spec("demo", workers(max_nodes=10)))
    world.agents.demand("demo", {"CPU": 4.0}, 5)
    world.until(lambda: bool(world.record().held_by))
    creates = world.creates()
    quota(world, nodes=4)
    world.plane.tick()
    assert world.creates() == creates + 1
    assert len(world.nodes()) == 4
    world.plane.delete_quota("team-a", actor="admin")
    world.plane.tick()
    assert len(world.nodes()) == 5
    assert world.record().held_by == ()
    assert count(world, "quota.room") == 1


def test_the_end_of_one_cluster_lets_another_that_waits_start_at_once(world: World) -> None:
    quota(world, resources={"CPU": 12.0})
    world.up(a_spec("first", workers(min_nodes=2)))
    world.plane.apply(a_spec("second", workers(min_nodes=2)), actor="tester")
    world.run(steps=20)
    assert world.nodes("second") == []
    world.plane.terminate("first", actor="tester")
    world.until(lambda: ended(world, "first"))
    assert len(world.nodes("second")) == 3, "in the same turn"
    world.until(lambda: world.phase("second") is ClusterPhase.RUNNING)


def test_room_that_nobody_told_of_is_found_all_the_same(world: World) -> None:
    """As when the control plane that made the room died before it could tell."""
    quota(world, nodes=5)
    world.up(a_spec("first", workers(min_nodes=3)))
    world.plane.apply(a_spec("second", workers(min_nodes=1)), actor="tester")
    world.run(steps=5)
    assert world.record("second").held_by == ("team-a",)
    with world.plane.store.write() as connection:
        connection.execute(update(schema.quotas).values(spec=wire.unstructure(QuotaSpec(name="team-a", nodes=6))))
    world.until(lambda: len(world.nodes("second")) == 2, steps=40)


def test_a_cluster_that_ends_while_it_waits_is_held_no_more(world: World) -> None:
    quota(world, nodes=1)
    world.up(a_spec("first"))
    world.plane.apply(a_spec("second"), actor="tester")
    world.run(steps=5)
    assert [one.holds for one in world.plane.quotas.all()] == [("second",)]
    world.plane.terminate("second", actor="tester")
    world.until(lambda: ended(world, "second"))
    assert world.record("second").held_by == ()
    assert [one.holds for one in world.plane.quotas.all()] == [()]


def test_a_cluster_starts_whole_or_not_at_all_so_that_no_two_wait_for_each_other(world: World) -> None:
    quota(world, nodes=5)
    for name in ("first", "second"):
        world.plane.apply(a_spec(name, workers(min_nodes=3)), actor="tester")
    world.run(steps=60)
    sizes = sorted(len(world.nodes(name)) for name in ("first", "second"))
    assert sizes == [0, 4]
    waiting = next(name for name in ("first", "second") if not world.nodes(name))
    assert "4 of 5 nodes in use, too little left for the head and the minimums together;" in (
        world.record(waiting).reason
    )
    assert world.phase(waiting) is ClusterPhase.STARTING


def test_a_minimum_that_could_never_fit_is_refused_with_the_quota_and_what_it_needs(world: World) -> None:
    quota(world, resources={"CPU": 12.0}, price_per_hour=10.0, project="vision")
    spec = a_spec("demo", workers(min_nodes=3), project="vision")
    for ask in (lambda: world.plane.apply(spec, actor="tester"), lambda: world.plane.plan(spec)):
        with pytest.raises(
            SpecError, match=r"quota 'team-a' allows 12 CPU, and .* need 16 CPU; ask for less, or raise"
        ):
            ask()
    with pytest.raises(SpecError, match="need 16 CPU"):
        world.plane.apply(a_spec("demo", min_resources={"CPU": 16.0}, project="vision"), actor="tester")
    world.plane.apply(a_spec("demo", workers(min_nodes=2), project="vision"), actor="tester")
    with pytest.raises(SpecError, match="need 16 CPU"):
        world.plane.apply(spec, actor="tester")
    world.plane.apply(a_spec("other", workers(min_nodes=3)), actor="tester")
    quota(world, resources={"CPU": 8.0}, project="vision")
    tagged = a_spec("demo", workers(min_nodes=2), project="vision", tags={"team": "a"})
    assert world.plane.apply(tagged, actor="tester").generation == 2, "it needs no more than before"


def test_a_lost_node_is_replaced_within_the_quota_when_its_share_is_free(world: World) -> None:
    quota(world, nodes=3)
    world.up(a_spec("demo", workers(min_nodes=2)))
    lost = world.ready()[0]
    world.agents.silence(lost.name)
    most = 0
    for _ in range(120):
        world.run()
        most = max(most, len(world.instances()))
        if len(world.ready()) == 2 and lost.id not in {node.id for node in world.nodes()}:
            break
    assert most == 3
    assert world.phase() is ClusterPhase.RUNNING
    world.run(steps=5)
    assert world.record().held_by == ()
    assert world.record().reason == ""


def test_the_head_and_what_replaces_a_node_come_before_other_clusters_that_wait(world: World) -> None:
    quota(world, nodes=3)
    world.up(a_spec("demo", workers(min_nodes=1)))
    world.up(a_spec("greedy", workers(max_nodes=5)))
    world.agents.demand("greedy", {"CPU": 4.0}, 5)
    world.until(lambda: bool(world.record("greedy").held_by))
    for lost in (world.ready("demo")[0], world.head("demo")):
        world.cloud.kill(lost.name)
        world.until(lambda lost=lost: lost.id not in {node.id for node in world.nodes("demo")})  # type: ignore[misc]
        world.until(lambda: world.phase("demo") is ClusterPhase.RUNNING and len(world.ready("demo")) == 1)
    assert len(world.nodes("greedy")) == 1


def test_a_gang_that_the_quota_has_no_room_for_starts_no_part(world: World) -> None:
    quota(world, resources={"CPU": 4.0 * 8})
    world.up(a_spec("demo", workers("a", max_nodes=10), workers("b", max_nodes=10)))
    world.agents.gang("demo", [{"CPU": 4.0}] * 9, GangStrategy.STRICT_SPREAD)
    world.run(steps=60)
    assert len(world.nodes()) == 1
    assert "quota 'team-a': 4 of 32 CPU in use" in world.record().reason
    quota(world, resources={"CPU": 4.0 * 9})
    world.until(lambda: len(world.nodes()) == 9)


def test_a_group_that_the_quota_leaves_room_for_is_taken_instead(world: World) -> None:
    quota(world, resources={"GPU": 0.0})
    cheap_gpu = workers("gpu", instance_type="gpu-1", resources={"CPU": 64.0})
    world.up(a_spec("demo", cheap_gpu, workers("cpu", instance_type="cpu-16")))
    world.agents.demand("demo", {"CPU": 16.0}, 1)
    world.until(lambda: len(world.ready(group="cpu")) == 1)
    assert world.nodes(group="gpu") == []


def test_telling_ray_of_less_than_a_machine_has_saves_nothing(world: World) -> None:
    quota(world, resources={"CPU": 12.0})
    world.up(a_spec("demo", workers(min_nodes=2, resources={"slot": 1.0})))
    assert used(world) == {"resources.CPU": 12.0}


def test_a_quota_counts_its_own_cloud_user_and_project_and_no_other(world: World) -> None:
    quota(world, "alice", user="alice", nodes=1)
    quota(world, "vision", project="vision", nodes=10)
    world.plane.register_cloud(CloudSpec(name="other", provider="fake"), actor="admin")
    quota(world, "elsewhere", cloud="other", nodes=0)
    with pytest.raises(SpecError, match="cloud: no cloud 'otter' is registered; known: fake, other"):
        quota(world, "elsewhere", cloud="otter", nodes=0)
    quota(world, "alice-vision", project="vision", user="alice", nodes=10)
    for name, actor, project in (("a", "alice", None), ("b", "alice", "vision"), ("c", "bob", "vision")):
        world.plane.apply(a_spec(name, project=project), actor=actor)
    world.run(steps=60)
    phases = {name: world.phase(name).value for name in ("a", "b", "c")}
    assert phases == {"a": "RUNNING", "b": "STARTING", "c": "RUNNING"}
    assert [used(world, name)["nodes"] for name in ("alice", "vision", "elsewhere", "alice-vision")] == [1, 1, 0, 0]
    assert world.record("b").held_by == ("alice",)
    with pytest.raises(SpecError, match="project: cannot be changed"):
        world.plane.apply(a_spec("c", project="speech"), actor="bob")


def test_a_soft_quota_warns_once_per_crossing_and_lets_grow(world: World) -> None:
    quota(world, nodes=3, mode=QuotaMode.SOFT, warn_at=0.5)
    world.up(a_spec("demo", workers(max_nodes=5), idle_worker_seconds=5))
    for round in (1, 2):
        work = world.agents.demand("demo", {"CPU": 4.0}, 6)
        world.until(lambda: len(world.ready()) == 5)
        world.run(steps=60)
        assert count(world, "quota.exceeded") == round
        work.release()
        world.until(lambda: len(world.nodes()) == 1)
        world.run(steps=60)
    assert world.record().held_by == ()
    text = next(event.message for event in world.plane.events(limit=5000) if event.kind == "quota.exceeded")
    assert text.startswith("quota 'team-a' (SOFT) is exceeded: ")


def test_a_limit_that_is_nearly_used_up_is_told_once(world: World) -> None:
    quota(world, nodes=5)
    world.up(a_spec("demo", workers(min_nodes=3)))
    world.run(steps=100)
    near = [event for event in world.plane.events() if event.kind == "quota.near"]
    assert [(event.message, event.level) for event in near] == [
        ("quota 'team-a': 4 of 5 nodes in use; it warns from 80%", "WARNING")
    ]
    assert near[0].cluster_id == world.record().id


def test_a_spent_budget_pauses_growth_keeps_what_runs_and_renews_with_its_period(world: World) -> None:
    world.up(a_spec("demo", workers(max_nodes=5), idle_termination_minutes=0))
    quota(world, budget=1.0, budget_period=BudgetPeriod.DAY)
    world.run(steps=6, step=HOUR)
    world.agents.demand("demo", {"CPU": 4.0}, 3)
    world.run(steps=30)
    assert used(world)["budget"] > 1.0
    assert len(world.nodes()) == 1
    assert world.phase() is ClusterPhase.RUNNING
    renews = (world.clock.now() + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert world.record().reason == (
        "quota 'team-a': the budget of 1.00 (DAY) is spent; raise it with `anyscale-core quota set`, "
        f"or wait until {renews:%Y-%m-%d} 00:00 UTC"
    )
    kinds = [event.kind for event in world.plane.events(limit=5000) if event.kind in ("quota.near", "quota.exceeded")]
    assert kinds == ["quota.near", "quota.exceeded"]
    while renews - world.clock.now() > HOUR:
        world.run(step=HOUR)
    world.run(step=renews - world.clock.now() - timedelta(seconds=5))
    assert [node.kind for node in world.nodes()] == [NodeKind.HEAD]
    world.run(steps=6)
    assert world.nodes(group="workers") != []


def test_what_was_spent_is_price_times_time_and_stays_so_when_the_nodes_are_forgotten(world: World) -> None:
    for name, period in (("total", BudgetPeriod.TOTAL), ("month", BudgetPeriod.MONTH), ("day", BudgetPeriod.DAY)):
        quota(world, name, budget=100.0, budget_period=period, project="vision")
    world.up(a_spec("other", idle_termination_minutes=0))
    world.up(a_spec("demo", workers(min_nodes=2), project="vision", idle_termination_minutes=0))
    world.run(steps=30, step=HOUR)
    world.plane.terminate("demo", actor="tester")
    world.until(lambda: ended(world, "demo"))
    nodes = world.record().nodes
    cost = sum(node.price_per_hour * ((node.phase_since - node.created_at) / HOUR) for node in nodes)
    assert cost == pytest.approx(3 * 0.2 * 30, rel=0.02)
    assert used(world, "total")["budget"] == pytest.approx(cost)
    midnight = world.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    today = sum(node.price_per_hour * ((node.phase_since - midnight) / HOUR) for node in nodes)
    assert used(world, "day")["budget"] == pytest.approx(today)
    assert used(world, "month")["budget"] == pytest.approx(cost)

    def spent_so_far() -> list[float]:
        return [round(used(world, name)["budget"], 6) for name in ("total", "month", "day")]

    before = spent_so_far()
    assert world.plane.store.prune(world.clock.now() + HOUR) > 0
    with pytest.raises(UnknownName):
        world.plane.status("demo")
    assert spent_so_far() == before
    world.run(steps=3)
    assert world.phase("other") is ClusterPhase.RUNNING, "and the living are counted on"
    world.clock.advance(timedelta(days=60))
    assert [used(world, name)["budget"] for name in ("month", "day")] == [0.0, 0.0]
    assert used(world, "total")["budget"] == pytest.approx(cost)


def test_ended_nodes_of_a_living_cluster_are_forgotten_after_their_time_and_what_they_cost_is_not(world: World) -> None:
    quota(world, budget=100.0, budget_period=BudgetPeriod.TOTAL)
    world.up(a_spec("demo", workers(min_nodes=1), idle_termination_minutes=0))
    lost = world.ready()[0]
    world.cloud.kill(lost.name)
    world.until(lambda: lost.id not in {node.id for node in world.nodes()} and len(world.ready()) == 1)
    before = used(world)
    world.plane.store.prune(world.clock.now() + HOUR)
    assert lost.id not in {node.id for node in world.record().nodes}
    assert len(world.nodes()) == 2
    assert used(world)["budget"] == pytest.approx(before["budget"])


def test_nodes_that_the_cloud_never_made_cost_nothing_and_hold_nothing(world: World) -> None:
    quota(world, nodes=2, budget=5.0)
    world.up(a_spec("demo", workers(max_nodes=3), idle_termination_minutes=0))
    world.cloud.refuse("cluster.create", CapacityUnavailable("none", reason="ZONE", scope=Scope.ZONE), count=None)
    world.agents.demand("demo", {"CPU": 4.0}, 2)
    world.until(lambda: bool(world.nodes("demo", NodePhase.FAILED)))
    before = used(world)
    world.clock.advance(HOUR)
    assert used(world)["nodes"] == before["nodes"] == 1
    assert used(world)["budget"] == pytest.approx(before["budget"] + 0.2)


def test_a_plan_shows_what_a_quota_would_hold_back(world: World) -> None:
    quota(world, nodes=4)
    world.up(a_spec("demo", workers(min_nodes=2)))
    preview = world.plane.plan(a_spec("next", workers(min_nodes=1)), actor="tester")
    assert preview.nodes == ()
    assert preview.unmet[0].startswith("quota 'team-a': 3 of 4 nodes in use, too little left for the head")
    bigger = world.plane.plan(a_spec("demo", workers(min_nodes=3)), actor="tester")
    assert [(nodes.group, nodes.count) for nodes in bigger.nodes] == [("workers", 1)]


def test_changes_of_quotas_are_audited_and_show_whom_they_hold_back(world: World) -> None:
    quota(world, nodes=1)
    world.up(a_spec("demo", workers(max_nodes=2)))
    world.agents.demand("demo", {"CPU": 4.0}, 2)
    world.until(lambda: bool(world.record().held_by))
    assert [one.holds for one in world.plane.quotas.all()] == [("demo",)]
    world.plane.delete_quota("team-a", actor="admin")
    with pytest.raises(UnknownName, match="no quota 'team-b'"):
        world.plane.delete_quota("team-b", actor="admin")
    audited = [(one.actor, one.action, one.subject) for one in world.plane.store.audit()]
    assert [one for one in audited if one[1].startswith("quota.")] == [
        ("admin", "quota.set", "team-a"), ("admin", "quota.delete", "team-a"),
    ]  # fmt: skip


def test_a_restart_changes_nothing_about_what_waits_and_says_nothing_again(world: World) -> None:
    quota(world, nodes=1)
    world.up(a_spec("demo", workers(max_nodes=2)))
    world.agents.demand("demo", {"CPU": 4.0}, 2)
    world.until(lambda: bool(world.record().held_by))
    world.restart()
    world.run(steps=60)
    assert len(world.nodes()) == 1
    assert count(world, "quota.reached") == 1
    assert world.phase() is ClusterPhase.RUNNING
    quota(world, nodes=2)
    world.until(lambda: len(world.ready()) == 1)


def test_a_store_from_before_there_were_quotas_counts_the_nodes_that_it_has(world: World) -> None:
    world.up(a_spec("demo", workers(min_nodes=2, resources={"CPU": 4.0, "slot": 1.0})))
    world.cloud.kill(world.ready()[0].name)
    world.until(lambda: bool(world.nodes("demo", NodePhase.GONE)) and len(world.ready()) == 2)
    quota(world, nodes=10, budget=50.0, resources={"CPU": 100.0, "slot": 9.0})
    before = used(world)
    world.plane.close()
    config = Config()
    config.set_main_option("script_location", "anyscale_core.controlplane:migrations")
    engine = create_engine(f"sqlite:///{world.home / 'plane.db'}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert "charge" not in {column["name"] for column in inspect(connection).get_columns("nodes")}
    engine.dispose()
    world.restart()
    quota(world, nodes=10, budget=50.0, resources={"CPU": 100.0, "slot": 9.0})
    assert used(world) == pytest.approx(before)
    world.run(steps=30)
    assert world.phase() is ClusterPhase.RUNNING
