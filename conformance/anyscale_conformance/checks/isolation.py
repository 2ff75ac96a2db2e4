"""X-ISO: a driver keeps to itself."""

import copy
import ipaddress
from typing import Any

import attrs

from anyscale_conformance import watch
from anyscale_conformance.checks.privileges import use_everything
from anyscale_conformance.context import Context
from anyscale_conformance.expect import expect, expect_equal
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import ALL, BATCH, ENDPOINT, GRANT, MAIN
from anyscale_core.models.ids import InstanceId


@check("X-ISO-01", on=ALL)
def arguments_stay_as_they_were(ctx: Context) -> None:
    """Hands over specs whose mappings and lists can be changed, and compares them afterwards with deep copies."""
    it = ctx.it
    spec = it.spec()
    if it.name not in (BATCH, ENDPOINT, GRANT):
        spec = attrs.evolve(spec, tags={"team": "blue", "list": "of one"})
    if it.name == "cluster":
        spec = attrs.evolve(spec, labels={"a": "b"}, resources={"CPU": 1.0})
    before = copy.deepcopy(spec)
    thing = it.create(spec)
    expect_equal(spec, before, "the spec after the create that it was given to")
    if it.slot == "cluster":
        specs = [ctx.subject("cluster").spec() for _ in range(2)]
        kept = list(specs)
        made = ctx.cluster.create(specs, token=ctx.token(), deadline=ctx.deadline())
        expect_equal(specs, kept, "the list of specs after the create that it was given to")
        ids = [InstanceId(outcome.instance.id) for outcome in made if hasattr(outcome, "instance")]
        named = list(ids)
        ctx.cluster.delete(ids, owner=ctx.owner, deadline=ctx.deadline())
        expect_equal(ids, named, "the list of ids after the delete that it was given to")
    it.delete(it.key(thing))
    expect_equal(spec, before, "the spec after the thing was deleted")


@check("X-ISO-02", on=MAIN)
def no_global_state(ctx: Context) -> None:
    """Uses two drivers of two worlds in turn, closes one, and goes on with the other."""
    it = ctx.it
    thing = it.make()
    with ctx.another_world() as other:
        there = other.subject(ctx.subject_name)
        there.delete_for_good(there.key(there.make()))
        # One more of this world while the other one is the last that was built.
        second = it.make()
    expect_equal(it.names(), tuple(sorted((thing.name, second.name))), "the list after another world was closed")
    ctx.new_driver(it.slot).close()
    expect_equal(it.get(it.key(thing)).name, thing.name, "what `get` returns after another driver was closed")
    it.make()


@check("X-ISO-03")
def the_environment_is_not_read(ctx: Context) -> None:
    """Builds all drivers and uses them while somebody notes which variables the plugin's own code reads."""
    with watch.environment(ctx.kit.package()) as read:
        ctx.restart()
        use_everything(ctx)
    undeclared = sorted(read - ctx.kit.reads_environment)
    expect(not undeclared, f"the plugin reads {', '.join(undeclared)} from the environment and declares no such thing")


@check("X-ISO-04")
def no_other_host_is_called(ctx: Context) -> None:
    """Uses everything while somebody notes every address that is connected to or looked up."""
    with watch.hosts() as called:
        ctx.restart()
        use_everything(ctx)
    strange = sorted({host for host in called if host not in ctx.kit.hosts and not _is_local(host)})
    expect(not strange, f"{', '.join(strange)} were called and are not declared")


def _is_local(host: Any) -> bool:
    if host in ("localhost", "None") or str(host).startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
