"""What each route does: one call of the plane, and the plane's value as a view."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import attrs

import anyscale_core
from anyscale_core.api import metrics, schema, views
from anyscale_core.api.held import Heartbeating
from anyscale_core.api.hub import Hub
from anyscale_core.api.polling import Polling
from anyscale_core.api.protocol import (
    MAX_WAIT,
    AccessView,
    AuditView,
    CloudView,
    ClusterView,
    EventView,
    HealthView,
    JobView,
    PlanView,
    ProviderView,
    QuotaView,
    StopView,
)
from anyscale_core.api.routes import ROUTES, Answer, Call
from anyscale_core.controlplane.foundations import CloudStatus, Data
from anyscale_core.controlplane.plane import ClusterStatus, ControlPlane
from anyscale_core.errors import Fault, Refused, SpecError, UnknownName
from anyscale_core.models.cloud import CloudMode
from anyscale_core.models.networking import Check
from anyscale_core.models.node import NodeCertificate, Orders, Registered
from anyscale_core.models.order import Dispatch, Noted, OperatorToken, OperatorView, Session
from anyscale_core.models.quota import QuotaSpec
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess

PEOPLE, MACHINES = 8, 4
"""Threads for people's calls, which may wait for a cloud, and for machines', which never do: neither starves the other."""
LOOK = timedelta(seconds=1)
"""How often a held list of events is looked at without a ring."""
PAUSE = timedelta(milliseconds=50)
MAX_LIMIT = 1000


class Service:
    """The routes' work on one plane. ``open`` it on the event loop that serves it, ``close`` it there."""

    def __init__(
        self, plane: ControlPlane, *, calls: metrics.DriverCalls | None = None, stop: Callable[[], None] | None = None
    ) -> None:
        self.plane = plane
        self._hub = Hub()
        self._calls, self._stop = calls or metrics.DriverCalls(), stop
        self._people = ThreadPoolExecutor(PEOPLE, thread_name_prefix="people")
        self._machines = ThreadPoolExecutor(MACHINES, thread_name_prefix="machines")
        self._heartbeating = Heartbeating(plane, self._hub, self._for_machines)
        self._polling = Polling(plane, self._for_machines)
        self._watches: list[asyncio.Task[None]] = []
        plane.on_change(self._hub.ring)

    async def open(self) -> None:
        """Begin to hold answers."""
        loop = asyncio.get_running_loop()
        self._hub.open(loop)
        self._polling.open(loop)
        self._watches = [
            asyncio.create_task(self._heartbeating.watch(), name="held heartbeats"),
            asyncio.create_task(self._polling.watch(), name="held polls"),
        ]

    def release(self) -> None:
        """Answer everything that is held, and hold nothing any more; call it on the loop."""
        self._hub.close()
        self._heartbeating.release_all()
        self._polling.release_all()

    async def close(self) -> None:
        """End; what is under way in threads is waited for."""
        self.release()
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await asyncio.to_thread(self._shutdown)

    async def for_people(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in one of the threads for people."""
        return await _in(self._people, function, *args)

    async def _for_machines(self, function: Callable[..., Any], *args: Any) -> Any:
        return await _in(self._machines, function, *args)

    def _shutdown(self) -> None:
        self._people.shutdown()
        self._machines.shutdown()

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def register(self, call: Call) -> Registered:
        return self.plane.register(call.body)

    def certify(self, call: Call) -> NodeCertificate:
        if call.token is None:
            raise Refused("missing", "a certificate request carries the node's credential as its bearer token")
        return self.plane.certify(call.token, call.body)

    async def heartbeat(self, call: Call) -> Orders:
        if call.token is None:
            raise Refused("missing", "a heartbeat carries the node's credential as its bearer token")
        return await self._heartbeating.heartbeat(call.token, call.body)

    # -- operators -----------------------------------------------------------------------------------------------------

    def operator_login(self, call: Call) -> Session:
        return self.plane.operators.login(call.body)

    async def operator_poll(self, call: Call) -> Dispatch:
        return await self._polling.poll(_operators(call), call.body)

    async def operator_report(self, call: Call) -> Noted:
        noted: Noted = await self._for_machines(self.plane.operators.report, _operators(call), call.body)
        return noted

    def operator_token(self, call: Call) -> OperatorToken:
        return self.plane.operator_token(call.path["cloud"], actor=call.actor)

    def revoke_operator(self, call: Call) -> OperatorView:
        cloud = call.path["cloud"]
        self.plane.revoke_operator(cloud, actor=call.actor)
        return self.plane.operators.view(cloud)

    # -- clusters ------------------------------------------------------------------------------------------------------

    def apply(self, call: Call) -> Answer:
        spec, job = call.body.spec, call.body.job
        before = self.plane.store.find(spec.name)
        record = self.plane.apply(spec, actor=call.actor, job=job)
        status = ClusterStatus(record=record, nodes=self.plane.store.statuses(record.id))
        return Answer(value=self._view(status), status=200 if record.id == before else 201)

    def clusters(self, call: Call) -> tuple[ClusterView, ...]:  # noqa: ARG002
        return tuple(
            self._view(ClusterStatus(record=record, nodes=self.plane.store.statuses(record.id)))
            for record in self.plane.clusters()
        )

    def cluster(self, call: Call) -> ClusterView:
        return self._view(self.plane.status(call.path["name"]))

    def delete(self, call: Call) -> ClusterView:
        name = call.path["name"]
        self.plane.terminate(name, actor=call.actor, reason=call.query.get("reason", ""))
        return self._view(self.plane.status(name))

    def plan(self, call: Call) -> PlanView:
        return views.plan_view(self.plane.plan(call.body, actor=call.actor))

    def submit(self, call: Call) -> JobView:
        return views.job_view(self.plane.submit(call.path["name"], call.body, actor=call.actor))

    async def events(self, call: Call) -> tuple[EventView, ...]:
        name = call.path.get("name")
        after, limit = _number(call, "after", 0), min(_number(call, "limit", 500), MAX_LIMIT)
        wait = min(timedelta(seconds=_number(call, "wait_s", 0.0)), MAX_WAIT)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait.total_seconds()
        while True:
            count = self._hub.count
            found = await self.for_people(lambda: self.plane.events(name, after=after, limit=limit))
            left = until - loop.time()
            if found or left <= 0 or not self._hub.is_open:
                return tuple(views.event_view(event) for event in found)
            await asyncio.sleep(min(left, PAUSE.total_seconds()))
            await self._hub.changed(count, min(timedelta(seconds=left), LOOK))

    def access(self, call: Call) -> AccessView:
        return views.access_view(self.plane.access(call.path["name"], actor=call.actor))

    def logs(self, call: Call) -> StoreAccess:
        return self.plane.logs(call.path["name"], actor=call.actor)

    # -- clouds and the service ----------------------------------------------------------------------------------------

    def clouds(self, call: Call) -> tuple[CloudView, ...]:  # noqa: ARG002
        registered = {
            spec.name: self._cloud_view(self.plane.foundations.status(spec.name)) for spec in self.plane.store.clouds()
        }
        return tuple(registered.values()) + tuple(
            views.default_cloud_view(found.provider.default_cloud)
            for found in self.plane.registry.found()
            if found.provider is not None
            and found.provider.default_cloud is not None
            and found.provider.default_cloud.name not in registered
        )

    def register_cloud(self, call: Call) -> Answer:
        is_new = self.plane.register_cloud(call.body, actor=call.actor)
        view = self._cloud_view(self.plane.foundations.status(call.body.name))
        return Answer(value=view, status=201 if is_new else 200)

    def cloud(self, call: Call) -> CloudView:
        return self._cloud_view(self.plane.foundations.status(call.path["cloud"]))

    def set_up_cloud(self, call: Call) -> CloudView:
        return self._cloud_view(self.plane.set_up_cloud(call.path["cloud"], actor=call.actor))

    def verify_cloud(self, call: Call) -> tuple[Check, ...]:
        return self.plane.foundations.verify(call.path["cloud"])

    def delete_cloud(self, call: Call) -> CloudView:
        name, word = call.path["cloud"], call.query.get("data", Data.REFUSE.value)
        if word not in {data.value for data in Data}:
            known = ", ".join(data.value for data in Data)
            raise SpecError([Fault(path="data", message=f"{word!r} is not one of {known}")], subject="query")
        before = self.plane.foundations.status(name)
        left = self.plane.delete_cloud(name, data=Data(word), actor=call.actor)
        if left is None:
            return attrs.evolve(views.cloud_view(before.spec), registered=False)
        return self._cloud_view(left)

    def quotas(self, call: Call) -> tuple[QuotaView, ...]:  # noqa: ARG002
        return tuple(views.quota_view(status) for status in self.plane.quotas.all())

    def set_quota(self, call: Call) -> Answer:
        is_new = self.plane.set_quota(call.body, actor=call.actor)
        view = views.quota_view(self.plane.quotas.get(call.body.name))
        return Answer(value=view, status=201 if is_new else 200)

    def delete_quota(self, call: Call) -> QuotaSpec:
        return self.plane.delete_quota(call.path["name"], actor=call.actor)

    def uploads(self, call: Call) -> StoreAccess:
        return self.plane.upload(call.path["cloud"], actor=call.actor)

    def providers(self, call: Call) -> tuple[ProviderView, ...]:  # noqa: ARG002
        return tuple(views.provider_view(found) for found in self.plane.registry.found())

    def audit(self, call: Call) -> tuple[AuditView, ...]:
        records = self.plane.store.audit(
            after=_number(call, "after", 0), limit=min(_number(call, "limit", 500), MAX_LIMIT)
        )
        return tuple(views.audit_view(record) for record in records)

    def stop(self, call: Call) -> StopView:  # noqa: ARG002
        if self._stop is None:
            raise UnknownName("this service is part of another program; end that one")
        self._stop()
        return StopView(pid=os.getpid())

    def health(self, call: Call) -> HealthView:  # noqa: ARG002
        return HealthView(version=anyscale_core.__version__)

    def schema(self, call: Call) -> dict[str, Any]:  # noqa: ARG002
        return schema.document(ROUTES)

    def discovery(self, call: Call) -> dict[str, Any]:  # noqa: ARG002
        return self.plane.keys.discovery(self.plane.id)

    def jwks(self, call: Call) -> dict[str, Any]:  # noqa: ARG002
        return self.plane.keys.jwks()

    def metrics(self, call: Call) -> bytes:  # noqa: ARG002
        clusters, nodes = self.plane.store.phases()
        return metrics.render(
            clusters=clusters,
            nodes=nodes,
            calls=self._calls.counts(),
            heartbeats=self._heartbeating.total,
            operators=self.plane.operators.states(),
            orders=self.plane.mailbox.waiting(),
        )

    def _cloud_view(self, status: CloudStatus) -> CloudView:
        is_pulled = status.spec.mode is CloudMode.OPERATOR
        return views.cloud_status_view(status, self.plane.operators.view(status.spec.name) if is_pulled else None)

    def _view(self, status: ClusterStatus) -> ClusterView:
        cloud = self.plane.clouds.built().get(status.record.cloud)
        sweep = cloud.last_sweep() if cloud is not None else None
        return views.cluster_view(status, sweep.by_cluster.get(status.record.id, ()) if sweep is not None else ())


def _operators(call: Call) -> Secret[str]:
    if call.token is None:
        raise Refused("missing", "an operator's request carries its credential as its bearer token")
    return call.token


async def _in(executor: Executor, function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(executor, function, *args)


def _number(call: Call, name: str, default: Any) -> Any:
    """Return a query parameter of the type of its default. Raises SpecError."""
    text = call.query.get(name)
    if text is None:
        return default
    try:
        number = type(default)(text)
        if not 0 <= number < 2**63:
            raise ValueError
    except ValueError:
        fault = Fault(path=name, message=f"{text!r} is not a number that is 0 or more")
        raise SpecError([fault], subject="query") from None
    return number
