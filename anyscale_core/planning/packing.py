"""Packing grouped requests into kinds of nodes for few dollars: the arithmetic below ``placement``.

Everything is counted: a pattern is what one node holds, a load is a pattern and how many nodes have it. So the work grows
with the distinct requests and the kinds of nodes, not with how many there are of each.

The method is greedy over patterns. Each request has a value, at first what it would cost on the node that suits it best.
The node whose content is worth most for its cost is taken, as often as the same content can be repeated, until nothing is
left. Then each request's value becomes what it cost in the fleet that came out, and the next round packs by these values:
what fits in beside other things becomes cheap, what spoils a node becomes dear. The best fleet of all rounds counts.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

Vector = tuple[int, ...]
"""Amounts of the problem's resources in ten-thousandths, as Ray itself counts: sums are exact."""

Pattern = tuple[tuple[int, int], ...]
"""What one node holds: (item, how many), in the order of items."""

NEAR = 32
"""How many items are weighed against each other at once while a node is filled, best first; others follow as these end."""

PART = 4
"""A node is filled in parts of what it could still hold, so that no item takes it all before the others are weighed."""

STRESS = 4.0
"""How much more one resource counts than the others, in the orders and starts that stress it."""

IRREPLACEABLE = 10.0
"""Value, as a multiple of the greatest, of an item that only nodes that are there already can hold."""


