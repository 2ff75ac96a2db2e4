"""C-CRE, C-GET, C-STA: one instance, from its spec to its end."""

from datetime import timedelta

import attrs

from anyscale_conformance.batches import made, make, names, there
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error, expect_no_error, expect_one
from anyscale_conformance.rules import Hand, check
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound
from anyscale_core.models.ids import CloudName, ClusterId, PlaneId
from anyscale_core.models.instance import Deletion, Instance, InstanceSpec, InstanceState
from anyscale_core.models.owner import TAG_NODE, Owner

NAME_MAX = 63
STEPS = 12
"""Looks at an instance on its way up and on its way down."""
BAD_NAMES = ("", "A-Capital", "under_score", "1-digit-first", "ends-with-", "dotted.name", "ümlaut", "a b", "../up")


@check("C-CRE-01", slots=("cluster",))
def the_smallest_spec_makes_an_instance(ctx: Context) -> None:
    """Makes the kit's sample, whose type must be sold; it must exist, say what it was asked for, run, and be reachable."""
    it = ctx.subject("cluster")
    spec = it.spec()
    sold = {offering.instance_type for offering in ctx.cluster.offerings(deadline=ctx.deadline())}
    expect(spec.instance_type in sold, f"the catalogue does not list {spec.instance_type}, which the kit asks for")
    instance = it.create(spec)
    _expect_as_asked(instance, spec)
    item = expect_one(ctx.inventory("instance"), "instances after the create of one")
    expect_equal(item.name, spec.name, "the name of what exists")
    running = until_running(ctx, instance)
    _expect_as_asked(running, spec)
    expect(running.address, "an instance that is RUNNING shows no address for the other nodes")
    expect(running.zone or not ctx.provider.capabilities.has("cluster.zones"), "a RUNNING instance shows no zone")


@check("C-CRE-02", slots=("cluster",))
def long_names_do_not_collide(ctx: Context) -> None:
    """Makes instances whose names are as long as may be, or 45 long, and differ at their ends or by a '-' alone."""
    it = ctx.subject("cluster")
    longest = min(ctx.provider.capabilities.numbers.get("name.max_len", NAME_MAX), NAME_MAX)
    stem = ctx.name()
    wanted = tuple(
        it.spec(name)
        for name in (
            *(f"{stem}{'x' * (length - len(stem) - 1)}{end}" for length in (longest, 45) for end in ("a", "b")),
            f"{stem}-z", f"{stem}--z", f"{stem}z",
        )
    )  # fmt: skip
    instances = make(ctx, wanted)
    expect_equal(there(ctx), names(wanted), "the names of what exists after a batch of long names")
    expect_equal(len({i.id for i in instances}), len(wanted), "the number of ids of a batch of long names")
    for instance, spec in zip(instances, wanted, strict=True):
        expect_equal(it.get(instance.id).name, spec.name, "the name that `get` shows")
    expect_equal(it.names(), names(wanted), "the names that `list` shows")
    it.delete_for_good(instances[0].id)
    expect_equal(there(ctx), names(wanted[1:]), "the names of what exists after one of them was deleted")


@check("C-CRE-03", slots=("cluster",))
def what_cannot_work_is_refused(ctx: Context) -> None:
    """Asks for names that are none, a type and a zone that nobody sells, one name twice, and two clouds in one batch."""
    it = ctx.subject("cluster")
    good = it.spec()
    too_long = f"{ctx.name()}{'x' * NAME_MAX}"
    bad: dict[str, tuple[InstanceSpec, ...]] = {
        f"the name {name!r}": (it.renamed(good, name),) for name in (*BAD_NAMES, too_long)
    }
    bad["an unknown type"] = (attrs.evolve(good, instance_type="conformance-no-such-type"),)
    if ctx.provider.capabilities.has("cluster.zones"):
        bad["an unknown zone"] = (attrs.evolve(good, zones=("conformance-no-such-zone",)),)
    bad["one name twice in a batch"] = (good, attrs.evolve(good, tags={"other": "yes"}))
    bad["two clouds in one batch"] = (it.spec(), it.spec(owner=ctx.stranger))
    for what, batch in bad.items():
        when = f"creating with {what}"
        with ctx.untouched(when), expect_error(InvalidRequest, when=when):
            outcomes = ctx.cluster.create(batch, token=ctx.token(), deadline=ctx.deadline())
            for outcome in outcomes:
                raise getattr(outcome, "error", None) or CheckFailed(f"{when} made {made([outcome])[0].name}")


@check("C-CRE-04", slots=("cluster",))
def create_and_get_agree(ctx: Context) -> None:
    """Compares what create, its repeat, get and list show of one instance, when it is new and when it runs."""
    it, token = ctx.subject("cluster"), ctx.token()
    spec = it.spec()
    created = it.create(spec, token=token)
    _expect_alike(it.get(created.id), created, "what `get` shows and what `create` returned")
    _expect_alike(it.create(spec, token=token), it.get(created.id), "what a repeated `create` returned and `get` shows")
    running = until_running(ctx, created)
    _expect_alike(expect_one(it.listed(), "instances in the list"), running, "what `list` and `get` show")
    _expect_alike(it.create(spec, token=token), running, "what a later repeat of `create` returned and `get` shows")


