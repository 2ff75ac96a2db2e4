"""The verbs that look: status, plan, events."""

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import attrs

from anyscale_core.api.protocol import EventView, PlanView
from anyscale_core.cli import background, tables
from anyscale_core.cli.output import Exit, Output
from anyscale_core.models import wire
from anyscale_core.models.cluster import ClusterSpec


def status(args: argparse.Namespace, output: Output) -> int:
    """Show the live clusters, or one cluster, also after its end. Raises UnknownName."""
    client = background.connect(args.home, say=output.note).client
    if args.name:
        view = client.get(args.name)
        output.answer(wire.unstructure(view), tables.cluster(view, now=datetime.now(UTC)))
        return Exit.OK
    views = client.clusters()
    text = tables.clusters(views, now=datetime.now(UTC)) if views else "no cluster is alive"
    output.answer({"clusters": wire.unstructure(views)}, text)
    return Exit.OK


def plan(args: argparse.Namespace, output: Output) -> int:
    """Show what a spec would make now and its price; nothing is made or started. Raises SpecError."""
    from anyscale_core.cli import specfile

    file = specfile.load(args.file)
    client = background.find(args.home)
    with specfile.located(file.name, file.lines):
        view = client.plan(file.raw) if client is not None else _plan_here(args, file.spec)
    output.answer(wire.unstructure(view), tables.plan(view))
    return Exit.OK


def events(args: argparse.Namespace, output: Output) -> int:
    """Show what happened to a cluster, or to all; with --follow, until it has ended. Raises UnknownName."""
    from anyscale_core.cli.watch import LATER, all_events, ended

    client = background.connect(args.home, say=output.note).client
    found = all_events(client, args.name)
    for event in found:
        _show(event, output)
    last = found[-1].id if found else 0
    while args.follow:
        # Asked before the events: the last of them were there when it had ended.
        over = args.name is not None and ended(client.get(args.name))
        for event in client.events(args.name, after=last, wait=0 * LATER if over else LATER):
            _show(event, output)
            last = event.id
        if over:
            break
    return Exit.OK


def _plan_here(args: argparse.Namespace, spec: ClusterSpec) -> PlanView:
    """Plan in this process: nothing is started, and a home that does not exist yet is not made."""
    from anyscale_core.api.views import plan_view
    from anyscale_core.controlplane.keys import local_user
    from anyscale_core.controlplane.plane import ControlPlane
    from anyscale_core.controlplane.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        known = (args.home / "plane.db").exists()
        settings = attrs.evolve(Settings.from_env(), home=args.home if known else Path(folder))
        plane = ControlPlane(settings)
        try:
            return plan_view(plane.plan(spec, actor=local_user()))
        finally:
            plane.close()


def _show(event: EventView, output: Output) -> None:
    level = "" if event.level == "INFO" else f" {event.level}"
    at = event.at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    output.answer(wire.unstructure(event), f"{at}  {event.kind:<20}{level} {event.message}")
