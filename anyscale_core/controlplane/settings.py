"""Settings of one control plane, from arguments or the environment (docs/settings.md)."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from anyscale_core.errors import Fault, SpecError
from anyscale_core.models.records import Timing

ENV_HOME = "ANYSCALE_CORE_HOME"
ENV_DATABASE = "ANYSCALE_CORE_DATABASE_URL"
ENV_ISSUER = "ANYSCALE_CORE_ISSUER"
ENV_ISSUER_KEY = "ANYSCALE_CORE_ISSUER_KEY"
ENV_TIMING = "ANYSCALE_CORE_TIMING_"
"""Prefix: ``ANYSCALE_CORE_TIMING_LOST_AFTER=30`` sets ``Timing.lost_after``, in seconds."""


@attrs.frozen(kw_only=True)
class Settings:
    """``home``: the folder of the plane on this machine (keys, embedded store, local provider). ``url``: how nodes reach it.

    ``database``: the URL of a PostgreSQL database that several control planes may share; None is the embedded SQLite store in
    ``home``, which belongs to one.
    """

    home: Path
    database: str | None = attrs.field(default=None, repr=False)
    url: str = ""
    issuer: str = ""
    """The ``https://`` URL of the plane as an OIDC issuer, below which clouds find its keys. Empty: they are handed over."""
    issuer_key: int = 0
    """The number of the key that signs the issuer's tokens; raised by one to change it."""
    timing: Timing = attrs.field(factory=Timing)
    lease_ttl: timedelta = timedelta(seconds=90)
    """How long a worker may hold a cluster; longer than one round of driver calls (``timing.call_timeout``)."""
    join_ttl: timedelta = timedelta(hours=1)
    credential_ttl: timedelta = timedelta(hours=12)
    """A node's credential; renewed at half its life. It has to outlast the longest absence of the control plane."""
    access_ttl: timedelta = timedelta(hours=1)
    """A user's token for a cluster's gateway."""
    operator_token_ttl: timedelta = timedelta(days=90)
    """A registration token of a cloud's operator, which shows it at every start."""
    operator_ttl: timedelta = timedelta(hours=1)
    """An operator's credential; renewed at half its life."""
    retention: timedelta = timedelta(days=30)
    """How long ended clusters and nodes, events and audit records are kept."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings. Raises SpecError naming every variable that cannot be read."""
        home = Path(env.get(ENV_HOME) or Path.home() / ".anyscale_core").expanduser().absolute()
        issuer, issuer_key = _issuer(env)
        return cls(
            home=home, database=env.get(ENV_DATABASE) or None, issuer=issuer, issuer_key=issuer_key, timing=_timing(env)
        )


def _issuer(env: Mapping[str, str]) -> tuple[str, int]:
    issuer, number = env.get(ENV_ISSUER, "").rstrip("/"), env.get(ENV_ISSUER_KEY) or "0"
    faults: list[Fault] = []
    if issuer and not (issuer.startswith("https://") and urlsplit(issuer).hostname):
        faults.append(Fault(path=ENV_ISSUER, message=f"{issuer!r} is no https:// URL"))
    if not number.isdecimal():
        faults.append(Fault(path=ENV_ISSUER_KEY, message=f"{number!r} is no number from 0"))
    if faults:
        raise SpecError(faults, subject="environment")
    return issuer, int(number)


def _timing(env: Mapping[str, str]) -> Timing:
    known = {field.name for field in attrs.fields(Timing) if field.type is timedelta}
    values: dict[str, timedelta] = {}
    faults: list[Fault] = []
    for variable in sorted(name for name in env if name.startswith(ENV_TIMING)):
        name = variable.removeprefix(ENV_TIMING).lower()
        try:
            if name not in known:
                raise ValueError(f"is not a timing; known: {', '.join(sorted(known))}")
            values[name] = timedelta(seconds=float(env[variable]))
        except ValueError as error:
            faults.append(Fault(path=variable, message=str(error)))
    if faults:
        raise SpecError(faults, subject="environment")
    return attrs.evolve(Timing(), **values)  # type: ignore[arg-type]
