"""Any kit through pull mode: its provider's drivers become those of a cloud whose operator performs with the kit's own.

Values cross between control plane and operator as JSON, as they would on the wire. The operators work in the threads of those
who wait for them, which is fast enough for the whole suite; their own threads and HTTPS have tests of their own.
"""

import argparse
import atexit
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import attrs
from anyscale_conformance import integrity
from anyscale_conformance.faults.plan import Crashed
from anyscale_conformance.kit import Kit, Mode, RunScope
from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.reports import write_all
from anyscale_conformance.reports.result import Report, report_of
from anyscale_conformance.rows import Row
from anyscale_conformance.runner import Run, all_checks
from anyscale_conformance.verdicts import Result, Verdict
from anyscale_kubernetes.kit import KubernetesKit

from anyscale_core.clock import SystemClock
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.remote import REMOTE
from anyscale_core.controlplane.settings import Settings
from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.drivers.layers import Call, Next, layered
from anyscale_core.errors import Applied, Unclassified
from anyscale_core.hookspecs import Provider
from anyscale_core.models.cloud import CloudMode, CloudSpec
from anyscale_core.models.order import Login
from anyscale_core.operator.door import Contact
from anyscale_core.operator.operator import Operator
from anyscale_core.registry import Registry
from tests.controlplane.watched import hasten
from tests.operator.pull import InProcess

AGES = timedelta(days=3650)


class Through(Kit):
    """Mixed in before a kit. What crashes in a driver crashes its caller, as if both were one process: the suite's crashes
    are those of a driver's host, whichever that is."""

    def __init__(self, scope: RunScope) -> None:
        super().__init__(scope)
        home = scope.home / "plane"
        shutil.copytree(_template(), home)
        settings = Settings(home=home, url="https://plane.test", operator_ttl=AGES, operator_token_ttl=AGES)
        self.plane = ControlPlane(settings, registry=Registry.of(), clock=self.clock)
        hasten(self.plane.store)
        self.plane.mailbox.idle = self._idle
        self._door = InProcess(lambda: self.plane)
        self._clouds: list[tuple[DriverConfig, dict[str, Driver], Operator]] = []
        self._lock = threading.Lock()
        self._crashes: list[Crashed] = []

    def provider(self) -> Provider:
        provider = super().provider()
        factories: dict[str, Any] = {slot: self._through(slot, getattr(provider, slot)) for slot in provider.slots()}
        return attrs.evolve(provider, **factories)

    def close(self) -> None:
        self.plane.close()
        super().close()

    def _through(self, slot: str, factory: Callable[[DriverConfig], Driver]) -> Callable[[DriverConfig], Driver]:
        def build(config: DriverConfig) -> Driver:
            inner = layered(factory(config), self._catch)
            cloud = self._cloud(slot, inner, config)
            remote = REMOTE[slot](self.plane.mailbox, cloud=cloud, provider=inner.provider, clock=self.clock)
            return layered(remote, self._die)

        return build

    def _cloud(self, slot: str, driver: Driver, config: DriverConfig) -> str:
        """Return a cloud whose operator has this driver: drivers that are built alike share one, as those of a cloud do."""
        with self._lock:
            return self._cloud_locked(slot, driver, config)

    def _cloud_locked(self, slot: str, driver: Driver, config: DriverConfig) -> str:
        for number, (of, drivers, _) in enumerate(self._clouds):
            if of == config and slot not in drivers:
                drivers[slot] = driver
                return f"cloud-{number}"
        cloud = CloudSpec(name=f"cloud-{len(self._clouds)}", provider=driver.provider, mode=CloudMode.OPERATOR)
        self.plane.store.add_cloud(cloud, now=self.clock.now())
        token = self.plane.operators.token(cloud.name).token
        contact = Contact(self._door, lambda: Login(cloud=cloud.name, replica="only", token=token))
        drivers = {slot: driver}
        operator = Operator(contact, lambda _: drivers, ca_pem=self.plane.keys.ca_pem, clock=self.clock)
        operator.turn()
        self._clouds.append((config, drivers, operator))
        return cloud.name

    def _idle(self, _: timedelta) -> None:
        """Let the operators work in the thread of whoever waits for one of them; several at once when several wait."""
        waiting = self.plane.mailbox.waiting()
        if not sum(operator.turn() for cloud, operator in self._operators() if cloud in waiting):
            time.sleep(0.001)

    def _operators(self) -> list[tuple[str, Operator]]:
        return [(f"cloud-{number}", operator) for number, (_, _, operator) in enumerate(tuple(self._clouds))]

    def _catch(self, call: Call, next: Next, /) -> Any:
        try:
            return next(call)
        except Crashed as crash:
            self._crashes.append(crash)
            raise Unclassified("the driver's process died", applied=Applied.UNKNOWN) from None

    def _die(self, call: Call, next: Next, /) -> Any:
        try:
            return next(call)
        except Unclassified:
            if self._crashes:
                raise self._crashes.pop() from None
            raise


