"""What the four fake drivers share: the deadline, the wire and the lock."""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Generic, TypeVar

import attrs

from anyscale_core.drivers.base import Driver, DriverConfig
from anyscale_core.errors import AlreadyExists, Applied, DeadlineExceeded, InvalidRequest, Transient
from anyscale_core.models.cluster import NAME
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
        return self._cloud.carry(self.slot, verb, act, names=names, token=token, owner=owner, deadline=deadline)

    def _pages(
        self, shown: Callable[[], Iterable[tuple[str, R]]], *, deadline: datetime, owner: Owner
    ) -> tuple[R, ...]:
        """Return everything that ``shown`` yields, by its keys' order, page by page: each page is a call of its own.

        A page token is the last key of the page before, so that what comes and goes between two pages hides nothing else.
        """
        out: list[R] = []
        after = ""
        while True:
            page = self._call("list", partial(self._page, shown, after), deadline=deadline, owner=owner)
            out += page.items
            if page.next is None:
                return tuple(out)
            if page.next <= after:
                raise Transient(f"the page token {page.next!r} leads nowhere", reason="SERVER")
            after = page.next

    def _page(self, shown: Callable[[], Iterable[tuple[str, R]]], after: str) -> "Page[R]":
        left = sorted((item for item in shown() if item[0] > after), key=lambda item: item[0])
        first = left[: self._cloud.page_size]
        return Page(items=tuple(item for _, item in first), next=first[-1][0] if len(left) > len(first) else None)


@attrs.frozen(kw_only=True)
class Page(Generic[R]):
    """One page of a list. ``next``: the token of the page after it, None at the end."""

    items: tuple[R, ...]
    next: str | None


def check_name(name: str) -> None:
    """Raise InvalidRequest(NAME) for what no cloud would take as a name."""
    if not NAME.fullmatch(name):
        hint = "up to 63 of a-z, 0-9 and '-', a letter first"
        raise InvalidRequest(f"{name!r} is not a name", reason="NAME", resource=name, hint=hint)


def name_taken(kind: str, name: str, theirs: Owner, ours: Owner) -> AlreadyExists:
    """Return the error for a name that something else has: OWNED when that is ours too, FOREIGN when not."""
    is_ours = (theirs.plane, theirs.cloud) == (ours.plane, ours.cloud)
    reason = "OWNED" if is_ours else "FOREIGN"
    return AlreadyExists(f"a {kind} is already called {name!r}", reason=reason, resource=name, hint="take another name")
