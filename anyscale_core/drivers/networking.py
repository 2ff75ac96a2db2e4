"""NetworkingDriver: networks, what is checked of them, endpoints."""

from abc import ABC, abstractmethod
from datetime import datetime

from anyscale_core.drivers.base import Driver
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.networking import Check, Endpoint, EndpointSpec, Network, NetworkSpec
from anyscale_core.models.owner import Owner


class NetworkingDriver(Driver, ABC):
    """Makes networks and ways in."""

    slot = "networking"

    @abstractmethod
    def create(self, spec: NetworkSpec, *, owner: Owner, token: Token, deadline: datetime) -> Network:
        """Make or adopt a network, inbound denied by default. Raises Conflict for an overlapping range, before any write."""

    @abstractmethod
    def get(self, name: str, *, owner: Owner, deadline: datetime) -> Network:
        """Return one network with its endpoints. Raises NotFound."""

    @abstractmethod
    def list(self, owner: Owner, *, deadline: datetime) -> tuple[Network, ...]:
        """Return every network of the owner with its endpoints, each once. Raises rather than return a part."""

    @abstractmethod
    def delete(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        """Begin to delete a network. Raises Conflict(IN_USE) while endpoints or instances use it. Adopted: let go of."""

    @abstractmethod
    def expose(self, spec: EndpointSpec, *, token: Token, deadline: datetime) -> Endpoint:
        """Make a way in to a head, or move the one of that name to a new target; PENDING until it can be reached."""

    @abstractmethod
    def withdraw(self, name: str, *, owner: Owner, deadline: datetime) -> Deletion:
        """Begin to take a way in down, with its address."""

    @abstractmethod
    def check(self, name: str, *, owner: Owner, deadline: datetime) -> tuple[Check, ...]:
        """Look a network over; return each thing looked at with its outcome and remedy. Changes nothing."""
