"""Who asks: the user that a request's credentials prove, and how the request wants its object taken."""

from collections.abc import Mapping

import attrs

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"


@attrs.frozen(kw_only=True)
class User:
    """Somebody. ``groups`` include those that everybody is in."""

    name: str
    groups: tuple[str, ...] = (AUTHENTICATED,)
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)


ANONYMOUS = User(name="system:anonymous", groups=(UNAUTHENTICATED,))
SYSTEM = User(name="system:apiserver", groups=(MASTERS, AUTHENTICATED))


@attrs.frozen(kw_only=True)
class Caller:
    """Who asks for a write, and how. ``validation``: Ignore, Warn or Strict; ``warnings`` go back in headers."""

    user: User = SYSTEM
    agent: str = "unknown"
    field_manager: str = ""
    is_dry: bool = False
    validation: str = "Warn"
    warnings: list[str] = attrs.field(factory=list)
