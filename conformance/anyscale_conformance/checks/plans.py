"""P: the core's plans over what this provider sells and shows. The planner is the core's, its inputs are the provider's."""

import subprocess
import sys
from datetime import timedelta

import attrs

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal
from anyscale_conformance.rules import check
from anyscale_core.models import wire
from anyscale_core.models.actions import CreateNodes, DeleteNodes, MoveCluster, MoveNode, Plan
from anyscale_core.models.cluster import ClusterSpec, HeadNode, MarketType, WorkerGroup
from anyscale_core.models.ids import ClusterId, InstanceId, NodeId
from anyscale_core.models.instance import Created, InstanceSpec, InstanceState, Offering
from anyscale_core.models.phases import NODE_ENDED, NodePhase
from anyscale_core.models.records import ClusterRecord, Goal, NodeRecord, Observed, Timing
from anyscale_core.planning.diff import diff

WORKERS = 2
TIMING = Timing(drain_timeout=timedelta())
SLOTS = ("cluster",)


@attrs.define(kw_only=True)
class Engine:
    """A control plane in the small: records, calls, and looks, with the real planner and the real driver."""

    ctx: Context
    record: ClusterRecord

    @classmethod
    def new(cls, ctx: Context) -> "Engine":
        """Return one for a cluster of a head and two workers, of the kit's sample type."""
        kind = ctx.samples.instance
        if kind is None:
            raise RuntimeError("the kit's samples() gives no instance")
        group = WorkerGroup(name="workers", instance_type=kind.instance_type, min_nodes=WORKERS, max_nodes=WORKERS)
        spec = ClusterSpec(
            name="conformance",
            cloud="conformance",
            head_node=HeadNode(instance_type=kind.instance_type),
            worker_nodes=(group,),
        )
        now = ctx.clock.now()
        record = ClusterRecord(
            id=ctx.owner.cluster or ClusterId(""), name=spec.name, cloud=spec.cloud, spec=spec, generation=1, goal=Goal.RUN,
            created_at=now, phase_since=now,
        )  # fmt: skip
        return cls(ctx=ctx, record=record)

    def observe(self) -> Observed:
        """Return what the provider shows now."""
        self.ctx.pass_window("consistency.list")
        began = self.ctx.clock.now()
        instances = self.ctx.cluster.list(self.ctx.owner, deadline=self.ctx.deadline())
        return Observed(
            instances={instance.name: instance for instance in instances}, swept_at=began, offerings=self.offerings()
        )

    def offerings(self) -> tuple[Offering, ...]:
        """Return the catalogue."""
        return tuple(self.ctx.cluster.offerings(deadline=self.ctx.deadline()))

    def plan(self) -> Plan:
        """Return what is to be done now."""
        observed = self.observe()
        return diff(self.record, observed, now=self.ctx.clock.now(), timing=TIMING)

    def apply(self, plan: Plan) -> list[InstanceSpec]:
        """Record and do what a plan says; return the specs that were created."""
        made: list[InstanceSpec] = []
        for action in plan.actions:
            if isinstance(action, CreateNodes):
                made += self._create(action)
            elif isinstance(action, DeleteNodes):
                self._delete(action)
            elif isinstance(action, MoveNode):
                self._move(action.node_id, action.to)
            elif isinstance(action, MoveCluster):
                self.record = attrs.evolve(self.record, phase=action.to)
        return made

    def _create(self, action: CreateNodes) -> list[InstanceSpec]:
        ctx, offering, now = self.ctx, action.offering, self.ctx.clock.now()
        it, token = ctx.subject("cluster"), ctx.token()
        zones = action.zones if ctx.provider.capabilities.has("cluster.zones") else ()
        specs = [
            attrs.evolve(
                it.spec(), kind=action.kind, group=action.group, instance_type=offering.instance_type,
                market_type=offering.market_type, zones=zones,
            )
            for _ in range(action.count)
        ]  # fmt: skip
        outcomes = ctx.cluster.create(specs, token=token, deadline=ctx.deadline())
        for spec, outcome in zip(specs, outcomes, strict=True):
            if not isinstance(outcome, Created):
                raise CheckFailed(f"what was planned from the catalogue cannot be made: {outcome.error}")
            node = NodeRecord(
                id=spec.node_id, cluster_id=self.record.id, name=spec.name, kind=action.kind, group=action.group,
                phase=NodePhase.LAUNCHING, phase_since=now, created_at=now, launch=token, shape=action.shape,
                instance_type=offering.instance_type, market_type=offering.market_type, zone=outcome.instance.zone,
                price_per_hour=offering.price_per_hour, resources=offering.resources, labels={},
                instance_id=outcome.instance.id,
            )  # fmt: skip
            self.record = attrs.evolve(self.record, nodes=(*self.record.nodes, node))
        return specs

    def _delete(self, action: DeleteNodes) -> None:
        ids = [InstanceId(str(node.instance_id)) for node in self.record.nodes if node.id in action.node_ids]
        self.ctx.cluster.delete(ids, owner=self.ctx.owner, deadline=self.ctx.deadline())
        for id in action.node_ids:
            self._move(id, NodePhase.DELETING)

    def _move(self, id: NodeId, to: NodePhase) -> None:
        now = self.ctx.clock.now()
        nodes = tuple(
            attrs.evolve(node, phase=to, phase_since=now) if node.id == id else node for node in self.record.nodes
        )
        self.record = attrs.evolve(self.record, nodes=nodes)


