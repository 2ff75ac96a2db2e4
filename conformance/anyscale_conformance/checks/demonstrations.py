"""K-CAP-05: what it means that a declared capability works; one demonstration per capability, the simplest that tells."""

from collections.abc import Callable, Mapping
from datetime import timedelta

import attrs

from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal, expect_error
from anyscale_conformance.rules import Hand
from anyscale_core.errors import Conflict, NotFound
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.identity import Access
from anyscale_core.models.instance import Created, Deletion
from anyscale_core.models.storage import UrlMethod

Demonstration = Callable[[Context], None]


def demonstrate(ctx: Context, capability: str) -> None:
    """Use a declared capability. Raises KeyError for one that nobody has written a demonstration for."""
    DEMONSTRATIONS[capability](ctx)


def _batch(ctx: Context) -> None:
    it = ctx.subject("cluster")
    specs = [it.spec() for _ in range(3)]
    outcomes = ctx.cluster.create(specs, token=ctx.token(), deadline=ctx.deadline())
    made = [outcome.instance.name for outcome in outcomes if isinstance(outcome, Created)]
    expect_equal(made, [spec.name for spec in specs], "the names of the instances that a batch of three made")
    expect_equal(len(ctx.inventory("instance")), 3, "the number of instances after a batch of three")


def _spot(ctx: Context) -> None:
    offered = [
        o for o in ctx.cluster.offerings(deadline=ctx.deadline()) if o.market_type is MarketType.SPOT and o.available
    ]
    expect(offered, "SPOT is declared and the catalogue has no offering of it")
    it = ctx.subject("cluster")
    wanted = attrs.evolve(it.spec(), instance_type=offered[0].instance_type, market_type=MarketType.SPOT)
    expect_equal(it.create(wanted).market_type, MarketType.SPOT, "the market of an instance that was asked for as SPOT")


def _zones(ctx: Context) -> None:
    it = ctx.subject("cluster")
    spec = it.spec()
    offered = [o for o in ctx.cluster.offerings(deadline=ctx.deadline()) if o.instance_type == spec.instance_type]
    zones = sorted({offering.zone for offering in offered if offering.available})
    expect(zones, f"the catalogue names no zone for {spec.instance_type}")
    for zone in zones:
        made = it.create(attrs.evolve(it.spec(), zones=(zone,)))
        expect_equal(made.zone, zone, "the zone of an instance that was asked for in one")


def _images(ctx: Context) -> None:
    it = ctx.subject("cluster")
    expect(it.create(attrs.evolve(it.spec(), image_uri=ctx.kit.image_uri)).id, "an instance with an image has no id")


def _volumes(ctx: Context) -> None:
    it, volume = ctx.subject("cluster"), ctx.name()
    first = it.create(attrs.evolve(it.spec(), volume=volume))
    when = "a second instance with a volume that an instance has"
    with expect_error(Conflict, reason="IN_USE", when=when):
        it.create(attrs.evolve(it.spec(), volume=volume))
    with expect_error(Conflict, reason="IN_USE", when="deleting a volume that an instance has"):
        ctx.cluster.delete_volume(volume, owner=ctx.owner, deadline=ctx.deadline())
    it.delete_for_good(first.id)
    expect_equal(len(ctx.inventory("volume")), 1, "the number of volumes after the instance that had one is gone")
    second = it.create(attrs.evolve(it.spec(), volume=volume))
    expect_equal(len(ctx.inventory("volume")), 1, "the number of volumes that two instances in turn have had")
    it.delete_for_good(second.id)
    stranger = ctx.cluster.delete_volume(volume, owner=ctx.stranger, deadline=ctx.deadline())
    expect_equal(stranger, Deletion.ALREADY_ABSENT, "a stranger's delete of a volume")
    ctx.cluster.delete_volume(volume, owner=ctx.owner, deadline=ctx.deadline())
    ctx.eventually(lambda: not ctx.inventory("volume"), "the volume to be gone after its delete")
    again = ctx.cluster.delete_volume(volume, owner=ctx.owner, deadline=ctx.deadline())
    expect_equal(again, Deletion.ALREADY_ABSENT, "deleting a volume that is gone")


def _notices(ctx: Context) -> None:
    it = ctx.subject("cluster")
    # Some clouds announce to SPOT instances alone.
    market = MarketType.SPOT if ctx.provider.capabilities.has("cluster.spot") else MarketType.ON_DEMAND
    made = it.create(attrs.evolve(it.spec(), market_type=market))
    if Hand.ANNOUNCE not in ctx.hands:
        expect(it.get(made.id).notice is None, "an instance shows a notice that nobody gave")
        return
    ctx.hand(Hand.ANNOUNCE)(made.name)
    for view in (it.get(made.id), it.listed()[0]):
        expect(view.notice is not None, "an instance that the cloud announced to take back shows no notice")


