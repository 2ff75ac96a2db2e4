"""What a check is given: the provider in a world of its own, names and tokens by seed, time, faults, and the oracle."""

import contextlib
import importlib
import random
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

import attrs

from anyscale_conformance.expect import CheckFailed, expect
from anyscale_conformance.faults.plan import Crashed, Effect, Fault, Reach, Request
from anyscale_conformance.kit import Item, Kit, Samples
from anyscale_conformance.rules import Hand
from anyscale_conformance.subjects import SUBJECTS, Subject
from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.errors import CloudError
from anyscale_core.hookspecs import Provider
from anyscale_core.models.ids import Token
from anyscale_core.models.owner import Owner
from anyscale_core.registry import INTERFACES

T = TypeVar("T")

POLLS = 60
"""How many looks a wait takes at most, spread over the kit's patience."""


class Context:
    """One row's world. Everything that a check makes is found again by its owner, and swept after it."""

    def __init__(self, kit: Kit, subject: str = "") -> None:
        self.kit = kit
        self.scope = kit.scope
        self.provider: Provider = kit.provider()
        self.clock = kit.clock
        self.carrier = kit.carrier()
        self.plan = self.carrier.plan
        self.oracle = kit.oracle()
        self.hands: Mapping[Hand, Callable[..., Any]] = kit.hands()
        self.rng = random.Random(f"{kit.scope.seed}/{kit.scope.row}")
        self.subject_name = subject
        self.given: set[tuple[str, str, str]] = set()
        """Keys of what the kit put there for the row: it is the customer's, and stays."""
        self._samples: Samples | None = None
        self._drivers: dict[str, Any] = {}
        self._once: dict[object, Any] = {}
        self._serial = 0

    # Who and what --------------------------------------------------------------------------------------------------

    @property
    def owner(self) -> Owner:
        """Whose things the check makes."""
        return self.scope.owner

    @property
    def stranger(self) -> Owner:
        """Another control plane's owner in the same account."""
        return self.scope.stranger

    @property
    def samples(self) -> Samples:
        """The kit's smallest valid specs."""
        if self._samples is None:
            self._samples = self.kit.samples()
        return self._samples

    @property
    def it(self) -> Subject:
        """The subject of this row."""
        return self.subject(self.subject_name)

    def subject(self, name: str) -> Subject:
        """Return a subject by name."""
        return SUBJECTS[name](self)

    def has_slot(self, slot: str) -> bool:
        """Tell whether the provider fills a slot."""
        return slot in self.provider.slots()

    def name(self, length: int = 0) -> str:
        """Return a new name that no other row uses; exactly ``length`` characters when that is given."""
        self._serial += 1
        name = f"{self.scope.prefix}-{self._serial}{''.join(self.rng.choices('abcdefghjkmnpqrstuvwxyz', k=4))}"
        return name if not length else f"{name}{'x' * (length - len(name))}"

    def token(self) -> Token:
        """Return a new idempotency token, in the form that the core mints."""
        return Token(f"{self.rng.getrandbits(128):032x}")

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Return what ``make`` returned when this key was first asked for."""
        if key not in self._once:
            self._once[key] = make()
        found: T = self._once[key]
        return found

    # Drivers -------------------------------------------------------------------------------------------------------

    @property
    def cluster(self) -> ClusterDriver:
        """The cluster driver."""
        driver: ClusterDriver = self.driver("cluster")
        return driver

    @property
    def identity(self) -> IdentityDriver:
        """The identity driver."""
        driver: IdentityDriver = self.driver("identity")
        return driver

    @property
    def storage(self) -> StorageDriver:
        """The storage driver."""
        driver: StorageDriver = self.driver("storage")
        return driver

    @property
    def networking(self) -> NetworkingDriver:
        """The networking driver."""
        driver: NetworkingDriver = self.driver("networking")
        return driver

    def driver(self, slot: str) -> Any:
        """Return the driver of a slot, built at the first use, behind the carrier and the guard."""
        if slot not in self._drivers:
            self._drivers[slot] = self.new_driver(slot)
        return self._drivers[slot]

    def new_driver(self, slot: str, config: DriverConfig | None = None) -> Any:
        """Build another driver of a slot, as another process would."""
        factory = getattr(self.provider, slot)
        if factory is None:
            raise RuntimeError(f"the provider fills no slot {slot}")
        driver = factory(config or self.kit.config())
        expect(
            isinstance(driver, INTERFACES[slot]),
            f"the {slot} driver is a {type(driver).__name__}, of another interface",
        )
        return Guard(self.carrier.wrap(driver))

    def new_driver_behind(self, slot: str) -> Any:
        """Build another driver of a slot behind the carrier alone, for layers to be put on."""
        factory = getattr(self.provider, slot)
        return self.carrier.wrap(factory(self.kit.config()))

    def use_driver(self, slot: str, driver: Any) -> None:
        """Let all calls of a slot go to this driver from now on."""
        self._drivers[slot] = driver

    def makes(self, subject: str) -> bool:
        """Tell whether the provider makes these things."""
        cls = SUBJECTS[subject]
        return self.has_slot(cls.slot) and all(map(self.provider.capabilities.has, cls.needs))

    def restart(self) -> None:
        """Let a new process take over: the dead one's drivers are dropped, not closed."""
        self.plan.resume()
        self._drivers.clear()

    def close(self) -> None:
        """Close the drivers. The kit is closed by who made it."""
        for driver in self._drivers.values():
            driver.close()
        self._drivers.clear()

    # Time ----------------------------------------------------------------------------------------------------------

    def deadline(self, seconds: float = 120) -> datetime:
        """Return an instant so many seconds ahead on the kit's clock."""
        return self.clock.now() + timedelta(seconds=seconds)

    def pass_time(self, duration: timedelta) -> None:
        """Let time pass."""
        if duration > timedelta():
            self.kit.pass_time(duration)

    def pass_window(self, window: str) -> None:
        """Let a declared window pass (``consistency.list``); nothing when the provider declares none."""
        self.pass_time(self.provider.capabilities.windows.get(window, timedelta()))

    def eventually(self, holds: Callable[[], object], what: str) -> None:
        """Wait until ``holds()``; fail the check when the kit's patience ends first. ``what`` is what was waited for."""
        for look in range(POLLS):
            if holds():
                return
            # Real clouds of this machine are quick at first; the looks get rarer, and fill the patience in sum.
            self.pass_time(self.kit.patience * (2 * (look + 1) / (POLLS * (POLLS + 1))))
        if not holds():
            raise CheckFailed(f"waited {self.kit.patience} in vain for {what}")

    # The oracle ----------------------------------------------------------------------------------------------------

    def inventory(self, kind: str = "", *, owner: Owner | None = None) -> tuple[Item, ...]:
        """Return what exists, as the oracle sees it: of one kind when given, of one owner when given."""
        items = sorted(self.oracle.inventory(), key=lambda item: item.key)
        return tuple(
            item
            for item in items
            if (not kind or item.kind == kind) and (owner is None or owner.owns(item.tags)) and item.state != "gone"
        )

    def writes(self) -> tuple[Request, ...]:
        """Return the writes on the wire so far; nothing from a kit that has no carrier there."""
        return self.plan.writes() if self.carrier.is_on_wire else ()

    @contextmanager
    def untouched(self, what: str) -> Iterator[None]:
        """Fail the check when the block changes what exists. ``what`` names the block in the message."""
        before = self.inventory()
        yield
        self.expect_inventory(before, what)

    @contextmanager
    def unwritten(self, what: str) -> Iterator[None]:
        """Fail the check when the block changes what exists, or as much as writes to the cloud (where the wire is seen)."""
        written = len(self.writes())
        with self.untouched(what):
            yield
        new = self.writes()[written:]
        expect(not new, f"{what} wrote to the cloud: {', '.join(request.action for request in new)}")

    def expect_inventory(self, wanted: tuple[Item, ...], what: str) -> None:
        """Fail the check unless the cloud holds exactly these items, each as it was."""
        old = {item.key: item.essence for item in wanted}
        new = {item.key: item.essence for item in self.inventory()}
        if old == new:
            return
        parts = [f"made {new[key]}" for key in new.keys() - old.keys()]
        parts += [f"removed {old[key]}" for key in old.keys() - new.keys()]
        parts += [f"changed {old[key]}" for key in old.keys() & new.keys() if old[key] != new[key]]
        raise CheckFailed(f"{what} {', '.join(sorted(parts))}")

    def expect_inventory_of(self, wanted: frozenset[tuple[str, str, str]], what: str) -> None:
        """Fail the check unless exactly the items of these keys exist, in whatever state, once what is going has gone."""

        def at_rest() -> bool:
            return frozenset(item.key for item in self.inventory()) <= wanted

        with contextlib.suppress(CheckFailed):
            self.eventually(at_rest, "rest")
        found = {item.key: str(item) for item in self.inventory()}
        left = sorted(text for key, text in found.items() if key not in wanted)
        lost = sorted(f"{kind} {name or id}" for kind, id, name in wanted - found.keys())
        expect(not left, f"{what} left {', '.join(left)}")
        expect(not lost, f"{what} also took away {', '.join(lost)}")

    # Faults --------------------------------------------------------------------------------------------------------

    def inject(self, effect: Effect, action: str = "*", **fields: Any) -> Fault:
        """Arm a fault: ``ctx.inject(Effect.LOSE_AFTER, "cluster.create", at=2)``. One that never strikes makes the row ERROR."""
        return self.plan.arm(Fault(effect=effect, action=action, **fields))

    def answers(self, category: type[CloudError]) -> bool:
        """Tell whether an error of this category can come as the answer to a request, in this vendor's words."""
        return category.category not in getattr(self.carrier, "unanswerable", ())

    def count_writes(self, act: Callable[[], object]) -> int:
        """Return how many writes an undisturbed run of ``act`` makes."""
        before = len(self.plan.writes())
        act()
        return len(self.plan.writes()) - before

    def count_reads(self, act: Callable[[], object]) -> int:
        """Return how many reads an undisturbed run of ``act`` makes."""
        before = len(self.plan.reads())
        act()
        return len(self.plan.reads()) - before

    def positions(self, it: Subject) -> range:
        """Return the numbers of the writes of one create, counted on an undisturbed one. Fails the check when it has none."""
        spec = it.spec()
        writes = self.count_writes(lambda: it.create(spec))
        expect(writes > 0, f"creating a {it.name} passed no write where faults strike")
        return range(1, writes + 1)

    @contextmanager
    def between(self, *, at: int, act: Callable[[], object]) -> Iterator[None]:
        """Do ``act`` just before the ``at``-th read of the block is carried out, past its faults."""
        fault = self.inject(Effect.DELAY, reach=Reach.READS, at=at)
        fault.hook = act
        yield
        fault.lift()

    def crash(self, act: Callable[[], object]) -> bool:
        """Run ``act`` until an armed crash ends it, and let a new process take over; return whether it was ended so."""
        try:
            act()
        except Crashed:
            self.restart()
            return True
        return False

    def break_off(self, act: Callable[[], object]) -> bool:
        """Run ``act`` until an armed crash ends it, and go on in the same process; return whether it was ended so."""
        try:
            act()
        except Crashed:
            self.plan.resume()
            return True
        return False

    @contextmanager
    def another_world(self) -> Iterator["Context"]:
        """Give a second account of the same provider in this process, empty at first, for the length of the block."""
        home = self.scope.home / f"another{self._serial}"
        home.mkdir()
        kit = type(self.kit)(attrs.evolve(self.scope, run=f"{self.scope.run}b", home=home))
        other = Context(kit, self.subject_name)
        before = other.inventory()
        try:
            yield other
        finally:
            left = importlib.import_module("anyscale_conformance.sweep").sweep(other, before)
            other.close()
        expect(not left, f"another account was left with {', '.join(map(str, left))}")

    def hand(self, hand: Hand) -> Callable[..., Any]:
        """Return one of the kit's hands; the check must have named it in ``uses``. What it offers is no leak."""

        def act(*args: Any, **kwargs: Any) -> Any:
            before = {item.key for item in self.inventory()}
            result = self.hands[hand](*args, **kwargs)
            if hand is Hand.OFFER:
                self.given |= {item.key for item in self.inventory()} - before
            return result

        return act


