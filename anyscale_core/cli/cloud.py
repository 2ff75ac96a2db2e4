"""The verb about clouds: register, setup, list, verify, delete."""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from anyscale_core.api.client import Client
from anyscale_core.api.protocol import CloudView
from anyscale_core.cli import background, specfile, tables
from anyscale_core.cli.failures import Broken
from anyscale_core.cli.output import Exit, Output
from anyscale_core.errors import CloudError, CoreError, Retry, UnknownName
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudMode
from anyscale_core.models.networking import Check, CheckStatus

FIELDS = "name:, provider:, region:, settings: ..."
PAUSE = 1.0
"""Seconds between two looks at something that goes."""
PATIENCE = 900.0
"""Seconds after which a cloud that does not go is left; the same command goes on where it stopped."""
TRIES = 5
"""How often a step that failed in passing is tried in a row."""


def cloud(args: argparse.Namespace, output: Output) -> int:
    """Register, set up, list, verify or delete clouds. Raises SpecError, UnknownName, NameTaken, CloudError."""
    return int(ACTIONS[args.action](args, output))


def _register(args: argparse.Namespace, output: Output) -> int:
    name, raw, lines = specfile.document(args.file, FIELDS)
    client = background.connect(args.home, say=output.note).client
    with specfile.located(name, lines):
        view = client.register_cloud(raw)
    output.answer(wire.unstructure(view), tables.clouds([view]))
    return Exit.OK


def _setup(args: argparse.Namespace, output: Output) -> int:
    """Make a cloud ready, step by step; what this run registered is taken back when a step, or the look after it, fails."""
    name, raw, lines = specfile.document(args.file, FIELDS)
    client = background.connect(args.home, say=output.note).client
    known = {view.name for view in client.clouds() if view.registered}
    with specfile.located(name, lines):
        view = client.register_cloud(raw)
    try:
        view = _make(client, view, output)
        found = client.verify_cloud(view.name)
        if _failed(found):
            output.note(tables.checks(_failed(found)))
            raise Broken(f"{view.name} was made, and does not pass: {', '.join(check.id for check in _failed(found))}")
    except (CoreError, KeyboardInterrupt) as error:
        if view.name not in known:
            output.note(f"taking back what was made for {view.name}: {error or 'interrupted'}")
            _take_down(client, view.name, "refuse", output)
        raise
    output.answer(
        {"cloud": wire.unstructure(view), "checks": wire.unstructure(found)},
        f"{tables.clouds([view])}\n\n{tables.checks(found)}",
    )
    if view.mode is CloudMode.OPERATOR:
        manifest = (
            f"anyscale-core operator manifest --cloud {view.name} --namespace NAMESPACE --image IMAGE --settings FILE"
        )
        output.note(f"next, let its operator in: {manifest}")
    return Exit.OK


def _list(args: argparse.Namespace, output: Output) -> int:
    views = background.connect(args.home, say=output.note).client.clouds()
    output.answer({"clouds": wire.unstructure(views)}, tables.clouds(views))
    return Exit.OK


def _verify(args: argparse.Namespace, output: Output) -> int:
    found = background.connect(args.home, say=output.note).client.verify_cloud(args.name)
    output.answer({"checks": wire.unstructure(found)}, tables.checks(found))
    return Exit.FAILED if _failed(found) else Exit.OK


def _delete(args: argparse.Namespace, output: Output) -> int:
    client = background.connect(args.home, say=output.note).client
    view = _take_down(client, args.name, args.data, output)
    output.answer(wire.unstructure(view), f"cloud {view.name} is gone")
    return Exit.OK


def _make(client: Client, view: CloudView, output: Output) -> CloudView:
    while view.missing:
        kind = view.missing[0]
        view = _patiently(lambda name=view.name: client.set_up_cloud(name))
        for resource in view.resources:
            if resource.kind == kind and resource.id:
                output.note(f"{kind} {resource.name}: {'adopted' if resource.adopted else 'made'} ({resource.id})")
    return view


def _take_down(client: Client, name: str, data: str, output: Output) -> CloudView:
    """Ask for one step after the other until nothing is left. Raises Broken when it takes too long."""
    until = time.monotonic() + PATIENCE
    view = client.cloud(name)
    while view.registered:
        before = {resource.kind for resource in view.resources}
        try:
            view = _patiently(lambda: client.delete_cloud(name, data=data))
        except UnknownName:
            # An answer was lost, and the step after it was the last.
            return CloudView(name=name, provider=view.provider, registered=False)
        gone = before - {resource.kind for resource in view.resources}
        for kind in sorted(gone):
            output.note(f"{kind}: gone")
        if view.registered and not gone:
            if time.monotonic() > until:
                raise Broken(f"{name} is still going; `anyscale-core cloud delete {name}` goes on with it")
            time.sleep(PAUSE)
    return view


def _patiently(step: Any) -> CloudView:
    """Make a step; one that failed in passing, or waits for another to end, is tried again."""
    for left in reversed(range(TRIES)):
        try:
            view: CloudView = step()
            return view
        except CloudError as error:
            if not left or error.retry not in (Retry.SAME, Retry.WITH_TOKEN):
                raise
            time.sleep(error.retry_after.total_seconds() if error.retry_after else PAUSE)
    raise AssertionError("unreachable")


def _failed(found: Sequence[Check]) -> list[Check]:
    return [check for check in found if check.status is CheckStatus.FAILED]


ACTIONS = {"register": _register, "setup": _setup, "list": _list, "verify": _verify, "delete": _delete}
