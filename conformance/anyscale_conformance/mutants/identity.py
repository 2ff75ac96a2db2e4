"""Providers whose identities have other rights than were granted, or leave them behind."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import attrs

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.kits.reference_hands import SOMEBODY
from anyscale_conformance.mutants.base import mutant
from anyscale_core.errors import AlreadyExists, Conflict, NotFound, Transient
from anyscale_core.models.identity import Access, Identity, IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner
from anyscale_core.models.storage import Grant
from anyscale_core.testing.fake_identity import FakeIdentityDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver
from anyscale_core.testing.world import FakeCloud


class Granting(FakeStorageDriver):
    """Grants as the fake does, and then spoils what the world holds of it."""

    def grant(
        self, bucket: str, prefix: str, *, identity: str, access: Access, owner: Owner, token: Token, deadline: datetime
    ) -> Grant:
        grant = super().grant(
            bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
        )
        with self._cloud.lock:
            self._spoil(grant)
        return grant

    def _spoil(self, grant: Grant) -> None:
        raise NotImplementedError


def put(cloud: FakeCloud, grant: Grant, **changes: Any) -> None:
    """Let the world hold a grant otherwise than it was asked for."""
    del cloud.grants[grant.bucket, grant.prefix, grant.identity, grant.access]
    spoilt = attrs.evolve(grant, **changes)
    cloud.grants[spoilt.bucket, spoilt.prefix, spoilt.identity, spoilt.access] = spoilt


@contextmanager
def kept(cloud: FakeCloud) -> Iterator[None]:
    """Let no grant go that the block takes away."""
    before = dict(cloud.grants)
    try:
        yield
    finally:
        cloud.grants.update(before)


@mutant("A deleted identity's grants stay, and its namesake inherits them.", caught_by=("I-ROL-01", "I-ROL-05"))
class RoleKeepsStaleGrants(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            with kept(self._cloud):
                return super().delete(name, owner=owner, deadline=deadline)


@mutant("The policy is appended to: what is revoked stays in it.", caught_by=("I-ROL-01", "S-GRT-01"))
class RevokedRightsStay(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            with kept(self._cloud):
                return super().revoke(bucket, prefix, identity=identity, owner=owner, deadline=deadline)


@mutant("Every identity may read the whole bucket from the start.", caught_by=("I-ROL-01",))
class NewIdentitiesMayRead(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            identity = super().create(spec, token=token, deadline=deadline)
            for bucket in tuple(self._cloud.buckets):
                store = Grant(bucket=bucket, prefix="", identity=spec.name, access=Access.READ, store=None)  # type: ignore[arg-type]
                self._cloud.grants[bucket, "", spec.name, Access.READ] = store
            return identity


@mutant("The policy's resource ends in a wildcard of the bucket.", caught_by=("I-ROL-02",))
class WildcardGrant(ReferenceKit):
    class Storage(Granting):
        def _spoil(self, grant: Grant) -> None:
            put(self._cloud, grant, prefix="")


@mutant("The prefix loses its slash: a grant for a/ opens ab/ too.", caught_by=("I-ROL-02",))
class PrefixMatchesItsNeighbour(ReferenceKit):
    class Storage(Granting):
        def _spoil(self, grant: Grant) -> None:
            put(self._cloud, grant, prefix=grant.prefix.rstrip("/"))


@mutant("A READ is granted as a WRITE.", caught_by=("I-ROL-02",))
class ReadersMayWrite(ReferenceKit):
    class Storage(Granting):
        def _spoil(self, grant: Grant) -> None:
            put(self._cloud, grant, access=Access.WRITE)


@mutant("A prefix without its slash is granted as it is.", caught_by=("I-ROL-02",))
class GrantsWithoutASlash(ReferenceKit):
    class Storage(FakeStorageDriver):
        def grant(
            self,
            bucket: str,
            prefix: str,
            *,
            identity: str,
            access: Access,
            owner: Owner,
            token: Token,
            deadline: datetime,
        ) -> Grant:
            grant = super().grant(
                bucket,
                f"{prefix.rstrip('/')}/",
                identity=identity,
                access=access,
                owner=owner,
                token=token,
                deadline=deadline,
            )
            return attrs.evolve(grant, prefix=prefix)


@mutant("Identities share a role when their names begin with the same 60 characters.", caught_by=("I-ROL-02",))
class LongNamesShareARole(ReferenceKit):
    class Storage(Granting):
        def _spoil(self, grant: Grant) -> None:
            for name in self._cloud.identities:
                if name != grant.identity and name[:60] == grant.identity[:60]:
                    twin = attrs.evolve(grant, identity=name)
                    self._cloud.grants[grant.bucket, grant.prefix, name, grant.access] = twin


@mutant("A list leaves out what is known of an identity beyond its name.", caught_by=("I-TOK-03",))
class ListLosesSubjects(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
            return tuple(attrs.evolve(each, subjects=()) for each in super().list(owner, deadline=deadline))


@mutant("A repeated create returns the identity without its principal.", caught_by=("I-ROL-03",))
class RepeatLosesThePrincipal(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def _create(self, spec: IdentitySpec, token: Token) -> Identity:
            known = spec.name in self._cloud.identities
            made = super()._create(spec, token)
            return attrs.evolve(made, principal="") if known else made


@mutant("A star in a prefix is a wildcard in the policy.", caught_by=("I-ROL-02",))
class StarIsAWildcard(ReferenceKit):
    class Storage(Granting):
        def _spoil(self, grant: Grant) -> None:
            if "*" in grant.prefix:
                put(self._cloud, grant, prefix=grant.prefix.partition("*")[0])


@mutant("A grant that is there already raises AlreadyExists.", caught_by=("I-ROL-03",))
class GrantingAgainRaises(ReferenceKit):
    class Storage(FakeStorageDriver):
        def grant(
            self,
            bucket: str,
            prefix: str,
            *,
            identity: str,
            access: Access,
            owner: Owner,
            token: Token,
            deadline: datetime,
        ) -> Grant:
            if (bucket, prefix, identity, access) in self._cloud.grants:
                raise AlreadyExists("the role assignment exists", reason="OWNED")
            return super().grant(
                bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
            )


class Propagating(FakeStorageDriver):
    """A cloud in which an identity is visible to grants some time after it was made."""

    takes = timedelta(seconds=10)

    def _hide(self, identity: str) -> bool:
        seen: dict[str, datetime] = self._cloud.__dict__.setdefault("first_asked_for", {})
        now = self._cloud.clock.now()
        return now < seen.setdefault(identity, now) + self.takes


@mutant("An identity that is not visible yet is told as absent.", caught_by=("I-ROL-04",))
class PropagationToldAsAbsence(ReferenceKit):
    class Storage(Propagating):
        def grant(
            self,
            bucket: str,
            prefix: str,
            *,
            identity: str,
            access: Access,
            owner: Owner,
            token: Token,
            deadline: datetime,
        ) -> Grant:
            if self._hide(identity):
                raise NotFound("PrincipalNotFound", reason="REFERENCE")
            return super().grant(
                bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
            )


@mutant("A new identity never becomes visible to the policies of buckets.", caught_by=("I-ROL-04",))
class PropagationNeverEnds(ReferenceKit):
    class Storage(Propagating):
        takes = timedelta(days=365)

        def grant(
            self,
            bucket: str,
            prefix: str,
            *,
            identity: str,
            access: Access,
            owner: Owner,
            token: Token,
            deadline: datetime,
        ) -> Grant:
            if self._hide(identity):
                raise Transient("PrincipalNotFound", reason="PROPAGATION")
            return super().grant(
                bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
            )


@mutant("The identity goes first and its grants after it: a crash between leaves them.", caught_by=("I-ROL-05",))
class IdentityGoesBeforeItsGrants(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            left = {key: grant for key, grant in self._cloud.grants.items() if key[2] == name}

            def detach() -> Deletion:
                for key in left:
                    self._cloud.grants.pop(key, None)
                return Deletion.GONE

            with kept(self._cloud):
                answer = super().delete(name, owner=owner, deadline=deadline)
            # Found by the recorded grants of a deleted identity too, so that a repeat finishes it.
            self._call("delete", detach, deadline=deadline, names=(name,), owner=owner)
            return answer


class Overwriting(Granting):
    """Writes the bucket's policy anew, from what it knows itself."""

    def _spoil(self, grant: Grant) -> None:
        for key in [key for key in self._cloud.grants if key[0] == grant.bucket and key[2] == SOMEBODY]:
            del self._cloud.grants[key]


