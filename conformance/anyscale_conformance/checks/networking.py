"""N-NET: networks and ways in. What is open, public or named besides is seen by the oracle, as ``kit.Item`` says."""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import attrs

from anyscale_conformance.checks.cluster import until_running
from anyscale_conformance.checks.concurrency import at_once
from anyscale_conformance.checks.repeats import repeat
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal, expect_error, expect_no_error, expect_one
from anyscale_conformance.faults.plan import AMBIGUOUS
from anyscale_conformance.kit import Item
from anyscale_conformance.rules import Hand, check
from anyscale_conformance.subjects import ENDPOINT, Subject
from anyscale_core.errors import (
    AlreadyExists,
    CapacityUnavailable,
    CloudError,
    Conflict,
    InvalidRequest,
    NotFound,
    Scope,
)
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import CheckStatus, Endpoint, EndpointState, Network, NetworkMode

NETWORKS = ("networking.create",)
WAYS = ("networking.create", "networking.expose")
RANGE, APART = "10.200.0.0/16", "10.201.0.0/16"
OVERLAPPING = ("10.200.0.0/16", "10.200.128.0/17", "10.192.0.0/10")
LOOKS = 30
MANY = 6


@check("N-NET-01", slots=("networking",), needs=NETWORKS)
def asking_twice_gives_one(ctx: Context) -> None:
    """Asks for a network again and again with its token, also from another process, and once with another token."""
    it, token = ctx.subject("networking"), ctx.token()
    spec = it.spec()
    first = it.create(spec, token=token)
    _expect_as_asked(ctx, first, spec.name)
    with ctx.untouched("asking for the same network again"):
        for restart in (False, True, False):
            if restart:
                ctx.restart()
            expect_equal(it.create(spec, token=token), first, "what asking for a network again returned")
        with expect_error(AlreadyExists, reason="OWNED", when="asking for a network of that name with another token"):
            it.create(spec)
    expect_equal(it.get(spec.name), first, "what `get` shows of a network")
    expect_equal(expect_one(it.listed(), "networks in the list"), first, "what `list` shows of a network")


@check("N-NET-02", slots=("networking",), needs=NETWORKS)
def ranges_do_not_overlap(ctx: Context) -> None:
    """Has a network with a range, asks for the same, for a part and for a whole that holds it, and for one beside it."""
    it = ctx.subject("networking")
    try:
        it.create(attrs.evolve(it.spec(), cidr=RANGE))
    except InvalidRequest:
        # Networks of this provider have no ranges: asking for one is refused, and so none can overlap.
        expect_equal(ctx.inventory("network"), (), "the networks after a range was refused")
        return
    for cidr in OVERLAPPING:
        when = f"creating a network of {cidr} beside one of {RANGE}"
        with ctx.untouched(when), expect_error(Conflict, when=when):
            it.create(attrs.evolve(it.spec(), cidr=cidr))
    for cidr in ("not-a-range", "10.200.0.0/99"):
        with ctx.untouched(f"the range {cidr}"), expect_error(InvalidRequest, when=f"creating a network of {cidr}"):
            it.create(attrs.evolve(it.spec(), cidr=cidr))
    it.create(attrs.evolve(it.spec(), cidr=APART))
    it.make()
    expect_equal(len(ctx.inventory("network")), 3, "the number of networks: two ranges side by side, and one by choice")


@check("N-NET-03", slots=("cluster", "networking"), needs=NETWORKS, uses=(Hand.FILL,))
def a_full_subnet_is_told(ctx: Context) -> None:
    """Fills one of two networks; an instance in it is refused with the subnet's scope, and one in the other is made."""
    full, free = (ctx.subject("networking").make().name for _ in range(2))
    it = ctx.subject("cluster")
    it.create(attrs.evolve(it.spec(), network=full))
    ctx.hand(Hand.FILL)(full)
    when = "creating an instance in a network without free addresses"
    for _ in range(2):
        with (
            ctx.untouched(when),
            expect_error(CapacityUnavailable, reason="SUBNET_ADDRESSES", when=when) as caught,
        ):
            it.create(attrs.evolve(it.spec(), network=full))
        expect_equal(caught.error.scope, Scope.SUBNET, "the scope of the error about a full network")
    it.create(attrs.evolve(it.spec(), network=free))