@check("P-01", slots=SLOTS)
def equal_inputs_give_equal_plans(ctx: Context) -> None:
    """Plans twelve times here, and in processes of other hash seeds and languages, from catalogues read anew each time."""
    engine = Engine.new(ctx)
    now = ctx.clock.now()
    plans = [
        _text(diff(engine.record, Observed(offerings=engine.offerings()), now=now, timing=TIMING)) for _ in range(12)
    ]
    expect_equal(len(set(plans)), 1, "the number of different plans from one wish and the catalogue")
    inputs = repr((wire.unstructure(engine.record), wire.unstructure(engine.offerings()), now.isoformat()))
    for seed, language in (("1", "C"), ("2", "C.UTF-8")):
        done = subprocess.run(
            [sys.executable, "-m", "anyscale_conformance.replan"], input=inputs, capture_output=True, text=True, timeout=60,
            env={"PYTHONHASHSEED": seed, "LANG": language, "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "utf-8"},
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"the planner failed in another process: {done.stderr[-500:]}")
        expect_equal(done.stdout.strip(), plans[0], f"the plan in a process with hash seed {seed} and LANG={language}")


@check("P-02", slots=SLOTS)
def planning_changes_nothing(ctx: Context) -> None:
    """Plans a new cluster; nothing may be written, and planning itself makes no call at all."""
    engine = Engine.new(ctx)
    with ctx.unwritten("planning"):
        observed = engine.observe()
        before = len(ctx.plan.requests)
        plan = diff(engine.record, observed, now=ctx.clock.now(), timing=TIMING)
        expect_equal(len(ctx.plan.requests), before, "the requests made so far after planning")
    expect(plan.actions, "the plan of a new cluster is empty")


@check("P-03", slots=SLOTS)
def what_is_applied_is_what_was_planned(ctx: Context) -> None:
    """Applies the plan of a new cluster; the oracle must see exactly what it says: how many, of which type, of which name."""
    engine = Engine.new(ctx)
    plan = engine.plan()
    planned = sorted(
        (a.group, a.offering.instance_type) for a in plan.actions if isinstance(a, CreateNodes) for _ in range(a.count)
    )
    expect_equal(len(planned), WORKERS + 1, "the number of instances in the plan of a head and two workers")
    made = engine.apply(plan)
    expect_equal(sorted((spec.group, spec.instance_type) for spec in made), planned, "what was applied")
    expect_equal(sorted(item.name for item in ctx.inventory("instance")), sorted(s.name for s in made), "what exists")
    shown = {instance.name: instance for instance in ctx.subject("cluster").listed()}
    for spec in made:
        expect(spec.name in shown, f"{spec.name} was made by the plan and is not listed")
        seen = shown[spec.name]
        expect_equal(
            (seen.node_id, seen.instance_type), (spec.node_id, spec.instance_type), f"what the list says of {spec.name}"
        )


@check("P-04", slots=SLOTS)
def what_is_as_it_should_be_needs_no_plan(ctx: Context) -> None:
    """Plans again after applying, when all runs, after time: nothing may be made, deleted or given up."""
    engine = Engine.new(ctx)
    engine.apply(engine.plan())
    it = ctx.subject("cluster")
    ctx.eventually(lambda: all(i.state is InstanceState.RUNNING for i in it.list()), "the instances to run")
    for _ in range(3):
        plan = engine.plan()
        effects = [action for action in plan.actions if isinstance(action, CreateNodes | DeleteNodes)]
        expect(not effects, f"the plan of what is as it should be has {effects}")
        lost = [action for action in plan.actions if isinstance(action, MoveNode)]
        expect(not lost, f"a node that runs is given up: {lost}")
        ctx.pass_window("consistency.list")


@check("P-06", slots=SLOTS)
def what_destroys_is_marked(ctx: Context) -> None:
    """Ends a cluster by plans; whatever goes has been named in a DeleteNodes before, and in the end nothing is left."""
    engine = Engine.new(ctx)
    engine.apply(engine.plan())
    there = {item.name for item in ctx.inventory("instance")}
    for _ in range(3):
        engine.plan()
        gone = there - {item.name for item in ctx.inventory("instance")}
        expect(not gone, f"{sorted(gone)} went while a plan was made that destroys nothing")
    engine.record = attrs.evolve(engine.record, goal=Goal.TERMINATE)
    named: set[str] = set()

    def ended() -> bool:
        before = {item.name for item in ctx.inventory("instance")}
        plan = engine.plan()
        named.update(name for action in plan.actions if isinstance(action, DeleteNodes) for name in action.names)
        engine.apply(plan)
        gone = before - {item.name for item in ctx.inventory("instance")}
        expect(gone <= named, f"{sorted(gone - named)} went without a step that says so")
        return all(node.phase in NODE_ENDED for node in engine.record.nodes)

    ctx.eventually(ended, "the cluster to end by its plans")
    expect_equal(ctx.inventory("instance"), (), "the instances after the plans ended the cluster")


@check("P-07", slots=SLOTS, why="the planner keeps this promise for every provider")
def a_plan_shows_no_secret(ctx: Context) -> None:
    """Plans with a secret in the cluster's environment and launch fields; neither the plan nor its text has it."""
    engine = Engine.new(ctx)
    canary = "canary-plan-conformance"
    engine.record = attrs.evolve(engine.record, spec=attrs.evolve(engine.record.spec, env_vars={"TOKEN": canary}))
    plan = engine.plan()
    expect(canary not in f"{plan!r}{_text(plan)}", "a plan shows a variable of the cluster's environment")


@check("P-08", slots=SLOTS)
def what_cannot_be_is_refused_before_anything_is_made(ctx: Context) -> None:
    """Wants types, markets and zones that the catalogue has not; no plan may try them, and each says why not."""
    engine = Engine.new(ctx)
    spec = engine.record.spec
    markets = {offering.market_type for offering in engine.offerings()}
    wishes: list[ClusterSpec] = [attrs.evolve(spec, head_node=HeadNode(instance_type="conformance-no-such-type"))]
    if MarketType.SPOT not in markets:
        worker = attrs.evolve(spec.worker_nodes[0], market_type=MarketType.SPOT)
        wishes.append(attrs.evolve(spec, worker_nodes=(worker,)))
    wishes.append(attrs.evolve(spec, zones=("conformance-no-such-zone",)))
    for wish in wishes:
        engine.record = attrs.evolve(engine.record, spec=wish)
        with ctx.unwritten("planning what cannot be"):
            plan = engine.plan()
        sold = {(o.instance_type, o.market_type, o.zone) for o in engine.offerings()}
        for action in plan.actions:
            if isinstance(action, CreateNodes):
                offered = (action.offering.instance_type, action.offering.market_type, action.offering.zone)
                expect(offered in sold, f"a plan wants {offered}, which is not sold")
                fits = not wish.zones or action.offering.zone in wish.zones
                expect(fits, f"a plan leaves the zones {wish.zones} for {action.offering.zone}")


def _text(plan: Plan) -> str:
    return repr(wire.unstructure(plan))
