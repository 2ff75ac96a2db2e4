"""What all four driver interfaces have in common.

Promises of every driver (docs/contract.md has them numbered): ``create`` twice with one token makes one thing; ``create``
returns at once; deleting the gone succeeds and says so; ``list`` is complete or it raises, and shows only the owner's
things; the owner's tags go in the creating call; no call outlives its ``deadline``; only errors of the tree leave a driver;
secrets never show; one driver instance may be used from many threads. A driver never retries, never sleeps, never waits.

``deadline`` is an aware UTC instant by the clock that the driver was built with.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from anyscale_core.clock import Clock, SystemClock
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret


@attrs.frozen(kw_only=True)
class DriverConfig:
    """What a driver is built from: the cloud's name and region, the provider's own settings, and the clock.

    ``home`` is a folder that the plane owns on this machine, for drivers that keep anything there. ``identity_token`` returns
    an OIDC token of the control plane itself for an audience, for clouds that let it in by one; None where there is none.
    """

    owner: Owner
    home: Path
    region: str = ""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    clock: Clock = attrs.field(factory=SystemClock)
    identity_token: Callable[[str], Secret[str]] | None = attrs.field(default=None, repr=False, eq=False)


class Driver:
    """Base of the four interfaces. ``provider`` and ``slot`` name it in traces and errors."""

    provider: str = ""
    slot: str = ""

    def close(self) -> None:
        """Give back connections and files. Calling it twice is harmless; other calls after it may fail."""
