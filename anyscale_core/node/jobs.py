"""Jobs on a head: submitted to Ray's Jobs API, followed to their end, their logs put away. One thread."""

import hashlib
import http.client
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.errors import CoreError
from anyscale_core.models.node import JobOrder, JobReport, Package
from anyscale_core.models.phases import JOB_ENDED, JobPhase
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import StoreAccess
from anyscale_core.node import store
from anyscale_core.node.home import Home

POLL = 0.2
"""Seconds between two looks while a job runs."""
RETRY = 1.0
"""Seconds after which the dashboard is tried again when it did not do what was asked."""
TIMEOUT = 60.0
"""Seconds for one request: the first submission may wait for Ray's job agent."""
RECORD = "jobs.json"

log = logging.getLogger(__name__)


class NotNow(CoreError):
    """The dashboard did not answer, or not sensibly: the same request may work a moment later."""


@attrs.frozen(kw_only=True)
class JobsApi:
    """Ray's Jobs REST API on a head's dashboard. Raises NotNow."""

    address: str
    """``host:port``."""
    token: Secret[str]

    def details(self, submission_id: str) -> Mapping[str, Any] | None:
        """Return what Ray says of a job, None when it does not know it."""
        status, body = self._ask("GET", f"/api/jobs/{submission_id}")
        if status == 404:
            return None
        return self._json(status, body)

    def submit(self, order: JobOrder, runtime_env: Mapping[str, Any]) -> str:
        """Submit a job; return why Ray will never run it, or nothing."""
        request = {
            "entrypoint": order.entrypoint,
            "submission_id": order.submission_id,
            "runtime_env": runtime_env,
            "metadata": dict(order.metadata),
        }
        status, body = self._ask("POST", "/api/jobs/", json.dumps(request).encode())
        if status == 400:
            return _last_line(body)
        if status != 200 and b"already exists" not in body:
            raise NotNow(f"submitting answered {status}: {_last_line(body)}")
        return ""

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job; one that it does not know, or that has ended, is stopped."""
        status, body = self._ask("POST", f"/api/jobs/{submission_id}/stop")
        if status not in (200, 404):
            raise NotNow(f"stopping answered {status}: {_last_line(body)}")

    def upload(self, package: bytes) -> str:
        """Give Ray a zip; return the URI that a runtime environment names it by. The same zip is uploaded once."""
        name = f"_ray_pkg_{hashlib.sha1(package, usedforsecurity=False).hexdigest()}.zip"
        if self._ask("GET", f"/api/packages/gcs/{name}")[0] != 200:
            status, body = self._ask("PUT", f"/api/packages/gcs/{name}", package)
            if status != 200:
                raise NotNow(f"uploading the package answered {status}: {_last_line(body)}")
        return f"gcs://{name}"

    def logs(self, submission_id: str) -> bytes:
        """Return what the job's driver has printed."""
        status, body = self._ask("GET", f"/api/jobs/{submission_id}/logs")
        return str(self._json(status, body).get("logs", "")).encode()

    def _json(self, status: int, body: bytes) -> Mapping[str, Any]:
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if status != 200 or not isinstance(value, dict):
            raise NotNow(f"the dashboard answered {status}: {_last_line(body)}")
        return value

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
        headers = {"Authorization": f"Bearer {self.token.reveal()}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotNow(f"the dashboard did not answer: {type(error).__name__}: {error}") from error
        finally:
            connection.close()


class Jobs:
    """The jobs of one head. ``order`` and ``connect`` only note things down; a thread does them."""

    def __init__(self, home: Home, *, on_change: Callable[[], None]) -> None:
        self._home = home
        self._on_change = on_change
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._api: JobsApi | None = None
        self._logs = Path()
        self._store: StoreAccess | None = None
        self._orders: dict[str, JobOrder] = {}
        self._stops: set[str] = set()
        self._reports: dict[str, JobReport] = {}
        self._troubles: list[str] = []
        self._given: set[str] | None = None
        """What was given to the present Ray, if it knows of jobs that an earlier one had; None: all that it knows."""
        threading.Thread(target=self._run, name="jobs", daemon=True).start()

    @property
    def reports(self) -> tuple[JobReport, ...]:
        """Return one report for each job that Ray has been given."""
        with self._lock:
            return tuple(self._reports.values())

    @property
    def waiting(self) -> bool:
        """Tell whether jobs wait for the dashboard."""
        return bool(self._orders)

    @property
    def unfinished(self) -> bool:
        """Tell whether jobs run, or are about to."""
        return self.waiting or any(report.phase not in JOB_ENDED for report in self.reports)

    def order(self, jobs: Iterable[JobOrder], stops: Iterable[str]) -> None:
        """Take orders; those that were carried out or are being carried out are not taken twice."""
        with self._lock:
            for job in jobs:
                if job.submission_id not in self._reports:
                    self._orders[job.submission_id] = job
            for submission_id in stops:
                report = self._reports.get(submission_id)
                if report is None or report.phase not in JOB_ENDED:
                    self._stops.add(submission_id)
        self._wake.set()

    def connect(self, api: JobsApi, *, logs: Path, store: StoreAccess) -> None:
        """Use this Jobs API from now on. Jobs that an earlier agent gave to this Ray are followed on."""
        if api == self._api:
            return
        with self._lock:
            self._api, self._logs, self._store = api, logs, store
            for submission_id in self._home.load(RECORD) or ():
                self._reports.setdefault(submission_id, JobReport(submission_id=submission_id, phase=JobPhase.PENDING))
        self._wake.set()

    def disconnect(self) -> None:
        """Do without the API until it is connected again: the dashboard is away, Ray is not."""
        with self._lock:
            self._api = None

    def interrupt(self) -> None:
        """Ray has ended under its jobs and comes back on what it has stored: what it then says of them is read with care."""
        with self._lock:
            self._api = None
            self._given = set()
            for submission_id in self._home.load(RECORD) or ():
                self._reports.setdefault(submission_id, JobReport(submission_id=submission_id, phase=JobPhase.PENDING))

    def forget(self) -> None:
        """Ray has been stopped, and its jobs with it."""
        with self._lock:
            self._api = None
            self._reports.clear()
            self._orders.clear()
            self._stops.clear()
            self._given = None
            self._home.save(RECORD, [])

    def _run(self) -> None:
        wait: float | None = None
        while True:
            self._wake.wait(wait)
            self._wake.clear()
            api = self._api
            wait = None if api is None else self._round(api)

    def _round(self, api: JobsApi) -> float | None:
        """Do what there is to do; return seconds until the next round, None when nothing is left.

        What does not work now harms no other job: it is tried again in the next round.
        """
        running = [report for report in self.reports if report.phase not in JOB_ENDED]
        steps: list[Callable[[], None]] = [partial(self._submit, api, order) for order in tuple(self._orders.values())]
        steps += (partial(self._stop, api, submission_id) for submission_id in tuple(self._stops))
        steps += (partial(self._look, api, report) for report in running)
        troubles = []
        for step in steps:
            try:
                step()
            except NotNow as error:
                troubles.append(str(error))
        if troubles and troubles != self._troubles:
            log.warning("jobs wait: %s; trying again every %.0f s", "; ".join(troubles), RETRY)
        self._troubles = troubles
        if troubles:
            return RETRY
        return POLL if any(report.phase not in JOB_ENDED for report in self.reports) else None

    def _stop(self, api: JobsApi, submission_id: str) -> None:
        api.stop(submission_id)
        self._stops.discard(submission_id)

    def _submit(self, api: JobsApi, order: JobOrder) -> None:
        report = JobReport(submission_id=order.submission_id, phase=JobPhase.PENDING)
        if api.details(order.submission_id) is None:
            runtime_env: dict[str, Any] = {"env_vars": dict(order.env_vars)} if order.env_vars else {}
            refusal = ""
            if order.package is not None:
                package, refusal = _fetch(order.package)
                runtime_env["working_dir"] = "" if refusal else api.upload(package)
            if self._given is not None:
                self._given.add(order.submission_id)
            refusal = refusal or api.submit(order, runtime_env)
            if refusal:
                report = attrs.evolve(report, phase=JobPhase.FAILED, message=refusal)
        self._report(report)
        self._orders.pop(order.submission_id, None)

    def _look(self, api: JobsApi, report: JobReport) -> None:
        details = api.details(report.submission_id)
        if details is None:
            self._report(attrs.evolve(report, phase=JobPhase.LOST, message="Ray does not know it any more"))
            return
        fresh = JobReport(
            submission_id=report.submission_id,
            phase=JobPhase(details["status"]),
            message=details.get("message") or "",
            exit_code=details.get("driver_exit_code"),
        )
        if self._given is not None and report.submission_id not in self._given:
            fresh = _interrupted(fresh)
        if fresh == report:
            return
        if fresh.phase in JOB_ENDED:
            # Before the end is told: who hears of it may read the log at once.
            self._put_log(api, report.submission_id)
        self._report(fresh)

    def _put_log(self, api: JobsApi, submission_id: str) -> None:
        path = self._logs / f"job-driver-{submission_id}.log"
        try:
            assert self._store is not None
            data = store.tail(path) if path.exists() else api.logs(submission_id)
            store.put(self._store, f"jobs/{submission_id}.log", data)
        except Exception as error:  # obstore has no common base; a job has ended whether its log can be stored or not
            log.warning("the log of job %s was not put away: %s", submission_id, error)

    def _report(self, report: JobReport) -> None:
        with self._lock:
            known = report.submission_id in self._reports
            self._reports[report.submission_id] = report
            if not known:
                self._home.save(RECORD, sorted(self._reports))
        self._on_change()


def _interrupted(report: JobReport) -> JobReport:
    """Return what became of a job of an earlier Ray. Only an end that its driver reached by itself is one; Ray says FAILED
    of those whose driver died with it, or nothing yet."""
    if report.phase in (JobPhase.SUCCEEDED, JobPhase.STOPPED) or report.exit_code is not None:
        return report
    return attrs.evolve(report, phase=JobPhase.LOST, message="the head's Ray ended while it ran")


def _fetch(package: Package) -> tuple[bytes, str]:
    """Return a job's package, or why there is none."""
    try:
        return store.get(package.store, package.key), ""
    except FileNotFoundError:
        return b"", f"its package {package.key} is not in the bucket; upload it again"
    except Exception as error:  # obstore has no common base for its errors
        raise NotNow(f"the package {package.key} cannot be fetched: {error}") from error


def _last_line(body: bytes) -> str:
    lines = body.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
