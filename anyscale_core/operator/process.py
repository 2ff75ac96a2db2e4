"""An operator as a process: what it is given, what it builds, where it logs, how it ends."""

import enum
import json
import logging
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs

from anyscale_core import __version__
from anyscale_core.clock import Clock, SystemClock
from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.layers import layered, standard
from anyscale_core.errors import CoreError, Fault, PluginError, Refused, SpecError
from anyscale_core.link import Away
from anyscale_core.models.ids import CloudName, PlaneId
from anyscale_core.models.order import OPERATOR_AUDIENCE, Login, Session
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.operator.door import Contact, HttpsDoor
from anyscale_core.operator.health import HealthServer
from anyscale_core.operator.operator import Operator
from anyscale_core.operator.vitals import Vitals
from anyscale_core.registry import Registry

PROVING = timedelta(seconds=30)
"""How long making a proof may take."""

log = logging.getLogger(__name__)


class Exit(enum.IntEnum):
    """How an operator's process ends."""

    DONE = 0
    UNUSABLE = 2
    """What it was given, or a provider that its cloud needs, cannot be used here."""
    REFUSED = 3
    """The control plane does not let it in."""


@attrs.frozen(kw_only=True)
class Options:
    """What an operator is given. ``settings``: each provider's keys, by its name: they stay on this side.

    ``token_file`` or ``identity`` (a provider) says how it proves itself; ``health_port`` None: nothing listens.
    """

    url: str
    ca: Path
    cloud: str
    home: Path
    token_file: Path | None = None
    identity: str = ""
    settings: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=False)
    health_port: int | None = None
    replica: str = attrs.field(factory=lambda: f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}")


def run(options: Options, *, registry: Registry | None = None) -> Exit:
    """Run an operator until SIGTERM or SIGINT. Logs JSON lines on stderr. Raises SpecError for options that cannot be used."""
    _log_json()
    operator = build(options, registry=registry or Registry.load(), clock=SystemClock())
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: operator.stop())
    health = _health(options, operator.vitals)
    try:
        operator.start()
    except Away as error:
        log.warning("the control plane is away, trying again: %s", error)
    except Refused as refused:
        log.error("%s (%s)", refused, refused.why)
        return Exit.REFUSED
    except CoreError as error:
        log.error("this operator cannot work: %s", error)
        return Exit.UNUSABLE
    operator.run()
    if health is not None:
        health.close()
    log.info("ended")
    return Exit.DONE


def build(options: Options, *, registry: Registry, clock: Clock) -> Operator:
    """Return an operator as the options describe it. Raises SpecError naming all that is wrong with them."""
    faults: list[Fault] = []
    ca_pem = _text(options.ca, "ca", faults)
    if (options.token_file is None) == (not options.identity):
        faults.append(Fault(path="", message="give --token-file or --identity, one of them"))
    if options.token_file is not None:
        _text(options.token_file, "token-file", faults)
    for name in sorted(set(options.settings) - {found.name for found in registry.found()}):
        known = ", ".join(found.name for found in registry.found()) or "none"
        faults.append(Fault(path=f"settings.{name}", message=f"no provider {name!r} is installed; installed: {known}"))
    if faults:
        raise SpecError(faults, subject="operator")
    try:
        door = HttpsDoor(options.url, ca_pem)
    except ValueError as error:
        raise SpecError([Fault(path="url", message=str(error))], subject="operator") from None
    builder = Builder(options=options, registry=registry, clock=clock)
    return Operator(Contact(door, builder.login), builder.drivers, ca_pem=ca_pem, clock=clock)


@attrs.frozen(kw_only=True)
class Builder:
    """Builds what an operator works with."""

    options: Options
    registry: Registry
    clock: Clock

    def login(self) -> Login:
        """Return the first words to the control plane; the token is read anew every time. Raises CloudError, SpecError."""
        o = self.options
        known = Login(cloud=o.cloud, replica=o.replica, version=__version__)
        if o.token_file is not None:
            faults: list[Fault] = []
            token = _text(o.token_file, "token-file", faults)
            if faults:
                raise SpecError(faults, subject="operator")
            return attrs.evolve(known, token=Secret(token.strip()))
        # Whose the cloud's things are is not known before the control plane says so, and does not matter for a proof.
        nobody = Owner(plane=PlaneId("operator"), cloud=CloudName(o.cloud))
        driver = self.registry.driver(o.identity, "identity", self._config(o.identity, nobody, ""))
        if not isinstance(driver, IdentityDriver):
            raise PluginError(o.identity, f"its identity driver is a {type(driver).__name__}, not an IdentityDriver")
        deadline = self.clock.now() + PROVING
        try:
            return attrs.evolve(known, proof=driver.prove(OPERATOR_AUDIENCE, subject=o.cloud, deadline=deadline))
        finally:
            driver.close()

    def drivers(self, session: Session) -> Mapping[str, Driver]:
        """Return the cloud's drivers by slot, behind the layers that every driver has. Raises UnknownName, PluginError."""
        layers = standard(self.clock, self.clock.sleep)
        built = self.registry.drivers(session.providers, lambda name: self._config(name, session.owner, session.region))
        return {slot: layered(driver, *layers, cloud=session.owner.cloud) for slot, driver in built.items()}

    def _config(self, provider: str, owner: Owner, region: str) -> DriverConfig:
        settings = self.options.settings.get(provider, {})
        return DriverConfig(owner=owner, home=self.options.home, region=region, settings=settings, clock=self.clock)


def _health(options: Options, vitals: Vitals) -> HealthServer | None:
    if options.health_port is None:
        return None
    try:
        server = HealthServer(vitals, port=options.health_port)
    except OSError as error:
        fault = Fault(path="health-port", message=f"{options.health_port} cannot be listened on: {error.strerror}")
        raise SpecError([fault], subject="operator") from None
    log.info("health and metrics", extra={"port": server.port})
    return server


def _text(path: Path, name: str, faults: list[Fault]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        faults.append(Fault(path=name, message=f"{path} cannot be read: {why}"))
        return ""


class _Json(logging.Formatter):
    """One JSON document per line."""

    STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage(),
        }  # fmt: skip
        said |= {key: str(value) for key, value in vars(record).items() if key not in self.STANDARD}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def _log_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    # Of the providers' SDKs the warnings alone: at INFO some of them log every request.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("anyscale_core").setLevel(logging.INFO)
