"""Looks at one cluster until something has become true, and tells how it goes."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from anyscale_core.api.client import Client, Unreachable
from anyscale_core.api.protocol import ClusterView, EventView
from anyscale_core.cli.failures import Broken
from anyscale_core.cli.progress import Progress
from anyscale_core.models.ids import ClusterId
from anyscale_core.models.phases import CLUSTER_ENDED

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds without an answer until a control plane that has answered before is given up."""
AGAIN = 0.5
SOON = timedelta(milliseconds=150)
"""How long one look waits for an event while something is about to happen."""
LATER = timedelta(seconds=1)
"""And while there is nothing to do but wait; an event ends it at once."""
PAGE = 500


class Watch:
    """One cluster, looked at again and again. ``after``: the last event that is known."""

    def __init__(self, client: Client, view: ClusterView, progress: Progress, *, after: int = 0) -> None:
        self.client, self.progress = client, progress
        self.id: ClusterId = view.id
        self.name = view.name
        self._after = after

    def look(self, wait: timedelta) -> ClusterView:
        """Show new events, waiting for one for up to ``wait``; return the cluster as it is then.

        Raises Unreachable when the control plane is away for 30 s; Broken when another cluster has taken the name.
        """
        for event in self.patiently(lambda: self.client.events(self.name, after=self._after, wait=wait, limit=PAGE)):
            self._after = event.id
            self.progress.event(event)
        view = self.patiently(lambda: self.client.get(self.name))
        if view.id != self.id:
            raise Broken(f"{self.name} ({self.id}) has ended, and another cluster of that name was made")
        self.progress.cluster(view)
        return view

    def until(self, done: Callable[[ClusterView], bool], *, wait: timedelta = LATER) -> ClusterView:
        """Look until ``done``; return the cluster as it is then."""
        while True:
            view = self.look(wait)
            if done(view):
                return view

    def patiently(self, ask: Callable[[], T]) -> T:
        """Return what the control plane answers; one that is away for a moment (a restart) is asked again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except Unreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(AGAIN)


def ended(view: ClusterView) -> bool:
    """Tell whether nothing of a cluster is left."""
    return view.phase in CLUSTER_ENDED


def last_event(client: Client, name: str) -> int:
    """Return the id of the last event of a cluster, 0 when there is none."""
    last = 0
    while page := client.events(name, after=last, limit=PAGE):
        last = page[-1].id
    return last


def all_events(client: Client, name: str | None) -> tuple[EventView, ...]:
    """Return every event of a cluster, or of all."""
    found: list[EventView] = []
    while page := client.events(name, after=found[-1].id if found else 0, limit=PAGE):
        found += page
    return tuple(found)
