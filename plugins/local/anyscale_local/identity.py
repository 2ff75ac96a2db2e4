"""IdentityDriver: this machine signs short-lived tokens with a key of its own.

What it isolates, honestly: a token proves that its bearer could read the machine's key, which only this user (and root)
can. All instances of this machine run as that user, so one that is hostile could sign in the name of another: the join
token, good once and known to one instance, is what tells them apart. Machines and users are kept apart; workloads are not.
"""

import os
import pwd
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.errors import InvalidRequest, NotFound, Unauthenticated
from anyscale_core.models.identity import Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_local.config import STATE_VARIABLE, read_settings, state_folder
from anyscale_local.errors import check_deadline, translated
from anyscale_local.grants import Grants
from anyscale_local.permissions import permissions_for
from anyscale_local.state import Record, State, check_name, fingerprint, tagged, write_private

ALGORITHM = "Ed25519"
"""The name that RFC 9864 gave to what was EdDSA with this curve."""

PROOF_TYPE = "anyscale-local-proof+jwt"
CREDENTIAL_TYPE = "anyscale-local-credential+jwt"
PROOF_LIFETIME = timedelta(minutes=5)
CREDENTIAL_LIFETIME = timedelta(minutes=15)
CREDENTIAL_AUDIENCE = "anyscale-local/workload"
SKEW = timedelta(seconds=5)
"""Both clocks are this machine's; the slack is for one that is being set."""


@attrs.frozen(kw_only=True)
class IdentityRecord(Record):
    """An identity as it is remembered. ``adopted``: the account name of the user that it stands for, or empty."""

    subjects: tuple[str, ...] = ()
    adopted: str = ""


class LocalIdentity(IdentityDriver):
    """Identities and proofs of this machine."""

    provider = "local"

    def __init__(self, config: DriverConfig) -> None:
        self._clock = config.clock
        self._folder = state_folder(config, read_settings(config))
        self._state = State(self._folder, config.clock)
        self._shelf = self._state.shelf("identities", IdentityRecord)

    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        check_deadline(deadline, self._clock)
        check_name(spec.name, "an identity")
        if spec.adopt is not None:
            _check_user(spec.adopt)
        with translated(resource=spec.name), self._state.lock(deadline):
            made = self._state.settle(
                self.slot,
                self._shelf,
                spec.name,
                name=spec.name,
                owner=spec.owner,
                token=token,
                fingerprint=fingerprint(spec),
            )
            if made is not None:
                return self._show(made)
            record = IdentityRecord(
                name=spec.name,
                tags=tagged(spec.tags, spec.owner),
                token=token,
                subjects=spec.subjects,
                adopted=spec.adopt or "",
            )
            self._shelf.write(spec.name, record)
            return self._show(record)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        check_deadline(deadline, self._clock)
        with translated(resource=name):
            return self._show(self._read(name, owner))

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        check_deadline(deadline, self._clock)
        with translated():
            return tuple(self._show(record) for record in self._shelf.all() if owner.owns(record.tags))

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        check_deadline(deadline, self._clock)
        with translated(resource=name), self._state.lock(deadline):
            record = self._shelf.read(name)
            if record is None or not owner.owns(record.tags):
                return Deletion.ALREADY_ABSENT
            Grants(self._state).drop(lambda grant: grant.identity == name)
            self._state.spend(self.slot, record)
            self._shelf.remove(name)
            return Deletion.GONE

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        """Return a token, in ``values["token"]``, that this machine signed for the identity; it opens no cloud."""
        check_deadline(deadline, self._clock)
        with translated(resource=name):
            identity = self._show(self._read(name, owner))
            key = MachineKey.of(self._state, deadline)
        expires_at = self._clock.now() + CREDENTIAL_LIFETIME
        document = self._sign(key, CREDENTIAL_TYPE, CREDENTIAL_AUDIENCE, identity.principal, expires_at)
        return Credentials(values={"token": document}, expires_at=expires_at)

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        check_deadline(deadline, self._clock)
        # On a node the plane's home is another one: the cluster driver told it where its machine's key is.
        folder = os.environ.get(STATE_VARIABLE)
        state = State(Path(folder), self._clock) if folder else self._state
        with translated():
            key = MachineKey.of(state, deadline)
        expires_at = self._clock.now() + PROOF_LIFETIME
        return Proof(provider=self.provider, document=self._sign(key, PROOF_TYPE, audience, subject, expires_at))

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        check_deadline(deadline, self._clock)
        if not proof.document.reveal():
            raise Unauthenticated("the proof is empty", reason="MISSING", hint="call prove on the node")
        if proof.provider != self.provider:
            raise Unauthenticated(f"the proof is of provider {proof.provider!r}, not of this machine", reason="FORGED")
        with translated():
            key = MachineKey.of(self._state, deadline)
        claims = _genuine(proof.document.reveal(), key)
        if claims.get("aud") != audience or claims.get("iss") != key.machine:
            raise Unauthenticated(
                "the proof was made for another audience or machine", reason="FORGED", hint=f"prove for {audience!r}"
            )
        self._check_fresh(claims)
        name = str(claims.get("sub", ""))
        return Principal(subject=name, account=key.machine, instance=name, claims={"jti": str(claims.get("jti", ""))})

    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        return permissions_for(features, self._folder)

    def _read(self, name: str, owner: Owner) -> IdentityRecord:
        record = self._shelf.read(name)
        if record is None or not owner.owns(record.tags):
            raise NotFound(f"there is no identity {name}", reason="RESOURCE", resource=name)
        return record

    def _show(self, record: IdentityRecord) -> Identity:
        principal = f"user:{record.adopted}" if record.adopted else f"identity:{record.name}"
        return Identity(
            name=record.name,
            owner=record.owner(),
            principal=principal,
            adopted=bool(record.adopted),
            subjects=record.subjects,
        )

    def _sign(self, key: "MachineKey", kind: str, audience: str, subject: str, expires_at: datetime) -> Secret[str]:
        now = self._clock.now()
        claims = {
            "iss": key.machine,
            "aud": audience,
            "sub": subject,
            "iat": int(now.timestamp()),
            "exp": int(expires_at.timestamp()),
            "jti": secrets.token_hex(16),
        }
        return Secret(jwt.encode({"alg": ALGORITHM, "typ": kind}, claims, key.key, algorithms=[ALGORITHM]))

    def _check_fresh(self, claims: dict[str, Any]) -> None:
        now = self._clock.now().timestamp()
        expires, issued = claims.get("exp"), claims.get("iat")
        if not isinstance(expires, int) or not isinstance(issued, int):
            raise Unauthenticated("the proof does not say when it was made", reason="FORGED")
        if now >= expires:
            raise Unauthenticated("the proof has expired", reason="EXPIRED", hint="prove again")
        if issued > now + SKEW.total_seconds():
            raise Unauthenticated("the proof is of the future", reason="CLOCK_SKEW", hint="set this machine's clock")


