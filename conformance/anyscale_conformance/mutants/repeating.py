"""Providers that cannot be asked twice."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from anyscale_conformance.kits.reference import ReferenceKit
from anyscale_conformance.mutants.base import mutant
from anyscale_core.errors import NotFound
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Deletion, InstanceSpec, Outcome
from anyscale_core.models.owner import Owner
from anyscale_core.testing.fake_cluster import FakeClusterDriver


@mutant("Every create is a new request to the cloud, whatever its token.", caught_by=("X-IDEM-01", "X-AMB-01"))
class IgnoresTheToken(ReferenceKit):
    class Cluster(FakeClusterDriver):
        def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
            return super().create(specs, token=Token(f"{token}-{self._cloud.serial()}"), deadline=deadline)


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