LEFT_BEHIND: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()
"""Threads of rows that did not end in time: what such a check still asks for comes to nothing, or it would ask for ever."""
RESULTS: Mapping[str, type] = dict.fromkeys(("create", "list", "offerings", "quotas", "check", "permissions"), tuple)
"""What verbs return that return many; ``create`` does so for instances alone."""


class Guard:
    """Stands in front of a driver: an error or a result that is none of the contract's fails the check, whatever it checks."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __getattr__(self, verb: str) -> Any:
        found = getattr(self._driver, verb)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() in LEFT_BEHIND:
                raise Crashed("the row was over long ago")
            try:
                result = found(*args, **kwargs)
            except (CloudError, Crashed, CheckFailed):
                raise
            except Exception as error:
                raise CheckFailed(
                    f"{self._driver.slot}.{verb} let a {type(error).__name__} escape, which is no error of the tree: {error}"
                ) from error
            kind = RESULTS.get(verb, object)
            if not isinstance(result, kind) and (verb != "create" or self._driver.slot == "cluster"):
                # A list that is made while it is read would raise, or lack something, when nobody looks any more.
                raise CheckFailed(
                    f"{self._driver.slot}.{verb} returned a {type(result).__name__}, not a {kind.__name__}"
                )
            return result

        return call
