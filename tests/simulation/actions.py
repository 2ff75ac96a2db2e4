"""Everything that can happen in the world: one function each, which says what it did."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import attrs

from anyscale_core.errors import CapacityUnavailable, CloudError, PermissionDenied, Scope, Throttled, Transient
from anyscale_core.models.cluster import ClusterSpec, HeadRecovery, MarketType
from anyscale_core.models.instance import Notice, NoticeKind
from anyscale_core.models.job import AfterJob, JobSpec
from anyscale_core.testing import FakeAgents, FakeCloud, Remains
from anyscale_core.testing.builders import a_spec, workers

if TYPE_CHECKING:
    from tests.simulation.world import Sim

T = TypeVar("T")
Play = Callable[["Sim", int, int], str]

MOMENTS = (0.25, 1, 1, 2, 3, 5, 5, 10)
"""Seconds by which the clock moves: less than a node may be silent."""
AGES = (15, 30, 30, 60, 60, 90, 300, 1200, 3 * 3600, 13 * 3600)
"""And now and then far more."""
CALLS = (
    *("cluster.create",) * 6, "cluster.delete", "cluster.delete", "cluster.list", "cluster.offerings", "networking.create",
    "networking.expose", "networking.withdraw", "storage.create", "storage.grant", "identity.create",
)  # fmt: skip
ERRORS: tuple[CloudError, ...] = (
    Throttled("slow down", reason="RATE", retry_after=timedelta(seconds=3)),
    Transient("connection refused", reason="NETWORK"),
    Transient("internal error", reason="SERVER"),
    CapacityUnavailable("none left", reason="ZONE", scope=Scope.ZONE),
    PermissionDenied("not allowed", reason="POLICY"),
)


@attrs.frozen(kw_only=True)
class Kind:
    """An action: how often it is drawn, and what it does."""

    weight: int
    play: Play


ACTIONS: dict[str, Kind] = {}


def action(weight: int) -> Callable[[Play], Play]:
    """Add an action to the table under its own name."""

    def add(play: Play) -> Play:
        ACTIONS[play.__name__] = Kind(weight=weight, play=play)
        return play

    return add


def pick(things: Sequence[T], which: int) -> T | None:
    """Return one of the things; None when there are none."""
    return things[which % len(things)] if things else None


# -- time and turns ----------------------------------------------------------------------------------------------------


@action(30)
def time_passes(sim: "Sim", which: int, how: int) -> str:
    by = timedelta(seconds=MOMENTS[how % len(MOMENTS)])
    sim.clock.advance(by)
    return f"{by} pass"


@action(1)
def ages_pass(sim: "Sim", which: int, how: int) -> str:
    by = timedelta(seconds=AGES[how % len(AGES)])
    sim.clock.advance(by)
    return f"{by} pass"


@action(40)
def turn(sim: "Sim", which: int, how: int) -> str:
    seat = sim.seats[which % len(sim.seats)]
    worked = sim.at(seat, lambda plane: plane.work_once())
    return f"plane {seat.number} takes a turn: {worked}"


@action(6)
def watch(sim: "Sim", which: int, how: int) -> str:
    seat = sim.seats[which % len(sim.seats)]
    sim.at(seat, sim.watch)
    return f"plane {seat.number} looks for silence and orphans"


@action(40)
def nodes_speak(sim: "Sim", which: int, how: int) -> str:
    cluster = pick(sim.clusters_with_nodes(), which)
    if cluster is None:
        return "no node to speak"
    name, id = cluster
    sim.agents[name].step(cluster=id)
    return f"the nodes of {id} in {name} speak"


# -- wishes ------------------------------------------------------------------------------------------------------------


@action(7)
def apply(sim: "Sim", which: int, how: int) -> str:
    spec = a_wish(sim, which, how)
    done = sim.ask(which, lambda plane: plane.apply(spec, actor="user"))
    return f"{spec.name} is wanted with {[(g.name, g.min_nodes, g.max_nodes) for g in spec.worker_nodes]}: {done}"


@action(1)
def terminate(sim: "Sim", which: int, how: int) -> str:
    name = sim.names[which % len(sim.names)]
    return f"{name} is to end: {sim.ask(how, lambda plane: plane.terminate(name, actor='user'))}"


@action(4)
def submit(sim: "Sim", which: int, how: int) -> str:
    name = sim.names[which % len(sim.names)]
    after = AfterJob.TERMINATE if how % 17 == 0 else AfterJob.KEEP
    package = "code.zip" if how % 3 == 0 else None
    job = JobSpec(entrypoint=("short", "long", "bad")[how % 3], max_retries=how % 2, after=after, package=package)
    return f"a {job.entrypoint} job for {name}: {sim.ask(how, lambda plane: plane.submit(name, job, actor='user'))}"


@action(3)
def work_comes(sim: "Sim", which: int, how: int) -> str:
    name = sim.names[which % len(sim.names)]
    sim.agents[sim.cloud_of(name)].demand(name, {"CPU": 4.0}, 1 + how % 4)
    return f"{1 + how % 4} tasks come to {name}"


@action(2)
def work_goes(sim: "Sim", which: int, how: int) -> str:
    agents = sim.agents[pick(list(sim.agents), which) or ""]
    for demand in agents.demands:
        demand.release()
    agents.demands.clear()
    return "tasks end"


# -- nodes -------------------------------------------------------------------------------------------------------------


@action(3)
def node_is_lost(sim: "Sim", which: int, how: int) -> str:
    def kill(cloud: FakeCloud, _: FakeAgents, name: str) -> str:
        remains = Remains.STOPPED if how % 3 == 0 else Remains.NOTHING
        cloud.kill(name, remains)
        return f"{name} is lost, {remains.value} is left"

    return _on_a_node(sim, which, kill)


@action(2)
def spot_notice(sim: "Sim", which: int, how: int) -> str:
    def announce(cloud: FakeCloud, _: FakeAgents, name: str) -> str:
        cloud.announce(name, Notice(kind=NoticeKind.PREEMPTION, at=sim.clock.now() + timedelta(seconds=how % 120)))
        return f"{name} will be taken back"

    return _on_a_node(sim, which, announce)


@action(1)
def ray_dies(sim: "Sim", which: int, how: int) -> str:
    def kill(_: FakeCloud, agents: FakeAgents, name: str) -> str:
        if any(agent.name == name for agent in agents.agents.values()):
            agents.kill_ray(name)
        return f"Ray dies on {name}"

    return _on_a_node(sim, which, kill)


@action(2)
def node_falls_silent(sim: "Sim", which: int, how: int) -> str:
    def silence(_: FakeCloud, agents: FakeAgents, name: str) -> str:
        agents.silence(name)
        sim.silent.append((agents, name))
        return f"nothing of {name} arrives any more"

    return _on_a_node(sim, which, silence)


@action(2)
def node_is_heard_again(sim: "Sim", which: int, how: int) -> str:
    silent = pick(sim.silent, which)
    if silent is None:
        return "nobody is silent"
    sim.silent.remove(silent)
    silent[0].speak(silent[1])
    return f"{silent[1]} is heard again"


@action(1)
def answers_are_lost(sim: "Sim", which: int, how: int) -> str:
    sim.door.lost = 1 + how % 5
    return f"the next {sim.door.lost} answers to nodes are lost"


# -- clouds ------------------------------------------------------------------------------------------------------------


@action(3)
def call_fails(sim: "Sim", which: int, how: int) -> str:
    cloud, verb, error = sim.a_cloud(which), CALLS[how % len(CALLS)], ERRORS[which % len(ERRORS)]
    sim.rules.append(cloud.refuse(verb, error, 1 + how % 6))
    return f"the next {1 + how % 6} {verb} fail: {error}"


@action(3)
def answer_is_lost(sim: "Sim", which: int, how: int) -> str:
    cloud, verb = sim.a_cloud(which), CALLS[how % len(CALLS)]
    sim.rules.append(cloud.lose_response(verb, 1 + which % 6))
    return f"the answers to the next {1 + which % 6} {verb} are lost"


@action(1)
def faults_end(sim: "Sim", which: int, how: int) -> str:
    sim.lift_faults()
    return "all faults of the clouds end"


@action(1)
def sold_out(sim: "Sim", which: int, how: int) -> str:
    zone = ("zone-a", "zone-b", "zone-c", None)[how % 4]
    market = (MarketType.SPOT, MarketType.ON_DEMAND, None)[how % 3]
    sim.a_cloud(which).exhaust("cpu-4", zone, market, left=how % 2)
    return f"cpu-4 is sold out in {zone or 'all zones'} ({market.value if market else 'all markets'})"


@action(1)
def restocked(sim: "Sim", which: int, how: int) -> str:
    sim.a_cloud(which).restock()
    return "everything is for sale again"


@action(1)
def lists_lag(sim: "Sim", which: int, how: int) -> str:
    cloud = sim.a_cloud(which)
    window = cloud.list_window * (how % 4) / 3
    cloud.lag(window)
    return f"lists are {window} old"


# -- control planes ----------------------------------------------------------------------------------------------------


@action(2)
def plane_is_killed(sim: "Sim", which: int, how: int) -> str:
    seat = sim.seats[which % len(sim.seats)]
    seat.dies_in = how % 12
    return f"plane {seat.number} dies {seat.dies_in} positions on"


@action(2)
def plane_freezes(sim: "Sim", which: int, how: int) -> str:
    seat = sim.seats[which % len(sim.seats)]
    seat.freezes_in, seat.freezes_for = how % 8, 5 + how % 60
    return f"plane {seat.number} freezes {seat.freezes_in} positions on, for {seat.freezes_for} steps"


@action(1)
def plane_is_cut_off(sim: "Sim", which: int, how: int) -> str:
    seat = sim.seats[which % len(sim.seats)]
    seat.cloudless, seat.nodeless = how % 3 != 0, how % 3 != 1
    seat.lag = timedelta(seconds=(0, 0, 1, 10, 25)[how % 5])
    return f"plane {seat.number}: no cloud {seat.cloudless}, no node {seat.nodeless}, {seat.lag} slower"


@action(3)
def plane_is_well(sim: "Sim", which: int, how: int) -> str:
    seat = sim.seats[which % len(sim.seats)]
    sim.heal(seat)
    return f"plane {seat.number} is up and well"


# -- helpers -----------------------------------------------------------------------------------------------------------


def a_wish(sim: "Sim", which: int, how: int) -> ClusterSpec:
    """Return one of many specs for one of the names; what cannot be changed depends on the name alone."""
    number = which % len(sim.names)
    name = sim.names[number]
    low, room = how % 3, (how // 3) % 3
    market = (MarketType.ON_DEMAND, MarketType.PREFER_SPOT, MarketType.SPOT)[(how // 9) % 3]
    groups = [workers("workers", min_nodes=low, max_nodes=max(1, low + room), market_type=market)]
    if how % 5 == 0:
        groups.append(workers("more", instance_type="cpu-2", min_nodes=how % 2, max_nodes=1 + how % 3))
    return a_spec(
        name, *groups, cloud=sim.cloud_of(name), idle_worker_seconds=20,
        idle_termination_minutes=10 if how % 11 == 0 else 0,
        max_uptime_minutes=30 if how % 13 == 0 else 0,
        tags={"try": str(how % 2)}, head_recovery=HeadRecovery.NONE if how % 7 == 0 else HeadRecovery.RESTART,
    )  # fmt: skip


def _on_a_node(sim: "Sim", which: int, hand: Callable[[FakeCloud, FakeAgents, str], str]) -> str:
    """Do something to one of the instances that run."""
    there = [(cloud, name, machine.spec.name) for name, cloud in sim.clouds.items() for machine in cloud.running()]
    chosen = pick(there, which)
    if chosen is None:
        return "no node is there"
    cloud, name, instance = chosen
    return hand(cloud, sim.agents[name], instance)
