"""Tables of the documentation are read back against the code, so that neither changes alone."""

import ast
import errno
import importlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyscale_local.errors import TRANSLATE

from anyscale_core import CONTRACT_VERSION
from anyscale_core.api.problems import STATUS
from anyscale_core.cli.output import Exit
from anyscale_core.controlplane.settings import ENV_DATABASE, ENV_HOME, ENV_ISSUER, ENV_ISSUER_KEY, ENV_TIMING, Settings
from anyscale_core.drivers.capability import CAPABILITIES
from anyscale_core.errors import CATEGORIES, CloudError, Retry
from anyscale_core.models.phases import CLUSTER_MOVES, JOB_MOVES, NODE_MOVES
from anyscale_core.models.quota import QuotaSpec
from anyscale_core.models.records import Timing
from tests.docs.pages import PAGES, ROOT, read, table, words

ERRORS, SETTINGS, CONCEPTS, CONTRACT, GLOSSARY, QUOTAS = (
    f"docs/{name}.md" for name in ("errors", "settings", "concepts", "contract", "glossary", "quotas")
)
ID = re.compile(r"\b[KXPCISN](?:-[A-Z]+)?-\d\d\b")
GROUPS = {
    "Plugins and versions": "K", "All drivers": "X", "Plans": "P", "Cluster": "C", "Identity": "I", "Storage": "S",
    "Networking": "N",
}  # fmt: skip


def test_the_error_table_has_every_category_in_its_order() -> None:
    assert [row["Category"] for row in table(ERRORS, "Categories")] == [cls.category for cls in CATEGORIES]


@pytest.mark.parametrize("cls", CATEGORIES, ids=lambda cls: cls.category)
def test_a_category_has_the_reasons_the_next_step_and_the_status_that_its_page_says(cls: type[CloudError]) -> None:
    row = next(row for row in table(ERRORS, "Categories") if row["Category"] == cls.category)
    reasons = _reasons(cls)
    assert row["Reasons"].split(", ") == reasons or not reasons
    retries = words(row["Retry"]) or [row["Retry"]]
    assert set(retries) == {cls("x", reason=reason).retry.value for reason in reasons or [""]}
    assert row["HTTP"] == str(STATUS[cls])


def test_every_next_step_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \| [A-Z]", read(ERRORS), re.MULTILINE))
    assert {retry.value for retry in Retry} <= explained


def test_the_words_of_a_refusal_are_those_that_the_code_says() -> None:
    listed = [row["why"] for row in table(ERRORS, "Refusals")]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(_refusals())


def test_the_exit_statuses_are_those_of_the_command_line() -> None:
    assert {row["Status"] for row in table(ERRORS, "Exit statuses")} == {str(int(status)) for status in Exit}


def test_the_local_providers_codes_are_those_of_its_table() -> None:
    rows = {row["errno"]: (row["Category"], row["Reason"]) for row in table(ERRORS, "Local")}
    assert rows == {
        errno.errorcode[number]: (meaning.error.category, meaning.reason) for number, meaning in TRANSLATE.items()
    }


def test_every_timing_is_explained_with_its_default_and_its_variable() -> None:
    rows = {row["Timing"]: (row["Default"], row["Variable"]) for row in table(SETTINGS, "Timing")}
    assert rows == {
        field.name: (_shown(getattr(Timing(), field.name)), f"{ENV_TIMING}{field.name.upper()}")
        for field in attrs.fields(Timing)
    }


def test_every_setting_is_explained_with_its_default() -> None:
    rows = {row["Setting"]: row["Default"] for row in table(SETTINGS, "Settings of a control plane")}
    settings = Settings(home=Path("unused"))
    assert list(rows) == [field.name for field in attrs.fields(Settings)]
    for name, default in rows.items():
        value = getattr(settings, name)
        assert not isinstance(value, timedelta) or default == _shown(value)


def test_every_field_of_a_quota_is_explained_with_its_default() -> None:
    rows = {row["Field"]: row["Default"] for row in table(QUOTAS, "Fields")}
    assert list(rows) == [field.name for field in attrs.fields(QuotaSpec)]
    shown = {QuotaSpec(name="x").mode.value, QuotaSpec(name="x").budget_period.value, str(QuotaSpec(name="x").warn_at)}
    assert {value.strip("`") for value in rows.values()} == shown | {"required", "any", "no limit"}


