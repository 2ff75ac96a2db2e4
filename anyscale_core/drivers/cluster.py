"""ClusterDriver: instances."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime

from anyscale_core.drivers.base import Driver
from anyscale_core.errors import Unsupported
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Deletion, Instance, InstanceSpec, Offering, Outcome, Quota
from anyscale_core.models.owner import Owner


class ClusterDriver(Driver, ABC):
    """Makes, shows and deletes the instances that Ray nodes run on."""

    slot = "cluster"

    @abstractmethod
    def create(self, specs: Sequence[InstanceSpec], *, token: Token, deadline: datetime) -> tuple[Outcome, ...]:
        """Make a batch; return one outcome per spec, in order.

        The same token with the same specs returns the same instances. Raises Conflict(TOKEN_MISMATCH) for the same token
        with other specs, Conflict(TOKEN_SPENT) when what the token made has been deleted. An error that struck the whole
        call is raised; one that struck an item is that item's outcome.
        """

    @abstractmethod
    def get(self, id: InstanceId, *, owner: Owner, deadline: datetime) -> Instance:
        """Return one instance, also while it is being deleted. Raises NotFound when it is proven absent or foreign."""

    @abstractmethod
    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Instance, ...]:
        """Return every instance of the owner, in any state, each once. Raises rather than return a part."""

    @abstractmethod
    def delete(self, ids: Sequence[InstanceId], *, owner: Owner, deadline: datetime) -> Mapping[InstanceId, Deletion]:
        """Begin to delete these instances with all that was made along with them; return how far each has come.

        Foreign ids count as absent. Returns at once: GOING is seen to end by ``list``.
        """

    def delete_volume(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:  # noqa: ARG002
        """Delete a volume with all that is on it; return how far it has come. A foreign one counts as absent.

        Raises Conflict(IN_USE) while an instance has it, Unsupported(cluster.volumes) where there are none.
        """
        raise Unsupported(f"{self.provider} has no volumes for {owner.cloud}", reason="cluster.volumes", resource=name)

    @abstractmethod
    def offerings(self, *, deadline: datetime) -> tuple[Offering, ...]:
        """Return the catalogue: everything the cloud sells in the region, unavailable things too, each marked so."""

    @abstractmethod
    def quotas(self, *, deadline: datetime) -> tuple[Quota, ...]:
        """Return the account's limits that bear on instances. Raises Unsupported(cluster.quotas)."""