@attrs.frozen(kw_only=True)
class MachineKey:
    """The key of this machine, made once per state folder; ``machine`` is the id that follows from its public half."""

    key: OKPKey = attrs.field(repr=False)
    machine: str

    @classmethod
    def of(cls, state: State, deadline: datetime) -> "MachineKey":
        """Return the machine's key, making it when there is none yet."""
        path = state.path / "machine.pem"
        if not path.exists():
            with state.lock(deadline):
                if not path.exists():
                    write_private(path, OKPKey.generate_key("Ed25519").as_pem(private=True))
        key = OKPKey.import_key(path.read_bytes())
        return cls(key=key, machine=f"mch_{key.thumbprint()[:20]}")


def _genuine(document: str, key: MachineKey) -> dict[str, Any]:
    """Return the claims of a proof that this machine signed; any other document is FORGED, however broken it is."""
    try:
        token = jwt.decode(document, key.key, algorithms=[ALGORITHM])
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise Unauthenticated("the proof was not signed by this machine", reason="FORGED") from error
    if token.header.get("typ") != PROOF_TYPE:
        raise Unauthenticated("the document is not a proof", reason="FORGED", hint="show what prove returned")
    return dict(token.claims)


def _check_user(name: str) -> None:
    """Refuse to adopt a user of this machine that its processes do not run as."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise NotFound(f"this machine has no user {name!r}", reason="REFERENCE", resource=name) from None
    if user.pw_uid != os.getuid():
        raise InvalidRequest(
            f"processes here cannot run as {name!r}",
            reason="UNSUPPORTED_VALUE",
            resource=name,
            hint="adopt the user that the control plane runs as",
        )
