"""X-OWN: whose a thing is, and who may see and touch it."""

from functools import partial

import attrs

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import Hand, Uses, check
from anyscale_conformance.subjects import ALL, ENDPOINT, LASTING, MAIN, Subject
from anyscale_core.errors import InvalidRequest, NotFound
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import RESERVED_TAGS, TAG_NAME

ADOPTABLE = {"identity": "identity", "storage": "bucket", "networking": "network"}


@check("X-OWN-01", on=ALL, uses=(Uses.WIRE, Effect.CRASH_AFTER))
def tagged_by_the_creating_call(ctx: Context) -> None:
    """Dies after each write of a create and looks at once: whatever exists says whose it is."""
    it = ctx.it
    for position in ctx.positions(it):
        spec = it.spec()
        before = {item.key for item in ctx.inventory()}
        ctx.inject(Effect.CRASH_AFTER, at=position)
        expect(ctx.crash(partial(it.create, spec)), f"the crash after write {position} did not end the call")
        new = [item for item in ctx.inventory() if item.key not in before]
        for item in new:
            expect(
                item.kind in ctx.kit.untaggable or ctx.owner.owns(item.tags),
                f"right after write {position} of creating a {it.name}, {item} has not the owner's tags: {dict(item.tags)}",
            )


@check("X-OWN-02", on=LASTING)
def foreign_things_are_left_alone(ctx: Context) -> None:
    """Lets another control plane, and another cluster of ours, have things; they are not listed, got, changed or deleted."""
    it = ctx.it
    ours = it.make()
    other_cluster = attrs.evolve(ctx.owner, cluster=ClusterId(f"{ctx.owner.cluster}b"))
    for whose, owner in (("a stranger's", ctx.stranger), ("another cluster's", other_cluster)):
        theirs = it.make(owner=owner)
        before = [item.essence for item in ctx.inventory(owner=owner)]
        own = [part.name for part in getattr(ours, "instances", (ours,))]
        expect_equal(it.names(), tuple(sorted(own)), f"the {it.kind}s in our list, beside {whose},")
        foreign = tuple(sorted(part.name for part in getattr(theirs, "instances", (theirs,))))
        expect_equal(it.names(owner=owner), foreign, f"the {it.kind}s in the list of {whose} owner")
        with expect_error(NotFound, when=f"getting {whose} {it.kind}"):
            it.get(it.key(theirs))
        expect_equal(it.delete(it.key(theirs)), Deletion.ALREADY_ABSENT, f"our delete of {whose} {it.kind}")
        after = [item.essence for item in ctx.inventory(owner=owner)]
        expect_equal(after, before, f"what {whose} owner has after our delete of its {it.kind}")
        it.delete_for_good(it.key(theirs), owner=owner)
    plane = attrs.evolve(ctx.owner, cluster=None)
    wanted = sorted(part.name for part in getattr(ours, "instances", (ours,)))
    expect_equal(it.names(owner=plane), tuple(wanted), f"the {it.kind}s in the list of the whole control plane")


@check("X-OWN-03", on=("storage.grant", ENDPOINT))
def the_untaggable_goes_with_its_parent(ctx: Context) -> None:
    """Makes children that may carry no tag, takes away what they hang on, and looks for what is left of them."""
    it = ctx.it
    it.make()
    tagged = all(ctx.owner.owns(item.tags) for item in ctx.inventory(it.kind))
    expect(
        tagged or it.kind in ctx.kit.untaggable, f"a {it.kind} has no tags, and the kit does not list it as untaggable"
    )
    if it.name == ENDPOINT:
        network = it.list()[0]
        shown = [
            endpoint.name
            for net in ctx.networking.list(ctx.owner, deadline=ctx.deadline())
            for endpoint in net.endpoints
        ]
        expect_equal(shown, [network.name], "the endpoints that are shown through their network")
        return
    bucket = ctx.subject("storage").list()[0].name
    ctx.storage.delete(bucket, owner=ctx.owner, deadline=ctx.deadline())
    ctx.eventually(lambda: not ctx.inventory(it.kind), "the grants on a bucket to go with it")


