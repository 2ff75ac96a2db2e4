"""What an API server answers when it does not do what was asked: a Status, as ``k8s.io/apimachinery/pkg/api/errors`` words it."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Fault:
    """One thing that is wrong with an object: ``field`` is its path, ``reason`` the cause's word, ``message`` what is said."""

    reason: str
    message: str
    field: str

    @property
    def text(self) -> str:
        """What the Status message says of it."""
        return f"{self.field}: {self.message}" if self.field else self.message


class Problem(Exception):
    """A refusal. ``details`` are the Status's, ``retry_after`` (seconds) also goes in the header, ``goes_on`` a list's token."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: Mapping[str, Any] | None = None, retry_after: int = 0,
        goes_on: str = "",
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.code, self.reason, self.message, self.retry_after = code, reason, message, retry_after
        self.details = dict(details or {})
        self.goes_on = goes_on
        if retry_after:
            self.details["retryAfterSeconds"] = retry_after

    def body(self) -> dict[str, Any]:
        """Return the Status object."""
        status: dict[str, Any] = {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": self.message,
            "metadata": {"continue": self.goes_on} if self.goes_on else {},
        }  # fmt: skip
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        return status | {"code": self.code}


def required(field: str, detail: str = "") -> Fault:
    """Return the fault of a field that has to be there."""
    return Fault(reason="FieldValueRequired", message=f"Required value{f': {detail}' if detail else ''}", field=field)


def invalid_value(field: str, value: object, detail: str) -> Fault:
    """Return the fault of a value that does not do."""
    return Fault(reason="FieldValueInvalid", message=f"Invalid value: {_quoted(value)}: {detail}", field=field)


def unsupported(field: str, value: object, known: Iterable[str]) -> Fault:
    """Return the fault of a word that is none of those there are."""
    words = ", ".join(f'"{word}"' for word in sorted(known))
    return Fault(
        reason="FieldValueNotSupported",
        message=f"Unsupported value: {_quoted(value)}: supported values: {words}",
        field=field,
    )


def forbidden_field(field: str, detail: str) -> Fault:
    """Return the fault of a field that may not be set or changed."""
    return Fault(reason="FieldValueForbidden", message=f"Forbidden: {detail}", field=field)


def duplicate(field: str, value: object) -> Fault:
    """Return the fault of a second one of the same key."""
    return Fault(reason="FieldValueDuplicate", message=f"Duplicate value: {_quoted(value)}", field=field)


def invalid(kind: str, group: str, name: str, faults: Iterable[Fault]) -> Problem:
    """422: the object breaks rules; every one of them is named."""
    found = tuple(faults)
    text = found[0].text if len(found) == 1 else f"[{', '.join(fault.text for fault in found)}]"
    qualified = f"{kind}.{group}" if group else kind
    details = _about(name, group, kind) | {"causes": [attrs.asdict(fault) for fault in found]}
    return Problem(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details=details)


def not_found(plural: str, group: str, name: str) -> Problem:
    """404: there is no such object."""
    return Problem(
        404, "NotFound", f'{_resource(plural, group)} "{name}" not found', details=_about(name, group, plural)
    )


class Plain(Problem):
    """A refusal in plain text, without a Status: what is refused before the API's own machinery is reached."""

    def __init__(self, code: int, message: str, *, retry_after: int = 0) -> None:
        super().__init__(code, "", f"{message}\n", retry_after=retry_after)


def no_page() -> Plain:
    """404 for a path below a group or version that nobody serves, as of a custom resource that is not installed."""
    return Plain(404, "404 page not found")


def throttled(retry_after: int) -> Plain:
    """429 of priority and fairness. Source: k8s.io/apiserver, pkg/server/filters/maxinflight.go."""
    return Plain(429, "Too many requests, please try again later.", retry_after=retry_after)


def no_such_path() -> Problem:
    """404 for a resource that a served version does not know."""
    return Problem(404, "NotFound", "the server could not find the requested resource")


def already_exists(plural: str, group: str, name: str) -> Problem:
    """409: the name is taken."""
    return Problem(
        409, "AlreadyExists", f'{_resource(plural, group)} "{name}" already exists', details=_about(name, group, plural)
    )


def conflict(plural: str, group: str, name: str, why: str) -> Problem:
    """409: the object is not, or not any more, what the request takes it to be."""
    return Problem(
        409, "Conflict", f'Operation cannot be fulfilled on {_resource(plural, group)} "{name}": {why}',
        details=_about(name, group, plural),
    )  # fmt: skip


def forbidden(plural: str, group: str, name: str, why: str, causes: Iterable[Mapping[str, str]] = ()) -> Problem:
    """403: not allowed, by a rule of access or of admission."""
    about = f' "{name}"' if name else ""
    details: dict[str, Any] = _about(name, group, plural)
    if causes:
        details["causes"] = [dict(cause) for cause in causes]
    return Problem(403, "Forbidden", f"{_resource(plural, group)}{about} is forbidden: {why}", details=details)


def bad_request(message: str) -> Problem:
    """400: the request cannot be read."""
    return Problem(400, "BadRequest", message)


def unauthorized() -> Problem:
    """401: the credentials are none."""
    return Problem(401, "Unauthorized", "Unauthorized")


def expired(message: str, *, goes_on: str = "") -> Problem:
    """410: what was asked about is too long ago; to be begun again, or (a list) gone on with by a token, inconsistently."""
    return Problem(410, "Expired", message, goes_on=goes_on)


def not_allowed(plural: str, group: str) -> Problem:
    """405: this resource has no such verb."""
    return Problem(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource",
        details=_about("", group, plural),
    )  # fmt: skip


def too_many_evictions(message: str, *, retry_after: int, causes: Iterable[Mapping[str, str]]) -> Problem:
    """429: an eviction would break a budget."""
    details: dict[str, Any] = {"causes": [dict(cause) for cause in causes]}
    return Problem(429, "TooManyRequests", message, details=details, retry_after=retry_after)


def _resource(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def _about(name: str, group: str, kind: str) -> dict[str, Any]:
    return {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}


def _quoted(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
