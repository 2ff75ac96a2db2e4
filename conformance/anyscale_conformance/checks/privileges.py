"""X-PRIV: the least permissions, and that they are the ones used."""

from functools import partial
from typing import Any

from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import Level, Uses, check
from anyscale_conformance.subjects import ALL, LASTING, MAIN
from anyscale_core.drivers.layers import OFFLINE, verbs_of
from anyscale_core.errors import CloudError, InvalidRequest, PermissionDenied
from anyscale_core.models.identity import Permission
from anyscale_core.registry import INTERFACES


@check("X-PRIV-01", slots=("identity",), uses=(Uses.WIRE,))
def every_request_is_declared(ctx: Context) -> None:
    """Uses everything that the drivers make and maps each request on the wire to a permission that is declared for it."""
    declared = {permission.action for permission in permissions(ctx)}
    use_everything(ctx)
    used = {ctx.kit.permission_of(request.action) for request in ctx.plan.requests}
    missing = sorted(action for action in used if action and action not in declared)
    expect(not missing, f"{', '.join(missing)} are used and not declared")


@check("X-PRIV-02", slots=("identity",))
def no_wildcards(ctx: Context) -> None:
    """Reads the permissions of every feature: no action is a wildcard, each says for which feature and why, twice alike."""
    found = permissions(ctx)
    expect(found, "no permission is declared at all")
    for permission in found:
        expect("*" not in permission.action, f"{permission.feature} declares the wildcard {permission.action}")
        expect(permission.resource.strip() not in ("", "*"), f"{permission.action} is declared for everything there is")
        expect(permission.reason and permission.feature, f"{permission.action} does not say what it is for")
    expect_equal(permissions(ctx), found, "the permissions when they are asked for again")


@check("X-PRIV-03", slots=("identity",), uses=(Uses.WIRE,), level=Level.SHOULD)
def nothing_is_declared_in_vain(ctx: Context) -> None:
    """Uses everything, and looks for permissions of create, get, list and delete that no request used."""
    use_everything(ctx)
    used = {ctx.kit.permission_of(request.action) for request in ctx.plan.requests}
    verbs = {f"{slot}.{verb}" for slot in ctx.provider.slots() for verb in ("create", "get", "list", "delete")}
    idle = sorted({each.action for each in permissions(ctx) if each.feature in verbs} - used - ctx.kit.unseen)
    expect(not idle, f"{', '.join(idle)} are declared and never used")


@check("X-PRIV-04", on=ALL, uses=(Effect.REFUSE,))
def a_missing_permission_is_named(ctx: Context) -> None:
    """Forbids each write of a create; the error names what is missing, nothing is left, and with the right it works."""
    it = ctx.it
    for position in ctx.positions(it):
        spec, token = it.spec(), ctx.token()
        before = {item.key for item in ctx.inventory()}
        ctx.inject(Effect.REFUSE, at=position, category=PermissionDenied, reason="POLICY")
        with expect_error(PermissionDenied, when=f"a create whose write {position} is forbidden") as caught:
            it.create(spec, token=token)
        error = caught.error
        asked = {request.action for request in ctx.plan.requests if request.is_write}
        names = {it.create_action} | asked | {ctx.kit.permission_of(action) for action in asked}
        words = f"{error.message} {error.hint}"
        expect(error.hint or any(name in words for name in names), f"the error does not name what is missing: {error}")
        left = [str(item) for item in ctx.inventory() if item.key not in before]
        listed = (
            {part.name for part in _parts(it.listed())}
            if it.name in LASTING
            else {item.name for item in ctx.inventory()}
        )
        lost = [text for text in left if text.split(" ", 1)[1] not in listed]
        expect(not lost, f"a forbidden create left {', '.join(lost)}")
        repeat(partial(it.create, spec, token=token))


@check("X-PRIV-05", slots=(), uses=(Uses.JOURNAL,))
def reading_only_reads(ctx: Context) -> None:
    """Calls every verb that reads, on things that are there, and looks for writes on the wire and in the cloud."""
    things = [(ctx.subject(name), ctx.subject(name).make()) for name in MAIN if ctx.makes(name)]
    with ctx.unwritten("reading"):
        for it, thing in things:
            it.get(it.key(thing))
            it.list()
        if ctx.has_slot("cluster"):
            ctx.cluster.offerings(deadline=ctx.deadline())
        if ctx.has_slot("cluster") and ctx.provider.capabilities.has("cluster.quotas"):
            ctx.cluster.quotas(deadline=ctx.deadline())
        if ctx.has_slot("networking") and ctx.makes("networking"):
            network = next(thing.name for it, thing in things if it.slot == "networking")
            ctx.networking.check(network, owner=ctx.owner, deadline=ctx.deadline())


def permissions(ctx: Context) -> tuple[Permission, ...]:
    """Return what is declared for every feature that the identity driver knows, offline."""
    found: list[Permission] = []
    before = len(ctx.plan.requests)
    for slot, interface in sorted(INTERFACES.items()):
        for verb in sorted(verbs_of(interface) - OFFLINE):
            try:
                found += ctx.identity.permissions([f"{slot}.{verb}"])
            except InvalidRequest:
                # A feature of a slot that this provider does not know; its own must be there.
                expect(slot not in ctx.provider.slots(), f"no permissions are declared for {slot}.{verb}")
    if ctx.carrier.is_on_wire:
        expect_equal(len(ctx.plan.requests), before, "the requests made so far after reading the permissions")
    return tuple(found)


def use_everything(ctx: Context) -> None:
    """Make, get, list and delete one of everything."""
    for name in LASTING:
        if ctx.makes(name):
            it = ctx.subject(name)
            key = it.key(it.make())
            it.get(key)
            it.list()
            try:
                it.delete_and_wait(key)
            except CloudError as error:
                expect(False, f"deleting a {it.kind} that nothing uses raised {error}")


def _parts(things: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part for thing in things for part in getattr(thing, "instances", (thing,)))
