"""What can be done to an object beside reading and writing it: tokens, evictions, logs, scales, bindings, finalization."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes import budgets, deletion
from anyscale_conformance.simulators.kubernetes.calls import Answer, Call, Route, encode
from anyscale_conformance.simulators.kubernetes.conditions import with_condition
from anyscale_conformance.simulators.kubernetes.objects import Objects, Target
from anyscale_conformance.simulators.kubernetes.problems import bad_request, conflict, not_allowed, too_many_evictions
from anyscale_conformance.simulators.kubernetes.store import Entry
from anyscale_conformance.simulators.kubernetes.tokens import Tokens
from anyscale_conformance.simulators.kubernetes.users import Caller
from anyscale_conformance.simulators.kubernetes.world import World

RETRY_EVICTION_S = 10
SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


@attrs.frozen(kw_only=True)
class Ask:
    """One request to a subresource, with all that may be needed to carry it out."""

    world: World
    objects: Objects
    tokens: Tokens
    entry: Entry
    route: Route
    call: Call
    caller: Caller


def answer(world: World, objects: Objects, tokens: Tokens, asked: Route, call: Call, caller: Caller) -> Answer:
    """Answer a call to a subresource. Raises Problem."""
    entry = objects.get(Target(kind=asked.kind, namespace=asked.namespace, name=asked.name))
    act = _ACTS.get((asked.subresource, asked.verb))
    if act is None:
        raise not_allowed(asked.kind.plural, asked.kind.group)
    return act(Ask(
        world=world, objects=objects, tokens=tokens, entry=entry, route=asked, call=call, caller=caller
    ))  # fmt: skip


def evict(world: World, pod: Entry, options: Mapping[str, Any], *, is_dry: bool = False) -> None:
    """Evict a Pod as the budgets allow it. Raises Problem 429 when one does not."""
    running = pod.obj.get("status", {}).get("phase") == "Running"
    found = budgets.over(world, pod)
    if len(found) > 1:
        raise bad_request(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    if found and running and "deletionTimestamp" not in pod.meta:
        state = budgets.state(world, found[0])
        # One that is not ready may go as long as enough others are (unhealthyPodEvictionPolicy: IfHealthyBudget).
        is_free = not budgets.is_ready(pod) and state.healthy >= state.desired > 0
        if state.allowed <= 0 and not is_free:
            cause = {
                "reason": "DisruptionBudget",
                "message": f"The disruption budget {found[0].name} needs {state.desired} healthy pods and has {state.healthy} "
                "currently",
            }
            raise too_many_evictions(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                retry_after=RETRY_EVICTION_S,
                causes=[cause],
            )
    if not is_dry:
        status = pod.obj.get("status", {})
        conditions = with_condition(
            status.get("conditions", ()), "DisruptionTarget", "True", stamp=world.stamp, reason="EvictionByEvictionAPI",
            message="Eviction API: evicting",
        )  # fmt: skip
        pod = world.write(pod, status=status | {"conditions": conditions})
    deletion.delete(world, pod, options, is_dry=is_dry)


def _token(ask: Ask) -> Answer:
    body = ask.call.object()
    if not isinstance(body, dict):
        raise bad_request("the body is no TokenRequest")
    return Answer(status=201, body=encode(ask.tokens.request(ask.entry, body)))


def _evict(ask: Ask) -> Answer:
    body = ask.call.object()
    if not isinstance(body, dict) or body.get("metadata", {}).get("name", ask.entry.name) != ask.entry.name:
        raise bad_request("name in URL does not match name in Eviction object")
    evict(ask.world, ask.entry, body.get("deleteOptions") or {}, is_dry=ask.caller.is_dry)
    return Answer(status=201, body=encode(SUCCESS))


def _log(ask: Ask) -> Answer:
    pod = ask.entry
    containers = [one["name"] for one in pod.obj["spec"]["containers"]]
    wanted = ask.call.query.get("container", "")
    if not wanted and len(containers) > 1:
        raise bad_request(
            f"a container name must be specified for pod {pod.name}, choose one of: [{' '.join(containers)}]"
        )
    wanted = wanted or containers[0]
    if wanted not in containers:
        raise bad_request(f"container {wanted} is not valid for pod {pod.name}")
    status = next(
        (one for one in pod.obj.get("status", {}).get("containerStatuses", ()) if one["name"] == wanted), None
    )
    waiting = ((status or {}).get("state") or {}).get("waiting")
    if waiting is not None or (status is None and pod.obj["spec"].get("nodeName")):
        reason = (waiting or {}).get("reason", "ContainerCreating")
        raise bad_request(f'container "{wanted}" in pod "{pod.name}" is waiting to start: {reason}')
    text = ask.world.log_of(pod) if status is not None else ""
    if tail := ask.call.number("tailLines"):
        text = "".join(text.splitlines(keepends=True)[-tail:])
    if most := ask.call.number("limitBytes"):
        text = text[:most]
    return Answer(body=text.encode(), content_type="text/plain")


def _scale(ask: Ask) -> Answer:
    return Answer(body=encode(_scale_of(ask.entry)))


def _rescale(ask: Ask) -> Answer:
    body = ask.call.object()
    replicas = (body.get("spec") or {}).get("replicas") if isinstance(body, dict) else None
    if not isinstance(replicas, int) or replicas < 0:
        raise bad_request("spec.replicas must be a number of at least 0")
    target = Target(kind=ask.entry.kind, namespace=ask.entry.namespace, name=ask.entry.name)
    entry = ask.objects.patch(target, lambda obj: obj | {"spec": obj["spec"] | {"replicas": replicas}}, ask.caller)
    return Answer(body=encode(_scale_of(entry)))


def _scale_of(entry: Entry) -> dict[str, Any]:
    labels = (entry.obj["spec"].get("selector") or {}).get("matchLabels") or {}
    keys = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {key: entry.meta[key] for key in keys},
        "spec": {"replicas": entry.obj["spec"].get("replicas", 0)},
        "status": {"replicas": entry.obj.get("status", {}).get("replicas", 0),
                   "selector": ",".join(f"{key}={value}" for key, value in labels.items())},
    }  # fmt: skip


def _bind(ask: Ask) -> Answer:
    pod, body = ask.entry, ask.call.object()
    if pod.obj["spec"].get("nodeName"):
        raise conflict(
            "pods/binding", "", pod.name, f'pod {pod.name} is already assigned to node "{pod.obj["spec"]["nodeName"]}"'
        )
    ask.world.bind(pod, (body.get("target") or {}).get("name", ""))
    return Answer(status=201, body=encode(SUCCESS))


def _finalize(ask: Ask) -> Answer:
    body = ask.call.object()
    entry = ask.world.write(ask.entry, spec={"finalizers": (body.get("spec") or {}).get("finalizers", [])})
    return Answer(body=deletion.settle(ask.world, entry).encoded)


_ACTS: Mapping[tuple[str, str], Callable[[Ask], Answer]] = {
    ("token", "create"): _token, ("eviction", "create"): _evict, ("log", "get"): _log, ("scale", "get"): _scale,
    ("scale", "update"): _rescale, ("scale", "patch"): _rescale, ("binding", "create"): _bind, ("finalize", "update"): _finalize,
}  # fmt: skip