@check("X-OWN-04", on=tuple(ADOPTABLE), needs=("adopt",), uses=(Hand.OFFER,))
def adopted_only_when_named_and_never_deleted(ctx: Context) -> None:
    """Adopts what does not exist, then what does; lets go of it, and looks whether the customer still has it."""
    it = ctx.it
    kind = ADOPTABLE[it.name]
    when = f"adopting a {kind} that is not there"
    with ctx.untouched(when), expect_error(NotFound, InvalidRequest, when=when):
        it.create(attrs.evolve(it.spec(), adopt=ctx.hand(Hand.OFFER)(f"no {kind}")))
    theirs = ctx.hand(Hand.OFFER)(kind)
    before = ctx.inventory()
    thing = it.create(attrs.evolve(it.spec(), adopt=theirs))
    expect(thing.adopted, f"an adopted {kind} does not say that it is adopted")
    expect(it.get(it.key(thing)).adopted, f"`get` of an adopted {kind} does not say that it is adopted")
    plain = it.make()
    expect(not plain.adopted, f"a {kind} that we made says that it is adopted")
    it.delete_for_good(it.key(plain))
    it.delete_for_good(it.key(thing))
    ctx.expect_inventory(before, f"adopting a {kind} and letting go of it")


@check("X-OWN-05", on=LASTING)
def tags_outlive_changes(ctx: Context) -> None:
    """Looks at the owner's tags after repeats, time, and every change that the contract knows."""
    it, token = ctx.it, ctx.token()
    spec = it.spec()
    it.create(spec, token=token)
    expect_tagged(ctx, it, "after the create")
    it.create(spec, token=token)
    ctx.pass_window("consistency.list")
    expect_tagged(ctx, it, "after a repeat")
    if it.name == ENDPOINT:
        it.create(attrs.evolve(spec, target_port=spec.target_port + 1))
        expect_tagged(ctx, it, "after a move to another target")
    if Hand.STOP in ctx.hands and it.slot == "cluster":
        for item in ctx.inventory(it.kind):
            ctx.hand(Hand.STOP)(item.name)
        expect_tagged(ctx, it, "after a stop")


@check("X-OWN-06", on=MAIN)
def user_tags_do_not_take_over(ctx: Context) -> None:
    """Gives every reserved tag as a tag of the user's; it is refused, or ours wins."""
    it = ctx.it
    spec = it.retagged(it.spec(), dict.fromkeys(sorted(RESERVED_TAGS), "stolen") | {"team": "blue"})
    try:
        thing = it.create(spec)
    except InvalidRequest:
        expect_equal(ctx.inventory(it.kind), (), f"the {it.kind}s after a refused create")
        return
    item = ctx.inventory(it.kind)[0]
    stolen = sorted(key for key, value in item.tags.items() if value == "stolen" and key != TAG_NAME)
    expect(not stolen, f"a tag of the user's took the place of {', '.join(stolen)}")
    expect(ctx.owner.owns(item.tags), f"{item} has not the owner's tags")
    expect_equal(thing.owner, ctx.owner, "the owner that the driver shows")


def expect_tagged(ctx: Context, it: Subject, when: str) -> None:
    """Fail the check unless everything of the subject's kind has the owner's tags, for the oracle and for the driver."""
    items = ctx.inventory(it.kind)
    if not items:
        raise CheckFailed(f"there is no {it.kind} {when}")
    for item in items:
        expect(item.kind in ctx.kit.untaggable or ctx.owner.owns(item.tags), f"{item} has not the owner's tags {when}")
    single = ctx.subject("cluster") if it.slot == "cluster" else it
    for thing in it.listed():
        expect_equal(thing.owner, ctx.owner, f"the owner of {thing.name} in the list {when}")
        expect_equal(
            single.get(single.key(thing)).owner, ctx.owner, f"the owner of {thing.name} as `get` shows it {when}"
        )