def _quotas(ctx: Context) -> None:
    it = ctx.subject("cluster")
    it.make()
    quotas = ctx.cluster.quotas(deadline=ctx.deadline())
    expect(quotas, "quotas are declared and none is known")
    expect(any(quota.used > 0 for quota in quotas), "no quota counts an instance that exists")
    for quota in quotas:
        expect(quota.metric and quota.scope and quota.limit >= 0, f"a quota says not what it is of: {quota}")


def _identity(ctx: Context) -> None:
    it = ctx.subject("identity")
    made = it.make()
    expect(made.principal, "an identity has no principal to grant things to")
    expect_equal(it.get(made.name), made, "what `get` returns of an identity")


def _credentials(ctx: Context) -> None:
    made = ctx.subject("identity").make()
    found = ctx.identity.credentials(made.name, owner=ctx.owner, deadline=ctx.deadline())
    expect(found.values, "credentials have no values")
    expect(found.expires_at > ctx.clock.now(), "credentials have expired when they are handed out")
    with expect_error(NotFound, when="asking for the credentials of nobody"):
        ctx.identity.credentials(ctx.name(), owner=ctx.owner, deadline=ctx.deadline())


def _prove(ctx: Context) -> None:
    subject = ctx.kit.proving_subject(ctx)
    proof = ctx.identity.prove("https://conformance.invalid", subject=subject, deadline=ctx.deadline())
    principal = ctx.identity.verify(proof, audience="https://conformance.invalid", deadline=ctx.deadline())
    expect(principal.subject and principal.account, f"a proof names nobody: {principal}")


def _binds(ctx: Context) -> None:
    subject = ctx.kit.proving_subject(ctx)
    proof = ctx.identity.prove("https://conformance.invalid", subject=subject, deadline=ctx.deadline())
    principal = ctx.identity.verify(proof, audience="https://conformance.invalid", deadline=ctx.deadline())
    expect_equal(principal.instance, subject, "the instance that a proof names")


def _signed_urls(ctx: Context) -> None:
    bucket = ctx.subject("storage").make()
    urls = {
        method: ctx.storage.signed_url(
            bucket.name,
            "a/key",
            method=method,
            expires_in=timedelta(minutes=5),
            owner=ctx.owner,
            deadline=ctx.deadline(),
        ).reveal()
        for method in UrlMethod
    }
    expect_equal(len(set(urls.values())), len(urls), "the number of different URLs for different methods")


def _grants(ctx: Context) -> None:
    it = ctx.subject("storage.grant")
    spec = it.spec()
    grant = it.create(spec)
    expect_equal(
        (grant.bucket, grant.prefix, grant.access), (spec.bucket, spec.name, Access.WRITE), "the grant that was made"
    )
    expect(grant.store.url, "a grant does not say how to reach its prefix")


def _expose(ctx: Context) -> None:
    it = ctx.subject("networking.endpoint")
    made = it.make()
    expect_equal(tuple(way.name for way in it.list()), (made.name,), "the endpoints that their network shows")
    expect(it.delete(made.name) is not Deletion.ALREADY_ABSENT, "an endpoint was absent when it was withdrawn")


def _network(ctx: Context) -> None:
    it = ctx.subject("networking")
    made = it.make()
    expect(made.id, "a network has no id")
    expect_equal(it.get(made.name), made, "what `get` returns of a network")


def _adopt(ctx: Context) -> None:
    for name, kind in (("networking", "network"), ("storage", "bucket"), ("identity", "identity")):
        if ctx.has_slot(name) and Hand.OFFER in ctx.hands:
            it = ctx.subject(name)
            made = it.create(attrs.evolve(it.spec(), adopt=ctx.hand(Hand.OFFER)(kind)))
            expect(made.adopted, f"an adopted {kind} does not say so")


DEMONSTRATIONS: Mapping[str, Demonstration] = {
    "cluster.batch": _batch,
    "cluster.spot": _spot,
    "cluster.zones": _zones,
    "cluster.images": _images,
    "cluster.volumes": _volumes,
    "cluster.notices": _notices,
    "cluster.quotas": _quotas,
    "identity.create": _identity,
    "identity.credentials": _credentials,
    "identity.prove": _prove,
    "identity.binds_instance": _binds,
    "storage.signed_urls": _signed_urls,
    "storage.grants": _grants,
    "networking.expose": _expose,
    "networking.create": _network,
    "adopt": _adopt,
}
"""By capability id; a test compares the keys with the contract's."""
