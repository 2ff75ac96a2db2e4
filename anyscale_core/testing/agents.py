"""FakeAgents: the agent of every fake node, and the Ray that it starts. No thread, no real time: one ``step()`` at a time."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

import attrs

from anyscale_core.errors import CloudError, Refused
from anyscale_core.models.ids import ClusterId, InstanceId, PlaneId
from anyscale_core.models.instance import InstanceState, NodeKind
from anyscale_core.models.node import (
    PROOF_AUDIENCE,
    Drain,
    DrainMode,
    GangStrategy,
    HeadReport,
    Heartbeat,
    JobOrder,
    NodeConfig,
    Orders,
    RayStatus,
    Registered,
    Registration,
)
from anyscale_core.models.phases import JobPhase
from anyscale_core.models.resources import Resources
from anyscale_core.models.secret import Secret
from anyscale_core.testing.fake_identity import sign_proof
from anyscale_core.testing.ray import FakeDemand, FakeJob, FakeRay, FakeRayNode
from anyscale_core.testing.world import FakeCloud, Machine

GCS_PORT, GATEWAY_PORT = 6379, 8443


class Plane(Protocol):
    """What a node talks to: the control plane itself, or a client of its HTTP service."""

    def register(self, registration: Registration) -> Registered:
        """Take a node in. Raises Refused; a CloudError when it is to try again."""
        ...

    def heartbeat(self, credential: Secret[str], heartbeat: Heartbeat) -> Orders:
        """Take its status, give its orders. Raises Refused."""
        ...


@attrs.frozen(kw_only=True)
class JobScript:
    """How a job goes: after ``takes`` it is ``phase``. ``takes`` None: it runs until it is stopped."""

    takes: timedelta | None = timedelta(seconds=60)
    phase: JobPhase = JobPhase.SUCCEEDED
    message: str = ""
    exit_code: int | None = 0


@attrs.define(kw_only=True, eq=False)
class FakeAgent:
    """One node's agent as it stands."""

    machine: Machine
    credential: Secret[str] | None = None
    config: NodeConfig | None = None
    ray: RayStatus = RayStatus.WAITING
    epoch: str = ""
    """The epoch that its Ray was started for."""
    ray_node: FakeRayNode | None = None
    started_at: datetime | None = None
    orphaned_at: datetime | None = None
    detail: str = ""
    renew_at: datetime | None = None
    """When it says that its Ray's certificate should be replaced."""
    seq: int = 0
    exited: bool = False
    refusals: list[Refused] = attrs.field(factory=list)
    orders: Orders | None = None
    """The last orders that it was given."""

    @property
    def name(self) -> str:
        """Its instance's name."""
        return self.machine.spec.name

    @property
    def is_head(self) -> bool:
        """Whether it is the head of its cluster."""
        return self.machine.spec.kind is NodeKind.HEAD


