"""Finds provider plugins, each behind a guard: a broken one is listed with its reason and harms no other."""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import attrs
import pluggy

from anyscale_core import CONTRACT_VERSION, hookspecs
from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.composed import ComposedIdentity
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.errors import PluginError, UnknownName
from anyscale_core.hookspecs import ENTRY_POINTS, PROJECT, Provider
from anyscale_core.models.cloud import SLOTS

INTERFACES: Mapping[str, type[Driver]] = {
    driver.slot: driver for driver in (ClusterDriver, IdentityDriver, StorageDriver, NetworkingDriver)
}


@attrs.frozen(kw_only=True)
class Found:
    """One plugin as it was found: ``provider`` when it is sound, else ``broken`` says why it cannot be used."""

    name: str
    distribution: str
    version: str
    provider: Provider | None = None
    broken: str = ""


class Registry:
    """The providers of this process."""

    def __init__(self, found: Iterable[Found] = ()) -> None:
        self._found: dict[str, Found] = {}
        for item in found:
            self._add(item)

    @classmethod
    def load(cls) -> "Registry":
        """Return the registry of everything installed. Never raises for a broken plugin: see ``found``."""
        points = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value))
        return cls(_load(point) for point in points)

    @classmethod
    def of(cls, *providers: Provider) -> "Registry":
        """Return a registry of these providers alone, for embedders and tests."""
        return cls(
            _checked(provider.name, "in-process", "", functools.partial(_itself, provider)) for provider in providers
        )

    def found(self) -> tuple[Found, ...]:
        """Return every plugin that was found, sound and broken, by name."""
        return tuple(self._found[name] for name in sorted(self._found))

    def provider(self, name: str) -> Provider:
        """Return a sound provider. Raises UnknownName, with the nearest name, or PluginError with the reason."""
        found = self._found.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self._found, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(sorted(self._found)) or 'none'}"
            raise UnknownName(f"no provider {name!r} is installed; {hint}")
        if found.provider is None:
            raise PluginError(name, found.broken)
        return found.provider

    def driver(self, name: str, slot: str, config: DriverConfig) -> Driver:
        """Build one driver. Raises UnknownName or PluginError; whatever the plugin's factory raises becomes PluginError."""
        provider = self.provider(name)
        factory: Callable[[DriverConfig], Driver] | None = getattr(provider, slot)
        if factory is None:
            raise PluginError(name, f"it has no {slot} driver; it fills {', '.join(provider.slots())}")
        unknown = sorted(set(config.settings) - set(provider.settings))
        if unknown:
            known = ", ".join(sorted(provider.settings)) or "none"
            raise PluginError(name, f"unknown settings {', '.join(unknown)}; it knows {known}")
        return _built(name, slot, factory, config)

    def drivers(self, providers: Mapping[str, str], config: Callable[[str], DriverConfig]) -> dict[str, Driver]:
        """Build the drivers of a cloud, by slot; ``providers``: slot to provider, ``config``: provider to what it is built from.

        Machines prove themselves by ``prover``, whoever makes the identities. Raises as ``driver``.
        """
        built = {slot: self.driver(name, slot, config(name)) for slot, name in providers.items()}
        prover = self.prover(providers)
        if prover != providers["identity"]:
            identities, machines = built["identity"], self.driver(prover, "identity", config(prover))
            assert isinstance(identities, IdentityDriver)
            assert isinstance(machines, IdentityDriver)
            built["identity"] = ComposedIdentity(identities, machines)
        return built

    def prover(self, providers: Mapping[str, str]) -> str:
        """Return the provider by which the machines of a cloud prove themselves: the one that runs them, if it can tell them.

        ``providers``: slot to provider. Raises as ``provider``.
        """
        runs = providers["cluster"]
        return runs if self.provider(runs).identity is not None else providers["identity"]

    def _add(self, item: Found) -> None:
        earlier = self._found.get(item.name)
        if earlier is not None:
            reason = f"two plugins are called {item.name!r}: {earlier.distribution} and {item.distribution}; remove one"
            item = attrs.evolve(earlier, provider=None, broken=reason)
        self._found[item.name] = item


def _itself(provider: Provider) -> Provider:
    return provider


def _load(point: EntryPoint) -> Found:
    distribution = point.dist.name if point.dist else "unknown"
    version = point.dist.version if point.dist else ""

    def provider() -> Any:
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        plugin = point.load()
        manager.register(plugin, name=point.name)
        manager.check_pending()
        if not manager.hook.anyscale_provider.get_hookimpls():
            raise TypeError(f"{point.value} has no hook anyscale_provider marked with hookimpl")
        return manager.hook.anyscale_provider()

    return _checked(point.name, distribution, version, provider)


def _built(name: str, slot: str, factory: Callable[[DriverConfig], Driver], config: DriverConfig) -> Driver:
    try:
        driver = factory(config)
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(name, f"its {slot} driver cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(driver, INTERFACES[slot]):
        raise PluginError(
            name, f"it gave {type(driver).__name__} for the slot {slot}, not a {INTERFACES[slot].__name__}"
        )
    return driver


def _checked(name: str, distribution: str, version: str, load: Callable[[], Any]) -> Found:
    try:
        provider = load()
    except (Exception, SystemExit) as error:
        # A plugin may raise anything at all, even leave the process; the reader of `providers` learns of it.
        return Found(name=name, distribution=distribution, version=version, broken=f"{type(error).__name__}: {error}")
    reason = _fault(name, provider)
    if reason:
        return Found(name=name, distribution=distribution, version=version, broken=reason)
    return Found(name=name, distribution=distribution, version=version, provider=provider)


def _fault(name: str, provider: object) -> str:
    if not isinstance(provider, Provider):
        return f"anyscale_provider returned {type(provider).__name__}, not a Provider"
    if provider.name != name:
        return f"its entry point is called {name!r} and its provider {provider.name!r}; they must be equal"
    if not contract_allows(provider.contract, CONTRACT_VERSION):
        return (
            f"it is written for contract {provider.contract}, this core speaks {CONTRACT_VERSION}; upgrade one of them"
        )
    if not any(getattr(provider, slot) for slot in SLOTS):
        return "it fills no driver slot"
    return "; ".join(provider.capabilities.faults(provider.slots()))


_COMPARE: Mapping[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}


def contract_allows(contract: str, version: str) -> bool:
    """Tell whether a range such as ``">=1.0,<2"`` holds for a version; a range that cannot be read allows nothing."""
    have = _numbers(version)
    for part in contract.split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|<|>)\s*(\d+(?:\.\d+)*)\s*", part)
        if match is None or not _COMPARE[match[1]](have, _numbers(match[2])):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    parts = tuple(int(part) for part in version.split("."))
    return parts + (0,) * (3 - len(parts))
