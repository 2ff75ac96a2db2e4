"""C-CAP, C-SPOT: what the cloud has not got, and what it takes back."""

from functools import partial

import attrs

from anyscale_conformance.checks.cluster import until_running
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error, expect_no_error, expect_one
from anyscale_conformance.rules import Hand, check
from anyscale_core.errors import CapacityUnavailable, QuotaExceeded, Retry, Scope
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.instance import InstanceState, NoticeKind, Offering, Quota

LIMIT = 3


@check("C-CAP-01", slots=("cluster",), uses=(Hand.SELL_OUT,))
def a_stockout_is_told(ctx: Context) -> None:
    """Sells a type out in one zone and then everywhere; nothing is made where the spec did not allow it."""
    it = ctx.subject("cluster")
    spec = it.spec()
    zones = _zones(ctx, spec.instance_type)
    if len(zones) > 1 and ctx.provider.capabilities.has("cluster.zones"):
        _sold_out_in_one(ctx, zones)
    ctx.hand(Hand.SELL_OUT)(spec.instance_type)
    when = "creating what is sold out"
    with ctx.untouched(when), expect_error(CapacityUnavailable, when=when) as caught:
        it.create(spec)
    _expect_useful(caught.error)
    may_be_zonal = len(zones) == 1 or len(spec.zones) == 1
    expect(caught.error.scope is not Scope.ZONE or may_be_zonal, "a stockout of every zone is told as one of a zone")


@check("C-CAP-02", slots=("cluster",), uses=(Hand.LIMIT,))
def a_spent_quota_is_told(ctx: Context) -> None:
    """Fills the account to its limit, which must be possible, and asks for one more; then deletes one and asks again."""
    it = ctx.subject("cluster")
    ctx.hand(Hand.LIMIT)(LIMIT)
    ctx.restart()
    for count in range(LIMIT):
        try:
            last = it.make()
        except QuotaExceeded as error:
            raise CheckFailed(
                f"instance {count + 1} of {LIMIT} that the account may have was refused: {error}"
            ) from error
    when = f"creating one more than the {LIMIT} that the account may have"
    for _ in range(2):
        with ctx.untouched(when), expect_error(QuotaExceeded, when=when) as caught:
            it.make()
    spent = caught.error
    if not isinstance(spent, QuotaExceeded):  # for the type checker: expect_error lets nothing else through
        raise TypeError(spent)
    expect_equal((spent.limit, spent.used), (LIMIT, LIMIT), "(limit, used) in the error of a spent quota")
    expect(spent.metric, "the error of a spent quota does not name the metric")
    expect(
        spent.retry in (Retry.ELSEWHERE, Retry.AFTER_FIX, Retry.NEVER), f"a spent quota says retry={spent.retry.value}"
    )
    if ctx.provider.capabilities.has("cluster.quotas"):
        _expect_quota(ctx, spent.metric, LIMIT)
        it.delete_for_good(last.id)
        _expect_quota(ctx, spent.metric, LIMIT - 1)
        it.make()


@check("C-CAP-03", slots=("cluster",), uses=(Hand.SELL_OUT,))
def the_catalogue_hides_nothing(ctx: Context) -> None:
    """Reads the catalogue, sells a type out and reads it again; the same is listed, once, and marked as not to be had."""
    before = _catalogue(ctx)
    sold_out = ctx.subject("cluster").spec().instance_type
    ctx.hand(Hand.SELL_OUT)(sold_out)
    after = _catalogue(ctx)
    expect_equal(sorted(after, key=str), sorted(before, key=str), "what the catalogue lists after a stockout")
    for key, offering in after.items():
        was = before[key]
        if offering.instance_type != sold_out:
            expect_equal(offering, was, "an offering that is not sold out")
            continue
        is_told = not ctx.kit.stock_is_told or not offering.available
        expect(is_told, f"{sold_out} is sold out in {offering.zone}, and listed as available")
        expect_equal(
            attrs.evolve(offering, available=was.available), was, "what else the catalogue says of the sold out"
        )


@check("C-CAP-04", slots=("cluster",), uses=(Hand.OVERBOOK,))
def a_late_stockout_is_told(ctx: Context) -> None:
    """Lets the cloud accept what it has none of; the instance never runs, shows the stockout as an error, and can be deleted."""
    it = ctx.subject("cluster")
    spec = it.spec()
    ctx.hand(Hand.OVERBOOK)(spec.instance_type)
    instance = it.create(spec)
    expect_equal(instance.failure, None, "the failure of an instance that the cloud has just accepted")
    ctx.eventually(
        lambda: it.get(instance.id).state is InstanceState.STOPPED, "an instance that never ran to be STOPPED"
    )
    for shown in (it.get(instance.id), expect_one(it.listed(), "instances in the list, one of which never ran,")):
        told = isinstance(shown.failure, CapacityUnavailable)
        expect(told, f"the failure of an instance that was sold out after all is {shown.failure!r}")
        _expect_useful(shown.failure)
        expect(shown.reason, "an instance that never ran is shown without a reason")
    it.delete_for_good(instance.id)
    expect_equal(ctx.inventory("instance"), (), "the instances after one that never ran was deleted")


