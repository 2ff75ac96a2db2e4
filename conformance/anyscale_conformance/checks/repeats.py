"""What the core would do after an error: helpers of the checks."""

from collections.abc import Callable
from typing import TypeVar

from anyscale_conformance.expect import CheckFailed
from anyscale_core.errors import CloudError, Retry

T = TypeVar("T")

ATTEMPTS = 4
"""How often the core calls with one token before it gives up for now."""


def repeat(act: Callable[[], T]) -> T:
    """Call ``act`` as the core would: again, with the same token, after an error that may be repeated.

    Fails the check when it does not help, and when an error says that it must not be repeated.
    """
    last: CloudError | None = None
    for _ in range(ATTEMPTS):
        try:
            return act()
        except CloudError as error:
            if error.retry not in (Retry.SAME, Retry.WITH_TOKEN):
                raise CheckFailed(
                    f"an error after a fault that passes says that repeating is no use: {error}"
                ) from error
            last = error
    raise CheckFailed(f"repeating {ATTEMPTS} times with the token did not help: {last}") from last
