"""One list and one watch for all Pods of a cloud, so that looking at thousands of them costs the server next to nothing.

The watch is carried through cuts, expired versions (410) and slow servers by a thread that lists anew. What it shows is used only
while the server has spoken within ``FRESH_S``; else the driver lists, which is complete or raises. A watch at rest is silent, as
a dead one is: so each is a short one, and that the server ends it in time says that there was nothing more to tell.
Source: kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes".
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from anyscale_core.errors import CloudError
from anyscale_core.models.owner import Owner
from anyscale_kubernetes.client import Api
from anyscale_kubernetes.kinds import POD
from anyscale_kubernetes.tags import Body, selector

FRESH_S = 5.0
"""How old the server's last word may be; the window of ``consistency.list``."""
WATCH_S = 3
"""How long the server keeps a watch open; the next one goes on where it ended, over the same connection."""
OFF_S = 1.5
"""A watch that ends so far off its time was cut or held up on the way, and says nothing of what happened meanwhile."""
LIST_S = 60.0
FIRST_WAIT_S, LAST_WAIT_S = 0.2, 30.0
KEPT = (
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "resourceVersion",
)


class PodCache:
    """The Pods of a cloud as the server's events tell. The thread starts at the first look and ends with ``close``."""

    def __init__(self, api: Api, owner: Owner) -> None:
        self._api = api
        self._selector = selector(owner, "cluster")
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._pods: dict[str, Body] = {}
        self._heard_at: float | None = None

    def pods(self) -> list[Body] | None:
        """Return all Pods, or None when the server has not spoken lately and somebody has to ask."""
        with self._lock:
            if self._thread is None and not self._end.is_set():
                self._thread = threading.Thread(target=self._run, name="kubernetes-watch", daemon=True)
                self._thread.start()
            if self._heard_at is None or time.monotonic() - self._heard_at > FRESH_S:
                return None
            return list(self._pods.values())

    def close(self) -> None:
        """Let the thread end; its connection is given back when the server next speaks."""
        self._end.set()

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._end.is_set():
            try:
                version = self._list()
                wait_s = FIRST_WAIT_S
                while version and not self._end.is_set():
                    version = self._follow(version)
            except CloudError:
                pass  # whoever looks meanwhile asks the server himself, and is told
            with self._lock:
                self._heard_at = None
            self._end.wait(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, LAST_WAIT_S)

    def _list(self) -> str:
        """Read all Pods anew and return the version that they are of."""
        pods: dict[str, Body] = {}
        version = ""
        for page in self._api.pages(POD, selector=self._selector, deadline=_in(self._api, LIST_S)):
            version = version or str(page.get("metadata", {}).get("resourceVersion", ""))
            pods |= {item["metadata"]["uid"]: _kept(item) for item in page["items"]}
        with self._lock:
            self._pods, self._heard_at = pods, time.monotonic()
        return version

    def _follow(self, version: str) -> str:
        """Watch once, and take the end of the watch as the server's word when it came at its time."""
        began = time.monotonic()
        version = self._watch(version)
        took = time.monotonic() - began
        if version and abs(took - WATCH_S) < OFF_S:
            with self._lock:
                self._heard_at = time.monotonic()
        if took < FIRST_WAIT_S:
            self._end.wait(FIRST_WAIT_S)  # a server that ends each watch at once is not asked without a pause
        return version

    def _watch(self, version: str) -> str:
        """Follow the events from a version on; return the last version seen, or nothing when it has expired."""
        for event in self._events(version):
            pod = event.get("object") or {}
            if event.get("type") == "ERROR":
                return ""
            uid = pod.get("metadata", {}).get("uid")
            with self._lock:
                self._heard_at = time.monotonic()
                if event.get("type") == "DELETED":
                    self._pods.pop(uid, None)
                elif event.get("type") in ("ADDED", "MODIFIED"):
                    self._pods[uid] = _kept(pod)
            version = str(pod.get("metadata", {}).get("resourceVersion") or version)
            if self._end.is_set():
                break
        return version

    def _events(self, version: str) -> Iterator[Mapping[str, Any]]:
        return self._api.watch(POD, selector=self._selector, version=version, seconds=WATCH_S)


def _kept(pod: Body) -> Body:
    """Return what is read of a Pod; the rest of thousands is not kept in memory."""
    metadata = pod["metadata"]
    return {"metadata": {key: metadata[key] for key in KEPT if key in metadata}, "status": pod.get("status") or {}}


def _in(api: Api, seconds: float) -> datetime:
    return api.clock.now() + timedelta(seconds=seconds)
