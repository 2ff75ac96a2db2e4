"""How a check says what must hold. Not ``assert``: these are alive under ``python -O``, and a failure is told from a crash."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs

from anyscale_core.errors import CloudError

T = TypeVar("T")


class CheckFailed(Exception):
    """The provider does not keep the promise; the message says what was wanted and what was found."""


@attrs.define(kw_only=True)
class Caught:
    """The error that a block raised, once it has ended."""

    _error: CloudError | None = None

    @property
    def error(self) -> CloudError:
        """Return it. Only after the block."""
        if self._error is None:
            raise RuntimeError("the block has not ended yet")
        return self._error


def expect(holds: object, message: str) -> None:
    """Fail the check with ``message`` unless ``holds``."""
    if not holds:
        raise CheckFailed(message)


def expect_equal(found: object, wanted: object, what: str) -> None:
    """Fail the check unless ``found`` equals ``wanted``; ``what`` names the thing in the message."""
    if found != wanted:
        raise CheckFailed(f"{what} is {_short(found)}, not {_short(wanted)}")


def expect_one(found: "tuple[T, ...] | list[T]", what: str) -> T:
    """Return the one thing there is. Fails the check for none and for several."""
    if len(found) != 1:
        raise CheckFailed(f"there are {len(found)} {what}, not one: {_short(found)}")
    return found[0]


@contextmanager
def expect_error(*categories: type[CloudError], reason: str | tuple[str, ...] = "", when: str) -> Iterator[Caught]:
    """Fail the check unless the block raises one of these errors of the tree, with one of these reasons when any is given.

    ``when`` names the call in the message: ``"creating with a spent token"``. An error of another category is a failure too.
    """
    caught = Caught()
    wanted = " or ".join(category.category for category in categories)
    reasons = (reason,) if isinstance(reason, str) else reason
    wanted = f"{wanted}({'/'.join(reasons)})" if any(reasons) else wanted
    try:
        yield caught
    except CloudError as error:
        if not isinstance(error, categories):
            raise CheckFailed(f"{when} raised {_short(str(error))}, not {wanted}") from error
        if any(reasons) and error.reason not in reasons:
            raise CheckFailed(
                f"{when} raised {error.category} with the reason {error.reason!r}, not {wanted}"
            ) from error
        caught._error = error
        return
    raise CheckFailed(f"{when} raised nothing; {wanted} was to be raised")


@contextmanager
def expect_no_error(when: str) -> Iterator[None]:
    """Fail the check when the block raises an error of the tree; ``when`` names the call in the message."""
    try:
        yield
    except CloudError as error:
        raise CheckFailed(f"{when} raised {_short(str(error))}") from error


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 300 else f"{text[:297]}..."
