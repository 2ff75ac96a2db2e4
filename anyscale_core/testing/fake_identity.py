"""The fake identity driver. Proofs are signed by the world itself, so that nothing but the world can make one."""

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.errors import InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from anyscale_core.models.identity import Binding, Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.testing.driver import FakeDriver, check_name, name_taken
from anyscale_core.testing.faults import ACTIONS
from anyscale_core.testing.world import FakeCloud

PROOF_LIFETIME = timedelta(minutes=5)
CREDENTIALS_LIFETIME = timedelta(hours=1)
WORLD_KEY = b"the fake world signs with this"


class FakeIdentityDriver(FakeDriver, IdentityDriver):
    """Identities of the fake cloud; their names are unique in the account."""

    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        return self._call(
            "create", lambda: self._create(spec, token), deadline=deadline, names=(spec.name,), token=token,
            owner=spec.owner,
        )  # fmt: skip

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        return self._call("get", lambda: self._owned(name, owner), deadline=deadline, names=(name,), owner=owner)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        def shown() -> Iterator[tuple[str, Identity]]:
            return ((each.name, each) for each in self._cloud.identities.values() if owner.owns(each.owner.tags()))

        return self._pages(shown, deadline=deadline, owner=owner)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        def act() -> Deletion:
            identity = self._cloud.identities.get(name)
            if identity is None or not owner.owns(identity.owner.tags()):
                return Deletion.ALREADY_ABSENT
            for key in [key for key in self._cloud.grants if key[2] == name]:
                del self._cloud.grants[key]
            del self._cloud.identities[name]
            self._cloud.spend(("identity", "create", identity.owner.plane, identity.owner.cloud), name)
            return Deletion.GONE

        return self._call("delete", act, deadline=deadline, names=(name,), owner=owner)

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        def act() -> Credentials:
            identity = self._owned(name, owner)
            value = Secret(f"fake-{identity.name}-{self._cloud.serial()}")
            return Credentials(values={"token": value}, expires_at=self._cloud.clock.now() + CREDENTIALS_LIFETIME)

        return self._call("credentials", act, deadline=deadline, names=(name,), owner=owner)

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        def act() -> Proof:
            return sign_proof(self._cloud, provider=self.provider, audience=audience, subject=subject)

        return self._call("prove", act, deadline=deadline, names=(subject,))

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        return self._call("verify", lambda: self._verify(proof, audience), deadline=deadline)

    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        wanted = sorted(set(features))
        unknown = [feature for feature in wanted if feature not in ACTIONS]
        if unknown:
            hint = f"one of {', '.join(sorted(ACTIONS))}"
            raise InvalidRequest(f"no feature {', '.join(unknown)}", reason="FIELD", hint=hint)
        return tuple(
            Permission(
                action=f"fake:{feature}",
                resource=f"{self._cloud.account}/{feature.partition('.')[0]}",
                feature=feature,
                reason=f"{feature} calls it",
            )
            for feature in wanted
        )

    def _create(self, spec: IdentitySpec, token: Token) -> Identity:
        identities = self._cloud.identities
        key = ("identity", "create", spec.owner.plane, spec.owner.cloud)
        made = self._cloud.once(key, token, spec, identities.__contains__)
        if made:
            return identities[made[0]]
        check_name(spec.name)
        if spec.name in identities:
            raise name_taken("identity", spec.name, identities[spec.name].owner, spec.owner)
        if spec.adopt is not None and ("identity", spec.adopt) not in self._cloud.foreign:
            raise NotFound(f"no identity {spec.adopt!r} to adopt", reason="REFERENCE", hint="name one that exists")
        principal = spec.adopt or f"fake:{self._cloud.account}:identity/{spec.name}"
        identities[spec.name] = Identity(
            name=spec.name,
            owner=spec.owner,
            principal=principal,
            adopted=spec.adopt is not None,
            subjects=spec.subjects,
            binding=Binding(account={"fake.example/identity": principal}) if spec.subjects else Binding(),
        )
        made.append(spec.name)
        return identities[spec.name]

    def _owned(self, name: str, owner: Owner) -> Identity:
        identity = self._cloud.identities.get(name)
        if identity is None or not owner.owns(identity.owner.tags()):
            raise NotFound(f"no identity {name!r}", reason="RESOURCE", resource=name)
        return identity

    def _verify(self, proof: Proof, audience: str) -> Principal:
        document = proof.document.reveal()
        if not document:
            raise Unauthenticated(
                "there is no proof", reason="MISSING", hint="send what the provider's prove() returned"
            )
        body, _, signature = document.rpartition(".")
        if proof.provider != self.provider or not hmac.compare_digest(signature.encode(), _signature(body).encode()):
            raise Unauthenticated("the proof is not genuine", reason="FORGED")
        claims: dict[str, Any] = json.loads(bytes.fromhex(body))
        if claims["aud"] != audience:
            raise Unauthenticated("the proof was made for another audience", reason="FORGED")
        if datetime.fromisoformat(claims["exp"]) <= self._cloud.clock.now():
            raise Unauthenticated("the proof has expired", reason="EXPIRED", hint="make a fresh one")
        if claims["account"] != self._cloud.account:
            raise PermissionDenied(f"the proof is of the account {claims['account']}", reason="BOUNDARY")
        subject = str(claims["sub"])
        return Principal(
            subject=f"fake:{subject}", account=claims["account"], instance=subject, claims={"sub": subject}
        )


def sign_proof(
    cloud: FakeCloud, *, audience: str, subject: str, account: str | None = None, provider: str = "fake"
) -> Proof:
    """Return a genuine proof; ``account`` lets it be of another account, as a stranger's machine would have."""
    claims = {
        "aud": audience,
        "sub": subject,
        "account": account or cloud.account,
        "exp": (cloud.clock.now() + PROOF_LIFETIME).isoformat(),
    }
    body = json.dumps(claims, sort_keys=True).encode().hex()
    return Proof(provider=provider, document=Secret(f"{body}.{_signature(body)}"))


def _signature(body: str) -> str:
    return hmac.new(WORLD_KEY, body.encode(), hashlib.sha256).hexdigest()
