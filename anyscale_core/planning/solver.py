"""HiGHS, where it is installed (the extra ``solver``): a lower bound for any fleet, and better fleets by linear programs.

Loaded when it is first used. Effort is counted in programs and contents, never in seconds, so that equal problems have
equal answers on any machine.
"""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anyscale_core.planning.packing import Fleet, Load, Packer, Pattern, Problem

if TYPE_CHECKING:
    from highspy import Highs

INFINITE = float("inf")

ENOUGH = 1.002
"""A fleet at most so many times the bound is as good as proven: nothing is tried to better it."""

ROUNDS = 80
MORE_ROUNDS = 2
"""Programs that new contents are sought after, at the start and for each part that is fixed."""

PARTS = 60
SHARE = 8
"""One in so many of the contents that the solution wants a part of is fixed at once."""

STARTS = 4
PRICED = 8
"""Kinds of nodes that contents are sought for after a program, the most hopeful; more only while these have none."""

GAIN = 1e-4
"""The least gain, as a part of a node's cost, for which new contents are worth a place in the program."""

UNMET = 1000.0
"""What leaving an item over costs in a program, as a multiple of its value."""


def installed() -> bool:
    """Tell whether HiGHS can be loaded."""
    return importlib.util.find_spec("highspy") is not None


def bound(problem: Problem) -> float:
    """Return dollars per hour that no fleet which leaves nothing over can cost less than.

    The bound of a linear program: requests may be cut in pieces, and so may nodes. Limits of the problem are left out.
    """
    packer = Packer(problem)
    solver = _new()
    cover: list[list[tuple[int, float]]] = [[] for _ in problem.items]
    rows: list[list[tuple[int, float]]] = []
    columns = 0
    for k in [*packer.free, *packer.paid]:
        kind, node = problem.kinds[k], columns
        most = min((problem.limits[limit] / amount for limit, amount in packer.uses[k]), default=INFINITE)
        solver.addCol(kind.cost, 0.0, most if kind.cost <= 0 else INFINITE, 0, [], [])
        columns += 1
        uses: dict[int, list[tuple[int, float]]] = {r: [] for s in packer.fits[k] for r, _ in packer.needs[s]}
        for s in packer.fits[k]:
            solver.addCol(0.0, 0.0, INFINITE, 0, [], [])
            cover[s].append((columns, 1.0))
            for r, amount in packer.needs[s]:
                uses[r].append((columns, amount / kind.room[r]))
            columns += 1
        rows += [[*parts, (node, -1.0)] for parts in uses.values()]
    for parts in rows:
        solver.addRow(-INFINITE, 0.0, len(parts), [i for i, _ in parts], [a for _, a in parts])
    for item, parts in zip(problem.items, cover, strict=True):
        solver.addRow(float(item.count), INFINITE, len(parts), [i for i, _ in parts], [a for _, a in parts])
    solver.run()
    return float(solver.getInfo().objective_function_value)


def improve(packer: Packer, best: Fleet, fleets: Sequence[Fleet], values: Sequence[float]) -> Fleet:
    """Return the greater part of a fleet that linear programs asked for; what it leaves over has still to be packed.

    What a program wants whole nodes of is fixed, part by part, and the program is solved again for the rest. A fleet that
    is proven to be good enough is returned as it is.
    """
    if not any(best.left) and best.cost <= ENOUGH * bound(packer.problem):
        return best
    return _Columns(packer, values, fleets).fleet()


