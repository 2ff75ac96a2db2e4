"""Operators as the control plane knows them: who may speak for a cloud, which replica leads, whether it is there."""

import contextlib
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from anyscale_core.clock import Clock
from anyscale_core.controlplane import queries as q
from anyscale_core.controlplane import schema as t
from anyscale_core.controlplane.clouds import Clouds
from anyscale_core.controlplane.credentials import unproven
from anyscale_core.controlplane.keys import OPERATOR, REGISTRATION, KeyRing
from anyscale_core.controlplane.mailbox import Mailbox
from anyscale_core.controlplane.rows import AuditRecord, Event, add_event, touch_cloud
from anyscale_core.controlplane.settings import Settings
from anyscale_core.controlplane.store import Store
from anyscale_core.errors import CloudError, Fault, Refused, SpecError, UnknownName
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudMode, CloudSpec
from anyscale_core.models.ids import CloudName, PlaneId
from anyscale_core.models.order import (
    OPERATOR_AUDIENCE,
    Dispatch,
    Health,
    Login,
    Noted,
    OperatorState,
    OperatorToken,
    OperatorView,
    Poll,
    Report,
    Session,
)
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret

HOLD = timedelta(seconds=20)
"""How long a poll may be held: shorter than what proxies allow an answer, and than the lease that it renews."""
REPORT_INTERVAL = timedelta(seconds=30)
"""How often health is reported."""
NOTED = 15
"""Of the silence that counts, the part in which an operator's asking again is not written down again."""
LONGEST = 64
"""Characters of a replica's name."""
KEPT = timedelta(hours=1)
"""How long orders are kept behind their expiry."""


@attrs.frozen(kw_only=True)
class OperatorBearer:
    """Whose credential it is."""

    cloud: str
    replica: str
    epoch: int
    issued_at: datetime
    expires_at: datetime


