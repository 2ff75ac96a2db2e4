"""Driver calls as JSON and back: how an order says what is to be done, and a report what came of it.

What a verb takes and returns is read from the interfaces themselves, so a verb that is added can be ordered at once. The calls
of an object store (``StorageDriver.objects``) travel as plain values under ``objects.put`` and so on.
"""

import functools
import inspect
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

import attrs

from anyscale_core.drivers.base import Driver
from anyscale_core.drivers.cluster import ClusterDriver
from anyscale_core.drivers.identity import IdentityDriver
from anyscale_core.drivers.layers import WRITES, verbs_of
from anyscale_core.drivers.networking import NetworkingDriver
from anyscale_core.drivers.storage import StorageDriver
from anyscale_core.errors import error_from
from anyscale_core.models import wire
from anyscale_core.models.instance import Created, Instance, NotCreated, Outcome
from anyscale_core.models.owner import Owner

INTERFACES: Mapping[str, type[Driver]] = {
    interface.slot: interface for interface in (ClusterDriver, IdentityDriver, StorageDriver, NetworkingDriver)
}
OBJECTS = "objects"
"""Stands where a slot does in the actions of an object store."""
OBJECT_WRITES = frozenset({"put", "delete", "copy", "rename"})
OBJECT_CALLS = OBJECT_WRITES | {"get", "get_range", "head", "list", "list_with_delimiter"}
"""The calls of an object store that can be ordered; the words are obstore's."""


@attrs.frozen(kw_only=True)
class Signature:
    """What a call takes, without its deadline, and what it returns: types that ``wire`` can structure."""

    arguments: Mapping[str, Any]
    result: Any


@attrs.frozen(kw_only=True)
class Item:
    """One outcome of a batch on the wire: an instance, or the record of the error that struck it."""

    name: str = ""
    instance: Instance | None = None
    error: Mapping[str, Any] | None = None


def is_write(action: str) -> bool:
    """Tell whether an action changes something."""
    slot, _, verb = action.partition(".")
    return verb in (OBJECT_WRITES if slot == OBJECTS else WRITES)


def lane_of(action: str, arguments: Mapping[str, Any]) -> str:
    """Return the lane of a call: that of the cluster that it is about, else the cloud's own; empty for a read."""
    if not is_write(action):
        return ""
    specs = arguments.get("specs") or (arguments.get("spec"),)
    owner = arguments.get("owner") or getattr(specs[0], "owner", None)
    return (owner.cluster if isinstance(owner, Owner) else None) or "cloud"


def say_call(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments as JSON, its secrets in clear: for the wire to the one who makes the call."""
    return {
        name: wire.unstructure_revealed(tuple(value) if _is_stream(value) else value)
        for name, value in arguments.items()
    }


def hear_call(action: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that ``say_call`` wrote. Raises UnknownAction, SpecError."""
    if _is_of_objects(action):
        return dict(said) | {"owner": wire.structure(said["owner"], Owner)}
    types_of = signature(action).arguments
    return {name: wire.structure(said[name], types_of[name]) for name in types_of if name in said}


def say_result(action: str, result: Any) -> Any:
    """Return a call's result as JSON, its secrets in clear."""
    if action == "cluster.create":
        return [wire.unstructure_revealed(_item(outcome)) for outcome in result]
    return wire.unstructure_revealed(result)


def hear_result(action: str, said: Any) -> Any:
    """Return the result that ``say_result`` wrote. Raises SpecError for what is none."""
    if _is_of_objects(action):
        return said
    if action == "cluster.create":
        return tuple(_outcome(item) for item in wire.structure(said, tuple[Item, ...]))
    return wire.structure(said, signature(action).result)


class UnknownAction(ValueError):
    """No driver has such a call: the other side is of another version."""


@functools.cache
def signature(action: str) -> Signature:
    """Return what a driver's call takes and returns. Raises UnknownAction."""
    slot, _, verb = action.partition(".")
    if slot not in INTERFACES or verb not in verbs_of(INTERFACES[slot]) - {"objects"}:
        raise UnknownAction(f"no driver has a call {action!r}")
    found = inspect.signature(getattr(INTERFACES[slot], verb))
    arguments = {
        name: _plain(parameter.annotation)
        for name, parameter in found.parameters.items()
        if name not in ("self", "deadline")
    }
    return Signature(arguments=arguments, result=_plain(found.return_annotation))


def takes_deadline(action: str) -> bool:
    """Tell whether a call has a deadline among its arguments."""
    if _is_of_objects(action):
        return False
    slot, _, verb = action.partition(".")
    return "deadline" in inspect.signature(getattr(INTERFACES[slot], verb)).parameters


def _is_of_objects(action: str) -> bool:
    slot, _, verb = action.partition(".")
    return slot == OBJECTS and verb in OBJECT_CALLS


def _is_stream(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | tuple)


def _plain(annotation: Any) -> Any:
    """Return a type as ``wire`` knows it: any sequence of X is a tuple of X."""
    if get_origin(annotation) in (Sequence, Iterable):
        return types.GenericAlias(tuple, (get_args(annotation)[0], ...))
    return annotation


def _item(outcome: Outcome) -> Item:
    if isinstance(outcome, Created):
        return Item(instance=outcome.instance)
    return Item(name=outcome.name, error=outcome.error.record())


def _outcome(item: Item) -> Outcome:
    if item.instance is not None:
        return Created(instance=item.instance)
    return NotCreated(name=item.name, error=error_from(item.error or {}))
