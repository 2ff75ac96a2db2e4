"""What all families share: scopes, references, labels, quotas, and the plain get, list and delete."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from anyscale_conformance.simulators.gcp import catalogue, operations
from anyscale_conformance.simulators.gcp.calls import HANDLERS, Call
from anyscale_conformance.simulators.gcp.errors import ApiError, already_exists, in_use, invalid, singular
from anyscale_conformance.simulators.gcp.lists import aggregated, listed
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Project, Resource, words_of

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
LABELS = 64
DESCRIPTION = 2048
Users = Callable[[Project, Resource], Iterable[str]]


def scope_of(call: Call) -> str:
    """Return the scope of a call. Raises 400 for a zone or region that there is none of."""
    scope = operations.scope_of(call)
    if zone := call.params.get("zone", ""):
        if catalogue.region_of(zone) not in catalogue.ZONES or zone not in catalogue.ZONES[catalogue.region_of(zone)]:
            raise invalid("zone", zone, "Unknown zone.")
    elif scope.startswith("regions/") and scope.partition("/")[2] not in catalogue.ZONES:
        raise invalid("region", call.params["region"], "Unknown region.")
    return scope


def name_of(body: Json) -> str:
    """Return the name of what is to be made. Raises 400 for one that is none, and for a description that is too long."""
    name = str(body.get("name", ""))
    if not NAME.fullmatch(name):
        raise invalid("resource.name", name, f"Must be a match of regex '(?:{NAME.pattern})'")
    if len(str(body.get("description", ""))) > DESCRIPTION:
        raise invalid("resource.description", "...", f"The description has at most {DESCRIPTION} characters.")
    return name


def must_be_free(project: Project, collection: str, scope: str, name: str) -> None:
    """Raise 409 for a name that is taken."""
    if (there := project.find(collection, scope, name)) is not None:
        raise already_exists(there.path)


def must_be_ready(thing: Resource) -> None:
    """Raise 400 for what is still being made or already being deleted."""
    if thing.hidden.get("busy"):
        raise ApiError(400, "resourceNotReady", f"The resource '{thing.path}' is not ready")


def referred(call: Call, reference: str, collection: str, field: str, *, scope: str = "global") -> Resource:
    """Return what a full or partial URL names, also in another project. Raises 400 when there is no such thing."""
    words = words_of(reference)
    project = call.project
    if words[:1] == ["projects"] and len(words) > 1:
        found = call.cloud.project(words[1])
        if found is None:
            raise invalid(field, reference, "The referenced resource cannot be found.")
        project, words = found, words[2:]
    if project is not call.project:
        project.settle()
    if len(words) == 1:
        words = [*scope.split("/"), collection, words[0]]
    if len(words) < 3 or words[-2] != collection:
        raise invalid(field, reference, "The URL is malformed.")
    thing = project.find(collection, "/".join(words[:-2]), words[-1])
    if thing is None:
        raise invalid(field, reference, f"The referenced {singular(collection)} resource cannot be found.")
    must_be_ready(thing)
    return thing


def check_labels(labels: Mapping[str, str], field: str = "resource.labels") -> None:
    """Raise 400 for labels that are none."""
    if len(labels) > LABELS:
        raise invalid(field, "", f"At most {LABELS} labels are allowed.")
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            raise invalid(field, "", f"Label key '{key}' violates format constraints. The key must start with a lowercase "
                          "character, can only contain lowercase letters, numeric characters, underscores and dashes. The "
                          "key can be at most 63 characters long.")  # fmt: skip
        if not LABEL_VALUE.fullmatch(value):
            raise invalid(field, "", f"Label value '{value}' violates format constraints. The value can only contain "
                          "lowercase letters, numeric characters, underscores and dashes. The value can be at most 63 "
                          "characters long.")  # fmt: skip


def check_quota(project: Project, metric: str, *, used: float, more: float = 1, region: str = "") -> None:
    """Raise 403 when a limit would be passed."""
    limit = limit_of(project, metric, region)
    if more > 0 and used + more > limit:
        raise quota_exceeded(metric, limit, region)


def quota_exceeded(metric: str, limit: float, region: str) -> ApiError:
    """Return the 403 of a limit that would be passed."""
    where = f" in region {region}" if region else " globally"
    return ApiError(403, "quotaExceeded", f"Quota '{metric}' exceeded.  Limit: {limit:.1f}{where}.")


def limit_of(project: Project, metric: str, region: str = "") -> float:
    """Return how much of something a project may have."""
    defaults = catalogue.REGION_LIMITS if region else catalogue.PROJECT_LIMITS
    return project.limits.get((region, metric), defaults.get(metric, 0.0))


def making(call: Call, thing: Resource, *, after: timedelta, kind: str = "insert") -> Json:
    """Start the operation that makes or changes a thing; until it ends, nothing else can use the thing."""
    thing.hidden["busy"] = True

    def done() -> None:
        thing.hidden["busy"] = False

    return operations.start(call, kind, thing, after=after, finish=done).body


def deleting(call: Call, thing: Resource, *, after: timedelta, users: Iterable[str] = ()) -> Json:
    """Start the operation that deletes a thing. Raises 400 when something still needs it, or it is not ready."""
    must_be_ready(thing)
    for user in users:
        raise in_use(thing.path, user)
    thing.hidden["busy"] = True
    return operations.start(call, "delete", thing, after=after, finish=lambda: call.project.remove(thing)).body


def network_time(call: Call) -> timedelta:
    """Return how long it takes to delete what belongs to networks."""
    return call.project.timings.network


def plain(
    collection: str, parameter: str, *, prefix: str = "", after: Callable[[Call], timedelta] = network_time,
    users: Users = lambda *_: (), aggregates: str = "",
) -> None:  # fmt: skip
    """Register get, list and delete (and aggregatedList of that kind) for a collection without more of its own.

    ``prefix``: the API's name for the collection where it differs (``regionHealthChecks``). A method that is answered already
    keeps who answers it.
    """
    api = prefix or collection
    kind = f"compute#{singular(collection)}"

    def get(call: Call) -> Json:
        return call.project.get(collection, scope_of(call), call.params[parameter]).body

    def list_all(call: Call) -> Json:
        return listed(call, collection, scope_of(call), kind=f"{kind}List")

    def delete(call: Call) -> Json:
        thing = call.project.get(collection, scope_of(call), call.params[parameter])
        return deleting(call, thing, after=after(call), users=users(call.project, thing))

    answers = {"get": get, "list": list_all, "delete": delete}
    if aggregates:
        answers["aggregatedList"] = lambda call: aggregated(call, collection, kind=aggregates)
    for verb, handler in answers.items():
        HANDLERS.setdefault(f"compute.{api}.{verb}", handler)
