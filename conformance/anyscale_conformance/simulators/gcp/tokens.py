"""Access tokens: opaque words that stand for somebody until an instant."""

import enum
import secrets
from datetime import datetime, timedelta

import attrs

from anyscale_conformance.simulators.gcp.calls import Caller
from anyscale_conformance.simulators.gcp.errors import ApiError, info
from anyscale_conformance.simulators.gcp.world import Project

LIFETIME = timedelta(hours=1)
"""The longest that a token lives, unless an organisation says otherwise."""


class Guard(enum.Enum):
    """What is asked of a caller."""

    OPEN = "open"
    """Nothing; a token that is shown has to be good."""
    TOKENS = "tokens"
    """A token that was issued here and has not expired."""
    PERMISSIONS = "permissions"
    """That, and the permission for what is asked."""


@attrs.frozen(kw_only=True)
class Token:
    """An access token. ``project``: that issued it, whose clock tells when it ends."""

    caller: Caller
    expires_at: datetime
    project: Project = attrs.field(repr=False)


class Tokens:
    """All access tokens."""

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}

    def issue(self, caller: Caller, *, project: Project, lifetime: timedelta = LIFETIME, prefix: str = "ya29.") -> str:
        """Return a new token."""
        word = prefix + secrets.token_urlsafe(48)
        self._tokens[word] = Token(caller=caller, expires_at=project.clock.now() + lifetime, project=project)
        return word

    def is_good(self, word: str, *, left: timedelta) -> bool:
        """Return whether a token is good for some time yet."""
        token = self._tokens.get(word)
        return token is not None and token.project.clock.now() + left <= token.expires_at

    def caller(self, word: str, api: str) -> Caller:
        """Return whom a token stands for. Raises 401 for one that is unknown or has expired."""
        token = self.find(word)
        if token is None:
            raise unauthenticated(api)
        return token.caller

    def find(self, word: str) -> Token | None:
        """Return a token that is good now; None for any other word."""
        token = self._tokens.get(word)
        return token if token is not None and token.project.clock.now() < token.expires_at else None

    def revoke(self, member: str) -> None:
        """Let no token of somebody be good any more."""
        self._tokens = {word: token for word, token in self._tokens.items() if token.caller.member != member}


def unauthenticated(api: str) -> ApiError:
    """Return the 401."""
    message = (
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
    )
    details = [] if api == "storage" else [info("ACCESS_TOKEN_EXPIRED", f"{api}.googleapis.com")]
    headers = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'}
    return ApiError(401, "authError", message, details=details, headers=headers, code="AuthenticationRequired")
