"""Arguments in, exit status out.

argparse, by measurement (2 cores at 2.5 GHz, warm .pyc, median of five, whole process): ``import typer`` 152 ms, argparse
33 ms, an empty Python 20 ms. ``status`` has 200 ms for everything, of which the models and TLS take 100.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from anyscale_core.cli.output import Exit, Format, Output

ENV_HOME = "ANYSCALE_CORE_HOME"

EXITS = """\
exit status: 0 done; 1 the cluster or the job failed; 2 wrong usage, spec or name; 3 the control plane cannot be reached;
130 interrupted. `run` ends with its job's own exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    words, command = _split(words)
    args = _parser().parse_args(words)
    args.command = command
    output = Output(Format.JSON if args.json else Format.TEXT)
    try:
        return int(_verb(args.verb)(args, output))
    except KeyboardInterrupt:
        output.note("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Who read our output has gone (`| head`); Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except Exception as error:
        if args.debug:
            raise
        from anyscale_core.cli.failures import report

        return report(error, output)


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    """Cut a command line at its first ``--``: everything after it is the job's command, whatever it looks like."""
    if "--" not in words:
        return words, None
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]


Verb = Callable[[argparse.Namespace, Output], int]

VERBS = {
    "run": "run", "up": "wish", "down": "wish", "status": "look", "plan": "look", "events": "look", "logs": "logs",
    "cloud": "cloud", "operator": "operator", "quota": "quota", "providers": "plane", "issuer": "plane", "serve": "plane",
    "stop": "plane",
}  # fmt: skip
"""The module of each verb; only that one is loaded."""


def _verb(name: str) -> Verb:
    module = importlib.import_module(f"anyscale_core.cli.{VERBS[name]}")
    verb: Verb = getattr(module, name)
    return verb


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anyscale-core", description="Run Ray clusters in other people's clouds, or on this machine.",
        epilog=EXITS, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    home = os.environ.get(ENV_HOME) or "~/.anyscale_core"
    parser.set_defaults(home=_path(home), json=False, debug=False)
    _common(parser)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        _common(made)
        return made

    _run_arguments(verb("run", "bring a cluster up, run a command on it as a Ray job, take it down"))
    up = verb("up", "bring a cluster up, or change a live one")
    _spec_argument(up)
    up.add_argument("--no-wait", action="store_true", help="return as soon as the wish is recorded")
    down = verb("down", "take a cluster down")
    down.add_argument("name", metavar="NAME")
    down.add_argument("--no-wait", action="store_true", help="return as soon as the wish is recorded")
    verb("status", "show the clusters, or one with its nodes and jobs").add_argument("name", metavar="NAME", nargs="?")
    _logs_arguments(verb("logs", "print the log of a cluster's last job, or of a node"))
    _spec_argument(verb("plan", "show what a spec would make and what it would cost; make nothing"))
    events = verb("events", "show what has happened to a cluster")
    events.add_argument("name", metavar="NAME", nargs="?")
    events.add_argument("--follow", action="store_true", help="go on until the cluster has ended, or Ctrl-C")
    _quota_arguments(verb("quota", "set, list or delete quotas: what clouds, users and projects may hold and spend"))
    _cloud_arguments(verb("cloud", "register, set up, verify, list or delete the clouds that clusters are made in"))
    operator = verb("operator", "pull mode: an operator in the cloud's own network performs the control plane's orders")
    importlib.import_module("anyscale_core.cli.operator").arguments(operator, _common)
    check = verb("providers", "show which provider plugins are installed, and which are broken")
    check.add_argument("--check", action="store_true", help="exit 1 if any is broken")
    issuer = verb(
        "issuer", "write what the plane publishes as an OIDC issuer as files, for another web server to serve"
    )
    issuer.add_argument("folder", type=_path, metavar="DIR", help="the folder that is served at the issuer's URL")
    serve = verb("serve", "run the control plane in the foreground")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=0, help="port to listen on (default: the last one, else a free one)")
    verb("stop", "stop the control plane; clusters go on running")
    return parser


def _run_arguments(run: argparse.ArgumentParser) -> None:
    run.usage = "anyscale-core run -f SPEC [--keep] [--json] [--working-dir DIR] -- COMMAND..."
    run.formatter_class = argparse.RawDescriptionHelpFormatter
    run.epilog = EXITS
    _spec_argument(run)
    run.add_argument("--keep", action="store_true", help="leave the cluster running when the job has ended")
    run.add_argument(
        "--working-dir", type=_path, default=None, metavar="DIR",
        help="folder that the job starts in, sent along: what git knows of (default: the current one)",
    )  # fmt: skip
    run.add_argument("stray", nargs="*", help=argparse.SUPPRESS)


def _logs_arguments(logs: argparse.ArgumentParser) -> None:
    logs.add_argument("name", metavar="NAME")
    which = logs.add_mutually_exclusive_group()
    which.add_argument("--job", metavar="ID", help="the log of this job (default: the last one)")
    which.add_argument("--node", metavar="NODE", help="every stored log of this node")
    which.add_argument("--key", metavar="KEY", help="one stored object, as --list names it")
    which.add_argument("--list", action="store_true", help="list what is stored")
    logs.add_argument("--follow", action="store_true", help="go on printing until the job has ended")


def _quota_arguments(quota: argparse.ArgumentParser) -> None:
    actions = quota.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        _common(made)
        return made

    _spec_argument(action("set", "make or change a quota; what runs goes on, also beyond it"), what="the quota's spec")
    action("list", "show the quotas, what is used of them, and the clusters that they hold back")
    action("delete", "forget a quota; what it held back goes on").add_argument("name", metavar="NAME")


def _cloud_arguments(cloud: argparse.ArgumentParser) -> None:
    actions = cloud.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        _common(made)
        return made

    _spec_argument(action("register", "record a cloud; make nothing yet"), what="the cloud's spec")
    setup = action("setup", "register a cloud, make what its clusters share, verify it; take all back if that fails")
    _spec_argument(setup, what="the cloud's spec")
    action("list", "show the clouds and what their clusters share")
    action("verify", "look a cloud over with its own drivers; 1 if anything failed").add_argument(
        "name", metavar="NAME"
    )
    delete = action("delete", "take away what was made for a cloud, and forget it; what was adopted stays")
    delete.add_argument("name", metavar="NAME")
    data = delete.add_mutually_exclusive_group()
    keep, drop = "leave the bucket with what is in it", "delete what is in the bucket, logs too"
    data.add_argument("--keep-data", dest="data", action="store_const", const="keep", default="refuse", help=keep)
    data.add_argument("--delete-data", dest="data", action="store_const", const="delete", help=drop)


def _spec_argument(parser: argparse.ArgumentParser, what: str = "the cluster's spec") -> None:
    parser.add_argument("-f", "--file", required=True, metavar="SPEC", help=f"{what}: YAML or JSON, '-' for stdin")


def _common(parser: argparse.ArgumentParser) -> None:
    """Add the options that may stand before and after the verb."""
    keep: str = argparse.SUPPRESS
    parser.add_argument(
        "--home", type=_path, default=keep, metavar="DIR",
        help=f"the control plane's folder (default: ${ENV_HOME}, else ~/.anyscale_core)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", default=keep, help="machine-readable on stdout")
    parser.add_argument("--debug", action="store_true", default=keep, help="show the traceback of an error")


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()
