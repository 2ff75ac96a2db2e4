"""What a provider must do with a capability that it does not declare: refuse it by its id, and change nothing.

One probe per capability: it makes the call that needs the capability, as if it were there. ``None``: nothing can be called.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta

import attrs

from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect_equal, expect_error
from anyscale_core.errors import Unsupported
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.identity import Access
from anyscale_core.models.networking import EndpointSpec
from anyscale_core.models.storage import UrlMethod

Probe = Callable[[Context], object]


def _instance(**fields: object) -> Probe:
    def probe(ctx: Context) -> object:
        it = ctx.subject("cluster")
        return it.create(attrs.evolve(it.spec(), **fields))

    return probe


def _made(subject: str) -> Probe:
    def probe(ctx: Context) -> object:
        it = ctx.subject(subject)
        return it.create(attrs.evolve(it.spec(), adopt=None))

    return probe


def _adopted(ctx: Context) -> object:
    subject = next(name for name in ("networking", "storage", "identity") if ctx.has_slot(name))
    it = ctx.subject(subject)
    return it.create(attrs.evolve(it.spec(), adopt="conformance-adopts-this"))


def _credentials(ctx: Context) -> object:
    return ctx.identity.credentials(ctx.name(), owner=ctx.owner, deadline=ctx.deadline())


def _signed_url(ctx: Context) -> object:
    return ctx.storage.signed_url(
        ctx.name(),
        "key",
        method=UrlMethod.GET,
        expires_in=timedelta(minutes=1),
        owner=ctx.owner,
        deadline=ctx.deadline(),
    )


def _grant(ctx: Context) -> object:
    return ctx.storage.grant(
        ctx.name(), "a/", identity=ctx.name(), access=Access.READ, owner=ctx.owner, token=ctx.token(),
        deadline=ctx.deadline(),
    )  # fmt: skip


def _expose(ctx: Context) -> object:
    it, owner = ctx.subject("networking.endpoint"), ctx.owner
    spec = EndpointSpec(name=ctx.name(), owner=owner, network=ctx.name(), target_address="10.0.0.9", target_port=8443)
    return it.create(spec)


PROBES: Mapping[str, Probe | None] = {
    "cluster.batch": lambda ctx: ctx.cluster.create(
        [ctx.subject("cluster").spec() for _ in range(2)], token=ctx.token(), deadline=ctx.deadline()
    ),
    "cluster.spot": _instance(market_type=MarketType.SPOT),
    "cluster.zones": _instance(zones=("conformance-zone",)),
    "cluster.images": _instance(image_uri="registry.invalid/conformance:1"),
    "cluster.volumes": _instance(volume="conformance-volume"),
    "cluster.notices": None,
    "cluster.quotas": lambda ctx: ctx.cluster.quotas(deadline=ctx.deadline()),
    "identity.create": _made("identity"),
    "identity.credentials": _credentials,
    "identity.prove": lambda ctx: ctx.identity.prove("conformance", subject=ctx.name(), deadline=ctx.deadline()),
    "identity.binds_instance": None,
    "storage.signed_urls": _signed_url,
    "storage.grants": _grant,
    "networking.expose": _expose,
    "networking.create": _made("networking"),
    "adopt": _adopted,
}
"""By capability id."""


def verify_refusal(ctx: Context, capability: str) -> None:
    """Fail the check unless the capability is refused by its id, for the whole call or for its one item, and nothing changes."""
    probe = PROBES.get(capability)
    if probe is None:
        return
    with ctx.unwritten(f"the refused call for {capability}"):
        with expect_error(Unsupported, when=f"asking for {capability}, which is not declared,") as caught:
            probe(ctx)
        expect_equal(caught.error.reason, capability, "the reason of Unsupported, which names the capability,")