@check("C-CRE-05", slots=("cluster",))
def ids_are_enough(ctx: Context) -> None:
    """Makes instances of equal names for three owners, and one name twice in turn; each id must find its own, always."""
    it = ctx.subject("cluster")
    ours = it.make()
    theirs = [it.make(ours.name, owner=owner) for owner in (ctx.stranger, _elsewhere(ctx.owner))]
    everybody = {thing.id: thing for thing in (ours, *theirs)}
    expect_equal(len(everybody), 3, "the number of ids of three owners' instances of one name")
    ctx.restart()
    for id, thing in everybody.items():
        with expect_no_error("getting an instance by its id from another process"):
            found = it.get(id, owner=thing.owner)
        expect_equal((found.id, found.owner), (id, thing.owner), "what another process gets by the id")
    until_running(ctx, ours)
    expect_equal(expect_one(it.listed(), "instances in our list").id, ours.id, "the id in the list")
    for thing in everybody.values():
        it.delete_for_good(thing.id, owner=thing.owner)
    expect(it.make(ours.name).id != ours.id, "an instance that was made anew has the id of the one that is gone")


@check("C-GET-01", slots=("cluster",))
def getting_the_absent(ctx: Context) -> None:
    """Gets ids that never were, in the cloud's own form and in none, beside an instance that is there."""
    it = ctx.subject("cluster")
    real = it.make().id
    other = "b" if real[-1] != "b" else "c"
    for id in (f"{real[:-1]}{other}", f"{real}{other}", real[:-1], ctx.name(), "no/such/../id", "?"):
        with ctx.untouched("getting the absent"), expect_error(NotFound, when=f"getting {id!r} beside {real!r}"):
            it.get(id)
    it.delete_for_good(real)
    for _ in range(3):
        with expect_error(NotFound, when="getting an instance that is gone"):
            it.get(real)


@check("C-GET-02", slots=("cluster",))
def getting_the_foreign(ctx: Context) -> None:
    """Gets our instance as another plane, another cloud and another cluster; only its own owner and its plane may see it."""
    it = ctx.subject("cluster")
    id = it.make().id
    others = {
        "another plane": attrs.evolve(ctx.owner, plane=PlaneId(f"{ctx.owner.plane}b")),
        "another cloud": _elsewhere(ctx.owner),
        "another cluster": attrs.evolve(ctx.owner, cluster=ClusterId(f"{ctx.owner.cluster}b")),
    }
    for who, owner in others.items():
        with expect_error(NotFound, when=f"getting an instance as {who}"):
            it.get(id, owner=owner)
        expect_equal(it.listed(owner=owner), (), f"what the list shows to {who}")
    everything = attrs.evolve(ctx.owner, cluster=None)
    expect_equal(it.get(id, owner=everything).id, id, "what the plane as a whole gets")
    expect_equal([i.id for i in it.listed(owner=everything)], [id], "the ids in the list of the plane as a whole")


@check("C-GET-03", slots=("cluster",))
def what_is_going_is_shown(ctx: Context) -> None:
    """Deletes an instance and looks again and again: DELETING as long as it exists, and NotFound only after that."""
    it = ctx.subject("cluster")
    id = it.make().id
    answer = it.delete(id)
    for _ in range(STEPS):
        if not _look_at_end(ctx, id):
            break
        ctx.pass_time(ctx.kit.patience / STEPS)
    ctx.eventually(lambda: not ctx.inventory("instance"), f"an instance to be gone after a delete said {answer.value}")
    with expect_error(NotFound, when="getting an instance that is gone"):
        it.get(id)


@check("C-GET-04", slots=("cluster",), uses=(Hand.STOP,))
def the_stopped_is_shown(ctx: Context) -> None:
    """Stops a running instance behind the driver's back; get and list show it as STOPPED, and it can be deleted."""
    it = ctx.subject("cluster")
    instance = until_running(ctx, it.make())
    ctx.hand(Hand.STOP)(instance.name)
    with expect_no_error("getting a stopped instance"):
        ctx.eventually(lambda: it.get(instance.id).state is InstanceState.STOPPED, "a stopped instance to be STOPPED")
    shown = expect_one(it.listed(), "instances in the list, one of which is stopped,")
    expect_equal(shown.state, InstanceState.STOPPED, "the state of a stopped instance in the list")
    item = expect_one(ctx.inventory("instance"), "instances after a stopped one was looked at")
    expect_equal(item.state, "stopped", "the true state of a stopped instance after it was looked at")
    it.delete_for_good(instance.id)
    expect_equal(ctx.inventory("instance"), (), "the instances after a stopped one was deleted")


