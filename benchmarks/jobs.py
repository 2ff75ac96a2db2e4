"""The first output of a job: through the control plane as the command line shows it, and through Ray's own REST."""

import http.client
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from anyscale_core.api.protocol import ClusterView, EventView, JobView
from anyscale_core.cli.jobwatch import JobWatch
from anyscale_core.cli.output import Format, Output
from anyscale_core.cli.progress import QuietProgress
from anyscale_core.cli.watch import Watch, last_event
from anyscale_core.models.job import JobSpec
from anyscale_core.models.phases import ClusterPhase, JobPhase
from benchmarks.gcs import until
from benchmarks.rows import Row, excess, interleaved, row
from benchmarks.served import NAME, Plane, served
from tests.scenarios.machine import a_spec

MARK = "computed 42"
ENTRYPOINT = "python -c \"print('computed', 6 * 7)\""
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


def job(rounds: int) -> Iterator[Row]:
    """Measure from submit to the first byte shown, both ways on the same head. One of each runs before, uncounted."""
    with served() as plane:
        plane.client.apply(a_spec(NAME, low=0, high=1))
        view = plane.view_when(lambda view: view.phase is ClusterPhase.RUNNING and bool(view.endpoint))
        rest = Rest(plane.dashboard(view), plane.ray(view).token.reveal())
        first = _through_us(plane)
        rest.first_output()
        ours, least = interleaved(rounds, lambda: _through_us(plane), rest.first_output)
        over = f"{excess(ours, least):+.2f} s over Ray's REST, target +0.3 s"
        yield row("job", "s", ours, least, over, f"the very first one on this head: {first:.2f} s")


def _through_us(plane: Plane) -> float:
    """Submit and follow a job as ``anyscale-core run`` does; return the seconds until its output is there."""
    client, progress = plane.client, FirstOutput()
    watch = Watch(client, client.get(NAME), progress, after=last_event(client, NAME))
    begin = time.perf_counter()
    submitted = client.submit(NAME, JobSpec(entrypoint=ENTRYPOINT))
    _, ended = JobWatch(watch, submitted.id).to_end()
    return _seconds(ended, progress) - begin


def _seconds(ended: JobView, progress: "FirstOutput") -> float:
    if ended.phase is not JobPhase.SUCCEEDED or progress.shown_at is None:
        raise RuntimeError(f"the job {ended.phase.value} and printed {progress.text!r}: {ended.message}")
    return progress.shown_at


class FirstOutput(QuietProgress):
    """Shows nothing and notes when the output came."""

    def __init__(self) -> None:
        super().__init__(Output(Format.TEXT))
        self.text = ""
        self.shown_at: float | None = None

    def event(self, event: EventView) -> None:
        """Show nothing."""

    def cluster(self, view: ClusterView) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def log(self, data: bytes, *, attempt: int) -> None:  # noqa: ARG002
        """Note when the first whole output has come."""
        self.text += data.decode()
        if self.shown_at is None and MARK in self.text:
            self.shown_at = time.perf_counter()


class Rest:
    """Ray's Jobs API on a head, with nothing in between."""

    def __init__(self, address: str, token: str) -> None:
        self._address, self._token = address, token

    def first_output(self) -> float:
        """Submit a job; return the seconds until its log shows the output. Raises RuntimeError when it never does."""
        id = f"floor-{os.urandom(6).hex()}"
        connection = http.client.HTTPConnection(self._address, timeout=30)
        begin = time.perf_counter()
        self._ask(connection, "POST", "/api/jobs/", {"entrypoint": ENTRYPOINT, "submission_id": id})
        path = f"/api/jobs/{id}"
        until(lambda: MARK in str(self._ask(connection, "GET", f"{path}/logs").get("logs")), "no output")
        took = time.perf_counter() - begin
        until(lambda: self._ask(connection, "GET", path)["status"] in ENDED, "the job has not ended")
        connection.close()
        return took

    def _ask(self, connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path} answered {answer.status}: {text[:300]!r}")
        return json.loads(text)
