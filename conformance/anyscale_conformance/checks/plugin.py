"""K: the plugin itself: how it is loaded, what it claims, and that its claims are true."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from anyscale_conformance import elsewhere
from anyscale_conformance.checks.demonstrations import demonstrate
from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal
from anyscale_conformance.refusals import verify_refusal
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import LASTING
from anyscale_core import CONTRACT_VERSION
from anyscale_core.drivers.capability import Capabilities
from anyscale_core.errors import SpecError
from anyscale_core.models import wire
from anyscale_core.registry import Registry, contract_allows

IMPORT_BUDGET_S = 1.0
"""Seconds of CPU that importing a plugin may take, Python's start and the core's own modules left out."""


@check("K-LOAD-01")
def importing_reaches_for_nothing(ctx: Context) -> None:
    """Imports the plugin in a process with an empty home and environment; no host may be called, no SDK loaded."""
    found = _look(ctx)
    expect(not found["called"], f"importing the plugin called {', '.join(found['called'])}")
    expect(not _sdks(ctx, found), f"importing the plugin loaded {', '.join(_sdks(ctx, found))}")


@check("K-LOAD-02")
def importing_is_quick(ctx: Context) -> None:
    """Measures the CPU that importing takes in that process, and looks for modules that only a first call needs."""
    found = _look(ctx)
    took = found["importing_s"]
    expect(took <= IMPORT_BUDGET_S, f"importing the plugin took {took:.2f} s of CPU; {IMPORT_BUDGET_S} s are allowed")
    expect(not _sdks(ctx, found), f"listing the provider loaded {', '.join(_sdks(ctx, found))}")


@check("K-LOAD-03")
def the_hook_is_a_hook(ctx: Context) -> None:
    """Compares the provider's name with its entry point's, and looks whether its hook is marked as one."""
    found = _look(ctx)
    expect(found["is_provider"], "the hook returns no Provider")
    expect(found["marked"], "anyscale_provider is not marked with hookimpl")
    expect_equal(found["name"], ctx.provider.name, "the provider's name in another process")
    expect_equal(ctx.provider.name, ctx.kit.name or ctx.provider.name, "the provider's name beside its entry point's")


@check("K-LOAD-04", why="the registry keeps this promise for every provider; the broken neighbours are the check's own")
def a_broken_neighbour_does_no_harm(ctx: Context) -> None:
    """Puts the provider into a registry beside broken ones, and each broken form of itself; all must be told apart."""
    good = ctx.provider
    broken = (
        attrs.evolve(good, name="broken-contract", contract=">=99"),
        attrs.evolve(good, name="broken-slots", cluster=None, identity=None, storage=None, networking=None),
        attrs.evolve(
            good, name="broken-claims", capabilities=attrs.evolve(good.capabilities, supported=frozenset({"no.such"}))
        ),
    )
    registry = Registry.of(*broken, good)
    for item in registry.found():
        if item.name == good.name:
            expect(not item.broken, f"the provider cannot be used beside broken ones: {item.broken}")
        else:
            expect(item.broken, f"{item.name} is broken and the registry does not say so")
    expect_equal(registry.provider(good.name).name, good.name, "the provider that the registry hands out")


@check("K-VER-01")
def the_contract_range_holds(ctx: Context) -> None:
    """Reads the declared range against the contract that this core speaks."""
    declared = ctx.provider.contract
    expect(contract_allows(declared, CONTRACT_VERSION), f"the range {declared} does not hold {CONTRACT_VERSION}")
    bounded = not contract_allows(declared, f"{int(CONTRACT_VERSION.split('.')[0]) + 1}.0")
    expect(bounded, f"the range {declared} also holds the next major contract, which nobody has written for yet")


@check("K-CAP-01")
def claims_are_stable(ctx: Context) -> None:
    """Asks for the claims twice, before and after drivers were used; counts requests; compares with another process's."""
    before = len(ctx.plan.requests)
    first = elsewhere.claims(ctx.kit.provider().capabilities)
    expect_equal(len(ctx.plan.requests), before, "the requests made so far after reading the capabilities")
    for name in LASTING:
        if ctx.makes(name):
            ctx.subject(name).make()
    expect_equal(elsewhere.claims(ctx.kit.provider().capabilities), first, "the capabilities after drivers were used")
    found = _look(ctx)
    expect_equal(found["again"], found["capabilities"], "the capabilities when the hook was called again")


