"""IdentityDriver: identities, short-lived credentials, node proofs, least permissions."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime

from anyscale_core.drivers.base import Driver
from anyscale_core.models.identity import Credentials, Identity, IdentitySpec, Permission, Principal, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.owner import Owner


class IdentityDriver(Driver, ABC):
    """Makes identities for workloads and lets nodes prove who they are."""

    slot = "identity"

    @abstractmethod
    def create(self, spec: IdentitySpec, *, token: Token, deadline: datetime) -> Identity:
        """Make or adopt an identity whose rights are exactly its grants. Raises AlreadyExists for a foreign name."""

    @abstractmethod
    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Identity:
        """Return one identity. Raises NotFound."""

    @abstractmethod
    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Identity, ...]:
        """Return every identity of the owner, each once. Raises rather than return a part."""

    @abstractmethod
    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        """Begin to delete an identity, detaching its grants first. An adopted one is let go of, never deleted."""

    @abstractmethod
    def credentials(self, name: str, *, owner: Owner, deadline: datetime) -> Credentials:
        """Return short-lived credentials of an identity. Raises Unsupported(identity.credentials)."""

    @abstractmethod
    def prove(self, audience: str, *, subject: str, deadline: datetime) -> Proof:
        """On a node: return a proof of this machine, made for ``audience``; ``subject`` is the instance's name."""

    @abstractmethod
    def verify(self, proof: Proof, *, audience: str, deadline: datetime) -> Principal:
        """In the control plane: return whom a proof is about.

        Raises Unauthenticated (FORGED, EXPIRED, MISSING) for a proof that is not genuine, not fresh or for another
        audience, and PermissionDenied for a genuine one of an account that is not this cloud's.
        """

    @abstractmethod
    def permissions(self, features: Iterable[str]) -> tuple[Permission, ...]:
        """Return the least permissions for these features (``cluster.create``, ...): pure, offline, no wildcard."""
