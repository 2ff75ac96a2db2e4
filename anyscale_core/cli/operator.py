"""The verb about pull mode: run an operator, let it in, look at it, render its manifest. Clouds have a verb of their own."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyscale_core.cli.output import Exit, Output

if TYPE_CHECKING:
    from anyscale_core.models.identity import Binding

SETTINGS = "a provider's name and its keys: {kubernetes: {namespace: ray}}"


def operator(args: argparse.Namespace, output: Output) -> int:
    """Do one of the actions. Raises CoreError."""
    return int(ACTIONS[args.action](args, output))


def arguments(parser: argparse.ArgumentParser, common: Any) -> None:
    """Add the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        common(made)
        return made

    run = action("run", "perform a control plane's orders in this network, until SIGTERM")
    _cloud(run)
    run.add_argument("--url", required=True, help="the control plane: https://HOST:PORT")
    run.add_argument("--ca", required=True, type=Path, metavar="FILE", help="the control plane's authority (PEM)")
    who = run.add_mutually_exclusive_group(required=True)
    who.add_argument("--token-file", type=Path, metavar="FILE", help="the registration token; read at every login")
    who.add_argument("--identity", default="", metavar="PROVIDER", help="prove who this is by a provider's identity")
    run.add_argument("--settings", metavar="FILE", help=f"{SETTINGS}; YAML or JSON")
    run.add_argument("--health-port", type=int, metavar="PORT", help="serve /healthz, /readyz and /metrics there")
    token = action("token", "mint a registration token for a cloud's operator")
    _cloud(token)
    token.add_argument("--token-file", type=Path, metavar="FILE", help="write the token there instead of to stdout")
    token.add_argument("--ca", type=Path, metavar="FILE", help="write the control plane's authority there")
    _cloud(action("revoke", "make all tokens and credentials of a cloud's operators worthless"))
    action("list", "show the clouds in pull mode, and whether their operators are there")
    manifest = action("manifest", "print what installs a cloud's operator, with a new registration token in it")
    _cloud(manifest)
    manifest.add_argument("--image", required=True, help="the image that has anyscale-core[operator] and the provider")
    manifest.add_argument("--namespace", default="anyscale", help="where to install it (default: %(default)s)")
    manifest.add_argument("--replicas", type=int, default=1, help="how many stand by for each other (default: 1)")
    manifest.add_argument("--health-port", type=int, default=8081, help="(default: %(default)s)")
    manifest.add_argument("--identity", default="", metavar="PROVIDER", help="prove by an identity: no token is minted")
    manifest.add_argument("--settings", metavar="FILE", help=f"{SETTINGS}; YAML or JSON")
    for option, what in (("account-annotation", "account"), ("pod-label", "Pods")):
        manifest.add_argument(
            f"--{option}", action="append", default=[], metavar="KEY=VALUE",
            help=f"put on the operator's {what}: what binds it to the identity that it calls its cloud by",
        )  # fmt: skip


