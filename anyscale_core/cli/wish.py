"""The verbs that wish for clusters: up and down."""

import argparse
import time
from datetime import UTC, datetime

from anyscale_core.api.client import Client
from anyscale_core.api.protocol import ClusterView
from anyscale_core.cli import background, specfile, tables
from anyscale_core.cli.output import Exit, Output
from anyscale_core.cli.progress import progress_for
from anyscale_core.cli.watch import Watch, ended, last_event
from anyscale_core.errors import UnknownName
from anyscale_core.models import wire
from anyscale_core.models.phases import ClusterPhase

DOOR = 15.0
"""Seconds that ``up`` waits for the way in to a cluster that is RUNNING; without one it can be used all the same."""


def up(args: argparse.Namespace, output: Output) -> int:
    """Apply a spec and wait until the cluster is RUNNING and can be entered; 1 when it ended instead. Raises SpecError."""
    file = specfile.load(args.file)
    progress = progress_for(output)
    client = background.connect(args.home, say=progress.note).client
    after = last_event(client, file.spec.name) if _is_alive(client, file.spec.name) else 0
    with specfile.located(file.name, file.lines):
        view = client.apply(file.raw)
    if not args.no_wait:
        try:
            watch = Watch(client, view, progress, after=after)
            view = watch.until(lambda view: _is_up(view) or ended(view))
            deadline = time.monotonic() + DOOR
            view = watch.until(lambda view: bool(view.endpoint) or ended(view) or time.monotonic() > deadline)
        finally:
            progress.close()
    output.answer({"type": "result", "cluster": wire.unstructure(view)}, tables.cluster(view, now=datetime.now(UTC)))
    return Exit.FAILED if ended(view) else Exit.OK


def down(args: argparse.Namespace, output: Output) -> int:
    """Take a cluster down and wait until nothing is left of it. Raises UnknownName."""
    progress = progress_for(output)
    client = background.connect(args.home, say=progress.note).client
    after = last_event(client, args.name)
    view = client.delete(args.name)
    if not args.no_wait:
        try:
            view = Watch(client, view, progress, after=after).until(ended)
        finally:
            progress.close()
    left = "nothing is left of it" if ended(view) else "going"
    output.answer({"type": "result", "cluster": wire.unstructure(view)}, f"{view.name} {view.phase.value}: {left}")
    return Exit.OK


def _is_alive(client: Client, name: str) -> bool:
    try:
        return not ended(client.get(name))
    except UnknownName:
        return False


def _is_up(view: ClusterView) -> bool:
    """Tell whether the latest wish is met: RUNNING may still be said of the one before."""
    return view.phase is ClusterPhase.RUNNING and view.observed_generation >= view.generation