@attrs.frozen(kw_only=True)
class Item:
    """``count`` equal requests. ``kinds``: the nodes that its labels allow, by index."""

    need: Vector
    count: int
    kinds: frozenset[int]


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of node. ``cost``: dollars per hour with all that is added to the price; 0 for what is there already.

    ``uses``: (limit, amount), what each node takes of the problem's limits.
    """

    room: Vector
    cost: float
    uses: tuple[tuple[int, float], ...] = ()


@attrs.frozen(kw_only=True)
class Problem:
    """What to pack into what. ``limits``: how much there is of each thing that kinds use."""

    items: tuple[Item, ...]
    kinds: tuple[Kind, ...]
    limits: tuple[float, ...] = ()


@attrs.frozen(kw_only=True)
class Load:
    """``nodes`` nodes of one kind that hold the same."""

    kind: int
    pattern: Pattern
    nodes: int


@attrs.frozen(kw_only=True)
class Fleet:
    """Loads, their cost per hour, and how many requests of each item are left over."""

    loads: tuple[Load, ...]
    cost: float
    left: tuple[int, ...]


class Packer:
    """Packs one problem by any values. What fits where is worked out once.

    ``steps`` counts the inner steps so far: the same for equal input on any machine, and so a measure of effort that a
    decision may depend on.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.needs = [tuple((r, amount) for r, amount in enumerate(item.need) if amount > 0) for item in problem.items]
        self.binding = _binding(problem)
        self.fits = [self._fitting(k) for k in range(len(problem.kinds))]
        self.free = [k for k, kind in enumerate(problem.kinds) if kind.cost <= 0 and self.fits[k]]
        self.paid = self._undominated([k for k, kind in enumerate(problem.kinds) if kind.cost > 0 and self.fits[k]])
        self.uses = [
            tuple((limit, a) for limit, a in kind.uses if limit in self.binding and a > 0) for kind in problem.kinds
        ]
        self._densities = [self._stresses(k) for k in range(len(problem.kinds))]
        self._requests = sum(item.count for item in problem.items)
        self.steps = 0

    def standalone(self) -> list[float]:
        """Return for each item what one of it costs, on the kind of node that is cheapest for it alone."""
        values = [0.0] * len(self.needs)
        for k in self.paid:
            kind = self.problem.kinds[k]
            for s in self.fits[k]:
                share = max((amount / kind.room[r] for r, amount in self.needs[s]), default=1e-4)
                if not values[s] or kind.cost * share < values[s]:
                    values[s] = kind.cost * share
        dear = IRREPLACEABLE * max(values, default=0.0) or 1.0
        return [value or dear for value in values]

    def pack(
        self, values: Sequence[float], *, starts: int = 1, kinds: Iterable[int] | None = None,
        costs: Mapping[int, float] | None = None,
    ) -> Fleet:  # fmt: skip
        """Return a fleet that is good by these values: what is there first, then new nodes, as far as the limits go.

        ``starts``: how many ways to fill a node are compared. ``kinds``: new nodes of these alone. ``costs``: what nodes
        are ranked by instead of their cost.
        """
        left = [item.count for item in self.problem.items]
        limits = list(self.problem.limits)
        loads: list[Load] = []
        for k in self.free:
            order, _ = self.ranked(k, values)
            while (times := self._allowed(k, limits)) > 0:
                pattern, _ = self.fill(k, left, values, order)
                if not pattern:
                    break
                loads.append(self._take(k, pattern, times, left, limits))
        waiting: list[tuple[float, int, Pattern]] = []
        orders: dict[int, list[int]] = {}
        for k in self.paid if kinds is None else kinds:
            orders[k], most = self.ranked(k, values)
            waiting.append((-most / (costs or {}).get(k, self.problem.kinds[k].cost), k, ()))
        heapq.heapify(waiting)
        while waiting:
            _, k, pattern = waiting[0]
            times = self._allowed(k, limits)
            if pattern and times > 0 and all(left[s] >= n for s, n in pattern):
                loads.append(self._take(k, pattern, times, left, limits))
                continue
            pattern, worth = self.fill(k, left, values, orders[k], starts=starts) if times > 0 else ((), 0.0)
            if not pattern:
                heapq.heappop(waiting)
                continue
            heapq.heapreplace(waiting, (-worth / (costs or {}).get(k, self.problem.kinds[k].cost), k, pattern))
        return self.fleet(loads, left)

    def part(self, items: Sequence[int], counts: Sequence[int], limits: Sequence[float]) -> "Packer":
        """Return a packer of some of the items, so many of each, into new nodes; its kinds are ``paid``, in that order."""
        kinds = [self.problem.kinds[k] for k in self.paid]
        allowed = [frozenset(i for i, k in enumerate(self.paid) if k in self.problem.items[s].kinds) for s in items]
        return Packer(
            Problem(
                items=tuple(
                    Item(need=self.problem.items[s].need, count=count, kinds=kinds)
                    for s, count, kinds in zip(items, counts, allowed, strict=True)
                ),
                kinds=tuple(kinds),
                limits=tuple(limits),
            )
        )

    def fleet(self, loads: Iterable[Load], left: Sequence[int]) -> Fleet:
        """Return the fleet of these loads, equal ones added up."""
        nodes: Counter[tuple[int, Pattern]] = Counter()
        for load in loads:
            nodes[load.kind, load.pattern] += load.nodes
        cost = sum(n * self.problem.kinds[k].cost for (k, _), n in nodes.items())
        return Fleet(
            loads=tuple(Load(kind=k, pattern=pattern, nodes=n) for (k, pattern), n in nodes.items() if n),
            cost=cost,
            left=tuple(left),
        )

    def learn(self, fleet: Fleet, values: Sequence[float]) -> list[float]:
        """Return each item's value as half of what it was and half of what it cost in this fleet.

        A node's cost is shared by what its items were worth.
        """
        paid, met = [0.0] * len(values), [0] * len(values)
        for load in fleet.loads:
            worth = sum(n * values[s] for s, n in load.pattern)
            factor = load.nodes * self.problem.kinds[load.kind].cost / worth
            for s, n in load.pattern:
                paid[s] += n * values[s] * factor
                met[s] += n * load.nodes
        return [
            (value + cost / n) / 2 if n and cost else value for value, cost, n in zip(values, paid, met, strict=True)
        ]

    def fill(
        self, k: int, left: Sequence[int], values: Sequence[float], order: Sequence[int], *, starts: int = 1,
        near: int = NEAR,
    ) -> tuple[Pattern, float]:  # fmt: skip
        """Return the content of one node of kind ``k`` that is worth most of those found, and its worth.

        ``order``: the items that fit, best first. ``near``: how many are weighed against each other at once.
        """
        best: dict[int, int] = {}
        most = 0.0
        live = [s for s in order if left[s]]
        for weights in self._densities[k][:starts]:
            got, worth = self._fill_once(k, left, values, live, weights, near)
            if worth > most * (1 + 1e-12):
                best, most = got, worth
        return tuple(sorted(best.items())), most

    def _fill_once(
        self, k: int, left: Sequence[int], values: Sequence[float], live: Sequence[int], weights: Sequence[float],
        width: int,
    ) -> tuple[dict[int, int], float]:  # fmt: skip
        """Add, part by part, what is worth most for its share of what is still free. ``weights``: stress on resources."""
        needs = self.needs
        free = [room * 1.0 for room in self.problem.kinds[k].room]
        got: dict[int, int] = {}
        worth = 0.0
        near, behind = list(live[:width]), width
        while near:
            self.steps += len(near)
            best, chosen, full = -1.0, -1, False
            for s in near:
                share = 1e-9
                for r, amount in needs[s]:
                    if amount > free[r]:
                        full = True
                        break
                    share += weights[r] * amount / free[r]
                else:
                    if values[s] > best * share:
                        best, chosen = values[s] / share, s
            if chosen >= 0:
                had = got.get(chosen, 0)
                room = left[chosen] - had
                for r, amount in needs[chosen]:
                    room = min(room, int(free[r] // amount))
                n = -(-room // PART)
                got[chosen] = had + n
                worth += n * values[chosen]
                for r, amount in needs[chosen]:
                    free[r] -= amount * n
                if got[chosen] == left[chosen]:
                    near.remove(chosen)
            if full:
                near = [s for s in near if all(amount <= free[r] for r, amount in needs[s])]
            while len(near) < width and behind < len(live):
                s = live[behind]
                behind += 1
                if all(amount <= free[r] for r, amount in needs[s]):
                    near.append(s)
        return got, worth

    def _take(self, k: int, pattern: Pattern, times: int, left: list[int], limits: list[float]) -> Load:
        """Record as many nodes of a pattern as there are requests for, at most ``times``."""
        times = min(times, *(left[s] // n for s, n in pattern))
        for s, n in pattern:
            left[s] -= n * times
        for limit, amount in self.uses[k]:
            limits[limit] -= amount * times
        return Load(kind=k, pattern=pattern, nodes=times)

    def _allowed(self, k: int, limits: Sequence[float]) -> int:
        """Return how many more nodes of a kind the limits allow."""
        return min([self._requests, *(int(limits[limit] / amount + 1e-9) for limit, amount in self.uses[k])])

    def ranked(self, k: int, values: Sequence[float]) -> tuple[list[int], float]:
        """Return the items that fit a kind, best first, and more than any content of one such node can be worth.

        Under any weights of the resources that add up to one, no content is worth more than a node full of the item that
        is worth most for its weighted share. Items that are best under different weights go well together: they come in turns.
        """
        room, fitting = self.problem.kinds[k].room, self.fits[k]
        bound, ranks = float("inf"), []
        self.steps += len(fitting)
        for weights in self._densities[k]:
            scale = [weight / amount if amount else 0.0 for weight, amount in zip(weights, room, strict=True)]
            ranked = sorted(
                (-values[s] / (sum(scale[r] * amount for r, amount in self.needs[s]) or 1e-9), s) for s in fitting
            )
            bound = min(bound, -ranked[0][0] * sum(weights))
            ranks.append([s for _, s in ranked])
        return list(dict.fromkeys(s for turn in zip(*ranks, strict=True) for s in turn)), bound

    def _stresses(self, k: int) -> list[tuple[float, ...]]:
        """Return the weights of resources to try on a kind: all alike, then each one above the others."""
        width = len(self.problem.kinds[k].room)
        asked = sorted({r for s in self.fits[k] for r, _ in self.needs[s]})
        alike = tuple(1.0 if r in asked else 0.0 for r in range(width))
        if len(asked) < 2:
            return [alike]
        return [alike, *(tuple(STRESS * w if i == r else w for i, w in enumerate(alike)) for r in asked)]

    def _fitting(self, k: int) -> list[int]:
        room = self.problem.kinds[k].room
        return [
            s
            for s, item in enumerate(self.problem.items)
            if item.count and k in item.kinds and all(amount <= room[r] for r, amount in self.needs[s])
        ]

    def _undominated(self, kinds: Sequence[int]) -> list[int]:
        """Leave out kinds that another one beats: as much room or more for all that fits, at no more cost or use of limits."""
        every = self.problem.kinds
        kept: list[int] = []
        for k in sorted(kinds, key=lambda k: (every[k].cost, [-amount for amount in every[k].room], k)):
            kind, fitting = every[k], set(self.fits[k])
            uses = {limit: amount for limit, amount in kind.uses if limit in self.binding}
            for j in kept:
                other = every[j]
                if (
                    all(a >= b for a, b in zip(other.room, kind.room, strict=True))
                    and all(amount <= uses.get(limit, 0.0) for limit, amount in other.uses if limit in self.binding)
                    and fitting <= set(self.fits[j])
                ):
                    break
            else:
                kept.append(k)
        return sorted(kept)


def _binding(problem: Problem) -> frozenset[int]:
    """Return the limits that may be reached at all: no more nodes are ever started than there are requests."""
    requests = sum(item.count for item in problem.items)
    most: dict[int, float] = {}
    for kind in problem.kinds:
        for limit, amount in kind.uses:
            most[limit] = max(most.get(limit, 0.0), amount)
    return frozenset(limit for limit, amount in most.items() if amount * requests > problem.limits[limit])
