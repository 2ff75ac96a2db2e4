"""The search for a cheap fleet: every way that is worth its effort is tried, and the best answer counts.

Small problems are looked through in full (``exact``). Larger ones are packed in rounds, then repaired where nodes are used
least, then compared with fleets of a single kind. A solver, where there is one, goes on from there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import attrs

from anyscale_core.planning import exact
from anyscale_core.planning.packing import Fleet, Load, Packer, Pattern, Problem

ROUNDS = 6
EFFORT = 60_000
"""Steps of packing after which no further round begins."""

REPAIR = 8_000
SOLVED_REPAIR = 80_000
"""Steps of packing after which no further pool of badly used nodes is packed anew; after a solver there is more time."""

POOL = 9
POOL_STEPS = 2_000
"""Requests in a pool that is looked through in full, and the steps after which that is given up."""

POOLS = (2, 3, 5, 8, 13)
"""Nodes in the pools that are packed anew."""

Improve = Callable[[Packer, Fleet, Sequence[Fleet], Sequence[float]], Fleet]
"""From the best fleet, all fleets that were found and the values of the items: a fleet, or the greater part of one."""


def cheapest(problem: Problem, *, improve: Improve | None = None) -> Fleet:
    """Return a fleet that leaves as little over as was found, and of those the cheapest. Equal problems, equal answers."""
    packer = Packer(problem)
    found = exact.cheapest(packer)
    if found is not None:
        return found
    return _Search(packer).run(improve)


class _Search:
    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self.alone = packer.standalone()
        self.values: Sequence[float] = self.alone
        self.fleets: list[Fleet] = []

    def run(self, improve: Improve | None) -> Fleet:
        self._rounds()
        if any(self._best().left):
            self._stretch()
        self._single_kinds()
        best = self._repaired(self._best())
        if improve is not None and best.cost:
            part = improve(self.packer, best, self.fleets, self.alone)
            best = min(best, self._repaired(self._repacked(part, ()) or part, steps=SOLVED_REPAIR), key=self.score)
        return best

    def score(self, fleet: Fleet) -> tuple[float, float]:
        """Return what is compared: how much is left over, by what it would cost alone; then dollars per hour."""
        return round(sum(n * value for n, value in zip(fleet.left, self.alone, strict=True)), 9), round(fleet.cost, 9)

    def _best(self) -> Fleet:
        return min(self.fleets, key=self.score)

    def _rounds(self) -> None:
        """Pack by what was learned from the round before: with few starts first, with all where there is time for it."""
        values: Sequence[float] = self.alone
        packer, starts, spent = self.packer, 1, 0
        for _ in range(ROUNDS):
            before = packer.steps
            fleet = packer.pack(values, starts=starts)
            spent = max(spent, (packer.steps - before) // starts)
            if not self.fleets or self.score(fleet) < self.score(self._best()):
                self.values = values
            self.fleets.append(fleet)
            if not fleet.cost or packer.steps + spent > EFFORT:
                return
            starts = max(1, min(len(packer.problem.limits) + 8, (EFFORT - packer.steps) // max(spent, 1)))
            if len(self.fleets) > 1:
                values = packer.learn(fleet, values)

    def _stretch(self) -> None:
        """Limits are reached: rank nodes by how much of the limits they use instead of what they cost."""
        packer = self.packer
        limits = packer.problem.limits
        costs = {
            k: sum(amount / limits[limit] for limit, amount in packer.uses[k] if limits[limit] > 0) or 1e-9
            for k in packer.paid
        }
        for values in (self.alone, self.values):
            self.fleets.append(packer.pack(values, costs=costs))

    def _single_kinds(self) -> None:
        """Fleets of one kind of new node, where their whole nodes alone might cost less than the best so far."""
        packer, kinds = self.packer, self.packer.problem.kinds
        asked = self._beyond_what_is_there()
        for k in packer.paid:
            room = kinds[k].room
            nodes = max((-(-amount // has) for amount, has in zip(asked, room, strict=True) if has), default=0)
            if len(packer.fits[k]) == len(self.alone) and nodes * kinds[k].cost < self._best().cost:
                sizes = _sizes(packer.problem)
                self.fleets += [packer.pack(self.alone, kinds=(k,)), packer.pack(sizes, kinds=(k,))]

    def _beyond_what_is_there(self) -> list[int]:
        """Return how much of each resource new nodes must have at least."""
        problem = self.packer.problem
        asked = [0] * len(problem.items[0].need) if problem.items else []
        for item in problem.items:
            asked = [total + item.count * amount for total, amount in zip(asked, item.need, strict=True)]
        for k in self.packer.free:
            kind = problem.kinds[k]
            nodes = int(min((problem.limits[limit] / amount for limit, amount in kind.uses), default=1.0))
            asked = [total - nodes * amount for total, amount in zip(asked, kind.room, strict=True)]
        return [max(0, amount) for amount in asked]

    def _repaired(self, fleet: Fleet, *, steps: int = REPAIR) -> Fleet:
        """Take the nodes whose content is worth least for their cost, pack what they hold anew, and keep what is better."""
        until = self.packer.steps + steps
        improved = True
        while improved:
            improved = False
            for pool in self._pools(fleet):
                if self.packer.steps > until:
                    return fleet
                better = self._repacked(fleet, pool)
                if better is not None:
                    fleet, improved = better, True
                    break
        return fleet

    def _pools(self, fleet: Fleet) -> Iterator[list[Load]]:
        """Yield nodes that are used badly: few, then more of them, from the worst one on."""
        paid = [load for load in fleet.loads if self.packer.problem.kinds[load.kind].cost > 0]
        nodes = [
            attrs.evolve(load, nodes=1)
            for load in sorted(paid, key=self._use)
            for _ in range(min(load.nodes, POOLS[-1]))
        ]
        for size in POOLS:
            for start in range(0, min(len(nodes), 2 * size), max(1, size // 2)):
                pool = nodes[start : start + size]
                if len(pool) == min(size, len(nodes)):
                    yield pool

    def _use(self, load: Load) -> tuple[float, int]:
        worth = sum(n * self.values[s] for s, n in load.pattern)
        return worth / self.packer.problem.kinds[load.kind].cost, load.kind

    def _repacked(self, fleet: Fleet, pool: Sequence[Load]) -> Fleet | None:
        """Pack what a pool of nodes holds, and what is left over, anew; None when that is no better."""
        packer, problem = self.packer, self.packer.problem
        counts, limits = list(fleet.left), list(problem.limits)
        taken: Counter[tuple[int, Pattern]] = Counter()
        for load in pool:
            taken[load.kind, load.pattern] += 1
            for s, n in load.pattern:
                counts[s] += n
        kept = [attrs.evolve(load, nodes=load.nodes - taken[load.kind, load.pattern]) for load in fleet.loads]
        kept = [load for load in kept if load.nodes]
        for load in kept:
            for limit, amount in packer.uses[load.kind]:
                limits[limit] -= amount * load.nodes
        items = [s for s, n in enumerate(counts) if n]
        part = packer.part(items, [counts[s] for s in items], limits)
        found = exact.cheapest(part, steps=POOL_STEPS) if sum(counts) <= POOL else None
        values = ([self.values[s] for s in items], [self.alone[s] for s in items])
        tries = [found] if found is not None else [part.pack(each) for each in values]
        packer.steps += part.steps + len(items) * len(packer.paid)
        best = min((self._joined(kept, one, items) for one in tries), key=self.score)
        return best if self.score(best) < self.score(fleet) else None

    def _joined(self, kept: Sequence[Load], part: Fleet, items: Sequence[int]) -> Fleet:
        """Return the fleet of what was kept and a part that was packed anew. ``items``: those of the part."""
        left = [0] * len(self.alone)
        for s, n in zip(items, part.left, strict=True):
            left[s] = n
        new = [
            Load(
                kind=self.packer.paid[load.kind],
                pattern=tuple((items[s], n) for s, n in load.pattern),
                nodes=load.nodes,
            )
            for load in part.loads
        ]
        return self.packer.fleet([*kept, *new], left)


def _sizes(problem: Problem) -> list[float]:
    """Return the items' largest shares of the largest amounts asked: packed by these, the large go first."""
    most = [max(column) or 1 for column in zip(*(item.need for item in problem.items), strict=True)]
    return [
        max((a / m for a, m in zip(item.need, most, strict=True)), default=0.0) ** 2 + 1e-9 for item in problem.items
    ]