@check("C-SPOT-01", slots=("cluster",), needs=("cluster.spot", "cluster.notices"), uses=(Hand.ANNOUNCE, Hand.KILL))
def the_interruption_is_announced(ctx: Context) -> None:
    """Announces the end of one of two SPOT instances; it shows a notice while it runs, the other none, and then it goes."""
    it = ctx.subject("cluster")
    doomed, safe = (
        until_running(ctx, it.create(attrs.evolve(it.spec(), market_type=MarketType.SPOT))) for _ in range(2)
    )
    for instance in (doomed, safe):
        expect_equal(instance.market_type, MarketType.SPOT, "the market of an instance that was asked for as SPOT")
        expect_equal(instance.notice, None, "the notice of an instance that nobody takes back")
    ctx.hand(Hand.ANNOUNCE)(doomed.name)
    ctx.eventually(lambda: it.get(doomed.id).notice is not None, "the notice of an instance that is taken back")
    for shown in (it.get(doomed.id), *(instance for instance in it.listed() if instance.id == doomed.id)):
        expect_equal(shown.state, InstanceState.RUNNING, "the state of an instance whose end is only announced")
        if shown.notice is None:
            raise CheckFailed("the list shows no notice for an instance that `get` shows one for")
        expect_equal(shown.notice.kind, NoticeKind.PREEMPTION, "the kind of the notice")
        expect(shown.notice.at is not None and shown.notice.at.tzinfo, f"the notice says when: {shown.notice.at!r}")
    expect_equal(it.get(safe.id).notice, None, "the notice of the instance that stays")
    ctx.hand(Hand.KILL)(doomed.name)
    ctx.eventually(partial(it.is_gone, doomed.id), "an instance that was taken back to be gone")
    expect_equal(it.names(), (safe.name,), "the names in the list after one instance was taken back")
    expect_equal(it.get(safe.id).state, InstanceState.RUNNING, "the state of the instance that stays")


def _sold_out_in_one(ctx: Context, zones: tuple[str, ...]) -> None:
    """Sell the first zone out: a spec that names it alone is refused, one that names more goes on in the spec's order."""
    it = ctx.subject("cluster")
    out, *others = zones
    ctx.hand(Hand.SELL_OUT)(it.spec().instance_type, out)
    when = f"creating in {out}, which is sold out, and nowhere else"
    with ctx.untouched(when), expect_error(CapacityUnavailable, when=when) as caught:
        it.create(attrs.evolve(it.spec(), zones=(out,)))
    _expect_useful(caught.error)
    expect_equal(caught.error.scope, Scope.ZONE, "the scope of a stockout in one zone")
    for wanted in ((others[-1],), (out, others[-1]), (out, *reversed(others)), ()):
        with expect_no_error(f"creating in zones {wanted or 'of any name'} with {out} sold out"):
            instance = it.create(attrs.evolve(it.spec(), zones=wanted))
        first = next((zone for zone in wanted if zone != out), None)
        expect(first is None or instance.zone == first, f"zones {wanted} with {out} sold out led to {instance.zone}")
        expect(instance.zone != out, f"an instance is said to be in {out}, where nothing is to be had")


def _expect_useful(error: object) -> None:
    """Fail unless a stockout says how far it reaches and that it is no use to ask again in place."""
    if not isinstance(error, CapacityUnavailable):
        raise TypeError(error)
    expect(error.scope is not Scope.REQUEST, "a stockout does not say how far it reaches: its scope is the request")
    expect(error.reason, "a stockout has no reason")
    expect(error.retry is Retry.ELSEWHERE, f"a stockout says retry={error.retry.value}, not elsewhere")


def _expect_quota(ctx: Context, metric: str, used: int) -> None:
    found = [quota for quota in ctx.cluster.quotas(deadline=ctx.deadline()) if quota.metric == metric]
    expect_equal(len(found), 1, f"the number of quotas for {metric}, which an error named")
    quota: Quota = found[0]
    expect_equal((quota.limit, quota.used), (LIMIT, used), f"(limit, used) of the quota {metric}")


def _catalogue(ctx: Context) -> dict[tuple[str, str, MarketType], Offering]:
    offerings = ctx.cluster.offerings(deadline=ctx.deadline())
    by_key = {(each.instance_type, each.zone, each.market_type): each for each in offerings}
    expect_equal(len(by_key), len(offerings), "the number of different offerings in a catalogue that lists each once")
    return by_key


def _zones(ctx: Context, instance_type: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(zone for type, zone, _ in _catalogue(ctx) if type == instance_type))
