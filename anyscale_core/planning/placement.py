"""Which nodes to start for which requests: free room first, then nodes on their way, then new ones, cheapest first.

Greedy over requests sorted by size. Prices come from the offerings; equal prices go to the smaller node.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from anyscale_core.models.instance import Offering
from anyscale_core.models.node import Demand, Gang, GangStrategy
from anyscale_core.models.resources import Resources, fits, minus, total

NODE_OVERHEAD = 0.001
"""Dollars per hour and CPU added to every price, so that of equally cheap fleets the smaller one is taken."""


@attrs.define(kw_only=True)
class Bin:
    """A node with room: one that exists, is coming, or would be new. ``free`` shrinks as requests are placed."""

    group: str
    free: dict[str, float]
    labels: Mapping[str, str]
    candidate: "Candidate | None" = None


@attrs.frozen(kw_only=True)
class Candidate:
    """One kind of node that could be started: at most ``room`` more of its group."""

    group: str
    offering: Offering
    resources: Resources
    labels: Mapping[str, str]
    room: int

    @property
    def cost(self) -> float:
        return self.offering.price_per_hour + NODE_OVERHEAD * (1.0 + self.resources.get("CPU", 0.0))


@attrs.frozen(kw_only=True)
class Budget:
    """What may still be added: resources (``max_resources`` less what there is), dollars per hour, nodes. None: no limit."""

    resources: Resources | None = None
    price: float | None = None
    nodes: int | None = None

    def allows(self, nodes: Iterable[Candidate]) -> bool:
        """Tell whether these new nodes together stay within the budget."""
        nodes = tuple(nodes)
        if self.nodes is not None and len(nodes) > self.nodes:
            return False
        if self.price is not None and sum(node.offering.price_per_hour for node in nodes) > self.price + 1e-9:
            return False
        if self.resources is None:
            return True
        added = total(node.resources for node in nodes)
        return all(added.get(name, 0.0) <= limit + 1e-9 for name, limit in self.resources.items())


@attrs.frozen(kw_only=True)
class Placement:
    """What to start (in order of choice), and each request that was not met, with the reason."""

    new: tuple[Candidate, ...]
    unmet: tuple[str, ...]


def place(
    demand: Sequence[Demand],
    gangs: Sequence[Gang],
    *,
    room: Iterable[Bin],
    candidates: Sequence[Candidate],
    budget: Budget,
) -> Placement:
    """Return the nodes to start so that all that can be met is met. Equal input gives an equal answer."""
    bins = list(room)
    unmet: list[str] = []
    for gang in gangs:
        bins, why = _place_gang(gang, bins, candidates, budget)
        unmet += [why] if why else []
    ordered = sorted(demand, key=lambda one: (-_size(one.resources), sorted(one.resources.items())))
    for one in ordered:
        # Without a number: the reason stands on the cluster's status, and shall not change with every task that ends.
        if any(_put(one, bins, candidates, budget) is None for _ in range(one.count)):
            unmet.append(f"{_show(one)}: {_why(one, candidates)}")
    return Placement(new=tuple(b.candidate for b in bins if b.candidate is not None), unmet=tuple(unmet))


def _place_gang(gang: Gang, bins: list[Bin], candidates: Sequence[Candidate], budget: Budget) -> tuple[list[Bin], str]:
    """Place all bundles on a copy of the bins, or none: a gang starts whole or not at all."""
    trial = [attrs.evolve(one, free=dict(one.free)) for one in bins]
    bundles = list(gang.bundles)
    if gang.strategy is GangStrategy.STRICT_PACK:
        bundles = [Demand(resources=total(bundle.resources for bundle in gang.bundles), labels=_labels(gang))]
    used: list[Bin] = []
    for bundle in sorted(bundles, key=lambda one: -_size(one.resources)):
        barred = used if gang.strategy is GangStrategy.STRICT_SPREAD else []
        chosen = _put(bundle, trial, candidates, budget, barred=barred)
        if chosen is None:
            return bins, f"placement group of {len(gang.bundles)} ({gang.strategy.value}): {_why(bundle, candidates)}"
        used.append(chosen)
    return trial, ""


def _labels(gang: Gang) -> Mapping[str, str]:
    return {key: value for bundle in gang.bundles for key, value in bundle.labels.items()}


def _put(
    one: Demand, bins: list[Bin], candidates: Sequence[Candidate], budget: Budget, barred: Sequence[Bin] = ()
) -> Bin | None:
    """Put one request into the fullest bin that has room, or into a new one; return the bin."""
    fitting = [b for b in bins if matches(one, b.labels) and fits(one.resources, b.free) and b not in barred]
    if fitting:
        chosen = min(fitting, key=lambda b: _size(b.free))
        chosen.free = minus(chosen.free, one.resources)
        return chosen
    new = _cheapest(one, bins, candidates, budget)
    if new is None:
        return None
    opened = Bin(group=new.group, free=minus(new.resources, one.resources), labels=new.labels, candidate=new)
    bins.append(opened)
    return opened


def _cheapest(one: Demand, bins: list[Bin], candidates: Sequence[Candidate], budget: Budget) -> Candidate | None:
    """Return the candidate that costs least per request of this kind that it could hold."""
    opened = [b.candidate for b in bins if b.candidate is not None]
    best: tuple[float, float, str] | None = None
    choice: Candidate | None = None
    for candidate in candidates:
        if not matches(one, candidate.labels) or not fits(one.resources, candidate.resources):
            continue
        if sum(1 for other in opened if other.group == candidate.group) >= candidate.room:
            continue
        if not budget.allows([*opened, candidate]):
            continue
        each = candidate.cost / _holds(candidate.resources, one.resources, one.count)
        rank = (each, candidate.cost, candidate.group)
        if best is None or rank < best:
            best, choice = rank, candidate
    return choice


def _holds(room: Resources, need: Resources, most: int) -> int:
    counts = [int(room.get(name, 0.0) / amount + 1e-9) for name, amount in need.items() if amount > 0]
    return max(1, min([*counts, max(1, most)]))


def matches(one: Demand, labels: Mapping[str, str]) -> bool:
    """Tell whether a node with these labels meets all label selectors of a request."""
    return all(selects(selector, labels.get(key)) for key, selector in one.labels.items())


def selects(selector: str, value: str | None) -> bool:
    """Tell whether a node's label meets one of Ray's label selectors: ``x``, ``!x``, ``in(x,y)`` or ``!in(x,y)``.

    A node without the label meets the negative ones. Source: Ray's documentation of label selectors.
    """
    negative = selector.startswith("!")
    text = selector.removeprefix("!").strip()
    listed = text.startswith("in(") and text.endswith(")")
    wanted = [part.strip() for part in text[3:-1].split(",")] if listed else [text]
    return (value in wanted) is not negative


def _size(resources: Resources) -> float:
    """Order requests: GPUs weigh most, then CPUs, then memory."""
    memory = resources.get("memory", 0.0) / 4e9
    rest = sum(amount for name, amount in resources.items() if name not in ("CPU", "GPU", "memory"))
    return resources.get("GPU", 0.0) * 16 + resources.get("CPU", 0.0) + memory + rest


def _show(one: Demand) -> str:
    parts = [f"{name}={amount:g}" for name, amount in sorted(one.resources.items())]
    return " ".join([*parts, *(f"[{key}={value}]" for key, value in sorted(one.labels.items()))]) or "nothing"


def _why(one: Demand, candidates: Sequence[Candidate]) -> str:
    if not candidates:
        return "no worker group may grow now; raise max_nodes or add a group"
    if not any(matches(one, candidate.labels) for candidate in candidates):
        return "no worker group has these labels"
    if not any(fits(one.resources, candidate.resources) for candidate in candidates):
        return "no worker group that may grow has a node so large; add one"
    return "max_nodes, max_resources or max_price_per_hour is reached; raise it"
