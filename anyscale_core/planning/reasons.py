"""Why a request could not be met, and what would meet it: sentences for people.

Without numbers that change from second to second: the first of them stands on the cluster's status.
"""

from collections.abc import Callable, Mapping, Sequence

import attrs

from anyscale_core.models.instance import Offering
from anyscale_core.planning.limits import Candidate, Limit, Limits
from anyscale_core.planning.placement import Unmet
from anyscale_core.planning.requests import Request, units


@attrs.frozen(kw_only=True)
class Withheld:
    """A candidate that may not be started now, and why."""

    candidate: Candidate
    why: str


@attrs.frozen(kw_only=True)
class Reasons:
    """What there was to choose from. ``left``: of each limit, after what has been decided on.

    ``catalogue``: all that the cloud sells, for what to add.
    """

    candidates: Sequence[Candidate]
    withheld: Sequence[Withheld]
    limits: Limits
    left: Mapping[Limit, float]
    catalogue: Sequence[Offering] = ()

    def of(self, unmet: Unmet) -> str:
        """Return what could not be met, why, and what would meet it."""
        if unmet.gang is None:
            return f"{unmet.request}: {self._why(unmet.request)}"
        bundles = sum(bundle.count for bundle in unmet.gang.bundles)
        why = self._why(unmet.request, whole=False)
        return f"placement group of {bundles} ({unmet.gang.strategy.value}): {why}"

    def _why(self, request: Request, *, whole: bool = True) -> str:
        if not self.candidates and not self.withheld:
            return "no worker group may grow now; raise max_nodes or add a group"
        able = [one for one in self.candidates if _holds(one, request)]
        if able:
            return self._limited(able, whole=whole)
        held_back = [one for one in self.withheld if _holds(one.candidate, request)]
        if held_back:
            one = min(held_back, key=lambda one: one.candidate.price_per_hour)
            return f"{one.candidate.offering.instance_type} of {one.candidate.group!r} would do, but {one.why}"
        every = [*self.candidates, *(one.candidate for one in self.withheld)]
        if not any(request.matches(one.labels) for one in every):
            return "no worker group has these labels; add one or change the label selector"
        return f"no worker group that may grow has a node so large; {self._larger(request)}"

    def _limited(self, able: Sequence[Candidate], *, whole: bool) -> str:
        """Name the limits that keep the candidate with the fewest of them from being started."""
        reached = [(self.limits.reached(one, self.left), one.price_per_hour, i) for i, one in enumerate(able)]
        limits, _, i = min(reached, key=lambda one: (len(one[0]), one[1], one[2]))
        if limits:
            return " and ".join(_limit(limit, able[i]) for limit in limits)
        if whole:
            return "max_nodes, max_resources or max_price_per_hour is reached; raise it"
        return (
            "there is room for a part of it only: max_nodes, max_resources or max_price_per_hour is reached; raise it"
        )

    def _larger(self, request: Request) -> str:
        fitting = [one for one in self.catalogue if request.fits(units(one.resources))]
        if not fitting:
            return "the cloud sells none; ask for less at once"
        cheapest = min(fitting, key=lambda one: (one.price_per_hour, one.instance_type))
        return f"add a group with {cheapest.instance_type}"


def _holds(candidate: Candidate, request: Request) -> bool:
    return request.matches(candidate.labels) and request.fits(units(candidate.resources))


LIMITS: Mapping[str, Callable[[Limit, Candidate], str]] = {
    "max_nodes": lambda limit, _: f"max_nodes of {limit[1]!r} is reached; raise it",
    "max_price_per_hour": lambda _, one: (
        f"max_price_per_hour has no room for a {one.offering.instance_type} at {one.price_per_hour:g}; raise it"
    ),
    "nodes": lambda *_: "no more nodes may be started; raise the limit on their number",
    "max_resources": lambda limit, _: f"max_resources.{limit[1]} is reached; raise it",
    "quota": lambda limit, _: f"the quota {limit[1]} of {limit[2]} is used up; ask the cloud for more",
}


def _limit(limit: Limit, candidate: Candidate) -> str:
    return LIMITS[limit[0]](limit, candidate)