class FakeThroughOperator(Through, ReferenceKit):
    """The reference provider in pull mode."""

    name = "fake"


class KubernetesThroughOperator(Through, KubernetesKit):
    """Kubernetes in pull mode: its simulated API server is reached by the operator's drivers alone."""

    name = "kubernetes"


KITS: Mapping[str, type[Through]] = {kit.name: kit for kit in (FakeThroughOperator, KubernetesThroughOperator)}


@cache
def _template() -> Path:
    """Return a home whose store is migrated and whose keys are made."""
    home = Path(tempfile.mkdtemp(prefix="through-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    ControlPlane(Settings(home=home), registry=Registry.of(), clock=SystemClock()).close()
    return home


def bad(results: Iterable[Result]) -> list[str]:
    """Return what is wrong with results."""
    fine = (Verdict.PASS, Verdict.REFUSED_OK, Verdict.UNVERIFIED)
    return [
        f"{result.row} {result.verdict.value}: {result.message} {result.leaks or ''}"
        for result in results
        if result.leaks or result.verdict not in fine
    ]


def run_of(provider: str, *, scope: str = "") -> Run:
    """Return a run of a provider's suite in pull mode."""
    kit = KITS[provider]
    mode = Mode.HERMETIC if Mode.HERMETIC in kit.modes else Mode.EMULATOR
    return Run(kit=kit, mode=mode, name=scope)


def graded(run: Run, rows: Iterable[Row], results: Iterable[Result], *, selection: tuple[str, ...] = ()) -> Report:
    """Return the report of a run: the provider's name says that it was in pull mode, and a row how it is run again."""
    report = report_of(
        run, rows=rows, results=results, selection=selection, integrity=integrity.faults(), manifest=integrity.digest()
    )
    again = f"python -m tests.operator.through {report.provider} --check"
    results = tuple(
        attrs.evolve(result, replay=f"{again} '{result.row}'" if result.replay else "") for result in report.results
    )
    return attrs.evolve(report, provider=f"{report.provider}-operator", results=results)


def main() -> int:
    """Run a provider's rows and print what it is worth in pull mode."""
    parser = argparse.ArgumentParser(prog="python -m tests.operator.through", description=main.__doc__)
    parser.add_argument("provider", choices=sorted(KITS))
    parser.add_argument("--check", action="append", default=[], metavar="ID", help="this check or row alone")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write result.json and all that derives from it")
    args = parser.parse_args()
    run = run_of(args.provider, scope="through")
    rows = [row for row in run.rows(all_checks()) if not args.check or {row.id, row.check.id} & set(args.check)]
    report = graded(run, rows, run.each(rows), selection=tuple(args.check))
    print("\n".join(bad(report.results)))
    print(report.grade.value, {verdict.value: count for verdict, count in report.counts().items()})
    if args.report is not None:
        write_all(report, args.report)
    return len(bad(report.results))


if __name__ == "__main__":
    sys.exit(main())
