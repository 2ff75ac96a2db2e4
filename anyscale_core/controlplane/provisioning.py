"""Carries actions out: record what is about to be done, call the cloud, record what came of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import attrs
from sqlalchemy import Connection

from anyscale_core.clock import Clock
from anyscale_core.controlplane import rows as db
from anyscale_core.controlplane.clouds import Cloud, mint
from anyscale_core.controlplane.grants import cluster_prefix, revoked
from anyscale_core.controlplane.heartbeats import Heartbeats
from anyscale_core.controlplane.quotas import Quotas
from anyscale_core.controlplane.rows import Event, Lease
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import (
    Applied,
    CloudError,
    LeaseLost,
    NotFound,
)
from anyscale_core.models.actions import (
    Action,
    Converge,
    CreateNodes,
    DeleteNodes,
    DeleteVolume,
    DrainNode,
    EndCluster,
    Expose,
    Hold,
    MoveCluster,
    MoveJob,
    MoveNode,
    RepeatCreate,
    Revoke,
    Touch,
    Withdraw,
)
from anyscale_core.models.cluster import HeadRecovery
from anyscale_core.models.identity import Identity
from anyscale_core.models.ids import InstanceId, NodeId, Token
from anyscale_core.models.instance import Created, Deletion, InstanceSpec, NodeKind, Outcome
from anyscale_core.models.networking import EndpointSpec, EndpointState
from anyscale_core.models.phases import (
    CLUSTER_ENDED,
    CLUSTER_MOVES,
    JOB_ENDED,
    JOB_MOVES,
    NODE_ENDED,
    NODE_MOVES,
    ClusterPhase,
    JobPhase,
    NodePhase,
)
from anyscale_core.models.records import ClusterRecord, EndpointRecord, Goal, Launch, NodeRecord, VolumeRecord
from anyscale_core.planning import shapes
from anyscale_core.planning.shortages import may_pass, shortage_of

LOUD = frozenset({NodePhase.LOST, NodePhase.FAILED, NodePhase.SUSPECT})

MAX_BACKOFF = timedelta(seconds=30)
STALE = frozenset({"TOKEN_MISMATCH", "TOKEN_SPENT"})
"""Refusals that are about an old token (the spec has changed since it was minted, say), not about what is asked for."""


class Work:
    """One cluster under one lease: its record as it is being changed, and the means to change it."""

    def __init__(
        self, record: ClusterRecord, *, lease: Lease, store: Store, cloud: Cloud, heartbeats: Heartbeats,
        quotas: Quotas, clock: Clock, settings: Settings,
    ) -> None:  # fmt: skip
        self.record, self.lease, self.store, self.cloud = record, lease, store, cloud
        self.heartbeats, self.quotas, self.clock, self.settings = heartbeats, quotas, clock, settings
        self.events: list[Event] = []
        self.has_ended_nodes = False
        """Whether a node has ended under this work: what it took is free."""

    # -- record, then call ---------------------------------------------------------------------------------------------

    def perform(self, actions: Sequence[Action]) -> None:
        """Record all actions in one transaction, then make their calls one by one, recording each outcome.

        New nodes that a hard quota has no room for any more are left out: the next plan sees what it has room for. Raises
        LeaseLost when somebody else has taken over; whatever was recorded is theirs to go on from.
        """
        with self._transaction() as connection:
            admitted = self._admitted(connection, actions)
            calls = [(action, self._record(connection, action)) for action in admitted]
        for action, token in calls:
            self._check_lease()
            match action:
                case CreateNodes() | RepeatCreate() if token is not None:
                    self._create(token)
                case DeleteNodes():
                    self._delete(action.node_ids)
                case Expose():
                    self._expose()
                case Withdraw():
                    self._withdraw(action.name)
                case Revoke():
                    self._revoke()
                case DeleteVolume():
                    self._delete_volume(action.name)

    def _check_lease(self) -> None:
        """Make no call that is somebody else's by now: this process may have slept since it recorded what to do.

        A courtesy to the cloud: what keeps the store right is its fence, and what keeps the cloud right are the tokens.
        """
        if self.clock.now() >= self.lease.until:
            raise LeaseLost(
                f"{self.lease.cluster_id}: the lease of {self.lease.holder} ran out before its calls were made"
            )

    def _admitted(self, connection: Connection, actions: Sequence[Action]) -> Sequence[Action]:
        """Return the actions, without the new nodes if others have taken the room since they were planned."""
        creates = [action for action in actions if isinstance(action, CreateNodes)]
        if not creates:
            return actions
        usage = self.quotas.admit(connection, self.record, creates)
        if usage is None:
            return [action for action in actions if action not in creates]
        self.events += self.quotas.crossed(connection, usage, self.record.id)
        return actions

    def _record(self, connection: Connection, action: Action) -> Token | None:
        """Write one action down; return the token of the create call that it stands for."""
        match action:
            case CreateNodes():
                return self._record_create(connection, action)
            case RepeatCreate():
                self._record_attempt(connection, action.token)
                return action.token
            case MoveNode():
                fields = {} if action.instance_id is None else {"instance_id": InstanceId(action.instance_id)}
                self._move(connection, action.node_id, action.to, action.reason, **fields)
                if action.failure is not None:
                    self._remember_shortage(connection, self._node(action.node_id), action.failure)
            case DrainNode():
                node = self._node(action.node_id)
                to = node.phase if node.phase is NodePhase.DRAINING else NodePhase.DRAINING
                self._move(connection, node.id, to, action.reason, drain=action.mode, drain_deadline=action.deadline)
            case DeleteNodes():
                for node_id in action.node_ids:
                    self._move(connection, node_id, NodePhase.DELETING, self._node(node_id).reason or action.reason)
            case Expose():
                self._record_expose(connection, action)
            case Withdraw():
                assert self.record.endpoint is not None, "only a recorded endpoint is withdrawn"
                self._save(connection, endpoint=attrs.evolve(self.record.endpoint, withdrawn_at=self.clock.now()))
            case Revoke():
                self._save(connection, revoking_at=self.clock.now())
            case DeleteVolume():
                self._save(connection, volume=VolumeRecord(name=action.name, deleted_at=self.clock.now()))
            case EndCluster():
                db.set_goal(connection, self.record.id, Goal.TERMINATE, action.cause, action.reason)
                self._say(
                    "cluster.ending", action.reason, level="WARNING" if action.cause.value == "failure" else "INFO"
                )
            case MoveCluster():
                self._move_cluster(connection, action.to, action.reason)
            case MoveJob():
                self._move_job(connection, action)
            case Touch():
                self._save(connection, active_at=action.active_at)
            case Hold():
                self._hold(connection, action.quotas)
            case Converge():
                self._save(connection, observed_generation=action.generation)
        return None

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _record_create(self, connection: Connection, action: CreateNodes) -> Token:
        now, spec, offering = self.clock.now(), self.record.spec, action.offering
        shape = shapes.shape_of(spec, action.group)
        token = Token(mint("tok"))
        nodes = []
        for _ in range(action.count):
            node_id = NodeId(mint("nod"))
            nodes.append(
                NodeRecord(
                    id=node_id,
                    cluster_id=self.record.id,
                    name=f"{spec.name[:30]}-{action.group[:16].rstrip('-')}-{node_id[-10:]}",
                    kind=action.kind,
                    group=action.group,
                    phase=NodePhase.RECORDED,
                    phase_since=now,
                    created_at=now,
                    launch=token,
                    shape=action.shape,
                    instance_type=offering.instance_type,
                    market_type=offering.market_type,
                    zone=offering.zone,
                    price_per_hour=offering.price_per_hour,
                    resources=shapes.resources_of(shape, offering),
                    labels=shapes.labels_of(shape, action.group, offering),
                    capacity=offering.resources,
                    reason=action.reason,
                )
            )
        launch = Launch(
            token=token, node_ids=tuple(node.id for node in nodes), recorded_at=now, attempts=1,
            called_until=now + self.settings.timing.call_timeout,
        )  # fmt: skip
        if action.kind is NodeKind.HEAD and spec.head_recovery is HeadRecovery.RESTART and self.cloud.has_volumes:
            self._save(connection, volume=VolumeRecord(name=f"{spec.name[:30]}-gcs-{self.record.id[-10:]}"))
        for node in nodes:
            db.save_node(connection, node)
        db.save_launch(connection, self.record.id, launch)
        self.record = attrs.evolve(
            self.record, nodes=(*self.record.nodes, *nodes), launches=(*self.record.launches, launch)
        )
        what = (
            f"{action.count} x {offering.instance_type} {offering.market_type.value} in {offering.zone or 'any zone'}"
        )
        self._say(
            "nodes.create", f"{action.group}: creating {what} because {action.reason}",
            fields={
                "names": [node.name for node in nodes],
                "price_per_hour": offering.price_per_hour * action.count,
                **action.details,
            },
        )  # fmt: skip
        return token

    def _record_attempt(self, connection: Connection, token: Token) -> None:
        launch = self._launch(token)
        until = self.clock.now() + self.settings.timing.call_timeout
        self._save_launch(
            connection, attrs.evolve(launch, attempts=launch.attempts + 1, called_until=until, retry_at=None)
        )

    def _create(self, token: Token) -> None:
        # In the order in which they were recorded: a token stands for one request, word for word.
        known = {node.id: node for node in self.record.nodes}
        nodes = [known[node_id] for node_id in self._launch(token).node_ids if node_id in known]
        try:
            network, identity = self.cloud.shared().network, self.cloud.identity_of(self.record.identity)
            specs = [self._spec(node, network=network.name, identity=identity) for node in nodes]
            self.cloud.is_settled = False
            outcomes = self.cloud.cluster.create(specs, token=token, deadline=self.cloud.deadline())
        except CloudError as error:
            self._create_failed(token, error)
            return
        by_name = dict(zip([spec.name for spec in specs], outcomes, strict=True))
        refused: list[CloudError] = []
        with self._transaction() as connection:
            for node in nodes:
                if self._node(node.id).phase is not NodePhase.RECORDED:
                    continue
                self._settle(connection, node, by_name[node.name], refused)
            for refusal in refused[:1]:
                self._remember_shortage(connection, nodes[0], refusal)
            self._close_if_answered(connection, token)

    def _settle(self, connection: Connection, node: NodeRecord, outcome: Outcome, refused: list[CloudError]) -> None:
        if isinstance(outcome, Created):
            id = outcome.instance.id
            self._move(connection, node.id, NodePhase.LAUNCHING, "the cloud accepted it", instance_id=id)
            return
        if may_pass(outcome.error):
            return  # stays RECORDED: the call is repeated with its token
        refused.append(outcome.error)
        self._move(connection, node.id, NodePhase.FAILED, str(outcome.error))

    def _create_failed(self, token: Token, error: CloudError) -> None:
        nodes = [node for node in self.record.nodes if node.launch == token and node.phase is NodePhase.RECORDED]
        with self._transaction() as connection:
            if may_pass(error):
                launch = self._launch(token)
                wait = max(error.retry_after or timedelta(), timedelta(seconds=0.5) * 2 ** min(launch.attempts - 1, 8))
                retry_at = self.clock.now() + min(wait, max(MAX_BACKOFF, error.retry_after or timedelta()))
                self._save_launch(connection, attrs.evolve(launch, retry_at=retry_at, error=str(error)))
                self._say("create.retry", f"create will be repeated: {error}", level="WARNING", fields=error.record())
                return
            # What an earlier attempt came to is not known, and this one says nothing of it: seen gone, not believed gone.
            is_certain = self._launch(token).attempts == 1 and error.attempts <= 1 and error.applied is Applied.NO
            for node in nodes:
                self._move(connection, node.id, NodePhase.FAILED if is_certain else NodePhase.DELETING, str(error))
            if nodes and error.reason not in STALE:
                self._remember_shortage(connection, nodes[0], error)
            self._close_if_answered(connection, token)

    def _spec(self, node: NodeRecord, *, network: str, identity: Identity) -> InstanceSpec:
        spec = self.record.spec
        shape = spec.head_node if node.group == shapes.HEAD_GROUP else spec.group(node.group)
        volume = self.record.volume
        return InstanceSpec(
            name=node.name,
            node_id=node.id,
            owner=self.cloud.owner_of(self.record.id),
            kind=node.kind,
            group=node.group,
            instance_type=node.instance_type,
            market_type=node.market_type,
            zones=(node.zone,) if node.zone else (),
            image_uri=spec.image_uri,
            resources=node.resources,
            labels=node.labels,
            network=network,
            identity=identity.name,
            bound_identity=identity if self.cloud.is_composed else None,
            volume=volume.name if node.kind is NodeKind.HEAD and volume is not None else None,
            bootstrap=self.heartbeats.bootstrap(self.record, node),
            advanced_instance_config=shape.advanced_instance_config if shape is not None else {},
            tags=spec.tags,
        )

    def _remember_shortage(self, connection: Connection, node: NodeRecord, error: CloudError) -> None:
        """Do not ask for the same again for a while: how long and how widely depends on how far the error reaches."""
        db.add_shortage(connection, self.record.cloud, shortage_of(node, error, now=self.clock.now()))
        self._say("create.refused", f"{node.group}: {error}", level="WARNING", fields=error.record())

    def _delete(self, node_ids: Sequence[NodeId]) -> None:
        nodes = [self._node(node_id) for node_id in node_ids]
        known = {node.instance_id: node for node in nodes if node.instance_id is not None}
        try:
            unknown = [node for node in nodes if node.instance_id is None]
            if unknown:
                listed = {instance.name: instance.id for instance in self.cloud.sweep(since=self.clock.now()).instances}
                known |= {listed[node.name]: node for node in unknown if node.name in listed}
            answers = (
                self.cloud.cluster.delete(list(known), owner=self.cloud.owner, deadline=self.cloud.deadline())
                if known
                else {}
            )
        except NotFound:
            answers = dict.fromkeys(known, Deletion.ALREADY_ABSENT)
        except CloudError as error:
            with self._transaction():
                self._say("delete.retry", f"delete will be repeated: {error}", level="WARNING", fields=error.record())
            return
        with self._transaction() as connection:
            for id, node in known.items():
                if answers.get(id) in (Deletion.GONE, Deletion.ALREADY_ABSENT):
                    self._move(connection, node.id, NodePhase.GONE, node.reason)

    def _move(self, connection: Connection, id: NodeId, to: NodePhase, reason: str, **fields: object) -> None:
        node, now = self._node(id), self.clock.now()
        if to is not node.phase and to not in NODE_MOVES[node.phase]:
            raise AssertionError(f"{node.name}: {node.phase.value} -> {to.value} is no legal move")
        ready_at = now if to is NodePhase.READY and node.ready_at is None else node.ready_at
        if to is NodePhase.READY:
            fields |= {"drain": None, "drain_deadline": None}
        moved = attrs.evolve(node, phase=to, phase_since=now, reason=reason, ready_at=ready_at, **fields)  # type: ignore[arg-type]
        nodes = tuple(moved if other.id == id else other for other in self.record.nodes)
        self.record = attrs.evolve(self.record, nodes=nodes)
        db.save_node(connection, moved)
        self.has_ended_nodes |= to in NODE_ENDED
        level = "WARNING" if to in LOUD else "INFO"
        self._say(
            f"node.{to.value.lower()}", f"{node.name} is {to.value}{f': {reason}' if reason else ''}", level, node
        )
        self._close_if_answered(connection, node.launch)

    def _node(self, id: NodeId) -> NodeRecord:
        return next(node for node in self.record.nodes if node.id == id)

    def _launch(self, token: Token) -> Launch:
        return next(launch for launch in self.record.launches if launch.token == token)

    def _save_launch(self, connection: Connection, launch: Launch) -> None:
        others = tuple(other for other in self.record.launches if other.token != launch.token)
        self.record = attrs.evolve(self.record, launches=(*others, launch))
        db.save_launch(connection, self.record.id, launch)

    def _close_if_answered(self, connection: Connection, token: Token) -> None:
        if any(node.launch == token and node.phase is NodePhase.RECORDED for node in self.record.nodes):
            return
        if any(launch.token == token for launch in self.record.launches):
            left = tuple(launch for launch in self.record.launches if launch.token != token)
            self.record = attrs.evolve(self.record, launches=left)
            db.close_launch(connection, token)

    def _delete_volume(self, name: str) -> None:
        try:
            answer = self.cloud.cluster.delete_volume(
                name, owner=self.cloud.owner_of(self.record.id), deadline=self.cloud.deadline()
            )
        except NotFound:
            answer = Deletion.ALREADY_ABSENT
        except CloudError as error:
            with self._transaction():
                self._say(
                    "volume.retry", f"the volume will be deleted again: {error}", "WARNING", fields=error.record()
                )
            return
        if answer is not Deletion.GOING:
            with self._transaction() as connection:
                self._save(connection, volume=None)

    # -- endpoint ------------------------------------------------------------------------------------------------------

    def _record_expose(self, connection: Connection, action: Expose) -> None:
        now, target = self.clock.now(), f"{action.target_address}:{action.target_port}"
        old = self.record.endpoint
        token = old.token if old is not None and old.target == target else Token(mint("tok"))
        name = f"{self.record.id.replace('_', '-')}"
        self._save(connection, endpoint=EndpointRecord(name=name, token=token, target=target, tried_at=now))

    def _expose(self) -> None:
        record = self.record.endpoint
        assert record is not None, "it was recorded before"
        address, _, port = record.target.rpartition(":")
        spec = EndpointSpec(
            name=record.name,
            owner=self.cloud.owner_of(self.record.id),
            network=self.cloud.shared().network.name,
            target_address=address,
            target_port=int(port),
        )
        try:
            endpoint = self.cloud.networking.expose(spec, token=record.token, deadline=self.cloud.deadline())
        except CloudError as error:
            with self._transaction():
                self._say("endpoint.retry", f"the endpoint will be asked for again: {error}", "WARNING")
            return
        if endpoint.state is EndpointState.READY:
            with self._transaction() as connection:
                self._save(connection, endpoint=attrs.evolve(record, url=endpoint.url))
                self._say("endpoint.ready", f"reachable at {endpoint.url}")

    def _withdraw(self, name: str) -> None:
        owner = self.cloud.owner_of(self.record.id)
        try:
            answer = self.cloud.networking.withdraw(name, owner=owner, deadline=self.cloud.deadline())
        except NotFound:
            answer = Deletion.ALREADY_ABSENT
        except CloudError as error:
            with self._transaction():
                self._say("endpoint.retry", f"the endpoint will be withdrawn again: {error}", "WARNING")
            return
        if answer is not Deletion.GOING:
            with self._transaction() as connection:
                self._save(connection, endpoint=None)

    def _revoke(self) -> None:
        try:
            answer = revoked(self.cloud, cluster_prefix(self.record.id), identity=self.record.identity)
        except CloudError as error:
            with self._transaction():
                self._say("grant.retry", f"the grants will be taken away again: {error}", "WARNING")
            return
        if answer is not Deletion.GOING:
            with self._transaction() as connection:
                self._save(connection, revoked=True)

    # -- cluster and jobs ----------------------------------------------------------------------------------------------

    def _move_cluster(self, connection: Connection, to: ClusterPhase, reason: str) -> None:
        now, before = self.clock.now(), self.record.phase
        if to is before:
            self._save(connection, reason=reason)
            return
        if to not in CLUSTER_MOVES[before]:
            raise AssertionError(f"{self.record.name}: {before.value} -> {to.value} is no legal move")
        running_at = now if to is ClusterPhase.RUNNING and self.record.running_at is None else self.record.running_at
        ended_at = now if to in CLUSTER_ENDED else None
        held_by = () if to is ClusterPhase.TERMINATING else self.record.held_by
        self._save(
            connection, phase=to, phase_since=now, reason=reason, running_at=running_at, ended_at=ended_at,
            held_by=held_by,
        )  # fmt: skip
        level = "ERROR" if to is ClusterPhase.FAILED else "INFO"
        text = f"{self.record.name} is {to.value}{f': {reason}' if reason else ''}"
        self._say(f"cluster.{to.value.lower()}", text, level)

    def _hold(self, connection: Connection, quotas: Mapping[str, str]) -> None:
        before = self.record.held_by
        self._save(connection, held_by=tuple(sorted(quotas)))
        for name in sorted(set(quotas) - set(before)):
            self._say("quota.reached", quotas[name], "WARNING", fields={"quota": name})
        for name in sorted(set(before) - set(quotas)):
            self._say("quota.room", f"quota {name!r} holds nothing back here any more", fields={"quota": name})

    def _move_job(self, connection: Connection, action: MoveJob) -> None:
        job = next(job for job in self.record.jobs if job.id == action.job_id)
        if action.to is not job.phase and action.to not in JOB_MOVES[job.phase]:
            raise AssertionError(f"{job.id}: {job.phase.value} -> {action.to.value} is no legal move")
        moved = attrs.evolve(
            job,
            phase=action.to,
            attempt=action.attempt,
            epoch=action.epoch,
            submission_id=f"{job.id}-{action.attempt}",
            message=action.message,
            exit_code=action.exit_code,
            ended_at=self.clock.now() if action.to in JOB_ENDED else None,
        )
        self.record = attrs.evolve(
            self.record, jobs=tuple(moved if other.id == job.id else other for other in self.record.jobs)
        )
        db.save_job(connection, moved)
        if action.to is not job.phase or action.attempt != job.attempt:
            bad = action.to in (JobPhase.FAILED, JobPhase.LOST)
            text = f"job {job.id} is {action.to.value}{f': {action.message}' if action.message else ''}"
            self._say(f"job.{action.to.value.lower()}", text, "WARNING" if bad else "INFO")

    def _save(self, connection: Connection, **fields: object) -> None:
        self.record = attrs.evolve(self.record, **fields)  # type: ignore[arg-type]
        db.save_status(connection, self.record)

    # -- the record's own ----------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A fenced transaction with the events said in it; one that fails leaves the record as it was."""
        before, said = self.record, len(self.events)
        try:
            with self.store.fenced(self.lease, now=self.clock.now()) as connection:
                yield connection
                for one in self.events[said:]:
                    db.add_event(connection, one)
        except BaseException:
            self.record = before
            del self.events[said:]
            raise

    def _say(
        self, kind: str, message: str, level: str = "INFO", node: NodeRecord | None = None, *,
        fields: dict[str, object] | None = None,
    ) -> None:  # fmt: skip
        self.events.append(
            Event(
                at=self.clock.now(),
                kind=kind,
                message=message,
                level=level,
                cluster_id=self.record.id,
                node=node.name if node is not None else "",
                fields=fields or {},
            )
        )
