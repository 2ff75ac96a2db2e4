"""The cheapest fleet of a small problem, by looking at every one: what larger ones are measured by, and repaired with."""

from collections.abc import Iterator

import attrs

from anyscale_core.planning.packing import Fleet, Load, Packer, Pattern

STEPS = 20_000
"""Contents of a node that are looked at before the search is given up."""

Counts = tuple[int, ...]


class TooMuch(Exception):
    """The problem is not small."""


@attrs.frozen(kw_only=True)
class _Choice:
    """How the rest is packed best: (what is unmet, dollars per hour), and the first node of it."""

    score: tuple[float, float]
    node: tuple[int, Counts] | None
    rest: "_Key | None"


_Key = tuple[Counts, int, tuple[float, ...]]


def cheapest(packer: Packer, *, steps: int = STEPS) -> Fleet | None:
    """Return the fleet that leaves least over and of these costs least; None when that would take more than ``steps``.

    What is left over counts by what it would cost alone, so that a large request weighs more than a small one.
    """
    search = _Search(packer, until=packer.steps + steps)
    start = (
        tuple(item.count for item in packer.problem.items),
        0,
        tuple(packer.problem.limits[limit] for limit in search.limits),
    )
    if search.least_steps(start[0]) > steps:
        return None
    try:
        search.best(start)
    except TooMuch:
        return None
    return search.fleet(start)


class _Search:
    """Depth first with memory over (what is left, kinds that are there already and passed, limits left).

    The first item that is left goes onto some node together with some of what is left, or stays unmet: so each fleet is
    looked at in one order of its nodes only.
    """

    def __init__(self, packer: Packer, *, until: int) -> None:
        self.packer, self.until = packer, until
        self.limits = sorted(packer.binding)
        place = {limit: i for i, limit in enumerate(self.limits)}
        self.uses = [[(place[limit], a) for limit, a in uses] for uses in packer.uses]
        self.weights = packer.standalone()
        self.seen: dict[_Key, _Choice] = {}

    def least_steps(self, counts: Counts) -> int:
        """Return how many contents there are at least."""
        out = 1
        for count in counts:
            out *= count + 1
        return out

    def best(self, key: _Key) -> _Choice:
        found = self.seen.get(key)
        if found is None:
            found = self.seen[key] = self._best(key)
        return found

    def _best(self, key: _Key) -> _Choice:
        left, passed, limits = key
        if not any(left):
            return _Choice(score=(0.0, 0.0), node=None, rest=None)
        if passed < len(self.packer.free):
            return self._there(key)
        first = next(s for s, count in enumerate(left) if count)
        # Unmet: this one and all that are equal to it.
        without = (*left[:first], 0, *left[first + 1 :])
        rest: _Key = (without, passed, limits)
        score = self.best(rest).score
        best = _Choice(score=(score[0] + self.weights[first] * left[first], score[1]), node=None, rest=rest)
        for k in self.packer.paid:
            after = self._after(k, limits)
            if first not in self.packer.fits[k] or after is None:
                continue
            cost = self.packer.problem.kinds[k].cost
            for content in self._contents(k, left, first):
                best = self._better(best, k, content, cost, (_less(left, content), passed, after))
        return best

    def _there(self, key: _Key) -> _Choice:
        """A node that is there already: it takes something, or is passed over."""
        left, passed, limits = key
        k = self.packer.free[passed]
        rest: _Key = (left, passed + 1, limits)
        best = _Choice(score=self.best(rest).score, node=None, rest=rest)
        after = self._after(k, limits)
        if after is not None:
            for content in self._contents(k, left, None):
                best = self._better(best, k, content, 0.0, (_less(left, content), passed, after))
        return best

    def _better(self, best: _Choice, k: int, content: Counts, cost: float, rest: _Key) -> _Choice:
        unmet, price = self.best(rest).score
        score = (unmet, price + cost)
        if (round(score[0], 9), round(score[1], 9)) < (round(best.score[0], 9), round(best.score[1], 9)):
            return _Choice(score=score, node=(k, content), rest=rest)
        return best

    def _after(self, k: int, limits: tuple[float, ...]) -> tuple[float, ...] | None:
        """Return the limits with one more node of a kind; None when they do not allow it."""
        out = list(limits)
        for limit, amount in self.uses[k]:
            out[limit] = round(out[limit] - amount, 9)
            if out[limit] < 0:
                return None
        return tuple(out)

    def _contents(self, k: int, left: Counts, first: int | None) -> Iterator[Counts]:
        """Yield what one node may hold, fullest first: contents that leave no room for more of what is left."""
        packer = self.packer
        fitting = [s for s in packer.fits[k] if left[s]]
        taken = [0] * len(left)

        def go(position: int, free: list[int]) -> Iterator[Counts]:
            packer.steps += 1
            if packer.steps > self.until:
                raise TooMuch
            if position == len(fitting):
                full = all(
                    taken[s] == left[s] or any(amount > free[r] for r, amount in packer.needs[s]) for s in fitting
                )
                if full and any(taken):
                    yield tuple(taken)
                return
            s = fitting[position]
            most = left[s]
            for r, amount in packer.needs[s]:
                most = min(most, free[r] // amount)
            for n in range(most, -1 if s != first else 0, -1):
                taken[s] = n
                room = list(free)
                for r, amount in packer.needs[s]:
                    room[r] -= amount * n
                yield from go(position + 1, room)
            taken[s] = 0

        yield from go(0, list(packer.problem.kinds[k].room))

    def fleet(self, start: _Key) -> Fleet:
        """Return the fleet of the best choices from the start."""
        nodes: dict[tuple[int, Pattern], int] = {}
        left = list(start[0])
        key: _Key | None = start
        while key is not None:
            choice = self.seen[key]
            if choice.node is not None:
                k, content = choice.node
                pattern = tuple((s, n) for s, n in enumerate(content) if n)
                nodes[k, pattern] = nodes.get((k, pattern), 0) + 1
                left = [a - b for a, b in zip(left, content, strict=True)]
            key = choice.rest
        return self.packer.fleet([Load(kind=k, pattern=p, nodes=n) for (k, p), n in nodes.items()], left)


def _less(left: Counts, content: Counts) -> Counts:
    return tuple(a - b for a, b in zip(left, content, strict=True))
