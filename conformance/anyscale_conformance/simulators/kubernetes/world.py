"""One simulated cluster without its HTTP: its clock, its objects, what is due, and who reacts to what changes."""

import heapq
import itertools
import random
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from anyscale_conformance.simulators.kubernetes.kinds import Catalogue, Kind
from anyscale_conformance.simulators.kubernetes.store import Change, Entry, Object, Store
from anyscale_core.clock import Clock

# Source: k8s.io/apimachinery, pkg/util/rand: no vowels and no digits that read like them.
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_LIMIT = 1_000_000


class World:
    """The state that everything in a simulated cluster shares. Whoever touches it holds ``lock``.

    What takes time is put on the agenda and done, at its own instant, when the world is next looked at: there are no threads.
    """

    def __init__(self, clock: Clock, catalogue: Catalogue, seed: int) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.catalogue = catalogue
        self.random = random.Random(seed)
        self.store = Store(self._changed)
        self.reactors: list[Callable[[Change], None]] = []
        self.pollers: list[Callable[[], None]] = []
        self.watchers: list[Callable[[], None]] = []
        self.webhooks: list[Callable[[Object, Mapping[str, str]], None]] = []
        self.bind: Callable[[Entry, str], Entry] = lambda pod, _: pod
        self.log_of: Callable[[Entry], str] = lambda _: ""
        self._agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._instant: datetime | None = None
        self._is_advancing = False

    @property
    def now(self) -> datetime:
        """The instant at which things happen: the clock's, or that of the item of the agenda that is being done."""
        return self._instant or self.clock.now()

    @property
    def stamp(self) -> str:
        """The present instant as objects write it."""
        return timestamp(self.now)

    def kind(self, plural: str, group: str = "") -> Kind:
        """Return a kind by its plural."""
        return self.catalogue.plural(plural, group)

    def get(self, plural: str, namespace: str, name: str, group: str = "") -> Entry | None:
        """Return an object, or None."""
        return self.store.get(self.kind(plural, group), namespace, name)

    def entries(self, plural: str, namespace: str = "", group: str = "") -> list[Entry]:
        """Return the objects of a kind."""
        return self.store.entries(self.kind(plural, group), namespace)

    def write(self, entry: Entry, **changes: Any) -> Entry:
        """Replace parts of an object (``status=...``), as the cluster's own components do; nothing happens if nothing changes."""
        if all(entry.obj.get(key) == value for key, value in changes.items()):
            return entry
        obj = entry.obj | changes
        return self.put(entry.kind, entry.namespace, entry.name, obj)

    def put(self, kind: Kind, namespace: str, name: str, obj: Object) -> Entry:
        """Store an object."""
        return self.store.put(kind, namespace, name, obj | {"metadata": dict(obj["metadata"])})

    def later(self, delay: timedelta, act: Callable[[], None]) -> None:
        """Do something after a delay, at the earliest when the world is next looked at."""
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), act))

    def soon(self, act: Callable[[], None]) -> None:
        """Do something when the world is next looked at."""
        self.later(timedelta(), act)

    def advance(self) -> None:
        """Do everything that is due. Raises RuntimeError when it never ends."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            for poll in self.pollers:
                poll()
            now = self.clock.now()
            for _ in range(_LIMIT):
                if not self._agenda or self._agenda[0][0] > now:
                    return
                self._instant, _, act = heapq.heappop(self._agenda)
                act()
            raise RuntimeError("the simulated cluster does not come to rest: its controllers undo each other's work")
        finally:
            self._instant = None
            self._is_advancing = False

    def uid(self) -> str:
        """Return a new uid."""
        digits = f"{self.random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def letters(self, count: int) -> str:
        """Return random letters, as generated names end in."""
        return "".join(self.random.choices(_LETTERS, k=count))

    def _changed(self, change: Change) -> None:
        for react in self.reactors:
            react(change)
        for wake in self.watchers:
            wake()


def timestamp(instant: datetime) -> str:
    """Return an instant as RFC 3339 in seconds."""
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def micro(instant: datetime) -> str:
    """Return an instant as RFC 3339 in microseconds, as leases and events write it."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def instant(text: str) -> datetime:
    """Return the instant that an object writes."""
    return datetime.fromisoformat(text)
