"""Which nodes to start for which requests: free room first, then nodes on their way, then new ones, for the fewest dollars.

Placement groups start whole or not at all. Equal requests are handled as one. docs/decisions/0010 says how good the
answer is and what is guaranteed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

from anyscale_core.models.node import Demand, Gang, GangStrategy
from anyscale_core.models.resources import Resources
from anyscale_core.planning import search
from anyscale_core.planning.limits import Budget, Candidate, Limits
from anyscale_core.planning.packing import Fleet, Item, Kind, Problem
from anyscale_core.planning.requests import Request, size, units

TIE = 1e-6
"""Dollars per hour and CPU (or as much of another resource): of equally cheap nodes the smaller one is taken."""


@attrs.frozen(kw_only=True)
class Bin:
    """A node with room: one that exists, is coming, or (``candidate``) has been decided on and counts against limits."""

    group: str
    free: Resources
    labels: Mapping[str, str]
    name: str = ""
    candidate: Candidate | None = None


@attrs.frozen(kw_only=True)
class Held:
    """``count`` equal requests on one node. ``gang``: the index of the STRICT_SPREAD gang that they are bundles of."""

    request: Request
    count: int
    gang: int | None = None


@attrs.frozen(kw_only=True)
class Filled:
    """``nodes`` nodes that hold the same: new ones of a candidate, or (``bin``) one that there is."""

    candidate: Candidate | None
    bin: Bin | None
    nodes: int
    holds: tuple[Held, ...]


@attrs.frozen(kw_only=True)
class Unmet:
    """``count`` requests that no node was found for, or one gang, with the request of it that is hardest to place."""

    request: Request
    count: int
    gang: Gang | None = None


@attrs.frozen(kw_only=True)
class Placement:
    """``filled``: what each node holds, for the nodes that hold anything of this. ``unmet``: what no node was found for."""

    filled: tuple[Filled, ...] = ()
    unmet: tuple[Unmet, ...] = ()

    @property
    def new(self) -> tuple[Candidate, ...]:
        """The nodes to start, one by one."""
        return tuple(one.candidate for one in self.filled if one.candidate is not None for _ in range(one.nodes))

    @property
    def price_per_hour(self) -> float:
        """Dollars per hour that the new nodes add."""
        return sum(one.nodes * one.candidate.price_per_hour for one in self.filled if one.candidate is not None)


def place(
    demand: Sequence[Demand], gangs: Sequence[Gang], *, room: Iterable[Bin], candidates: Sequence[Candidate],
    budget: Budget, overhead: float = 0.0, improve: search.Improve | None = None,
) -> Placement:  # fmt: skip
    """Return the nodes to start so that as much as possible is met, for the fewest dollars found.

    ``overhead``: dollars per hour that each node counts beside its price. ``improve``: a solver that goes on from the
    greedy answer. Equal input, in any order, gives an equal answer.
    """
    requests: Counter[Request] = Counter()
    for one in demand:
        requests[Request.of(one)] += one.count
    yard = _Yard(room=tuple(room), candidates=candidates, budget=budget, overhead=overhead, improve=improve)
    spread = [i for i, gang in enumerate(gangs) if gang.strategy is GangStrategy.STRICT_SPREAD]
    pooled = [i for i, gang in enumerate(gangs) if gang.strategy is not GangStrategy.STRICT_SPREAD]
    answers = [_Attempt(yard, gangs).spread(spread).pool(pooled, requests)]
    if spread and (pooled or requests):
        answers.append(_Attempt(yard, gangs).pool(pooled, requests).spread(spread))
    return min(answers, key=lambda answer: answer.score()).placement()


@attrs.frozen(kw_only=True)
class _Node:
    """``nodes`` nodes that are alike: one that is there already (``bin``), or of the candidate with this index."""

    candidate: int | None
    bin: Bin | None
    nodes: int
    free: Mapping[str, int]
    labels: Mapping[str, str]
    holds: tuple[Held, ...] = ()


class _Yard:
    """What does not change while a placement is worked out."""

    def __init__(
        self, *, room: Sequence[Bin], candidates: Sequence[Candidate], budget: Budget, overhead: float,
        improve: search.Improve | None,
    ) -> None:  # fmt: skip
        self.candidates = sorted(candidates, key=_order)
        self.improve = improve
        decided = [one.candidate for one in room if one.candidate is not None]
        self.limits = Limits(self.candidates, budget, spent=decided)
        self.rooms = [units(candidate.resources) for candidate in self.candidates]
        self.costs = [
            candidate.price_per_hour + overhead + TIE * (1.0 + size(candidate.resources))
            for candidate in self.candidates
        ]
        self.nodes = [
            _Node(candidate=None, bin=one, nodes=1, free=units(one.free), labels=one.labels)
            for one in sorted(room, key=lambda one: (one.name, sorted(one.free.items()), sorted(one.labels.items())))
        ]

    def new(self, c: int) -> _Node:
        """Return a new node of a candidate, empty."""
        return _Node(candidate=c, bin=None, nodes=1, free=self.rooms[c], labels=self.candidates[c].labels)

    def left(self, nodes: Iterable[_Node]) -> dict[tuple[str, ...], float]:
        """Return what the new ones of these nodes leave of the limits."""
        return self.limits.after(
            (self.candidates[one.candidate], one.nodes) for one in nodes if one.candidate is not None
        )


class _Attempt:
    """One order of doing things: nodes as they fill up, and what could not be placed."""

    def __init__(self, yard: _Yard, gangs: Sequence[Gang]) -> None:
        self.yard, self.gangs = yard, gangs
        self.nodes: list[_Node] = list(yard.nodes)
        self.unmet: list[Unmet] = []

    def score(self) -> tuple[float, float, int]:
        """Return what is compared: how much is not met, dollars per hour, nodes."""
        new = [(one.candidate, one.nodes) for one in self.nodes if one.candidate is not None]
        return (
            round(sum(one.count * (0.001 + one.request.size) for one in self.unmet), 6),
            round(sum(nodes * self.yard.costs[c] for c, nodes in new), 9),
            sum(nodes for _, nodes in new),
        )

    def placement(self) -> Placement:
        """Return what has come of it."""
        filled = (
            Filled(
                candidate=None if one.candidate is None else self.yard.candidates[one.candidate],
                bin=one.bin,
                nodes=one.nodes,
                holds=one.holds,
            )
            for one in self.nodes
            if one.holds
        )
        return Placement(filled=tuple(filled), unmet=tuple(self.unmet))

    # -- requests that share nodes -------------------------------------------------------------------------------------

    def pool(self, gangs: Sequence[int], requests: Counter[Request]) -> "_Attempt":
        """Place these gangs and requests. When not all can be, gangs come first, each whole or not at all."""
        nodes, left = self._packed(requests + self._bundles(gangs))
        if not left or not gangs:
            self.nodes = nodes
        else:
            whole = self._whole(gangs)
            self.nodes, _ = self._packed(self._bundles(whole))
            self.unmet += [_unmet_gang(self.gangs[i]) for i in gangs if i not in whole]
            self.nodes, left = self._packed(requests)
        self.unmet += [Unmet(request=request, count=count) for request, count in sorted(left.items())]
        return self

    def _bundles(self, gangs: Iterable[int]) -> Counter[Request]:
        """Return what gangs ask for. What must be on one node is one request; SPREAD is met like PACK, as far as it goes."""
        out: Counter[Request] = Counter()
        for i in gangs:
            gang = self.gangs[i]
            if gang.strategy is GangStrategy.STRICT_PACK:
                out[Request.together(gang.bundles)] += 1
                continue
            for bundle in gang.bundles:
                out[Request.of(bundle)] += bundle.count
        return out

    def _whole(self, gangs: Sequence[int]) -> list[int]:
        """Return the gangs that fit together, whole: of those that do not the later half is given up, again and again."""
        kept = list(gangs)
        while kept:
            asked = self._bundles(kept)
            _, left = self._packed(asked)
            if not left:
                break
            met, short = asked - left, list[int]()
            for i in kept:
                needed = self._bundles([i])
                if needed <= met:
                    met -= needed
                else:
                    short.append(i)
            given_up = set(short[len(short) // 2 :])
            kept = [i for i in kept if i not in given_up]
        return kept

    def _packed(self, asked: Counter[Request]) -> tuple[list[_Node], Counter[Request]]:
        """Return the nodes with these requests on them, new ones among them, and what is left of the requests."""
        if not asked:
            return self.nodes, Counter()
        table = _Table(self.yard, self.nodes, asked)
        fleet = search.cheapest(table.problem, improve=self.yard.improve)
        left = Counter({request: n for request, n in zip(table.requests, fleet.left, strict=True) if n})
        return table.nodes_of(fleet), left

    # -- bundles that must be apart ------------------------------------------------------------------------------------

    def spread(self, gangs: Sequence[int]) -> "_Attempt":
        """Place STRICT_SPREAD gangs: every bundle on a node of its own."""
        for i in gangs:
            nodes = self._apart(i)
            if nodes is None:
                self.unmet.append(_unmet_gang(self.gangs[i]))
            else:
                self.nodes = nodes
        return self

    def _apart(self, gang: int) -> list[_Node] | None:
        """Return the nodes with the bundles of a gang on them, each on another one; None when they do not all fit."""
        nodes, used = list(self.nodes), list[_Node]()
        bundles = [Request.of(bundle) for bundle in self.gangs[gang].bundles for _ in range(bundle.count)]
        for request in sorted(bundles, key=lambda request: (-request.size, request)):
            fitting = [i for i, one in enumerate(nodes) if request.matches(one.labels) and request.fits(one.free)]
            if fitting:
                chosen = nodes.pop(min(fitting, key=lambda i: (size(nodes[i].free), i)))
                if chosen.nodes > 1:
                    nodes.append(attrs.evolve(chosen, nodes=chosen.nodes - 1))
            else:
                new = self._cheapest(request, [*nodes, *used])
                if new is None:
                    return None
                chosen = self.yard.new(new)
            used.append(_holding(chosen, [Held(request=request, count=1, gang=gang)], nodes=1))
        return [*nodes, *used]

    def _cheapest(self, request: Request, nodes: Sequence[_Node]) -> int | None:
        """Return the cheapest candidate that may be started now and holds the request."""
        yard = self.yard
        left = yard.left(nodes)
        fitting = (
            c
            for c, candidate in enumerate(yard.candidates)
            if request.matches(candidate.labels)
            and request.fits(yard.rooms[c])
            and not yard.limits.reached(candidate, left)
        )
        return min(fitting, key=lambda c: (yard.costs[c], c), default=None)


class _Table:
    """One problem of packing: requests and nodes as numbers, and the way back."""

    def __init__(self, yard: _Yard, nodes: Sequence[_Node], asked: Counter[Request]) -> None:
        self.yard, self.nodes = yard, nodes
        self.requests = sorted(asked, key=lambda request: (-request.size, request))
        self.names = sorted({name for request in self.requests for name, _ in request.needs})
        self.selectors = sorted({request.selectors for request in self.requests})
        left = yard.left(nodes)
        place = {limit: i for i, limit in enumerate(sorted(left))}
        limits = [left[limit] for limit in place]
        self.alike: dict[tuple[tuple[int, ...], tuple[bool, ...]], list[_Node]] = {}
        for one in nodes:
            self.alike.setdefault((self._vector(one.free), self._met(one.labels)), []).append(one)
        kinds: list[Kind] = []
        met: list[tuple[bool, ...]] = []
        for (room, meets), members in self.alike.items():
            kinds.append(Kind(room=room, cost=0.0, uses=((len(limits), 1.0),)))
            limits.append(float(sum(one.nodes for one in members)))
            met.append(meets)
        for candidate, has, cost in zip(yard.candidates, yard.rooms, yard.costs, strict=True):
            uses = tuple((place[limit], amount) for limit, amount in yard.limits.uses(candidate).items())
            kinds.append(Kind(room=self._vector(has), cost=cost, uses=uses))
            met.append(self._met(candidate.labels))
        allowed = [frozenset(k for k, meets in enumerate(met) if meets[i]) for i in range(len(self.selectors))]
        self.problem = Problem(
            items=tuple(
                Item(
                    need=self._vector(dict(request.needs)),
                    count=asked[request],
                    kinds=allowed[self.selectors.index(request.selectors)],
                )
                for request in self.requests
            ),
            kinds=tuple(kinds),
            limits=tuple(limits),
        )

    def nodes_of(self, fleet: Fleet) -> list[_Node]:
        """Return the nodes as a fleet fills them, those that it leaves alone among them."""
        members = [list(reversed(alike)) for alike in self.alike.values()]
        out: list[_Node] = []
        for load in fleet.loads:
            holds = [Held(request=self.requests[s], count=n) for s, n in load.pattern]
            if load.kind >= len(members):
                out.append(_holding(self.yard.new(load.kind - len(members)), holds, nodes=load.nodes))
                continue
            wanted = load.nodes
            while wanted:
                one = members[load.kind].pop()
                taken = min(wanted, one.nodes)
                wanted -= taken
                out.append(_holding(one, holds, nodes=taken))
                if one.nodes > taken:
                    members[load.kind].append(attrs.evolve(one, nodes=one.nodes - taken))
        return [*(one for rest in members for one in rest), *out]

    def _vector(self, amounts: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(max(0, amounts.get(name, 0)) for name in self.names)

    def _met(self, labels: Mapping[str, str]) -> tuple[bool, ...]:
        return tuple(Request((), selectors).matches(labels) for selectors in self.selectors)


def _holding(one: _Node, holds: Sequence[Held], *, nodes: int) -> _Node:
    """Return so many of these nodes, holding this as well."""
    free = dict(one.free)
    for held in holds:
        for name, amount in held.request.needs:
            free[name] = free.get(name, 0) - amount * held.count
    return attrs.evolve(one, nodes=nodes, free=free, holds=(*one.holds, *holds))


def _unmet_gang(gang: Gang) -> Unmet:
    hardest = max((Request.of(bundle) for bundle in gang.bundles), key=lambda request: (request.size, request))
    request = Request.together(gang.bundles) if gang.strategy is GangStrategy.STRICT_PACK else hardest
    return Unmet(request=request, count=1, gang=gang)


def _order(candidate: Candidate) -> tuple[object, ...]:
    offering = candidate.offering
    return (
        candidate.price_per_hour, size(candidate.resources), candidate.group, offering.instance_type, offering.zone,
        offering.market_type.value,
    )  # fmt: skip
