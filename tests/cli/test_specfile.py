"""Specs as people write them, and where their faults are."""

from pathlib import Path

import pytest

from anyscale_core.cli import specfile
from anyscale_core.errors import SpecError
from tests.cli.world import SPEC


def faults(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        specfile.load(str(path))
    return [str(fault) for fault in caught.value.faults]


def test_yaml_and_json_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: demo\ncloud: fake\nhead_node:\n  instance_type: cpu-4\n")
    (tmp_path / "a.json").write_text('{"name": "demo", "cloud": "fake", "head_node": {"instance_type": "cpu-4"}}')
    yaml, json = (specfile.load(str(tmp_path / name)) for name in ("a.yaml", "a.json"))
    assert yaml.raw == json.raw
    assert yaml.spec == json.spec


def test_text_that_is_not_yaml_names_line_and_column(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "name: demo\nhead_node: {instance_type: cpu-4\ncloud: fake\n")
    assert fault.startswith("line 3, column ")
    assert "is not YAML" in fault


def test_a_tab_names_its_line(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "name: demo\nhead_node:\n\tinstance_type: x\n")
    assert fault.startswith("line 3, column 1: is not YAML")


def test_every_fault_is_named_with_its_line(tmp_path: Path) -> None:
    text = SPEC.replace("min_nodes: 2, max_nodes: 4", "min_nodes: 5, max_nodes: 4, colour: red").replace("demo", "Demo")
    found = faults(tmp_path, text)
    assert any(fault.startswith("line 1: name: 'Demo' is not a name") for fault in found)
    assert "line 5: worker_nodes[0].max_nodes: 4 is below min_nodes 5" in found
    assert "line 5: worker_nodes[0].colour: unknown field" in found
    assert len(found) == 3


def test_a_missing_field_names_the_line_of_what_it_is_missing_in(tmp_path: Path) -> None:
    text = SPEC.replace("name: workers, ", "")
    (fault,) = faults(tmp_path, text)
    assert fault == "line 5: worker_nodes[0].name: is required"


def test_a_key_that_is_set_twice_is_a_fault(tmp_path: Path) -> None:
    assert faults(tmp_path, SPEC + "cloud: other\n") == ["line 6: cloud: was set before, in line 2"]


def test_a_date_in_a_spec_is_a_string(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC + "tags: {since: 2026-01-01}\n")
    assert specfile.load(str(path)).spec.tags == {"since": "2026-01-01"}


@pytest.mark.parametrize(("text", "what"), [("", "is empty"), ("- a\n", "holds a list"), ("hello", "holds a str")])
def test_what_is_no_mapping_is_said_so(tmp_path: Path, text: str, what: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert what in fault


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SpecError, match=r"no/such\.yaml") as caught:
        specfile.load("no/such.yaml")
    assert "cannot be read: No such file" in str(caught.value)