@check("N-NET-04", slots=("networking",), needs=WAYS)
def deleted_in_order(ctx: Context) -> None:
    """Deletes a network while an endpoint, and an instance, is in it, while those go, and after; it goes last or not at all."""
    endpoint = ctx.subject(ENDPOINT)
    way = endpoint.make()
    network = expect_one(ctx.inventory("network"), "networks").name
    users = [(endpoint, endpoint.key(way), "endpoint")]
    if ctx.has_slot("cluster"):
        it = ctx.subject("cluster")
        users.append((it, it.create(attrs.evolve(it.spec(), network=network)).id, "instance"))
    while users:
        kinds = " and ".join(f"an {kind}" for _, _, kind in users)
        when = f"deleting a network with {kinds} in it"
        with ctx.untouched(when), expect_error(Conflict, reason="IN_USE", when=when):
            ctx.networking.delete(network, owner=ctx.owner, deadline=ctx.deadline())
        subject, key, kind = users.pop(0)
        subject.delete(key)
        if users:
            ctx.eventually(partial(_none_of, ctx, kind), f"the {kind} to go")
    ctx.eventually(partial(_goes, ctx, network), "a network to go once nothing is in it")
    expect_equal(ctx.inventory("network"), (), "the networks after the only one was deleted")
    expect_equal(ctx.inventory(), (), "what is left of a network and all that was in it")