@check("C-GET-05", slots=("cluster",), uses=(Hand.ADD_DUPLICATE,))
def none_of_several_is_chosen(ctx: Context) -> None:
    """Lets a second instance of the same name and tags exist; both are listed, and no call takes it for the first."""
    it, token = ctx.subject("cluster"), ctx.token()
    spec = it.spec()
    first = it.create(spec, token=token)
    ctx.hand(Hand.ADD_DUPLICATE)(first.name)
    listed = [instance.id for instance in it.listed()]
    expect_equal(len(set(listed)), 2, "the number of ids that the list shows of two instances of one name")
    expect_equal(len(listed), 2, "the number of entries in the list for two instances of one name")
    with ctx.untouched("a repeat beside a second instance of the name"):
        try:
            expect_equal(
                it.create(spec, token=token).id, first.id, "the id that a repeat returned, of two of one name,"
            )
        except Conflict as error:
            expect_equal(error.reason, "AMBIGUOUS", "the reason why a repeat beside a second instance was refused")
        with expect_error(AlreadyExists, Conflict, when="a new create under the name of two instances"):
            it.create(spec)
    it.delete_for_good(first.id)
    left = [item.id for item in ctx.inventory("instance")]
    expect_equal(left, [id for id in listed if id != first.id], "what is left of two after one was deleted by its id")


@check("C-STA-01", slots=("cluster",))
def states_move_forward(ctx: Context) -> None:
    """Follows an instance up and down in small steps, beside the oracle: never ahead of it, and never back."""
    it, token = ctx.subject("cluster"), ctx.token()
    spec = it.spec()
    id = it.create(spec, token=token).id
    seen: list[InstanceState] = []
    for step in range(STEPS):
        _expect_not_early(ctx, id, seen)
        ctx.pass_time(timedelta(seconds=(1, 7)[step % 2]) if ctx.kit.is_virtual else ctx.kit.patience / 100)
    until_running(ctx, it.get(id))
    it.delete(id)
    ctx.eventually(lambda: not ctx.inventory("instance"), "an instance to be gone after its delete")
    for _ in range(STEPS):
        with expect_error(NotFound, when="getting an instance that is gone"):
            it.get(id)
        expect_equal(it.listed(), (), "the list after the one instance is gone")
        ctx.pass_time(timedelta(minutes=7) if ctx.kit.is_virtual else timedelta())
    expect_equal(ctx.inventory("instance"), (), "the instances long after the one is gone")


def until_running(ctx: Context, instance: Instance) -> Instance:
    """Wait until an instance is RUNNING and return it as it is then."""
    it = ctx.subject("cluster")
    found: list[Instance] = []

    def runs() -> bool:
        found.append(it.get(instance.id))
        return found[-1].state is InstanceState.RUNNING

    ctx.eventually(runs, f"{instance.name} to be RUNNING")
    return found[-1]


def _expect_as_asked(instance: Instance, spec: InstanceSpec) -> None:
    for field in ("name", "node_id", "owner", "instance_type"):
        expect_equal(getattr(instance, field), getattr(spec, field), f"the {field} of the instance")
    expect(spec.owner.owns(instance.tags), f"the tags of the instance do not name its owner: {dict(instance.tags)}")
    expect_equal(instance.tags.get(TAG_NODE), spec.node_id, "the tag that names the instance's node")


def _expect_alike(one: Instance, other: Instance, what: str) -> None:
    """Fail unless both are the same instance; what a cloud may have changed between two looks is let pass with the state."""
    if one.state is not other.state:
        one = attrs.evolve(one, state=other.state, address=other.address, reason=other.reason, notice=other.notice)
    for field in attrs.fields_dict(Instance):
        expect_equal(getattr(one, field), getattr(other, field), f"the {field}, comparing {what},")


def _expect_not_early(ctx: Context, id: str, seen: list[InstanceState]) -> None:
    """Look with get and with list, and then with the oracle, which is later and so can only be further on."""
    it = ctx.subject("cluster")
    looks = [it.get(id), *(instance for instance in it.list() if instance.id == id)]
    item = expect_one(ctx.inventory("instance"), "instances")
    for instance in looks:
        if instance.state is InstanceState.RUNNING:
            expect_equal(item.state, "running", "the true state of an instance that is shown as RUNNING")
        expect(
            instance.state in (InstanceState.PENDING, InstanceState.RUNNING),
            f"a healthy new instance is shown as {instance.state.value}",
        )
    if seen and seen[-1] is InstanceState.RUNNING:
        expect_equal(looks[0].state, InstanceState.RUNNING, "the state of an instance that was RUNNING before")
    seen.append(looks[0].state)


def _look_at_end(ctx: Context, id: str) -> bool:
    """Return whether an instance that is being deleted still exists, having compared what the driver shows of it."""
    it = ctx.subject("cluster")
    try:
        state = it.get(id).state
    except NotFound:
        expect_equal(ctx.inventory("instance"), (), "what exists of an instance that `get` says is not there")
        return False
    expect_equal(state, InstanceState.DELETING, "the state of an instance that is being deleted")
    if it.delete(id) is Deletion.ALREADY_ABSENT:
        expect_equal(ctx.inventory("instance"), (), "what exists of an instance that a delete says is absent")
        return False
    return True


def _elsewhere(owner: Owner) -> Owner:
    return attrs.evolve(owner, cloud=CloudName(f"{owner.cloud}b"))
