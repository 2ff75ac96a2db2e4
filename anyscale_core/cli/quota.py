"""The verb about quotas: set, list, delete."""

import argparse

from anyscale_core.cli import background, specfile, tables
from anyscale_core.cli.output import Exit, Output
from anyscale_core.models import wire

FIELDS = "name:, nodes:, resources:, price_per_hour:, budget: ..."


def quota(args: argparse.Namespace, output: Output) -> int:
    """Set, list or delete quotas. Raises SpecError, UnknownName."""
    return int(ACTIONS[args.action](args, output))


def _set(args: argparse.Namespace, output: Output) -> int:
    name, raw, lines = specfile.document(args.file, FIELDS)
    client = background.connect(args.home, say=output.note).client
    with specfile.located(name, lines):
        view = client.set_quota(raw)
    output.answer(wire.unstructure(view), tables.quotas([view]))
    return Exit.OK


def _list(args: argparse.Namespace, output: Output) -> int:
    views = background.connect(args.home, say=output.note).client.quotas()
    text = tables.quotas(views) if views else "there is no quota: everybody may use all that the clouds give"
    output.answer({"quotas": wire.unstructure(views)}, text)
    return Exit.OK


def _delete(args: argparse.Namespace, output: Output) -> int:
    spec = background.connect(args.home, say=output.note).client.delete_quota(args.name)
    output.answer(wire.unstructure(spec), f"quota {spec.name} is forgotten")
    return Exit.OK


ACTIONS = {"set": _set, "list": _list, "delete": _delete}
