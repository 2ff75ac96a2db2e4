"""The verbs about the control plane itself: serve, stop, providers."""

import argparse

from anyscale_core.cli.output import Exit, Output


def serve(args: argparse.Namespace, _output: Output) -> int:
    """Run the control plane in the foreground until SIGTERM, Ctrl-C or ``anyscale-core stop``."""
    import attrs

    from anyscale_core.api import server
    from anyscale_core.controlplane.settings import Settings

    settings = attrs.evolve(Settings.from_env(), home=args.home)
    server.serve(settings, host=args.host, port=args.port)
    return Exit.OK


def stop(args: argparse.Namespace, output: Output) -> int:
    """Stop the control plane of a home; its clusters go on running, and it takes them up again at its next start."""
    from anyscale_core.cli import background

    client = background.find(args.home)
    if client is None:
        output.answer({"stopped": False, "clusters": []}, f"no control plane is running on {args.home}")
        return Exit.OK
    alive = [view.name for view in client.clusters()]
    background.stop(background.Plane(home=args.home, client=client))
    output.answer({"stopped": True, "clusters": alive}, "the control plane has stopped")
    if alive:
        output.note(f"still running, without anybody to look after them until the next start: {', '.join(alive)}")
    return Exit.OK


def issuer(args: argparse.Namespace, output: Output) -> int:
    """Write the plane's description and public keys as an OIDC issuer, each at its path below the issuer's URL."""
    import json

    from anyscale_core.cli import background

    published = background.connect(args.home, say=output.note).client.published()
    for path, document in published.items():
        file = args.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1) + "\n")
    name = next(str(document["issuer"]) for document in published.values() if "issuer" in document)
    output.answer({"issuer": name, "folder": str(args.folder)}, f"the keys of {name} are in {args.folder}")
    return Exit.OK


def providers(args: argparse.Namespace, output: Output) -> int:
    """Show the provider plugins of this installation; with --check 1 if any is broken."""
    from anyscale_core.api.views import provider_view
    from anyscale_core.cli import tables
    from anyscale_core.models import wire
    from anyscale_core.registry import Registry

    views = [provider_view(found) for found in Registry.load().found()]
    text = tables.providers(views) if views else "no provider plugin is installed; try: pip install anyscale-core-local"
    output.answer({"providers": [wire.unstructure(view) for view in views]}, text)
    broken = any(view.broken for view in views)
    return Exit.FAILED if broken and args.check else Exit.OK
