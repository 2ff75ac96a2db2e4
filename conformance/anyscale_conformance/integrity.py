"""Whether this suite is the suite: no check removed, overridden or rebound, and failing still fails.

``manifest.json`` has a hash of the source of every check and of every module that judges; it is made at release by
``anyscale-conformance manifest --write``, and a test of the repository compares.
"""

import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from anyscale_conformance import runner
from anyscale_conformance.expect import CheckFailed, expect
from anyscale_conformance.rules import CHECKS, Check
from anyscale_conformance.verdicts import Verdict

MANIFEST = Path(__file__).with_name("manifest.json")
JUDGES = (
    "batches", "context", "expect", "integrity", "model", "moves", "programs", "refusals", "rows", "runner", "subjects",
    "sweep", "verdicts", "waivers",
)  # fmt: skip
"""Modules that decide what a result is."""


def manifest() -> dict[str, str]:
    """Return the hash of every check and judge as they are on disk now."""
    out = {f"judge:{name}": _sha(Path(_module(name))) for name in JUDGES}
    for check in runner.all_checks():
        out[check.id] = fingerprint(check)
    return dict(sorted(out.items()))


def fingerprint(check: Check) -> str:
    """Return a hash of a check: the source of its function with its decorator, where its name leads to now."""
    try:
        source = inspect.getsource(check.run)
    except (OSError, TypeError):
        source = f"no source of {check.run!r}"
    return hashlib.sha256(f"{check.run.__module__}.{check.run.__qualname__}\n{source}".encode()).hexdigest()


def released() -> Mapping[str, str]:
    """Return the manifest that was made at release."""
    found: Mapping[str, str] = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return found


def digest() -> str:
    """Return one hash of the released manifest, for reports."""
    return _sha(MANIFEST)


def faults() -> tuple[str, ...]:
    """Return what is wrong with the suite in this process, in words; nothing when it is as it was released."""
    try:
        wanted = released()
    except (OSError, ValueError) as error:
        return (f"the manifest of checks cannot be read: {error}",)
    out = [f"check {id} was removed" for id in wanted if not id.startswith("judge:") and id not in CHECKS]
    out += [f"check {id} is not in the manifest" for id in CHECKS if id not in wanted]
    out += [
        f"check {id} was overridden" for id, check in CHECKS.items() if wanted.get(id) not in (None, fingerprint(check))
    ]
    out += [f"check {id} was rebound" for id, check in CHECKS.items() if _rebound(check)]
    for name in JUDGES:
        if wanted.get(f"judge:{name}") != _sha(Path(_module(name))):
            out.append(f"module {name} is not the released one")
    return (*sorted(out), *_dead())


def _dead() -> tuple[str, ...]:
    """Try a check that must fail, as every run does first: an assertion that does nothing lets everything pass."""

    def fails() -> None:
        expect(False, "on purpose")

    verdict, message = runner.watched(fails, limit_s=10.0)
    alive = verdict is Verdict.FAIL and message == "on purpose"
    for module in {check.run.__module__ for check in CHECKS.values()}:
        bound = getattr(sys.modules[module], "expect", expect)
        if bound is not expect:
            return (f"expect was replaced in {module}",)
    return () if alive and issubclass(CheckFailed, Exception) else ("a check that must fail does not",)


def _rebound(check: Check) -> bool:
    module = importlib.import_module(check.run.__module__)
    return getattr(module, check.run.__name__, None) is not check.run


def _module(name: str) -> str:
    return str(importlib.import_module(f"anyscale_conformance.{name}").__file__)


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
