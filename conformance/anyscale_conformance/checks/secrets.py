"""X-SEC: secrets go where they are needed and nowhere else."""

import contextlib
import io
import logging
import os
import stat
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect
from anyscale_conformance.faults.plan import Effect
from anyscale_conformance.rules import check
from anyscale_conformance.subjects import MAIN
from anyscale_core.errors import CloudError, InvalidRequest, PermissionDenied, Transient
from anyscale_core.models import wire
from anyscale_core.models.instance import NotCreated
from anyscale_core.models.secret import Secret

CANARY = "canary-5e1f-conformance"


@check("X-SEC-01", slots=("cluster",), uses=(Effect.REFUSE, Effect.LOSE_AFTER))
def a_canary_is_never_seen(ctx: Context) -> None:
    """Boots instances with a canary for a join token, well and badly; looks at logs, errors, values, files and processes."""
    it = ctx.subject("cluster")
    seen: list[str] = []
    with _everything_logged() as log:
        for spec, effect, category in _trials(ctx):
            before = {item.key for item in ctx.inventory()}
            if effect is not None:
                ctx.inject(effect, category=category)
            outcomes: Any = ()
            try:
                outcomes = ctx.cluster.create([spec], token=ctx.token(), deadline=ctx.deadline())
            except CloudError as error:
                seen += _in_error(error)
            for outcome in outcomes:
                seen += _in_error(outcome.error) if isinstance(outcome, NotCreated) else []
                seen += _where("the outcome of create", repr(outcome))
            for item in ctx.inventory():
                if item.key not in before:
                    seen += _where(f"the tags of {item}", f"{dict(item.tags)}{item.name}{item.id}")
        for instance in it.listed():
            seen += _where("a listed instance", repr(instance))
            seen += _where("a listed instance on the wire", str(wire.unstructure_revealed(instance)))
        seen += _where("a repr of a driver", f"{ctx.cluster!r}{vars(ctx.cluster)!r}")
        seen += _in_processes()
        seen += _in_open_files(ctx.scope.home)
    seen += _where("a log", log.getvalue())
    expect(not seen, f"the join token is seen in {', '.join(sorted(set(seen)))}")


@check("X-SEC-02", slots=("cluster",))
def write_only_stays_written(ctx: Context) -> None:
    """Reads an instance back in every way and looks for what it was booted with."""
    it = ctx.subject("cluster")
    spec = _with_canary(it.spec())
    thing = it.create(spec)
    for what, value in (("create", thing), ("get", it.get(thing.id)), ("list", it.listed())):
        expect(CANARY not in _revealed(value), f"{what} gives back the join token that the instance was booted with")


@check("X-SEC-03", on=MAIN)
def secrets_are_hidden_by_type(ctx: Context) -> None:
    """Looks at what is handed out as a secret: its type hides it from repr, str and the masked wire."""
    it = ctx.it
    thing = it.make()
    for what, secret in _handed_out(ctx, thing):
        if not isinstance(secret, Secret):
            raise CheckFailed(f"{what} is a {type(secret).__name__}, not a Secret")
        value = secret.reveal()
        expect(value, f"{what} is empty")
        shown = f"{secret!r}{secret!s}{secret}"
        expect(str(value) not in shown, f"{what} shows itself when it is printed")
    expect(
        "Secret(***)" not in str(wire.unstructure(thing)), f"a {it.kind} on the masked wire carries a repr, not a mask"
    )


def _trials(ctx: Context) -> Iterator[tuple[Any, Effect | None, type[CloudError]]]:
    it = ctx.subject("cluster")
    yield _with_canary(it.spec()), None, Transient
    for category in (PermissionDenied, InvalidRequest, Transient):
        yield _with_canary(it.spec()), Effect.REFUSE, category
    yield _with_canary(it.spec()), Effect.LOSE_AFTER, Transient
    yield attrs.evolve(_with_canary(it.spec()), instance_type="conformance-no-such-type"), None, Transient
    yield attrs.evolve(_with_canary(it.spec()), name="Not A Name"), None, Transient


def _with_canary(spec: Any) -> Any:
    if spec.bootstrap is None:
        raise RuntimeError("the kit's sample of an instance has no bootstrap, so there is no secret to look for")
    return attrs.evolve(spec, bootstrap=attrs.evolve(spec.bootstrap, join_token=Secret(CANARY)))


def _where(what: str, text: str) -> list[str]:
    return [what] if CANARY in text else []


def _in_error(error: CloudError) -> list[str]:
    out = _where("the text of an error", f"{error}{error!r}{error.args}{getattr(error, '__notes__', '')}")
    out += _where("the record of an error", str(error.record()))
    out += _where("a traceback", "".join(traceback.format_exception(error)))
    return out


def _in_processes() -> list[str]:
    """Look at the arguments of every process of this machine that can be read."""
    out: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            out += _where("the arguments of a process", path.read_bytes().decode(errors="replace"))
    return out


def _in_open_files(home: Path) -> list[str]:
    """Look at the files below the driver's home that others may read."""
    out: list[str] = []
    for folder, _, names in os.walk(home):
        for path in (Path(folder) / name for name in names):
            with contextlib.suppress(OSError):
                if path.is_file() and _others_reach(path, home):
                    out += _where("a file that others can read", path.read_bytes().decode(errors="replace"))
    return out


def _others_reach(path: Path, home: Path) -> bool:
    """Tell whether others can read a file: its own mode and those of the folders between it and ``home`` let them."""
    if not path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return False
    inner = [parent for parent in path.parents if parent != home and home in parent.parents]
    return all(parent.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH) for parent in inner)


def _revealed(value: Any) -> str:
    return f"{value!r}{wire.unstructure_revealed(value)!s}"


def _handed_out(ctx: Context, thing: Any) -> Iterator[tuple[str, Any]]:
    from datetime import timedelta

    from anyscale_core.models.storage import UrlMethod

    has, slot = ctx.provider.capabilities.has, ctx.it.slot
    if slot == "identity" and has("identity.credentials"):
        found = ctx.identity.credentials(thing.name, owner=ctx.owner, deadline=ctx.deadline())
        yield from ((f"credential {name}", value) for name, value in found.values.items())
    if slot == "identity" and has("identity.prove"):
        subject = ctx.kit.proving_subject(ctx)
        yield "a proof", ctx.identity.prove("conformance", subject=subject, deadline=ctx.deadline()).document
    if slot == "storage" and has("storage.signed_urls"):
        yield (
            "a signed URL",
            ctx.storage.signed_url(
                thing.name,
                "key",
                method=UrlMethod.GET,
                expires_in=timedelta(minutes=1),
                owner=ctx.owner,
                deadline=ctx.deadline(),
            ),
        )
    if slot == "storage" and ctx.makes("storage.grant"):
        options = ctx.subject("storage.grant").make().store.options
        yield from ((f"option {name} of a grant", value) for name, value in options.items())


@contextlib.contextmanager
def _everything_logged() -> Iterator[io.StringIO]:
    """Catch every record of every logger, SDKs' too, at DEBUG."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setLevel(logging.DEBUG)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