@check("K-CAP-02")
def claims_are_the_packages(ctx: Context) -> None:
    """Compares the claims at run time with those of the plugin in a process that knows nothing."""
    static, here = _look(ctx)["capabilities"], elsewhere.claims(ctx.provider.capabilities)
    for part in ("supported", "emulated", "unsupported"):
        expect_equal(here[part], static[part], f"what is {part} at run time, beside what the package declares,")


@check("K-CAP-03")
def core_claims_are_there(ctx: Context) -> None:
    """Reads the claims against the slots that are filled; each exception must be explained."""
    capabilities: Capabilities = ctx.provider.capabilities
    faults = capabilities.faults(ctx.provider.slots())
    expect(not faults, "; ".join(faults))
    silent = [id for id, why in {**capabilities.unsupported, **capabilities.emulated}.items() if not why.strip()]
    expect(not silent, f"{', '.join(silent)} are excepted without a word of why")


@check("K-CAP-04")
def undeclared_is_refused(ctx: Context) -> None:
    """Asks for each capability that is not declared; wants Unsupported with its id and no write at all."""
    verify_refusal(ctx, ctx.subject_name)


@check("K-CAP-05")
def declared_works(ctx: Context) -> None:
    """Uses each capability that is declared, in the simplest way in which its absence would be noticed."""
    demonstrate(ctx, ctx.subject_name)


@check("K-MOD-01")
def values_survive_the_wire(ctx: Context) -> None:
    """Takes everything that the drivers show through the wire and back, and once more with a field that nobody knows."""
    for what, value in _shown(ctx):
        plain = wire.unstructure_revealed(value)
        try:
            back = wire.structure(plain, type(value))
        except SpecError as error:
            raise CheckFailed(f"{what} does not survive a way over the wire: {error}") from error
        expect_equal(back, value, f"{what} after a way over the wire")
        try:
            wire.structure({**plain, "conformance_unknown": 1}, type(value))
        except SpecError:
            continue
        raise CheckFailed(f"{what} with an unknown field was taken")


def _shown(ctx: Context) -> Iterator[tuple[str, Any]]:
    for name in LASTING:
        if not ctx.makes(name) or name == "cluster.batch":
            continue
        it = ctx.subject(name)
        thing = it.make()
        yield f"what {it.create_action} returns", thing
        yield from ((f"an item of a list of {it.kind}s", item) for item in it.listed())
    if ctx.has_slot("cluster"):
        yield from (("an offering", each) for each in ctx.cluster.offerings(deadline=ctx.deadline())[:5])
    if ctx.has_slot("identity"):
        yield from (
            ("a permission", each) for each in ctx.identity.permissions([f"{next(iter(ctx.provider.slots()))}.create"])
        )


def _look(ctx: Context) -> Mapping[str, Any]:
    try:
        return _looked(ctx.kit.plugin())
    except RuntimeError as error:
        raise CheckFailed(f"the plugin cannot be imported in a process of its own: {error}") from error


@functools.cache
def _looked(plugin: str) -> Mapping[str, Any]:
    return elsewhere.look(plugin, hash_seed=1)


def _sdks(ctx: Context, found: Mapping[str, Any]) -> list[str]:
    names = (*elsewhere.SDKS, *ctx.kit.sdks)
    return sorted(
        {module for module in found["modules"] if any(module == sdk or module.startswith(f"{sdk}.") for sdk in names)}
    )
