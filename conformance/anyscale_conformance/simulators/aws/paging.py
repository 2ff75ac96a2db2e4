"""Pages of lists, by tokens that name the last thing that was shown; and what can be wrong with a page."""

import base64
import enum
from collections.abc import Callable, Iterable
from typing import TypeVar

from anyscale_conformance.simulators.aws.signing import Refusal

T = TypeVar("T")


class Spoilt(enum.Enum):
    """How the next page of a list is wrong."""

    REPEATED = "it names itself as the next"
    EXPIRED = "its token is not known any more"
    EMPTY = "there is nothing on it, and more follows"


def page_of(
    found: Iterable[T], *, size: int, token: str, key: Callable[[T], str], spoilt: Spoilt | None = None
) -> tuple[list[T], str]:
    """Return a page and the token of the next, in the order of their keys. Raises Refusal for a token that is none.

    What is made and deleted between two pages moves nothing else.
    """
    try:
        after = base64.b32decode(token.encode()).decode()
    except ValueError:
        after, spoilt = "", Spoilt.EXPIRED
    if spoilt is Spoilt.EXPIRED and token:
        raise Refusal("InvalidPaginationToken", f"The pagination token '{token}' is not valid")
    left = sorted((each for each in found if not token or key(each) > after), key=key)
    page = left[:size]
    if spoilt is Spoilt.EMPTY:
        return [], _token(f"{after}\0")
    if spoilt is Spoilt.REPEATED:
        return page, token or _token("\0")
    return page, _token(key(page[-1])) if len(left) > size else ""


def _token(key: str) -> str:
    return base64.b32encode(key.encode()).decode()