@check("N-NET-05", slots=("networking",), needs=WAYS)
def changes_at_once_are_not_lost(ctx: Context) -> None:
    """Exposes several endpoints in one network at one moment, then withdraws half of them while others come."""
    it = ctx.subject(ENDPOINT)
    specs = [it.spec() for _ in range(MANY)]
    _at_once(ctx, it, [partial(it.create, spec, token=ctx.token()) for spec in specs])
    expect_equal(_ways(ctx), sorted(spec.name for spec in specs), "the endpoints after several came at once")
    more = [it.spec() for _ in range(MANY // 2)]
    comes = [partial(it.create, spec, token=ctx.token()) for spec in more]
    _at_once(ctx, it, [*comes, *(partial(it.delete, spec.name) for spec in specs[: MANY // 2])])
    kept = sorted(spec.name for spec in (*specs[MANY // 2 :], *more))
    ctx.eventually(lambda: _ways(ctx) == kept, "exactly the endpoints that were not withdrawn")
    expect_equal(sorted(endpoint.name for endpoint in it.listed()), kept, "the endpoints in the list after that")


@check("N-NET-06", slots=("networking",), needs=WAYS)
def exactly_the_wanted_rules(ctx: Context) -> None:
    """Exposes, moves and withdraws beside endpoints of others; each step changes exactly what it is about."""
    it = ctx.subject(ENDPOINT)
    beside, theirs = it.make(), it.make(owner=ctx.stranger)
    before = _keys(ctx.inventory())
    spec = it.spec()
    it.create(spec)
    exposed = ctx.inventory()
    for step in (1, 2):
        moved = attrs.evolve(spec, target_port=spec.target_port + step)
        it.create(moved)
        expect_equal(
            sorted(item.kind for item in ctx.inventory()), sorted(item.kind for item in exposed),
            "the kinds of what exists after an endpoint was moved",
        )  # fmt: skip
        _expect_moved(ctx, spec.name, moved.target_port)
    it.delete_for_good(spec.name)
    ctx.expect_inventory_of(before, "exposing, moving and withdrawing an endpoint")
    expect_equal([e.name for e in it.listed()], [beside.name], "the endpoints in our list after that")
    expect_equal([e.name for e in it.listed(owner=ctx.stranger)], [theirs.name], "the endpoints in the stranger's list")


@check("N-NET-07", slots=("networking",), needs=NETWORKS)
def nothing_comes_in_unasked(ctx: Context) -> None:
    """Makes a network, with an instance in it where there are any, and looks for rules that let anybody in."""
    network = ctx.subject("networking").make()
    expect_equal(network.endpoints, (), "the endpoints of a new network")
    if ctx.has_slot("cluster"):
        it = ctx.subject("cluster")
        until_running(ctx, it.create(attrs.evolve(it.spec(), network=network.name)))
    _expect_closed(ctx.inventory("rule"), "a new network")
    if not ctx.provider.capabilities.has("networking.expose"):
        return
    it = ctx.subject(ENDPOINT)
    way = it.create(attrs.evolve(it.spec(), network=network.name))
    it.delete_for_good(it.key(way))
    _expect_closed(ctx.inventory("rule"), "a network whose endpoint was withdrawn")


@check("N-NET-08", slots=("networking",), needs=WAYS, uses=AMBIGUOUS)
def what_is_there_already_is_a_success(ctx: Context) -> None:
    """Exposes what is exposed already, with its token and with another, and after each answer of an expose was lost."""
    it, token = ctx.subject(ENDPOINT), ctx.token()
    spec = it.spec()
    it.create(spec, token=token)
    with ctx.untouched("exposing what is exposed already"):
        for each in (token, ctx.token(), ctx.token()):
            with expect_no_error("exposing what is exposed already"):
                again = it.create(spec, token=each)
            expect_equal(again.name, spec.name, "the name of an endpoint that was there already")
    for position in ctx.positions(it):
        for effect in AMBIGUOUS:
            before = len(ctx.inventory("endpoint"))
            fault, spec, token = ctx.inject(effect, at=position), it.spec(), ctx.token()
            repeat(partial(it.create, spec, token=token))
            fault.lift()
            found = len(ctx.inventory("endpoint")) - before
            expect_equal(found, 1, f"the endpoints that came of {effect.value} at write {position} and a repeat")


@check("N-NET-09", slots=("networking",), needs=WAYS)
def addresses_are_given_back(ctx: Context) -> None:
    """Makes a public network where there are such, exposes, moves and withdraws, and deletes it; all is as it was before."""
    it = ctx.subject("networking")
    before = _keys(ctx.inventory())
    for mode in NetworkMode:
        network = _network(it, mode)
        if network is None:
            continue
        way = ctx.subject(ENDPOINT)
        spec = attrs.evolve(way.spec(), network=network.name)
        between = _keys(item for item in ctx.inventory())
        way.create(spec)
        way.create(attrs.evolve(spec, target_port=spec.target_port + 1))
        way.delete_for_good(spec.name)
        ctx.expect_inventory_of(between, f"exposing, moving and withdrawing in a {mode.value} network")
    for network in it.listed():
        it.delete_for_good(network.name)
    ctx.expect_inventory_of(before, "making networks with ways in, and deleting them all")


@check("N-NET-10", slots=("networking",), needs=WAYS)
def names_of_others_are_theirs(ctx: Context) -> None:
    """Exposes under a name that a stranger, and another cluster of ours, has; theirs stays as it is, whatever comes of ours."""
    it = ctx.subject(ENDPOINT)
    theirs = it.make(owner=ctx.stranger)
    before = _essence(ctx.inventory(owner=ctx.stranger))
    with _refusable():
        it.create(it.spec(theirs.name))
        it.create(attrs.evolve(it.spec(theirs.name), target_port=it.spec().target_port + 1))
        it.delete_for_good(theirs.name)
    expect_equal(
        _essence(ctx.inventory(owner=ctx.stranger)), before, "what the stranger has, after our endpoint of that name"
    )
    with ctx.untouched("withdrawing a stranger's endpoint"):
        expect_equal(it.delete(theirs.name), Deletion.ALREADY_ABSENT, "withdrawing a stranger's endpoint")
    sister = attrs.evolve(ctx.owner, cluster=ClusterId(f"{ctx.owner.cluster}b"))
    hers = it.create(attrs.evolve(it.spec(), owner=sister))
    with ctx.untouched("exposing and withdrawing under the name of another cluster's endpoint"):
        with expect_error(AlreadyExists, when="exposing under the name of another cluster's endpoint"):
            it.create(it.spec(hers.name))
        expect_equal(it.delete(hers.name), Deletion.ALREADY_ABSENT, "withdrawing another cluster's endpoint")


@check("N-NET-11", slots=("networking",), needs=WAYS)
def ready_means_reachable(ctx: Context) -> None:
    """Follows an endpoint, and one that was moved to where nobody answers, beside the oracle: READY only when that says so."""
    it = ctx.subject(ENDPOINT)
    spec = it.spec()
    _expect_honest(ctx, it.create(spec))
    for _ in range(LOOKS):
        _expect_honest(ctx, _seen(it, spec.name))
        ctx.pass_time(ctx.kit.patience / 1000)
    ctx.eventually(lambda: _seen(it, spec.name).state is EndpointState.READY, "an endpoint to be READY")
    ready = _seen(it, spec.name)
    _expect_honest(ctx, ready)
    expect(urlsplit(ready.url).hostname, f"a READY endpoint shows no URL to reach it by: {ready.url!r}")
    _expect_honest(ctx, it.create(attrs.evolve(spec, target_port=1)))
    for _ in range(LOOKS):
        _expect_honest(ctx, _seen(it, spec.name))
        ctx.pass_time(ctx.kit.patience / 1000)
    it.delete(spec.name)
    for shown in it.list():
        expect(shown.state is EndpointState.DELETING, f"an endpoint that is withdrawn is shown as {shown.state.value}")
        expect(not shown.url, "an endpoint that is being withdrawn still shows its URL")


@check("N-NET-12", slots=("networking",), needs=NETWORKS)
def the_private_stays_private(ctx: Context) -> None:
    """Makes a private network with an instance and a way in; no public address exists then, and none is shown."""
    it = ctx.subject("networking")
    before = _keys(ctx.inventory("address"))
    network = it.create(attrs.evolve(it.spec(), mode=NetworkMode.PRIVATE))
    expect_equal(network.mode, NetworkMode.PRIVATE, "the mode of a network that was asked for as private")
    shown: list[str] = []
    if ctx.has_slot("cluster"):
        cluster = ctx.subject("cluster")
        instance = until_running(ctx, cluster.create(attrs.evolve(cluster.spec(), network=network.name)))
        shown.append(instance.address)
    if ctx.provider.capabilities.has("networking.expose"):
        way = ctx.subject(ENDPOINT)
        spec = attrs.evolve(way.spec(), network=network.name)
        way.create(spec)
        ctx.eventually(lambda: _seen(way, spec.name).state is EndpointState.READY, "an endpoint to be READY")
        shown.append(urlsplit(_seen(way, spec.name).url).hostname or "")
    public = [address for address in shown if _is_public(address)]
    expect(not public, f"a private network shows public addresses: {', '.join(public)}")
    taken = [str(item) for item in ctx.inventory("address") if item.key not in before]
    expect(not taken, f"a private network took public addresses: {', '.join(taken)}")


@check("N-NET-13", slots=("networking",), needs=NETWORKS)
def a_look_over_helps(ctx: Context) -> None:
    """Looks a network over when it is new and, where the kit can, when something is wrong with it; and one that is not ours."""
    it = ctx.subject("networking")
    name, theirs = it.make().name, it.make(owner=ctx.stranger).name
    with ctx.unwritten("looking a network over"):
        _expect_helpful(ctx, name)
        for other in (theirs, ctx.name()):
            with expect_error(NotFound, when="looking over a network that is not there or not ours"):
                ctx.networking.check(other, owner=ctx.owner, deadline=ctx.deadline())
    if Hand.SPOIL in ctx.hands:
        ctx.hand(Hand.SPOIL)(name)
        bad = [status for status in _expect_helpful(ctx, name) if status in (CheckStatus.FAILED, CheckStatus.WARNING)]
        expect(bad, "something is wrong with a network, and looking it over shows nothing")


def _expect_as_asked(ctx: Context, network: Network, name: str) -> None:
    expect_equal((network.name, network.owner), (name, ctx.owner), "the name and the owner of a new network")
    expect(network.id, "a new network has no id")
    expect(not network.adopted, "a new network says that it was adopted")


def _none_of(ctx: Context, kind: str) -> bool:
    return not ctx.inventory(kind, owner=ctx.owner)


def _goes(ctx: Context, name: str) -> bool:
    """Ask for a network's delete again; return whether it is gone. While something in it still exists it may not go."""
    try:
        answer = ctx.networking.delete(name, owner=ctx.owner, deadline=ctx.deadline())
    except Conflict as error:
        expect(error.reason in ("IN_USE", "BUSY"), f"what lags behind in a network is {error}, neither IN_USE nor BUSY")
        return False
    inside = [str(item) for item in (*ctx.inventory("instance"), *ctx.inventory("endpoint"))]
    expect(not inside, f"the delete of a network began while {', '.join(inside)} existed in it")
    return answer is not Deletion.GOING


def _at_once(ctx: Context, it: Subject, acts: Sequence[Callable[[], object]]) -> None:
    """Make all calls at one moment; one that the cloud is too busy for is repeated, as the core would."""
    for act, outcome in zip(acts, at_once(acts), strict=True):
        if not isinstance(outcome, CloudError):
            continue
        passing = isinstance(outcome, Conflict) and outcome.reason in Conflict.PASSING
        expect(passing, f"a change of an {it.kind} beside others raised {outcome}")
        ctx.eventually(partial(_done, act), "a change that the cloud was too busy for")


def _done(act: Callable[[], object]) -> bool:
    try:
        act()
    except Conflict:
        return False
    return True


def _ways(ctx: Context) -> list[str]:
    return sorted(item.name for item in ctx.inventory("endpoint") if item.state != "deleting")


def _expect_moved(ctx: Context, name: str, port: int) -> None:
    """Fail unless the oracle, where it can tell, sees the way in lead to the new target."""
    item = expect_one([item for item in ctx.inventory("endpoint") if item.name == name], f"endpoints called {name}")
    target = item.detail.get("target")
    expect(
        target is None or target.endswith(f":{port}"), f"an endpoint that was moved to port {port} leads to {target}"
    )


def _expect_closed(rules: tuple[Item, ...], what: str) -> None:
    wide = [str(rule) for rule in rules if rule.detail.get("from", "0.0.0.0/0") in ("0.0.0.0/0", "::/0")]
    expect(not wide, f"{what} lets anybody in: {', '.join(wide)}")


def _network(it: Subject, mode: NetworkMode) -> Network | None:
    """Return a new network of a mode; None when the provider has no such networks, as it says."""
    try:
        made: Network = it.create(attrs.evolve(it.spec(), mode=mode))
    except InvalidRequest:
        if mode is NetworkMode.PRIVATE:
            raise
        return None
    return made


def _seen(it: Subject, name: str) -> Endpoint:
    found: Endpoint = it.get(name)
    return found


def _expect_honest(ctx: Context, endpoint: Endpoint) -> None:
    """Compare an endpoint with the oracle, which looks later and so can only find it further on."""
    if endpoint.state is EndpointState.READY:
        item = expect_one([i for i in ctx.inventory("endpoint") if i.name == endpoint.name], "endpoints of that name")
        expect_equal(item.state, "ready", "the true state of an endpoint that is shown as READY")
        return
    expect(not endpoint.url, f"an endpoint that is {endpoint.state.value} shows the URL {endpoint.url}")


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # a name: what it resolves to is for the oracle to say
        return False


def _expect_helpful(ctx: Context, name: str) -> tuple[CheckStatus, ...]:
    found = ctx.networking.check(name, owner=ctx.owner, deadline=ctx.deadline())
    expect(found, "looking a network over shows nothing at all")
    expect_equal(len({each.id for each in found}), len(found), "the number of different ids of what was looked at")
    for each in found:
        expect(each.detail, f"{each.id} does not say what was seen")
        bad = each.status in (CheckStatus.FAILED, CheckStatus.WARNING)
        expect(each.remedy or not bad, f"{each.id} is {each.status.value} and has no remedy: {each.detail}")
    return tuple(each.status for each in found)


def _essence(items: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(item.essence for item in items)


def _keys(items: Iterable[Item]) -> frozenset[tuple[str, str, str]]:
    return frozenset(item.key for item in items)


@contextmanager
def _refusable() -> Iterator[None]:
    """Let a block end with AlreadyExists(FOREIGN): a cloud with one space of names for all refuses one that is taken."""
    try:
        yield
    except AlreadyExists as error:
        expect_equal(error.reason, "FOREIGN", "the reason why a name that a stranger has is refused")
