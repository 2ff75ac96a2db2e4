"""Providers that cannot be asked twice."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from anyscale_conformance.kits.reference import ReferenceKit, WiredCloud
from anyscale_conformance.mutants.base import mutant
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import AlreadyExists, CloudError, Conflict, NotFound, Transient
from anyscale_core.models.identity import Identity, IdentitySpec
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Created, Deletion, Instance, InstanceSpec, Outcome
from anyscale_core.models.networking import Endpoint, EndpointSpec, Network, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.storage import Bucket, BucketSpec
from anyscale_core.testing.fake_cluster import FakeClusterDriver
from anyscale_core.testing.fake_identity import FakeIdentityDriver
from anyscale_core.testing.fake_networking import FakeNetworkingDriver
from anyscale_core.testing.fake_storage import FakeStorageDriver


@mutant(
    "Every create is a new request to the cloud, whatever its token.", caught_by=("X-IDEM-01", "X-AMB-01", "X-CON-01")
)
class IgnoresTheToken(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            specs = tuple(attrs.evolve(spec, name=f"{spec.name}{self._cloud.serial()}") for spec in specs)
            return super().create(specs, token=Token(f"{token}{self._cloud.serial()}"), deadline=deadline)


@mutant(
    "A new process mints tokens of its own, so what it repeats is new to the cloud.",
    caught_by=("X-IDEM-07", "X-AMB-04"),
)
class TokensOfThisProcess(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def __init__(self, cloud: WiredCloud, config: DriverConfig, provider: str) -> None:
            super().__init__(cloud, config, provider)
            self._salt = cloud.serial()

        def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
            return super().create(spec, owner=owner, token=Token(f"{token}-{self._salt}"), deadline=deadline)


@mutant("A token that stood for another spec gives back the old thing.", caught_by=("X-IDEM-02",))
class OldThingForAnotherSpec(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            try:
                return super().create(spec, owner=owner, token=token, deadline=deadline)
            except Conflict:
                return self.list(owner, deadline=deadline)[0]


@mutant("Only the names of a batch are compared with what its token stood for.", caught_by=("X-IDEM-02",))
class ComparesNamesAlone(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            return super().create([attrs.evolve(s, tags={}) for s in specs], token=token, deadline=deadline)


@mutant("A name that is taken is taken over.", caught_by=("X-IDEM-03",))
class TakesOverANamesake(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            try:
                return super().create(spec, token=token, deadline=deadline)
            except AlreadyExists:
                return self._cloud.identities[spec.name]


@mutant("A token whose instance is gone gives back the instance that is gone.", caught_by=("X-IDEM-04", "X-SEQ-01"))
class GivesBackTheDead(ReferenceKit):
    class Cluster(FakeClusterDriver):
        made: dict[str, Instance]

        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            self._cloud.__dict__.setdefault("remembered", {})
            remembered = self._cloud.__dict__["remembered"]
            try:
                outcomes = super().create(specs, token=token, deadline=deadline)
            except Conflict as error:
                if error.reason != "TOKEN_SPENT":
                    raise
                return tuple(Created(instance=remembered[token, spec.name]) for spec in specs)
            for outcome in outcomes:
                if isinstance(outcome, Created):
                    remembered[token, outcome.instance.name] = outcome.instance
            return outcomes


@mutant("Deleting what is absent raises NotFound.", caught_by=("X-IDEM-05",))
class DeleteOfTheAbsentRaises(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def delete(
            self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime
        ) -> Mapping[InstanceId, Deletion]:
            answer = super().delete(ids, owner=owner, deadline=deadline)
            if Deletion.ALREADY_ABSENT in answer.values():
                raise NotFound("there is no such instance", reason="RESOURCE")
            return answer


@mutant("Deleting what never was says that it is gone now.", caught_by=("X-IDEM-05",))
class DeleteOfTheAbsentSaysGone(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
            answer = super().delete(name, owner=owner, deadline=deadline)
            return Deletion.GONE if answer is Deletion.ALREADY_ABSENT else answer


@mutant("A repeated create writes the bucket anew, with another region.", caught_by=("X-IDEM-06", "X-IDEM-01"))
class RepeatWritesAnew(ReferenceKit):
    class Storage(FakeStorageDriver):
        def create(self, spec: BucketSpec, *, owner: Owner, token: Token, deadline: datetime) -> Bucket:
            bucket = super().create(spec, owner=owner, token=token, deadline=deadline)
            store = self._cloud.buckets[bucket.name]
            store.bucket = attrs.evolve(bucket, url=f"memory://{bucket.name}-{self._cloud.serial()}")
            return store.bucket


@mutant("All ways in are made with one token.", caught_by=("X-IDEM-08",))
class OneTokenForAll(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
            return super().expose(spec, token=Token("always-the-same"), deadline=deadline)


@mutant(
    "After a lost answer it makes the instance again under a new token, inside the call.",
    caught_by=("X-AMB-01", "X-RTY-01"),
)
class TriesAgainAnew(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            try:
                return super().create(specs, token=token, deadline=deadline)
            except CloudError as error:
                if error.category not in ("DeadlineExceeded", "Transient"):
                    raise
            again = [attrs.evolve(spec, name=f"{spec.name}b") for spec in specs]
            return super().create(again, token=Token(f"{token}b"), deadline=deadline)


@mutant("A server error is told as if nothing had been done.", caught_by=("X-AMB-06",))
class KnowsWhatItCannotKnow(ReferenceKit):
    class Networking(FakeNetworkingDriver):
        def _call(self, verb: str, act: Any, **fields: Any) -> Any:
            try:
                return super()._call(verb, act, **fields)
            except Transient as error:
                raise Transient(error.message, reason=error.reason, vendor=error.vendor) from error


@mutant(
    "A create that met a reset says that it worked although the name is another's.", caught_by=("X-AMB-02", "X-AMB-05")
)
class SwallowsTheReset(ReferenceKit):
    class Identity(FakeIdentityDriver):
        def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
            try:
                return super().create(spec, token=token, deadline=deadline)
            except Transient:
                return super().create(
                    attrs.evolve(spec, name=f"{spec.name}b"), token=Token(f"{token}b"), deadline=deadline
                )