class Operators:
    """The machine-facing half of pull mode. Threads may share it."""

    def __init__(
        self, *, plane: PlaneId, store: Store, clouds: Clouds, mailbox: Mailbox, keys: KeyRing, clock: Clock,
        settings: Settings,
    ) -> None:  # fmt: skip
        self._plane, self._store, self._clouds, self._mailbox = plane, store, clouds, mailbox
        self._keys, self._clock, self._settings = keys, clock, settings
        self._known: dict[bytes, OperatorBearer] = {}
        self._forgot_at: datetime | None = None

    # -- for people ----------------------------------------------------------------------------------------------------

    def token(self, cloud: str) -> OperatorToken:
        """Return a registration token for a cloud's operator. Raises UnknownName; SpecError for a cloud of another mode."""
        self._spec(cloud)
        now = self._clock.now()
        expires = now + self._settings.operator_token_ttl
        claims = {"sub": cloud, "epoch": self._row(cloud)["epoch"]}
        token = self._keys.sign(REGISTRATION, claims, issued=now, expires=expires)
        return OperatorToken(
            cloud=cloud, token=token, expires_at=expires, url=self._settings.url, ca_pem=self._keys.ca_pem
        )

    def revoke(self, cloud: str) -> None:
        """Make every token and credential of a cloud's operators worthless, at once. Raises as ``token``."""
        self._spec(cloud)
        self._row(cloud)
        o = t.operators.c
        with self._store.write() as connection:
            values = {"epoch": o.epoch + 1, "lease_until": None}
            connection.execute(update(t.operators).where(o.cloud == cloud).values(**values))

    def view(self, cloud: str) -> OperatorView:
        """Return what is known of a cloud's operator."""
        row, o = self._row(cloud), t.operators.c
        with self._store.read() as connection:
            health = connection.scalar(select(o.health).where(o.cloud == cloud))
        return OperatorView(
            state=OperatorState(row["state"]), since=row["since"], seen_at=row["seen_at"], replica=row["replica"],
            waiting=self._mailbox.waiting([cloud]).get(cloud, 0),
            health=None if health is None else wire.structure(health, Health),
        )  # fmt: skip

    def states(self) -> dict[str, OperatorState]:
        """Return the states of the operators of all clouds; one is known from the first token or look on."""
        o = t.operators.c
        with self._store.read() as connection:
            found = connection.execute(select(o.cloud, o.state).join(t.clouds, t.clouds.c.name == o.cloud)).all()
        return {row.cloud: OperatorState(row.state) for row in found}

    # -- for operators -------------------------------------------------------------------------------------------------

    def login(self, login: Login) -> Session:
        """Let an operator in, by its token or its cloud's proof.

        Raises Refused (missing, forged, expired, foreign, revoked, unproven), each an audit record; Transient while a proof
        cannot be verified; SpecError for a replica whose name is empty or longer than 64 characters.
        """
        now = self._clock.now()
        if not 0 < len(login.replica) <= LONGEST:
            raise SpecError([Fault(path="replica", message=f"give it 1 to {LONGEST} characters")], subject="login")
        try:
            spec = self._let_in(login, now)
        except Refused as refusal:
            self._audit("operator.login", login.cloud, refusal)
            raise
        epoch = self._row(login.cloud)["epoch"]
        credential, expires = self._issue(login.cloud, login.replica, epoch, now)
        self._audit("operator.login", login.cloud, None)
        return Session(
            credential=credential,
            expires_at=expires,
            owner=Owner(plane=self._plane, cloud=CloudName(spec.name)),
            region=spec.region,
            providers=spec.providers,
            order_certificate=self._keys.order_certificate(now=now),
            hold=min(HOLD, self._settings.timing.operator_silence / 2),
            report_interval=REPORT_INTERVAL,
        )

    def poll(self, credential: Secret[str], poll: Poll) -> Dispatch:
        """Note that an operator is there and return its orders, at once. Raises Refused."""
        now = self._clock.now()
        bearer = self._identify(credential, now)
        return self._orders(bearer, poll, now, leads=self._seen(bearer, poll, now))

    def look(self, credential: Secret[str], poll: Poll) -> Dispatch:
        """Return the orders for an operator whose question is being held: that says nothing about its being there. As poll."""
        now = self._clock.now()
        bearer = self._identify(credential, now)
        row = self._row(bearer.cloud)
        if row["epoch"] != bearer.epoch:
            raise self._revoked(bearer.cloud)
        leads = row["replica"] == bearer.replica and row["lease_until"] is not None and row["lease_until"] > now
        return self._orders(bearer, poll, now, leads=leads)

    def identify(self, credential: Secret[str]) -> OperatorBearer:
        """Return whose credential this is. Raises Refused."""
        return self._identify(credential, self._clock.now())

    def report(self, credential: Secret[str], report: Report) -> Noted:
        """Record what an operator says. Raises Refused."""
        now = self._clock.now()
        bearer = self._identify(credential, now)
        if self._row(bearer.cloud)["epoch"] != bearer.epoch:
            raise self._revoked(bearer.cloud)
        if report.done:
            self._mailbox.done(bearer.cloud, report.done)
        if report.health is not None:
            o = t.operators.c
            with self._store.telemetry() as connection:
                mine = (o.cloud == bearer.cloud) & (o.replica == bearer.replica)
                connection.execute(update(t.operators).where(mine).values(health=wire.unstructure(report.health)))
        return Noted(now=now)

    # -- for the engine ------------------------------------------------------------------------------------------------

    def notice(self, *, listening_since: datetime) -> int:
        """Mark the clouds whose operators have fallen silent; return how many. Silence counts while this plane listens."""
        now, o = self._clock.now(), t.operators.c
        if self._forgot_at is None or now - self._forgot_at >= KEPT:
            self._forgot_at = now
            self._mailbox.forget(now - KEPT)
        before = now - self._settings.timing.operator_silence
        if before < listening_since:
            return 0
        silent = (o.state == OperatorState.CONNECTED.value) & (o.seen_at < before)
        with self._store.read() as connection:
            names = connection.scalars(select(o.cloud).where(silent)).all()
        for name in names:
            with self._store.write() as connection:
                values = {"state": OperatorState.DISCONNECTED.value, "since": now}
                if connection.execute(update(t.operators).where(o.cloud == name, silent).values(**values)).rowcount:
                    text = f"the operator of {name} is not heard of any more; what runs there runs on"
                    _say(connection, now, "cloud.disconnected", "WARNING", text, cloud=name)
                    _write_down(connection, now, "control plane", "operator.disconnected", name)
        return len(names)

    # -- the operators' own --------------------------------------------------------------------------------------------

    def _orders(self, bearer: OperatorBearer, poll: Poll, now: datetime, *, leads: bool) -> Dispatch:
        slips = self._mailbox.give(bearer.cloud, poll.have) if leads and not poll.leaving else ()
        if now - bearer.issued_at <= self._settings.operator_ttl / 2:
            return Dispatch(now=now, leads=leads, slips=slips)
        fresh, expires = self._issue(bearer.cloud, bearer.replica, bearer.epoch, now)
        return Dispatch(now=now, leads=leads, slips=slips, credential=fresh, expires_at=expires)

    def _let_in(self, login: Login, now: datetime) -> CloudSpec:
        try:
            spec = self._spec(login.cloud)
        except (SpecError, UnknownName):
            raise Refused("foreign", f"no cloud {login.cloud!r} is run by an operator here") from None
        if login.token is not None:
            claims = self._keys.verify(REGISTRATION, login.token, now=now)
            if claims.get("sub") != login.cloud:
                raise Refused("foreign", f"the token is for the operator of {claims.get('sub')!r}")
            if claims.get("epoch") != self._row(login.cloud)["epoch"]:
                raise self._revoked(login.cloud)
            return spec
        if login.proof is None:
            raise Refused("missing", "an operator shows a registration token or its provider's proof")
        self._prove(spec, login)
        return spec

    def _prove(self, spec: CloudSpec, login: Login) -> None:
        expected = spec.operator
        if expected is None:
            raise Refused(
                "unproven", f"cloud {spec.name!r} names no identity of its operator; use a registration token"
            )
        assert login.proof is not None, "it was looked at before"
        if login.proof.provider != expected.provider:
            raise Refused("unproven", f"the proof is of {login.proof.provider!r}, not of {expected.provider!r}")
        verifier = self._clouds.verifier(spec, expected.provider)
        deadline = self._clock.now() + self._settings.timing.call_timeout
        try:
            principal = verifier.verify(login.proof, audience=OPERATOR_AUDIENCE, deadline=deadline)
        except CloudError as error:
            raise unproven(error, "the operator's proof") from error
        finally:
            verifier.close()
        if principal.subject != expected.subject or expected.account not in ("", principal.account):
            raise Refused("foreign", f"the proof is about {principal.subject!r}, not about this cloud's operator")

    def _identify(self, credential: Secret[str], now: datetime) -> OperatorBearer:
        """Return whose credential it is. Raises Refused. A signature stays good, so it is looked at once."""
        digest = hashlib.sha256(credential.reveal().encode()).digest()
        known = self._known.get(digest)
        if known is not None and now < known.expires_at:
            return known
        claims = self._keys.verify(OPERATOR, credential, now=now)
        bearer = OperatorBearer(
            cloud=str(claims["sub"]), replica=str(claims["replica"]), epoch=int(claims["epoch"]),
            issued_at=datetime.fromtimestamp(claims["iat"], UTC), expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )  # fmt: skip
        self._known = {kept: one for kept, one in self._known.items() if now < one.expires_at} | {digest: bearer}
        return bearer

    def _issue(self, cloud: str, replica: str, epoch: int, now: datetime) -> tuple[Secret[str], datetime]:
        expires = now + self._settings.operator_ttl
        claims = {"sub": cloud, "replica": replica, "epoch": epoch}
        return self._keys.sign(OPERATOR, claims, issued=now, expires=expires), expires

    def _seen(self, bearer: OperatorBearer, poll: Poll, now: datetime) -> bool:
        """Note that a replica asks; return whether it leads. Who asks first does, until it has been silent for long."""
        if self._leads_still(bearer, poll, now):
            return True
        o = t.operators.c
        with self._store.telemetry() as connection:
            mine = {"of_cloud": bearer.cloud}
            row = connection.execute(q.OPERATOR.with_for_update(), mine).mappings().first()
            if row is None or row["epoch"] != bearer.epoch:
                raise self._revoked(bearer.cloud)
            is_held = row["lease_until"] is not None and row["lease_until"] > now
            if is_held and row["replica"] != bearer.replica:
                return False
            values: dict[str, Any] = {"replica": bearer.replica, "seen_at": now}
            values["lease_until"] = None if poll.leaving else now + self._settings.timing.operator_silence
            if row["state"] != OperatorState.CONNECTED.value and not poll.leaving:
                values |= {"state": OperatorState.CONNECTED.value, "since": now}
                text = f"the operator of {bearer.cloud} is here"
                _say(connection, now, "cloud.connected", "INFO", text, cloud=bearer.cloud)
                _write_down(connection, now, f"operator {bearer.replica}", "operator.connected", bearer.cloud)
                touch_cloud(connection, bearer.cloud, now)
            connection.execute(update(t.operators).where(o.cloud == bearer.cloud).values(**values))
        return True

    def _leads_still(self, bearer: OperatorBearer, poll: Poll, now: datetime) -> bool:
        """Tell whether a replica leads and was noted so a moment ago: an operator that is busy asks many times a second."""
        row = self._row(bearer.cloud)
        return (
            row["epoch"] == bearer.epoch
            and row["replica"] == bearer.replica
            and row["state"] == OperatorState.CONNECTED.value
            and not poll.leaving
            and row["lease_until"] is not None
            and row["lease_until"] > now
            and now - row["seen_at"] < self._settings.timing.operator_silence / NOTED
        )

    def _spec(self, cloud: str) -> CloudSpec:
        """Raises UnknownName, SpecError."""
        spec = self._clouds.spec(cloud)
        if spec.mode is not CloudMode.OPERATOR:
            why = f"cloud {cloud!r} is of mode {spec.mode.value}: the control plane calls it itself"
            raise SpecError([Fault(path="mode", message=why)], subject=f"cloud {cloud!r}")
        return spec

    def _row(self, cloud: str) -> RowMapping:
        with self._store.read() as connection:
            row = connection.execute(q.OPERATOR, {"of_cloud": cloud}).mappings().first()
        if row is not None:
            return row
        values = {
            "cloud": cloud, "epoch": 1, "state": OperatorState.EXPECTED.value, "since": self._clock.now(), "replica": "",
        }  # fmt: skip
        with contextlib.suppress(IntegrityError), self._store.write() as connection:  # another process was first
            connection.execute(insert(t.operators).values(**values))
        return self._row(cloud)

    def _revoked(self, cloud: str) -> Refused:
        return Refused("revoked", f"what operators of {cloud!r} were given was revoked; mint a new registration token")

    def _audit(self, action: str, subject: str, refusal: Refused | None) -> None:
        self._store.add_audit(
            AuditRecord(
                at=self._clock.now(), actor="operator", action=action, subject=subject[:128],
                outcome="allowed" if refusal is None else "refused",
                detail="" if refusal is None else f"{refusal.why}: {refusal}",
            )
        )  # fmt: skip


def _say(connection: Connection, at: datetime, kind: str, level: str, message: str, *, cloud: str) -> None:
    add_event(connection, Event(at=at, kind=kind, level=level, message=message, fields={"cloud": cloud}))


def _write_down(connection: Connection, at: datetime, actor: str, action: str, cloud: str) -> None:
    record = AuditRecord(at=at, actor=actor, action=action, subject=cloud, outcome="allowed")
    connection.execute(insert(t.audit).values(**attrs.asdict(record)))