def _cloud(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cloud", required=True, metavar="NAME", help="the cloud")


def _run(args: argparse.Namespace, _output: Output) -> int:
    from anyscale_core.operator.process import Options, run

    return run(
        Options(
            url=args.url, ca=args.ca, cloud=args.cloud, home=args.home, token_file=args.token_file,
            identity=args.identity, settings=_settings(args.settings), health_port=args.health_port,
        )
    )  # fmt: skip


def _token(args: argparse.Namespace, output: Output) -> int:
    from anyscale_core.cli import background
    from anyscale_core.models import wire

    token = background.connect(args.home, say=output.note).client.operator_token(args.cloud)
    if args.ca is not None:
        _write(args.ca, token.ca_pem)
    if args.token_file is None:
        output.answer(wire.unstructure_revealed(token), token.token.reveal())
        return Exit.OK
    _write(args.token_file, token.token.reveal())
    output.answer(wire.unstructure(token), f"good for the operator of {token.cloud} until {token.expires_at:%Y-%m-%d}")
    return Exit.OK


def _revoke(args: argparse.Namespace, output: Output) -> int:
    from anyscale_core.cli import background
    from anyscale_core.models import wire

    view = background.connect(args.home, say=output.note).client.revoke_operator(args.cloud)
    output.answer(wire.unstructure(view), f"no operator of {args.cloud} is let in any more without a new token")
    return Exit.OK


def _list(args: argparse.Namespace, output: Output) -> int:
    from datetime import UTC, datetime

    from anyscale_core.cli import background, tables
    from anyscale_core.models import wire

    client = background.connect(args.home, say=output.note).client
    views = [view for view in client.clouds() if view.operator is not None]
    text = tables.operators(views, now=datetime.now(UTC)) if views else "no cloud is in pull mode"
    output.answer({"clouds": wire.unstructure(views)}, text)
    return Exit.OK


def _manifest(args: argparse.Namespace, output: Output) -> int:
    from importlib.metadata import entry_points

    from anyscale_core.cli import background
    from anyscale_core.errors import Fault, SpecError, UnknownName
    from anyscale_core.models.manifest import ENTRY_POINTS, ManifestConfig

    settings, binding = _settings(args.settings), _binding(args)
    client = background.connect(args.home, say=output.note).client
    view = next((view for view in client.clouds() if view.name == args.cloud), None)
    if view is None:
        raise UnknownName(f"no cloud {args.cloud!r}; register it first (anyscale-core cloud register)")
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    provider = view.slots["cluster"]
    if provider not in points:
        known = ", ".join(sorted(points)) or "none"
        raise UnknownName(f"provider {provider!r} renders no manifest; those that do: {known}")
    is_composed = view.slots["identity"] != provider
    if is_composed and not view.identities:
        why = f"what its nodes run as is not made yet; set {view.name} up first (anyscale-core cloud setup)"
        raise SpecError([Fault(path="", message=why)], subject=f"cloud {view.name!r}")
    token = client.operator_token(args.cloud)
    config = ManifestConfig(
        cloud=view.name, provider=provider, slots=view.slots, url=token.url, ca_pem=token.ca_pem, image=args.image,
        namespace=args.namespace, replicas=args.replicas, health_port=args.health_port,
        token=None if args.identity else token.token, identity=args.identity, settings=settings, binding=binding,
        node_identities=view.identities if is_composed else (),
    )  # fmt: skip
    objects = list(points[provider].load()(config))
    output.answer({"apiVersion": "v1", "kind": "List", "items": objects}, _yaml(objects).rstrip())
    return Exit.OK


def _binding(args: argparse.Namespace) -> "Binding":
    """Return what is put on the operator's account and Pods. Raises SpecError naming every word that is no KEY=VALUE."""
    from anyscale_core.errors import Fault, SpecError
    from anyscale_core.models.identity import Binding

    given = {"account-annotation": args.account_annotation, "pod-label": args.pod_label}
    faults = [
        Fault(path=option, message=f"{word!r} is not KEY=VALUE")
        for option, words in given.items()
        for word in words
        if not all(word.partition("=")[::2])
    ]
    if faults:
        raise SpecError(faults, subject="operator manifest")
    pairs = {option: dict(word.split("=", 1) for word in words) for option, words in given.items()}
    return Binding(account=pairs["account-annotation"], workload=pairs["pod-label"])


def _settings(source: str | None) -> Mapping[str, Mapping[str, Any]]:
    """Return each provider's keys from a file; none without one. Raises SpecError."""
    if source is None:
        return {}
    from anyscale_core.cli import specfile
    from anyscale_core.errors import Fault, SpecError

    name, raw, lines = specfile.document(source, SETTINGS)
    faults = [
        Fault(path=str(key), message=f"is not a mapping; write {SETTINGS}", line=lines.get(str(key), 0))
        for key, value in raw.items()
        if not isinstance(value, Mapping)
    ]
    if faults:
        raise SpecError(faults, subject=name)
    return raw


def _yaml(objects: list[Any]) -> str:
    import yaml

    return str(yaml.safe_dump_all(objects, sort_keys=False))


def _write(path: Path, text: str) -> None:
    """Write what only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


ACTIONS = {"run": _run, "token": _token, "revoke": _revoke, "list": _list, "manifest": _manifest}
