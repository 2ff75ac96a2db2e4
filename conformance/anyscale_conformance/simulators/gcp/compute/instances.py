"""Instances: made, listed, stopped, started, labelled, deleted."""

from collections.abc import Callable
from datetime import timedelta

from anyscale_conformance.simulators.gcp import operations
from anyscale_conformance.simulators.gcp.calls import Call, handles
from anyscale_conformance.simulators.gcp.compute import common, life, orders, usage
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.lists import aggregated, listed
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import QuotaAnswer, Resource, fingerprint, must_be_current


@handles("compute.instances.insert")
def insert(call: Call) -> Json:
    """Make an instance: refused at once for what can be seen at once, and late for want of machines or addresses."""
    scope = common.scope_of(call)
    zone = scope.partition("/")[2]
    order = orders.checked(call, call.body, zone)
    name = common.name_of(call.body)
    common.must_be_free(call.project, "instances", scope, name)
    exceeded = usage.exceeded(call.project, [usage.of_instance(order, zone)])
    if exceeded is not None and call.project.quotas is QuotaAnswer.AT_ONCE:
        raise common.quota_exceeded(exceeded.metric, exceeded.limit, exceeded.region)
    instance = life.add(call, zone, name, order)
    return life.begin(call, instance, error=None if exceeded is None else exceeded.late()).body


@handles("compute.instances.get")
def get(call: Call) -> Json:
    """Answer with an instance."""
    return _named(call).body


@handles("compute.instances.list")
def list_instances(call: Call) -> Json:
    """Answer with the instances of a zone."""
    return listed(call, "instances", common.scope_of(call), kind="compute#instanceList")


@handles("compute.instances.aggregatedList")
def aggregate(call: Call) -> Json:
    """Answer with the instances of all zones."""
    return aggregated(call, "instances", kind="compute#instanceAggregatedList")


@handles("compute.instances.delete")
def delete(call: Call) -> Json:
    """Delete an instance, with the disks that go along."""
    instance = _named(call)
    if instance.body.get("deletionProtection"):
        message = (
            f"Invalid resource usage: 'Resource cannot be deleted if it's protected against deletion. Instance "
            f"'{instance.path}' is protected.'."
        )
        raise ApiError(400, "invalidResourceUsage", message)
    return life.delete(call, instance).body


@handles("compute.instances.stop")
def stop(call: Call) -> Json:
    """Stop an instance; it keeps its name, its disks and its place in lists."""
    return life.stop(call, _named(call)).body


@handles("compute.instances.start")
def start(call: Call) -> Json:
    """Start an instance that does not run; there may be no machine for it now."""
    instance = _named(call)
    if instance.body["status"] == "TERMINATED":
        zone = instance.scope.partition("/")[2]
        wanted = usage.of_instance({**instance.body, "status": "PROVISIONING"}, zone)
        usage.must_fit(call.project, [wanted - usage.of_instance(instance.body, zone)])
    return life.start(call, instance).body


@handles("compute.instances.reset")
def reset(call: Call) -> Json:
    """Press the button of an instance."""
    return life.reset(call, _named(call)).body


@handles("compute.instances.setLabels")
def set_labels(call: Call) -> Json:
    """Replace the labels; the fingerprint has to be the present one."""
    instance = _named(call)
    must_be_current(call.body.get("labelFingerprint"), instance.body["labelFingerprint"], "labels fingerprint")
    labels = call.body.get("labels", {})
    common.check_labels(labels)

    def change() -> None:
        instance.body["labels"] = labels
        instance.body["labelFingerprint"] = fingerprint("labels", labels)

    return _changing(call, instance, "setLabels", change)


@handles("compute.instances.setMetadata")
def set_metadata(call: Call) -> Json:
    """Replace the metadata; the fingerprint has to be the present one."""
    instance = _named(call)
    must_be_current(call.body.get("fingerprint"), instance.body["metadata"]["fingerprint"])
    items = orders.metadata_items(call.body)

    def change() -> None:
        instance.body["metadata"] = orders.metadata(items)

    return _changing(call, instance, "setMetadata", change)


@handles("compute.instances.setTags")
def set_tags(call: Call) -> Json:
    """Replace the network tags; the fingerprint has to be the present one."""
    instance = _named(call)
    must_be_current(call.body.get("fingerprint"), instance.body["tags"]["fingerprint"])
    tags = orders.tags({"items": call.body.get("items", [])})

    def change() -> None:
        instance.body["tags"] = tags

    return _changing(call, instance, "setTags", change)


@handles("compute.instances.setDeletionProtection")
def set_protection(call: Call) -> Json:
    """Protect an instance from being deleted, or no longer."""
    instance = _named(call)
    wanted = call.params.get("deletionProtection", "true") == "true"

    def change() -> None:
        instance.body["deletionProtection"] = wanted

    return _changing(call, instance, "setDeletionProtection", change)


@handles("compute.instances.getSerialPortOutput")
def console(call: Call) -> Json:
    """Answer with what a machine has printed; an empty text where machines are not booted."""
    instance = _named(call)
    text, start = call.cloud.power.console(instance), call.number("start", 0)
    return {
        "kind": "compute#serialPortOutput", "selfLink": f"{instance.link}/serialPort", "start": str(start),
        "contents": text[start:], "next": str(len(text)),
    }  # fmt: skip


def _named(call: Call) -> Resource:
    return call.project.get("instances", common.scope_of(call), call.params["instance"])


def _changing(call: Call, instance: Resource, kind: str, change: Callable[[], None]) -> Json:
    """Change an instance when the operation ends, as the API does."""
    after: timedelta = call.project.timings.change
    return operations.start(call, kind, instance, after=after, finish=change).body
