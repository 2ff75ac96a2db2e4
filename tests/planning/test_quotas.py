"""What quotas leave: how much a node takes, what is admitted, and why the rest waits."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyscale_core.models.actions import CreateNodes
from anyscale_core.models.cluster import ClusterSpec, HeadNode, WorkerGroup
from anyscale_core.models.instance import NodeKind, Offering
from anyscale_core.models.quota import BudgetPeriod, QuotaSpec, QuotaUsage
from anyscale_core.models.resources import total
from anyscale_core.planning import quotas
from anyscale_core.planning.limits import Budget
from anyscale_core.testing.builders import a_spec, workers
from anyscale_core.testing.catalogue import OFFERINGS

NOW = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
SPEC = a_spec("demo", workers("cpu"), workers("gpu", instance_type="gpu-4"), workers("told", resources={"CPU": 1.0}))


def offering(instance_type: str) -> Offering:
    return next(one for one in OFFERINGS if one.instance_type == instance_type)


def create(group: str, count: int = 1) -> CreateNodes:
    shape = SPEC.group(group)
    assert shape is not None
    assert shape.instance_type is not None
    return CreateNodes(
        kind=NodeKind.WORKER, group=group, offering=offering(shape.instance_type), count=count, shape="", zones=(),
        reason="",
    )  # fmt: skip


def usage(name: str = "q", *, used: dict[str, float] | None = None, **fields: object) -> QuotaUsage:
    return QuotaUsage(quota=QuotaSpec(name=name, **fields), used=used or {})  # type: ignore[arg-type]


def counts(admitted: quotas.Admitted) -> dict[str, int]:
    return {action.group: action.count for action in admitted.actions}


def test_a_node_takes_the_larger_of_what_its_machine_has_and_what_ray_is_told() -> None:
    takes = quotas.charge({"CPU": 0.0, "slot": 2.0}, {"CPU": 4.0, "memory": 8.0}, 0.5)
    assert takes == {
        "nodes": 1.0, "price_per_hour": 0.5, "resources.CPU": 4.0, "resources.memory": 8.0, "resources.slot": 2.0,
    }  # fmt: skip


def test_an_accelerator_is_counted_by_the_gpus_of_the_nodes_that_have_it() -> None:
    a100 = usage(resources={"accelerator_type:A100": 10.0})
    assert counts(quotas.admit([a100], SPEC, [create("gpu", 5)])) == {"gpu": 2}
    assert counts(quotas.admit([a100], SPEC, [create("cpu", 5)])) == {"cpu": 5}


def test_actions_are_admitted_in_order_as_far_as_there_is_room_in_every_quota() -> None:
    both = [usage("cores", resources={"CPU": 60.0}), usage("nodes", nodes=3)]
    admitted = quotas.admit(both, SPEC, [create("gpu", 1), create("cpu", 5)])
    assert counts(admitted) == {"gpu": 1, "cpu": 2}
    assert list(admitted.held) == ["nodes"]
    assert [one.used for one in admitted.usage] == [{"resources.CPU": 56.0}, {"nodes": 3.0}]


def test_together_all_are_admitted_or_none() -> None:
    quota = usage(nodes=4)
    assert counts(quotas.admit_whole([quota], SPEC, [create("cpu", 2), create("told", 2)])) == {"cpu": 2, "told": 2}
    none = quotas.admit_whole([quota], SPEC, [create("cpu", 2), create("told", 3)])
    assert (none.actions, list(none.held)) == ((), ["q"])
    assert none.usage == (quota,)


def test_a_quota_that_is_exceeded_already_admits_nothing_of_what_it_limits_and_all_else() -> None:
    over = usage(resources={"GPU": 2.0}, used={"resources.GPU": 8.0})
    assert counts(quotas.admit([over], SPEC, [create("gpu"), create("cpu", 3)])) == {"cpu": 3}
    assert quotas.bound(Budget(), [over]).resources == {"GPU": 0.0}


def test_a_spent_budget_admits_nothing_and_one_that_is_not_spent_limits_no_number() -> None:
    assert counts(quotas.admit([usage(budget=5.0, used={"budget": 4.99})], SPEC, [create("cpu", 9)])) == {"cpu": 9}
    spent = quotas.admit([usage(budget=5.0, used={"budget": 5.0})], SPEC, [create("cpu", 1)])
    assert spent.actions == ()
    assert spent.held["q"] == (
        "quota 'q': the budget of 5.00 (MONTH) is spent; raise it with `anyscale-core quota set`"
    )


def test_a_spent_budget_holds_nothing_back_when_nothing_is_wanted() -> None:
    spent = usage(budget=5.0, used={"budget": 5.0})
    assert quotas.admit_whole([spent], SPEC, []).held == {}
    assert list(quotas.admit_whole([spent], SPEC, [create("cpu")]).held) == ["q"]


def test_the_budget_of_a_placement_is_the_narrowest_of_all_limits() -> None:
    limits = [usage(nodes=9, resources={"CPU": 8.0, "GPU": 1.0}, price_per_hour=3.0, used={"nodes": 2.0})]
    own = Budget(resources={"CPU": 6.0, "slot": 1.0}, price=4.0)
    assert quotas.bound(own, limits) == Budget(resources={"CPU": 6.0, "slot": 1.0, "GPU": 1.0}, price=3.0, nodes=7)
    assert quotas.bound(own, []) == own


def test_what_could_never_fit_is_named_with_the_cheapest_that_would_do() -> None:
    any_type = WorkerGroup(name="any", required_resources={"CPU": 3.0}, min_nodes=2, max_nodes=2)
    spec = ClusterSpec(name="demo", cloud="fake", head_node=HeadNode(instance_type="cpu-2"), worker_nodes=(any_type,))
    fits = QuotaSpec(name="fits", resources={"CPU": 10.0}, nodes=3, budget=0.0)
    small = QuotaSpec(name="small", resources={"CPU": 9.0}, nodes=2)
    need = quotas.least(spec, OFFERINGS, now=NOW)
    faults = quotas.never([fits, small], need, had={})
    assert [fault.message.partition(";")[0] for fault in faults] == [
        "quota 'small' allows 2 nodes, and the head and the minimums need 3 nodes",
        "quota 'small' allows 9 CPU, and the head and the minimums need 10 CPU",
    ]


@pytest.mark.parametrize(
    ("period", "began", "renews"),
    [
        (BudgetPeriod.DAY, datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)),
        (BudgetPeriod.MONTH, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)),
        (BudgetPeriod.TOTAL, None, None),
    ],
)
def test_periods_are_those_of_the_calendar(
    period: BudgetPeriod, began: datetime | None, renews: datetime | None
) -> None:
    assert (period.began(NOW), period.renews(NOW)) == (began, renews)
    if renews is not None:
        assert period.began(renews) == renews
        assert period.began(renews - timedelta(microseconds=1)) == began


AMOUNTS = st.floats(0, 500, allow_nan=False)


@given(
    nodes=st.none() | st.integers(0, 12), cpus=st.none() | AMOUNTS, price=st.none() | st.floats(0, 60),
    used=st.fixed_dictionaries({"nodes": AMOUNTS, "resources.CPU": AMOUNTS, "price_per_hour": AMOUNTS}),
    wanted=st.lists(st.tuples(st.sampled_from(["cpu", "gpu", "told"]), st.integers(1, 9)), max_size=4),
)  # fmt: skip
def test_what_is_admitted_never_exceeds_a_limit_and_one_more_node_would(
    nodes: int | None, cpus: float | None, price: float | None, used: dict[str, float], wanted: list[tuple[str, int]]
) -> None:
    resources = {} if cpus is None else {"CPU": cpus}
    quota = usage(nodes=nodes, price_per_hour=price, resources=resources, used=used)
    asked = [create(group, count) for group, count in wanted]
    admitted = quotas.admit([quota], SPEC, asked)
    limits, taken = quota.quota.limits, total(quotas.takes(SPEC, one, one.count) for one in admitted.actions)
    for path, limit in limits.items():
        assert taken.get(path, 0.0) <= max(0.0, limit - used[path]) + 1e-6
    if sum(action.count for action in admitted.actions) < sum(count for _, count in wanted):
        assert list(admitted.held) == ["q"]
        assert any(quotas.room(admitted.usage[0], quotas.takes(SPEC, create(group))) == 0 for group, _ in wanted), (
            "it says that there is no room, and there is none"
        )
    else:
        assert admitted.held == {}
