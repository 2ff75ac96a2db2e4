"""Control planes that can be killed, frozen, slowed and cut off, at any call and any durable transaction."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs

from anyscale_core.clock import Clock
from anyscale_core.controlplane.plane import ControlPlane, Wrap
from anyscale_core.drivers.layers import Call, DeadlineLayer, Next, RateLimit, RetryLayer, layered
from anyscale_core.errors import Transient

CALL = timedelta(milliseconds=1)
"""What every call takes at least: what happens in order has instants in that order."""


@attrs.define(kw_only=True, eq=False)
class Seat:
    """The place of one control plane: the process in it comes and goes."""

    number: int
    plane: ControlPlane | None = None
    busy: bool = False
    """It is in the middle of something; one that is busy while others act is frozen."""
    dies_in: int | None = None
    """Positions until it is killed."""
    freezes_in: int | None = None
    freezes_for: int = 0
    """Steps of the others while it is frozen."""
    cloudless: bool = False
    """It reaches no cloud."""
    nodeless: bool = False
    """No node reaches it."""
    lag: timedelta = timedelta()
    """How much longer each of its calls takes."""

    def wrap(self, clock: Clock, dice: random.Random, pass_by: Callable[["Seat"], None]) -> Wrap:
        """Return what puts a driver behind the standard layers, with this seat's fate innermost: next to the wire."""

        def fate(call: Call, next: Next, /) -> Any:
            pass_by(self)
            if self.cloudless:
                raise Transient("the network is unreachable", reason="NETWORK")
            clock.sleep(CALL + self.lag)
            answer = next(call)
            pass_by(self)
            return answer

        retry = RetryLayer(clock, clock.sleep, attempts=2, chance=dice.random)
        layers = (DeadlineLayer(clock), retry, RateLimit(clock, clock.sleep), fate)
        return lambda driver, cloud: layered(driver, *layers, cloud=cloud)
