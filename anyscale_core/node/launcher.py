"""The one process on a node that speaks Ray: ``python -m anyscale_core.node.launcher``.

It imports Ray while the agent still waits to be told what to start, then runs the public ``ray start`` in itself. A worker's
exits when that is done; a head's stays, since it has all that is needed to read Ray's state and to tell it of drains.
JSON lines: commands on stdin, events on stdout. It ends with its stdin; the Ray that it started stays.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

import attrs

from anyscale_core.node.rayprivate import Started, warm_up


class Launcher:
    """Performs the agent's commands, one at a time: ``start``, ``attach``, ``gcs``, ``dashboard``, ``drain``, ``unregister``."""

    def __init__(self, events: TextIO) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._ray: Started | None = None
        self._head: Any = None

    def run(self, commands: TextIO) -> None:
        """Perform commands until there are no more."""
        for line in commands:
            name, argument = next(iter(json.loads(line).items()))
            try:
                getattr(self, f"_do_{name}")(argument)
            except (Exception, SystemExit) as error:  # told to the agent, which handles and logs it
                self._tell("failed", {"command": name, "error": f"{type(error).__name__}: {error}"})
            if name == "start" and not argument["head"]:
                return

    def _do_start(self, argument: Mapping[str, Any]) -> None:
        from ray.scripts.scripts import start

        from anyscale_core.node import rayprivate

        os.environ.update(argument["env"])
        told = threading.Event()

        def alive(ray: Started) -> None:
            self._ray = ray
            self._tell("started", attrs.asdict(ray))
            told.set()

        threading.Thread(target=rayprivate.await_alive, args=(alive,), daemon=True).start()
        start.main(args=argument["arguments"], standalone_mode=False)
        told.wait()
        if argument["head"]:
            self._watch(argument["groups"])

    def _do_attach(self, argument: Mapping[str, Any]) -> None:
        from anyscale_core.models import wire

        os.environ.update(argument["env"])
        self._ray = wire.structure(argument["ray"], Started)
        self._watch(argument["groups"])

    def _do_gcs(self, _: object) -> None:
        from anyscale_core.node.rayprivate import restart_gcs

        assert self._ray is not None
        self._ray = restart_gcs(self._ray, answers=self._head.answers)
        self._tell("started", attrs.asdict(self._ray))

    def _do_dashboard(self, _: object) -> None:
        # It takes seconds; drains must not wait for it.
        threading.Thread(target=self._keep_dashboard, daemon=True).start()

    def _keep_dashboard(self) -> None:
        from anyscale_core.node.rayprivate import start_dashboard

        assert self._ray is not None
        try:
            address, process = start_dashboard(self._ray)
        except Exception as error:  # told to the agent, which handles and logs it
            self._tell("failed", {"command": "dashboard", "error": f"{type(error).__name__}: {error}"})
            return
        self._tell("dashboard", {"address": address, "pid": process.pid})
        self._tell("dashboard_gone", {"code": process.wait()})

    def _do_drain(self, argument: Mapping[str, Any]) -> None:
        self._tell("drained", {"order": argument["order"], "accepted": self._head.drain(**argument["ask"])})

    def _do_unregister(self, argument: Mapping[str, Any]) -> None:
        self._head.unregister(argument["ray_id"], argument["reason"])
        self._tell("unregistered", {"ray_id": argument["ray_id"]})

    def _watch(self, groups: Mapping[str, Mapping[str, float]]) -> None:
        from anyscale_core.node.head import Gcs, credentials

        assert self._ray is not None
        self._head = Gcs(self._ray.gcs_address, token=os.environ["RAY_AUTH_TOKEN"], tls=credentials(os.environ))
        threading.Thread(target=self._head.watch, args=(groups, self._tell), daemon=True).start()

    def _tell(self, name: str, argument: Mapping[str, Any]) -> None:
        with self._lock:
            self._events.write(json.dumps({name: argument}) + "\n")
            self._events.flush()


def main() -> None:
    """Keep stdin and stdout for the agent alone (what Ray prints goes to stderr), warm up, and serve."""
    commands, events = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    warm_up()  # the long import that this process exists to have behind it

    # When the agent is gone, the next one finds Ray by its record.
    with contextlib.suppress(BrokenPipeError):
        Launcher(events).run(commands)
    # Ray's exit handlers would only cost time: nothing here owns anything.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
