"""What people and scripts read when something went wrong: the reason, the remedy, an exit status; no traceback."""

from collections.abc import Mapping
from typing import Any

from anyscale_core.cli.output import Exit, Format, Output
from anyscale_core.errors import CloudError, CoreError, NameTaken, Refused, SpecError, UnknownName


class Usage(CoreError):
    """The command line asks for something that cannot be; nothing was done."""


class Broken(CoreError):
    """A cluster, a job or the control plane's process came to an end that nobody wanted."""


class NotThere(CoreError):
    """The control plane could not be started, or did not get ready."""


def report(error: Exception, output: Output) -> int:
    """Print an error once; return the exit status that it stands for."""
    expected = isinstance(error, CoreError | OSError)
    if output.format is Format.JSON:
        output.line({"error": as_document(error)})
    elif isinstance(error, SpecError):
        output.note(f"error: {error}")
    else:
        kind = "" if isinstance(error, CoreError) else f"{type(error).__name__}: "
        output.note(f"error: {kind}{error}")
    if not expected:
        output.note("this is a defect of anyscale-core; --debug shows where")
    return exit_of(error)


def exit_of(error: Exception) -> Exit:
    """Return the exit status for an error."""
    if isinstance(error, Usage | SpecError | UnknownName | NameTaken):
        return Exit.USAGE
    if isinstance(error, Refused | NotThere) or _is_unreachable(error):
        return Exit.UNREACHABLE
    return Exit.FAILED


def as_document(error: Exception) -> Mapping[str, Any]:
    """Return an error as plain values: ``type`` and ``message``, and what else its class knows."""
    document: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, SpecError):
        document["faults"] = [
            {"path": fault.path, "message": fault.message} | ({"line": fault.line} if fault.line else {})
            for fault in error.faults
        ]
    if isinstance(error, Refused):
        document["why"] = error.why
    if isinstance(error, CloudError):
        document |= error.record()
    return document


def _is_unreachable(error: Exception) -> bool:
    from anyscale_core.api.client import Unreachable

    return isinstance(error, Unreachable)