@mutant("A grant writes the policy anew: others' members are thrown out.", caught_by=("I-ROL-06",))
class OverwritesThePolicy(ReferenceKit):
    Storage = Overwriting


@mutant("A revoke takes every member of that prefix out of the policy.", caught_by=("I-ROL-06", "S-GRT-01"))
class RevokeTakesOthersToo(ReferenceKit):
    class Storage(FakeStorageDriver):
        def revoke(self, bucket: str, prefix: str, *, identity: str, owner: Owner, deadline: datetime) -> Deletion:
            answer = super().revoke(bucket, prefix, identity=identity, owner=owner, deadline=deadline)
            for key in [key for key in self._cloud.grants if key[:2] == (bucket, prefix)]:
                del self._cloud.grants[key]
            return answer


@mutant("A policy is read, changed and written without its ETag, and the last writer wins.", caught_by=("I-ROL-06",))
class LosesConcurrentGrants(ReferenceKit):
    class Storage(FakeStorageDriver):
        def grant(
            self,
            bucket: str,
            prefix: str,
            *,
            identity: str,
            access: Access,
            owner: Owner,
            token: Token,
            deadline: datetime,
        ) -> Grant:
            read = {key: grant for key, grant in self._cloud.grants.items() if key[0] == bucket}
            time.sleep(0.01)  # time enough for others to read the same policy
            grant = super().grant(
                bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
            )
            with self._cloud.lock:
                kept = {key: other for key, other in self._cloud.grants.items() if key[0] != bucket}
                self._cloud.grants = {**kept, **read, (bucket, prefix, identity, access): grant}
            return grant


@mutant(
    "Another writer's change of the policy is told as a conflict that must not be repeated.", caught_by=("I-ROL-06",)
)
class ConflictIsFinal(ReferenceKit):
    class Storage(FakeStorageDriver):
        def grant(
            self,
            bucket: str,
            prefix: str,
            *,
            identity: str,
            access: Access,
            owner: Owner,
            token: Token,
            deadline: datetime,
        ) -> Grant:
            met: set[Token] = self._cloud.__dict__.setdefault("conflicts_met", set())
            if prefix.startswith("w") and token not in met:
                met.add(token)
                raise Conflict("the policy has another ETag", reason="IN_USE")
            return super().grant(
                bucket, prefix, identity=identity, access=access, owner=owner, token=token, deadline=deadline
            )