class FakeAgents:
    """All agents of a fake cloud (of one plane, when ``plane_id`` is given).

    ``ray_start``: from configuration to ALIVE. ``orphaned_after``: how long a worker's Ray outlives its head.
    ``notices_after``: how long Ray takes to see that a machine is gone without a word.
    """

    def __init__(
        self,
        cloud: FakeCloud,
        plane: Plane,
        *,
        plane_id: PlaneId | None = None,
        ray_start: timedelta = timedelta(seconds=5),
        orphaned_after: timedelta = timedelta(seconds=60),
        notices_after: timedelta = timedelta(seconds=30),
    ) -> None:
        self.cloud, self.plane, self.plane_id = cloud, plane, plane_id
        self.ray_start, self.orphaned_after, self.notices_after = ray_start, orphaned_after, notices_after
        self.agents: dict[InstanceId, FakeAgent] = {}
        self.rays: dict[str, FakeRay] = {}
        """Every Ray there was, by epoch."""
        self.demands: list[FakeDemand] = []
        self._scripts: dict[str, JobScript] = {}
        self._silenced: set[str] = set()

    # Hands -----------------------------------------------------------------------------------------------------------

    def demand(
        self, cluster_name: str, resources: Resources, count: int = 1, labels: dict[str, str] | None = None
    ) -> FakeDemand:
        """Put ``count`` equal pieces of work on a cluster; they take free nodes at the next step, until released."""
        return self._ask(FakeDemand(cluster=cluster_name, pieces=(resources,) * count, labels=labels or {}))

    def gang(
        self, cluster_name: str, bundles: Sequence[Resources], strategy: GangStrategy = GangStrategy.PACK
    ) -> FakeDemand:
        """Put a placement group on a cluster: all bundles start or none does."""
        return self._ask(FakeDemand(cluster=cluster_name, pieces=tuple(bundles), gang=strategy))

    def hold(self, cluster_name: str, resources: Resources, count: int = 1) -> FakeDemand:
        """Ask for room without using it, as ``request_resources()`` does."""
        return self._ask(FakeDemand(cluster=cluster_name, pieces=(resources,) * count, hold=True))

    def script(self, entrypoint: str, script: JobScript) -> None:
        """Set how jobs with this entrypoint go."""
        self._scripts[entrypoint] = script

    def kill_ray(self, instance_name: str, detail: str = "the raylet was killed") -> None:
        """Let the Ray on a node die; its agent lives on and says so. On the head, it is the end of that Ray."""
        agent = self.agent(instance_name)
        self._end_ray(agent, RayStatus.DOWN, detail)

    def silence(self, instance_name: str) -> None:
        """Cut an agent's words off (also one that has yet to start): its instance and its Ray go on."""
        self._silenced.add(instance_name)

    def speak(self, instance_name: str) -> None:
        """End the silence."""
        self._silenced.discard(instance_name)

    # Eyes ------------------------------------------------------------------------------------------------------------

    def agent(self, instance_name: str) -> FakeAgent:
        """Return the agent on an instance. Raises KeyError with the names there are."""
        for agent in self.agents.values():
            if agent.name == instance_name:
                return agent
        names = ", ".join(agent.name for agent in self.agents.values()) or "none at all"
        raise KeyError(f"no agent runs on {instance_name!r}; there are {names}")

    def ray(self, cluster_name: str) -> FakeRay | None:
        """Return the Ray of a cluster that lives now."""
        alive = [ray for ray in self.rays.values() if ray.cluster == cluster_name and not ray.ended]
        return alive[-1] if alive else None

    # Time ------------------------------------------------------------------------------------------------------------

    def step(self, cluster: ClusterId | None = None) -> None:
        """Let every agent (of one cluster, when given) do one round: register if it must, look after its Ray, send one
        heartbeat, obey.

        A plane that does not answer (a CloudError) is asked again in the next round; what else it raises, other than Refused,
        passes through. Heads go first.
        """
        now = self.cloud.clock.now()
        self._meet(now)
        living = [agent for agent in self._living(now) if cluster in (None, agent.machine.spec.owner.cluster)]
        living.sort(key=lambda agent: not agent.is_head)
        for agent in living:
            if agent.credential is None and agent.name not in self._silenced:
                self._register(agent)
        for agent in living:
            self._tend(agent, now)
        self._settle(now)
        for agent in living:
            if agent.credential is not None and not agent.exited and agent.name not in self._silenced:
                self._beat(agent, now)
        for agent in living:
            self._tend(agent, now)
        self._settle(now)

    def _meet(self, now: datetime) -> None:
        """Take notice of machines that came, stopped and went."""
        running = {machine.id: machine for machine in self.cloud.running() if self._is_mine(machine)}
        for machine in running.values():
            self.agents.setdefault(machine.id, FakeAgent(machine=machine))
        for agent in [agent for agent in self.agents.values() if agent.machine.id not in running]:
            if agent.ray_node is not None:
                # Nobody tells Ray of a machine that is gone; it finds out by itself.
                agent.ray_node.unheard_since = now
                agent.ray_node = None
            self._end_ray(agent, RayStatus.DOWN, "the machine stopped")
            agent.epoch = ""
            if agent.machine.id not in self.cloud.machines:
                del self.agents[agent.machine.id]

    def _living(self, now: datetime) -> list[FakeAgent]:
        # A machine that is being deleted is shut down first: its agent says nothing more.
        return [
            agent
            for agent in self.agents.values()
            if not agent.exited and agent.machine.state(now) is InstanceState.RUNNING
        ]

    def _is_mine(self, machine: Machine) -> bool:
        return machine.spec.bootstrap is not None and self.plane_id in (None, machine.spec.owner.plane)

    def _settle(self, now: datetime) -> None:
        for ray in self.rays.values():
            if not ray.ended:
                ray.settle(self.demands, now=now)

    def _ask(self, demand: FakeDemand) -> FakeDemand:
        self.demands.append(demand)
        return demand

    # An agent --------------------------------------------------------------------------------------------------------

    def _register(self, agent: FakeAgent) -> None:
        bootstrap = agent.machine.spec.bootstrap
        assert bootstrap is not None
        provider = bootstrap.identity_provider
        registration = Registration(
            join_token=bootstrap.join_token,
            nonce=Secret(f"nonce-{agent.machine.id}"),
            proof=sign_proof(self.cloud, audience=PROOF_AUDIENCE, subject=agent.name, provider=provider),
            agent_version="fake",
        )
        try:
            registered = self.plane.register(registration)
        except Refused as refusal:
            agent.refusals.append(refusal)
            return
        except CloudError:
            return  # the control plane is not ready for it: it tries again
        agent.credential, agent.config = registered.credential, registered.config

    def _tend(self, agent: FakeAgent, now: datetime) -> None:
        """Start, restart or lose the agent's Ray, as its configuration and its head have it."""
        config = agent.config
        if agent.exited or config is None or config.head is None:
            return
        if config.head.epoch != agent.epoch:
            if agent.orders is not None and agent.orders.drain is not None:
                return
            self._end_ray(agent, RayStatus.STARTING, "")
            agent.epoch, agent.started_at = config.head.epoch, now
        if agent.ray is RayStatus.STARTING:
            self._try_start(agent, config, now)
        elif agent.ray is RayStatus.ALIVE and not agent.is_head:
            self._watch_head(agent, now)

    def _try_start(self, agent: FakeAgent, config: NodeConfig, now: datetime) -> None:
        assert agent.started_at is not None
        if now - agent.started_at < self.ray_start:
            return
        if agent.is_head:
            fresh = FakeRay(epoch=agent.epoch, cluster=config.cluster_name, notices_after=self.notices_after)
            self.rays[agent.epoch] = fresh
        ray = self.rays.get(agent.epoch)
        if ray is None or ray.ended:
            return
        agent.ray_node = ray.join(agent.name, config.resources, config.labels, now=now)
        agent.ray, agent.orphaned_at = RayStatus.ALIVE, None

    def _watch_head(self, agent: FakeAgent, now: datetime) -> None:
        if not self.rays[agent.epoch].ended:
            if agent.ray_node is not None and not agent.ray_node.alive:
                self._end_ray(agent, RayStatus.DOWN, "Ray counts this node as dead")
            return
        agent.orphaned_at = agent.orphaned_at or now
        if now - agent.orphaned_at >= self.orphaned_after:
            self._end_ray(agent, RayStatus.DOWN, "its head is gone")

    def _beat(self, agent: FakeAgent, now: datetime) -> None:
        assert agent.credential is not None
        assert agent.config is not None
        agent.seq += 1
        heartbeat = Heartbeat(
            seq=agent.seq,
            wait=timedelta(),
            config_version=agent.config.version,
            epoch=agent.epoch,
            ray=agent.ray,
            ray_id=agent.ray_node.ray_id if agent.ray_node else "",
            detail=agent.detail,
            renew_at=agent.renew_at,
            head=self._report(agent, now),
        )
        try:
            orders = self.plane.heartbeat(agent.credential, heartbeat)
        except Refused as refusal:
            # It asks to be let in again, as a node whose credential ran out does.
            agent.refusals.append(refusal)
            agent.credential = None
            return
        except CloudError:
            return  # it goes on as it is
        self._obey(agent, orders, now)

    def _report(self, agent: FakeAgent, now: datetime) -> HeadReport | None:
        ray = self.rays.get(agent.epoch)
        if not agent.is_head or agent.ray is not RayStatus.ALIVE or ray is None or agent.config is None:
            return None
        demand, gangs, constraints, age = ray.pending(self.demands, now=now)
        return HeadReport(
            gcs_address=f"{agent.machine.address}:{GCS_PORT}",
            gateway_port=GATEWAY_PORT if agent.config.gateway else 0,
            demand=demand,
            gangs=gangs,
            constraints=constraints,
            demand_age=age,
            ray_nodes=ray.views(now=now),
            jobs=ray.reports(),
            drains=dict(ray.drains),
        )

    def _obey(self, agent: FakeAgent, orders: Orders, now: datetime) -> None:
        agent.orders = orders
        agent.credential = orders.credential or agent.credential
        if orders.forget:
            self._end_ray(agent, RayStatus.STOPPED, "forgotten")
            agent.exited = True
            return
        agent.config = orders.config or agent.config
        if orders.drain is not None:
            self._drain(agent, orders.drain, now)
        ray = self.rays.get(agent.epoch)
        if agent.is_head and agent.ray is RayStatus.ALIVE and ray is not None:
            for order in orders.jobs:
                ray.submit(self._job(order, now))
            for submission_id in orders.stop_jobs:
                ray.stop(submission_id)
            ray.drain(orders.drain_nodes)
            for ray_id in orders.unregister:
                ray.leave(ray_id)

    def _job(self, order: JobOrder, now: datetime) -> FakeJob:
        script = self._scripts.get(order.entrypoint, JobScript())
        return FakeJob(
            submission_id=order.submission_id,
            ends_at=None if script.takes is None else now + script.takes,
            ends_as=script.phase,
            message=script.message,
            exit_code=script.exit_code,
        )

    def _drain(self, agent: FakeAgent, drain: Drain, now: datetime) -> None:
        if agent.ray is RayStatus.STOPPED:
            return
        busy = agent.ray_node is not None and bool(agent.ray_node.used)
        if busy and drain.mode is DrainMode.IDLE:
            return
        if busy and drain.mode is DrainMode.GRACEFUL and now < drain.deadline:
            assert agent.ray_node is not None
            agent.ray_node.status = "DRAINING"
            return
        self._end_ray(agent, RayStatus.STOPPED, "")

    def _end_ray(self, agent: FakeAgent, status: RayStatus, detail: str) -> None:
        """Leave the agent's Ray; Ray knows at once, for the connection is closed. A head takes its Ray with it."""
        agent.ray, agent.detail = status, detail
        ray = self.rays.get(agent.epoch)
        if agent.ray_node is not None and ray is not None:
            ray.leave(agent.ray_node.ray_id)
        if agent.is_head and ray is not None:
            ray.ended = True
        agent.ray_node = None