def test_the_variables_of_the_settings_are_the_codes() -> None:
    assert {ENV_HOME, ENV_DATABASE, ENV_ISSUER, ENV_ISSUER_KEY} == {
        row["Variable"] for row in table(SETTINGS, "Variables")
    }


@pytest.mark.parametrize(
    ("heading", "moves"),
    [("Phases of a node", NODE_MOVES), ("Phases of a cluster", CLUSTER_MOVES), ("Phases of a job", JOB_MOVES)],
)
def test_the_legal_moves_are_those_of_the_code(heading: str, moves: Mapping[Any, frozenset[Any]]) -> None:
    rows = {row["Phase"]: row["Moves to"] for row in table(CONCEPTS, heading)}
    assert {phase: set() if cell == "-" else set(cell.split(", ")) for phase, cell in rows.items()} == {
        phase.value: {to.value for to in targets} for phase, targets in moves.items()
    }


def test_a_promise_has_one_number_one_sentence_and_stands_in_its_group() -> None:
    rows = list(_promises())
    assert [id for id, count in Counter(row["Id"] for _, row in rows).items() if count > 1] == []
    for group, row in rows:
        assert ID.fullmatch(row["Id"]), row
        assert row["Id"].startswith(GROUPS[group]), row
        assert row["Promise"].endswith("."), row
        assert row["Promise"][:-1].count(". ") == 0, f"{row['Id']}: one sentence"


def test_the_numbers_of_a_series_have_no_gap() -> None:
    series: dict[str, list[int]] = {}
    for _, row in _promises():
        name, _, number = row["Id"].rpartition("-")
        series.setdefault(name, []).append(int(number))
    assert {name: numbers for name, numbers in series.items() if numbers != list(range(1, len(numbers) + 1))} == {}


def test_the_count_that_the_contract_tells_is_true() -> None:
    assert f"{len(list(_promises()))} promises" in read(CONTRACT)
    assert f"contract version {CONTRACT_VERSION}" in read(CONTRACT)


@pytest.mark.parametrize("page", PAGES)
def test_a_promise_that_a_page_names_is_in_the_contract(page: str) -> None:
    assert set(ID.findall(read(page))) <= {row["Id"] for _, row in _promises()}


def test_the_capabilities_of_the_contract_are_those_of_the_code() -> None:
    rows = {row["Id"]: (row["Level"], row["It says"]) for row in table(CONTRACT, "Capabilities")}
    assert rows == {one.id: (one.level.value, one.says) for one in CAPABILITIES.values()}


def test_the_glossary_is_sorted_and_its_names_are_in_the_code() -> None:
    rows = table(GLOSSARY, "Terms")
    terms = [row["Term"] for row in rows]
    assert terms == sorted(set(terms))
    for row in rows:
        for name in words(row["In the code"]) or [row["In the code"]]:
            if name != "-":
                _resolve(name)


def test_every_phase_and_every_driver_is_in_the_glossary_or_the_concepts() -> None:
    text = read(GLOSSARY) + read(CONCEPTS)
    missing = [phase.value for moves in (NODE_MOVES, CLUSTER_MOVES, JOB_MOVES) for phase in moves]
    names = [*missing, "ClusterDriver", "IdentityDriver", "StorageDriver", "NetworkingDriver"]
    assert [name for name in names if name not in text] == []


def _reasons(cls: type[CloudError]) -> list[str]:
    match = re.search(r"Reasons: ([A-Z_, ]+)\.", cls.__doc__ or "")
    return match[1].split(", ") if match else []


def _refusals() -> Iterator[str]:
    """Yield the first argument of every ``Refused(...)`` in the product, where it is written out."""
    for path in sorted((ROOT / "anyscale_core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
                word = node.args[0] if node.args else None
                if isinstance(word, ast.Constant):
                    yield str(word.value)


def _shown(value: timedelta | int) -> str:
    """Return a default as the pages write it; a duration in the largest unit that divides it."""
    if isinstance(value, int):
        return str(value)
    milliseconds = round(value.total_seconds() * 1000)
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    return "0 s"


def _promises() -> Iterator[tuple[str, dict[str, str]]]:
    for group in GROUPS:
        for row in table(CONTRACT, group):
            yield group, {**row, "Id": row["Id"].removesuffix("+")}


def _resolve(name: str) -> object:
    """Return what a dotted name below ``anyscale_core`` stands for; fails when it stands for nothing."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(["anyscale_core", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is not in anyscale_core")
