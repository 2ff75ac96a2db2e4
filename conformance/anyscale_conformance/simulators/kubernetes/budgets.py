"""PodDisruptionBudgets: which stand over a Pod, and how many evictions they allow."""

import math
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes import selectors
from anyscale_conformance.simulators.kubernetes.store import Entry
from anyscale_conformance.simulators.kubernetes.world import World


@attrs.frozen(kw_only=True)
class State:
    """How a budget stands: Pods expected, healthy, and needed; and evictions that are allowed."""

    expected: int
    healthy: int
    desired: int
    allowed: int

    @property
    def status(self) -> dict[str, Any]:
        """The budget's status."""
        return {
            "currentHealthy": self.healthy, "desiredHealthy": self.desired, "disruptionsAllowed": self.allowed,
            "expectedPods": self.expected,
        }  # fmt: skip


def over(world: World, pod: Entry) -> list[Entry]:
    """Return the budgets that select a Pod."""
    found = []
    for entry in world.entries("poddisruptionbudgets", pod.namespace, group="policy"):
        selector = selectors.from_object(entry.obj.get("spec", {}).get("selector"))
        if selector is not None and selector.selects(pod.labels):
            found.append(entry)
    return found


def state(world: World, budget: Entry) -> State:
    """Return how a budget stands now."""
    spec = budget.obj.get("spec", {})
    selector = selectors.from_object(spec.get("selector"))
    pods = [
        pod for pod in world.entries("pods", budget.namespace) if selector is not None and selector.selects(pod.labels)
        and pod.obj.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]  # fmt: skip
    healthy = sum(is_ready(pod) and "deletionTimestamp" not in pod.meta for pod in pods)
    # But for a plain number that is to be there, the controllers' word counts; Pods without one are not expected at all.
    is_plain = "maxUnavailable" not in spec and isinstance(spec.get("minAvailable", 1), int)
    expected = len(pods) if is_plain else sum(_is_managed(pod) for pod in pods)
    if "maxUnavailable" in spec:
        desired = max(0, expected - _number(spec["maxUnavailable"], expected))
    else:
        desired = _number(spec.get("minAvailable", 1), expected)
    allowed = max(0, healthy - desired) if expected else 0
    return State(expected=expected, healthy=healthy, desired=desired, allowed=allowed)


def is_ready(pod: Entry) -> bool:
    """Tell whether a Pod's condition says that it is ready."""
    conditions = pod.obj.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _is_managed(pod: Entry) -> bool:
    return any(owner.get("controller") for owner in pod.meta.get("ownerReferences", ()))


def _number(value: Any, of: int) -> int:
    if isinstance(value, str):
        return math.ceil(int(value.rstrip("%")) * of / 100)
    return int(value)
