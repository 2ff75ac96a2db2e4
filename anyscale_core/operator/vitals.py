"""How the operator is: what it counts, how its parts fared, what it tells of that."""

import resource
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from anyscale_core import __version__
from anyscale_core.clock import Clock
from anyscale_core.drivers.base import Driver
from anyscale_core.errors import CloudError
from anyscale_core.models.networking import Check, CheckStatus
from anyscale_core.models.order import Health
from anyscale_core.models.owner import Owner

PROBE = timedelta(seconds=20)
"""How long a look at a part of the cloud may take."""


class Vitals:
    """Counters and states. Threads may share it."""

    def __init__(self, clock: Clock, *, fresh: timedelta = timedelta(minutes=1)) -> None:
        self._clock, self._fresh = clock, fresh
        self._lock = threading.Lock()
        self._orders: Counter[tuple[str, str]] = Counter()
        self._checks: dict[str, Check] = {}
        self.since = clock.now()
        self.in_hand = 0
        self.leads = False
        self.heard_at: datetime | None = None
        """When the control plane last answered."""
        self.trouble = "the control plane has not answered yet"

    def count(self, action: str, outcome: str) -> None:
        """Count an order: its outcome is ``ok`` or the error's category."""
        with self._lock:
            self._orders[action, outcome] += 1

    def heard(self) -> None:
        """The control plane answered."""
        self.heard_at, self.trouble = self._clock.now(), ""

    def probe(self, drivers: Mapping[str, Driver], owner: Owner) -> None:
        """Look at each part of the cloud with a call that changes nothing."""
        for slot, driver in drivers.items():
            check = _probed(slot, driver, owner, self._clock.now() + PROBE)
            with self._lock:
                self._checks[slot] = check

    @property
    def is_known(self) -> bool:
        """Whether the parts have been looked at."""
        return bool(self._checks)

    def health(self) -> Health:
        """Return what is reported."""
        with self._lock:
            checks = tuple(self._checks[name] for name in sorted(self._checks))
        return Health(version=__version__, since=self.since, checks=checks, metrics=dict(self._metrics()))

    def why_not_ready(self) -> str:
        """Return why no orders come through now; empty when they do."""
        if self.trouble:
            return self.trouble
        late = self.heard_at is None or self._clock.now() - self.heard_at > self._fresh
        return "the control plane has not answered for some time" if late else ""

    def exposition(self) -> str:
        """Return the metrics in Prometheus' text format."""
        lines = []
        for name, value in sorted(self._metrics()):
            lines += [f"# TYPE {name} gauge", f"{name} {value:g}"]
        name = "anyscale_core_operator_orders_total"
        with self._lock:
            counts = sorted(self._orders.items())
        lines += [f"# TYPE {name} counter"]
        lines += [f'{name}{{action="{action}",outcome="{outcome}"}} {count}' for (action, outcome), count in counts]
        return "\n".join(lines) + "\n"

    def _metrics(self) -> Iterable[tuple[str, float]]:
        prefix = "anyscale_core_operator_"
        with self._lock:
            done = float(sum(self._orders.values()))
            failed = float(sum(count for (_, outcome), count in self._orders.items() if outcome != "ok"))
        yield f"{prefix}performed", done
        yield f"{prefix}failed", failed
        yield f"{prefix}in_hand", float(self.in_hand)
        yield f"{prefix}leads", float(self.leads)
        yield f"{prefix}ready", float(not self.why_not_ready())
        yield f"{prefix}uptime_seconds", (self._clock.now() - self.since).total_seconds()
        yield f"{prefix}max_resident_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _probed(slot: str, driver: Driver, owner: Owner, deadline: datetime) -> Check:
    try:
        found = driver.list(owner, deadline=deadline)  # type: ignore[attr-defined]
    except CloudError as error:
        return Check(id=slot, status=CheckStatus.FAILED, detail=str(error), remedy=error.hint)
    return Check(id=slot, status=CheckStatus.PASSED, detail=f"{driver.provider}: {len(found)} of ours")
