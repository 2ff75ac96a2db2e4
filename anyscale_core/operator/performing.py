"""Performs one order: the driver call that it stands for, made here."""

import base64
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from anyscale_core.drivers import speech
from anyscale_core.drivers.base import Driver
from anyscale_core.errors import Applied, CloudError, Unclassified
from anyscale_core.models.order import Done, Order
from anyscale_core.models.secret import Secret


def perform(order: Order, drivers: Mapping[str, Driver], *, deadline: datetime) -> Done:
    """Make the call and return what came of it. Raises nothing that an order can be the reason of."""
    try:
        result = _made(order, drivers, deadline)
        return Done(id=order.id, attempt=order.attempt, result=Secret(json.dumps(result)))
    except CloudError as error:
        return _failed(order, error)
    except Exception as error:
        # Its text is not repeated: it may quote the arguments.
        why = f"the operator could not carry {order.action} out: {type(error).__name__}"
        hint = "the operator's log has more; are it and the control plane of one version?"
        return _failed(order, Unclassified(why, applied=Applied.UNKNOWN, hint=hint))


def _made(order: Order, drivers: Mapping[str, Driver], deadline: datetime) -> Any:
    slot, _, verb = order.action.partition(".")
    arguments = speech.hear_call(order.action, order.arguments)
    if slot == speech.OBJECTS:
        return _objects_call(verb, arguments, drivers["storage"])
    if speech.takes_deadline(order.action):
        arguments["deadline"] = deadline
    return speech.say_result(order.action, getattr(drivers[slot], verb)(**arguments))


def _failed(order: Order, error: CloudError) -> Done:
    return Done(id=order.id, attempt=order.attempt, error=error.record())


def _objects_call(verb: str, arguments: Mapping[str, Any], storage: Any) -> Any:
    """Make one call of an object store; what the store refuses is a result: the class of its exception, and its words."""
    try:
        store = storage.objects(arguments["bucket"], arguments["prefix"], owner=arguments["owner"])
        return {"result": _OBJECT_CALLS[verb](store, arguments)}
    except CloudError:
        raise
    except Exception as error:
        return {"refused": {"error": type(error).__name__, "message": str(error)}}


def _get(store: Any, said: Mapping[str, Any]) -> Any:
    got = store.get(said["path"], **said["options"])
    meta = getattr(got, "meta", None)
    return {"body": _text(bytes(got.bytes())), "meta": _meta(meta if meta is not None else store.head(said["path"]))}


def _list(store: Any, said: Mapping[str, Any]) -> Any:
    return [[_meta(meta) for meta in page] for page in store.list(said["path"], **said["options"])]


def _level(store: Any, said: Mapping[str, Any]) -> Any:
    found = store.list_with_delimiter(said["path"])
    return {"common_prefixes": [*found["common_prefixes"]], "objects": [_meta(meta) for meta in found["objects"]]}


def _text(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {**meta, "last_modified": meta["last_modified"].isoformat()}


_OBJECT_CALLS: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "put": lambda store, said: store.put(said["path"], base64.b64decode(said["body"]), **said["options"]),
    "get": _get,
    "get_range": lambda store, said: _text(bytes(store.get_range(said["path"], **said["options"]))),
    "head": lambda store, said: _meta(store.head(said["path"])),
    "list": _list,
    "list_with_delimiter": _level,
    "delete": lambda store, said: store.delete(said["path"]),
    "copy": lambda store, said: store.copy(said["path"], said["to"], **said["options"]),
    "rename": lambda store, said: store.rename(said["path"], said["to"], **said["options"]),
}
