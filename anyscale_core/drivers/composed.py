"""An identity driver of two providers: one makes the identities, the other knows the machines."""

from collections.abc import Iterable
from datetime import datetime

from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.models.identity import Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner


class ComposedIdentity(IdentityDriver):
    """Identities of one provider in a cloud whose machines are another's, who alone can say which machine is which."""

    def __init__(self, identities: IdentityDriver, machines: IdentityDriver) -> None:
        self.provider = identities.provider
        self._identities, self._machines = identities, machines

    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        return self._identities.create(spec, token=token, deadline=deadline)

    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        return self._identities.get(name, owner=owner, deadline=deadline)

    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        return self._identities.list(owner, deadline=deadline)

    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        return self._identities.delete(name, owner=owner, deadline=deadline)

    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        return self._identities.credentials(name, owner=owner, deadline=deadline)

    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        return self._machines.prove(audience, subject=subject, deadline=deadline)

    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        return self._machines.verify(proof, audience=audience, deadline=deadline)

    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        return self._identities.permissions(features)

    def close(self) -> None:
        self._identities.close()
        self._machines.close()
