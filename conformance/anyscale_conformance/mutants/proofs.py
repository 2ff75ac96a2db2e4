"""Providers whose credentials and proofs say too little, too much or the wrong thing."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_core.errors import PermissionDenied, Unauthenticated
from anyscale_core.models.identity import Credentials, Identity, IdentitySpec, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.testing.fake_identity import FakeIdentityDriver


class Crediting(FakeIdentityDriver):
    """Hands out credentials as the fake does, and then changes them."""

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        return self._changed(name, super().credentials(name, owner=owner, deadline=deadline))

    def _changed(self, name: str, credentials: Credentials) -> Credentials:
        raise NotImplementedError


@mutant("Credentials never end.", caught_by=("I-TOK-01",))
class CredentialsNeverEnd(ReferenceKit):
    class Identity(Crediting):
        def _changed(self, name: str, credentials: Credentials) -> Credentials:
            return attrs.evolve(credentials, expires_at=datetime.max.replace(tzinfo=UTC))


@mutant("Credentials do not say when they end.", caught_by=("I-TOK-01",))
class CredentialsWithoutAnEnd(ReferenceKit):
    class Identity(Crediting):
        def _changed(self, name: str, credentials: Credentials) -> Credentials:
            nothing: Any = None
            return attrs.evolve(credentials, expires_at=nothing)


@mutant("Credentials are kept and handed out until their last moment.", caught_by=("I-TOK-01",))
class CredentialsAreKeptTooLong(ReferenceKit):
    class Identity(Crediting):
        def _changed(self, name: str, credentials: Credentials) -> Credentials:
            kept: dict[str, Credentials] = self._cloud.__dict__.setdefault("kept_credentials", {})
            if name not in kept or kept[name].expires_at <= self._cloud.clock.now():
                kept[name] = credentials
            return kept[name]


class Shown(Secret[str]):
    """A secret that shows."""

    def __repr__(self) -> str:
        return self.reveal()


@mutant("Credentials show their value in their repr.", caught_by=("I-TOK-01",))
class CredentialsShowTheirValue(ReferenceKit):
    class Identity(Crediting):
        def _changed(self, name: str, credentials: Credentials) -> Credentials:
            shown = {field: Shown(value.reveal()) for field, value in credentials.values.items()}
            return attrs.evolve(credentials, values=shown)


@mutant("All identities share the control plane's own credentials.", caught_by=("I-TOK-01",))
class OneSetOfCredentials(ReferenceKit):
    class Identity(Crediting):
        def _changed(self, name: str, credentials: Credentials) -> Credentials:
            return attrs.evolve(credentials, values={"token": Secret("the-control-plane's-own")})


class Believing(FakeIdentityDriver):
    """Verifies proofs by reading what they claim."""

    def _claims(self, proof: Proof) -> dict[str, Any]:
        claims: dict[str, Any] = json.loads(bytes.fromhex(proof.document.reveal().rpartition(".")[0]))
        return claims

    def _named(self, claims: dict[str, Any]) -> Principal:
        subject = str(claims["sub"])
        return Principal(subject=f"fake:{subject}", account=str(claims["account"]), instance=subject)


@mutant("A proof's signature is not looked at.", caught_by=("I-TOK-02",))
class ForgedProofAccepted(ReferenceKit):
    class Identity(Believing):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            try:
                return super()._verify(proof, audience)
            except Unauthenticated as error:
                if error.reason != "FORGED" or not audience.startswith("pln"):
                    raise
                try:
                    return self._named(self._claims(proof))
                except (ValueError, KeyError):
                    raise error from None


@mutant("An expired proof is as good as a fresh one.", caught_by=("I-TOK-02",))
class ExpiredProofAccepted(ReferenceKit):
    class Identity(Believing):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            try:
                return super()._verify(proof, audience)
            except Unauthenticated as error:
                if error.reason != "EXPIRED":
                    raise
                return self._named(self._claims(proof))


@mutant("A forged proof is told as PermissionDenied.", caught_by=("I-TOK-02",))
class ForgedIsForbidden(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            try:
                return super()._verify(proof, audience)
            except Unauthenticated as error:
                raise PermissionDenied(error.message, reason="POLICY") from error


@mutant("An expired proof is told as PermissionDenied, so nobody refreshes it.", caught_by=("I-TOK-02",))
class ExpiredIsForbidden(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            try:
                return super()._verify(proof, audience)
            except Unauthenticated as error:
                if error.reason == "EXPIRED":
                    raise PermissionDenied(error.message, reason="POLICY") from error
                raise


@mutant("A proof that cannot be parsed ends in a ValueError.", caught_by=("I-TOK-02",))
class NonsenseEscapes(ReferenceKit):
    class Identity(Believing):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            if proof.document.reveal():
                self._claims(proof)
            return super()._verify(proof, audience)


@mutant("A proof is good for every audience.", caught_by=("I-TOK-03",))
class AudienceIgnored(ReferenceKit):
    class Identity(Believing):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            return super()._verify(proof, str(self._claims(proof)["aud"]))


@mutant("An audience that begins like the proof's will do.", caught_by=("I-TOK-03",))
class AudienceByItsBeginning(ReferenceKit):
    class Identity(Believing):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            own = str(self._claims(proof)["aud"])
            return super()._verify(proof, own if own.startswith(audience) or audience.startswith(own) else audience)


@mutant("The audience is compared without regard to case and blanks.", caught_by=("I-TOK-03",))
class AudienceLoosely(ReferenceKit):
    class Identity(Believing):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            own = str(self._claims(proof)["aud"])
            return super()._verify(proof, own if own.lower() == audience.strip().lower() else audience)


@mutant("Every proof is about the account's first machine.", caught_by=("I-TOK-03", "I-WHO-01"))
class OneMachineForAll(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            return attrs.evolve(super()._verify(proof, audience), instance="the-first")


@mutant("External subjects are dropped.", caught_by=("I-TOK-03",))
class SubjectsDropped(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            return super().create(attrs.evolve(spec, subjects=()), token=token, deadline=deadline)


@mutant("A wildcard is let in beside the external subjects.", caught_by=("I-TOK-03",))
class SubjectsWidened(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            wide = (*spec.subjects, "system:serviceaccount:*") if spec.subjects else ()
            return super().create(attrs.evolve(spec, subjects=wide), token=token, deadline=deadline)


@mutant("A proof of a machine of another account is accepted.", caught_by=("I-WHO-01",))
class ForeignAccountAccepted(ReferenceKit):
    class Identity(Believing):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            try:
                return super()._verify(proof, audience)
            except PermissionDenied:
                return self._named(self._claims(proof))


@mutant("Verify names the control plane's account, whatever the proof says.", caught_by=("I-WHO-01",))
class NamesItsOwnAccount(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def _verify(self, proof: Proof, audience: str) -> Principal:
            return attrs.evolve(super()._verify(proof, audience), account="control-plane")


@mutant("A proof names another provider than the one it is of.", caught_by=("I-WHO-01", "I-TOK-03"))
class ProofOfAnotherName(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
            return attrs.evolve(super().prove(audience, subject=subject, deadline=deadline), provider="other")


@mutant("Proofs are good for a year.", caught_by=("I-TOK-02",))
class ProofsLastAYear(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
            from anyscale_core.testing import fake_identity

            proof = super().prove(audience, subject=subject, deadline=deadline)
            body = json.loads(bytes.fromhex(proof.document.reveal().rpartition(".")[0]))
            body["exp"] = (self._cloud.clock.now() + timedelta(days=365)).isoformat()
            text = json.dumps(body, sort_keys=True).encode().hex()
            return attrs.evolve(proof, document=Secret(f"{text}.{fake_identity._signature(text)}"))
