"""What the four fake drivers share: the deadline, the wire and the lock."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.errors import AlreadyExists, Applied, DeadlineExceeded
from anyscale_core.models.ids import Token
from anyscale_core.models.owner import Owner
from anyscale_core.testing.world import FakeCloud

R = TypeVar("R")


class FakeDriver(Driver):
    """Base of the fake drivers: every call but the offline ones goes through ``_call``."""

    def __init__(self, cloud: FakeCloud, config: DriverConfig, provider: str) -> None:
        self.provider = provider
        self._cloud = cloud
        self._clock = config.clock

    def _call(
        self,
        verb: str,
        act: Callable[[], R],
        *,
        deadline: datetime,
        names: tuple[str, ...] = (),
        token: Token | None = None,
        owner: Owner | None = None,
    ) -> R:
        if self._clock.now() >= deadline:
            message = f"the deadline of {self.slot}.{verb} has passed before it was made"
            raise DeadlineExceeded(message, reason="REQUEST", applied=Applied.NO)
        return self._cloud.carry(self.slot, verb, act, names=names, token=token, owner=owner)


def name_taken(kind: str, name: str, theirs: Owner, ours: Owner) -> AlreadyExists:
    """Return the error for a name that something else has: OWNED when that is ours too, FOREIGN when not."""
    is_ours = (theirs.plane, theirs.cloud) == (ours.plane, ours.cloud)
    reason = "OWNED" if is_ours else "FOREIGN"
    return AlreadyExists(f"a {kind} is already called {name!r}", reason=reason, resource=name, hint="take another name")
