"""Errors as RFC 9457 problems and back: ``error_of(problem_of(error))`` is an error of the same class that says the same."""

from collections.abc import Mapping
from typing import Any

import attrs

from anyscale_core import errors
from anyscale_core.api.protocol import Problem
from anyscale_core.errors import (
    CloudError,
    CoreError,
    Fault,
    LeaseLost,
    NameTaken,
    PluginError,
    Refused,
    SpecError,
    UnknownName,
    error_from,
)
from anyscale_core.models import wire

TYPE = "urn:anyscale-core:problem:"

STATUS: Mapping[type[CoreError], int] = {
    SpecError: 400,
    Refused: 401,
    UnknownName: 404,
    NameTaken: 409,
    LeaseLost: 409,
    PluginError: 424,
    errors.InvalidRequest: 400,
    errors.Unauthenticated: 502,  # ours with the cloud, not the caller's with us
    errors.PermissionDenied: 502,
    errors.NotFound: 502,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.QuotaExceeded: 507,
    errors.CapacityUnavailable: 503,
    errors.Throttled: 503,
    errors.Transient: 503,
    errors.DeadlineExceeded: 504,
    errors.Unsupported: 501,
    errors.Unclassified: 502,
}
"""The HTTP status of each error that may leave the plane. What is not here is internal: 500."""

TITLES: Mapping[type[CoreError], str] = {
    SpecError: "The input cannot be accepted",
    Refused: "Not let in",
    UnknownName: "No such thing",
    NameTaken: "The name is taken",
    LeaseLost: "Another control plane works on it",
    PluginError: "A provider plugin cannot be used",
}


class TooLarge(CoreError):
    """A body is larger than the service takes."""


class ServerError(CoreError):
    """The service failed in a way that nobody foresaw, or answered what this client cannot read."""


def problem_of(error: CoreError) -> Problem:
    """Return an error of the plane as a problem. An unknown class becomes a 500 that tells nothing of itself."""
    cls = type(error)
    status = next((STATUS[base] for base in cls.__mro__ if base in STATUS), 500)
    problem = Problem(type=f"{TYPE}{cls.__name__}", title=_title(cls), status=status, detail=str(error))
    if isinstance(error, SpecError):
        return attrs.evolve(problem, faults=error.faults, subject=error.subject)
    if isinstance(error, Refused):
        return attrs.evolve(problem, why=error.why)
    if isinstance(error, PluginError):
        return attrs.evolve(problem, name=error.name, reason=error.reason)
    if isinstance(error, CloudError):
        return attrs.evolve(
            problem, category=error.category, reason=error.reason, hint=error.hint, error=error.record()
        )
    if isinstance(error, TooLarge):
        return attrs.evolve(problem, status=413)
    return problem if status != 500 else internal("")


def internal(id: str) -> Problem:
    """Return the problem for a failure that nobody foresaw; ``id`` is in the service's log."""
    where = f"; its log has the cause under {id}" if id else ""
    return Problem(
        type=f"{TYPE}Internal", title="Internal error", status=500, detail=f"the service failed{where}", id=id
    )


def error_of(problem: Problem) -> CoreError:
    """Return the error that a problem tells of, of the class that the plane raised."""
    name = problem.type.removeprefix(TYPE)
    if problem.category:
        said = {"message": problem.detail, "category": problem.category, "reason": problem.reason, "hint": problem.hint}
        return error_from({**said, **problem.error})
    if name == "SpecError":
        return SpecError(problem.faults, subject=problem.subject or "input")
    if name == "Refused":
        return Refused(problem.why, problem.detail)
    if name == "PluginError":
        return PluginError(problem.name, problem.reason)
    plain = _PLAIN.get(name)
    return plain(problem.detail) if plain is not None else ServerError(f"{problem.title}: {problem.detail}")


_PLAIN: Mapping[str, type[CoreError]] = {cls.__name__: cls for cls in (UnknownName, NameTaken, LeaseLost, TooLarge)}


def body_of(problem: Problem) -> dict[str, Any]:
    """Return a problem as JSON: members that say nothing are left out."""
    body: dict[str, Any] = wire.unstructure(problem)
    return {key: value for key, value in body.items() if value not in ("", [], {})}


def _title(cls: type[CoreError]) -> str:
    if issubclass(cls, CloudError):
        return f"The cloud answered: {cls.category}"
    return TITLES.get(cls, cls.__name__)


__all__ = ["STATUS", "TYPE", "Fault", "ServerError", "TooLarge", "body_of", "error_of", "internal", "problem_of"]