class _Columns:
    """A linear program over contents of nodes, and the search for contents that would better it (column generation)."""

    def __init__(self, packer: Packer, values: Sequence[float], fleets: Sequence[Fleet]) -> None:
        self.packer, problem = packer, packer.problem
        self.left = [item.count for item in problem.items]
        self.limits = {limit: problem.limits[limit] for limit in sorted(packer.binding)}
        self.row = {limit: len(self.left) + i for i, limit in enumerate(self.limits)}
        self.columns: dict[tuple[int, Pattern], int] = {}
        self.solver = _new()
        for count in self.left:
            self.solver.addRow(float(count), INFINITE, 0, [], [])
        for amount in self.limits.values():
            self.solver.addRow(-INFINITE, amount, 0, [], [])
        for s, value in enumerate(values):
            self.solver.addCol(UNMET * value, 0.0, INFINITE, 1, [s], [1.0])
        for fleet in fleets:
            for load in fleet.loads:
                self._add(load.kind, load.pattern)

    def fleet(self) -> Fleet:
        loads: list[Load] = []
        self._generate(ROUNDS)
        for _ in range(PARTS):
            parts = self._fix()
            if not parts:
                break
            loads += parts
            self._generate(MORE_ROUNDS)
        return self.packer.fleet(loads, self.left)

    def _generate(self, rounds: int) -> None:
        """Solve, and add contents that are worth more than their node costs at the prices of the solution; again."""
        kinds = [*self.packer.free, *self.packer.paid]
        for _ in range(rounds):
            self.solver.run()
            prices = list(self.solver.getSolution().row_dual)
            worths = [max(price, 1e-9) for price in prices[: len(self.left)]]
            hopes = []
            for k in kinds:
                order, most = self.packer.ranked(k, worths)
                cost = self.packer.problem.kinds[k].cost - self._limit_price(k, prices)
                if most > cost * (1 + GAIN):
                    hopes.append((cost - most, k, cost, order))
            new = 0
            for i, (_, k, cost, order) in enumerate(sorted(hopes)):
                if i >= PRICED and new:
                    break
                pattern, worth = self.packer.fill(k, self.left, worths, order, starts=STARTS, near=len(worths))
                if pattern and worth > cost * (1 + GAIN):
                    new += self._add(k, pattern)
            if not new:
                break
        self.solver.run()

    def _limit_price(self, k: int, prices: Sequence[float]) -> float:
        """Return what a node of a kind is credited for the limits that it uses: nothing, or less."""
        return sum(prices[self.row[limit]] * amount for limit, amount in self.packer.uses[k])

    def _add(self, k: int, pattern: Pattern) -> bool:
        """Give contents a place in the program; False when they have one."""
        if (k, pattern) in self.columns:
            return False
        self.columns[k, pattern] = len(self.left) + len(self.columns)
        entries = [*((s, float(n)) for s, n in pattern), *((self.row[limit], a) for limit, a in self.packer.uses[k])]
        cost = self.packer.problem.kinds[k].cost
        self.solver.addCol(cost, 0.0, INFINITE, len(entries), [i for i, _ in entries], [a for _, a in entries])
        return True

    def _fix(self) -> list[Load]:
        """Fix the whole nodes of the solution; without any, those that it wants most of. Empty when nothing fits what is left."""
        wanted = list(self.solver.getSolution().col_value)
        ranked = sorted(((-wanted[column], k, pattern) for (k, pattern), column in self.columns.items()))
        whole = [(int(-amount + 1e-6), k, pattern) for amount, k, pattern in ranked if -amount >= 1 - 1e-6]
        some = [(1, k, pattern) for amount, k, pattern in ranked if -amount >= 1e-6]
        loads: list[Load] = []
        for times, k, pattern in whole or some[: 1 + len(some) // SHARE]:
            times = min([times, *(self.left[s] // n for s, n in pattern), *self._allowed(k)])
            if times <= 0:
                continue
            loads.append(Load(kind=k, pattern=pattern, nodes=times))
            for s, n in pattern:
                self.left[s] -= n * times
            for limit, amount in self.packer.uses[k]:
                self.limits[limit] -= amount * times
        for s, count in enumerate(self.left):
            self.solver.changeRowBounds(s, float(count), INFINITE)
        for limit, amount in self.limits.items():
            self.solver.changeRowBounds(self.row[limit], -INFINITE, amount)
        return loads

    def _allowed(self, k: int) -> list[int]:
        return [int(self.limits[limit] / amount + 1e-9) for limit, amount in self.packer.uses[k]]


def _new() -> "Highs":
    import highspy

    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (("output_flag", False), ("threads", 1), ("random_seed", 0)):
        solver.setOptionValue(option, value)
    return solver
