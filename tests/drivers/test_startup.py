"""The script that a fresh machine runs."""

import json
import os
import subprocess
from pathlib import Path

import attrs
import pytest

from anyscale_core.drivers.startup import script
from anyscale_core.errors import InvalidRequest
from anyscale_core.models import wire
from anyscale_core.models.ids import CloudName, NodeId, PlaneId
from anyscale_core.models.instance import Bootstrap, InstanceSpec, NodeKind
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret

BOOTSTRAP = Bootstrap(
    url="https://plane.test:8443",
    ca_pem="-----BEGIN CERTIFICATE-----\nMIIB'$HOME`id`\n-----END CERTIFICATE-----\n",
    node_id=NodeId("nod_1"),
    join_token=Secret("a.b.c"),
    identity_provider="local",
    identity_settings={"quote": 'it\'s "$(here)"'},
)
SPEC = InstanceSpec(
    name="demo-head-1",
    node_id=NodeId("nod_1"),
    owner=Owner(plane=PlaneId("pln_1"), cloud=CloudName("test")),
    kind=NodeKind.HEAD,
    group="head",
    instance_type="small",
    bootstrap=BOOTSTRAP,
)


def run(folder: Path, text: str) -> str:
    """Run a script with a stand-in for the interpreter that prints its words."""
    stand_in = folder / "python3"
    stand_in.write_text('#!/bin/sh\nprintf "%s|" "$PWD" "$@"\n')
    stand_in.chmod(0o755)
    path = folder / "script"
    path.write_text(text)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "ANYSCALE_CORE_ROOT": str(folder / "root"),
        "ANYSCALE_CORE_ADDRESS": "10.0.0.7",
    }
    return subprocess.run(["sh", str(path)], env=environment, check=True, capture_output=True, text=True).stdout


def test_it_leaves_the_bootstrap_for_its_owner_alone_and_becomes_the_agent(tmp_path: Path) -> None:
    words = run(tmp_path, script(SPEC)).split("|")
    bootstrap = tmp_path / "root" / "bootstrap.json"
    assert wire.structure(json.loads(bootstrap.read_text()), Bootstrap) == BOOTSTRAP
    assert bootstrap.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o700
    assert words[:4] == [str(tmp_path / "root"), "-m", "anyscale_core.node", "--bootstrap"]
    assert words[-5:-1] == ["--name", "demo-head-1", "--address", "10.0.0.7"]


def test_what_is_to_be_prepared_runs_before_the_agent(tmp_path: Path) -> None:
    out = run(tmp_path, script(SPEC, prepare="printf 'first|'\nprintf 'second|'"))
    assert out.startswith(f"first|second|{tmp_path / 'root'}|")


def test_a_preparation_that_fails_starts_no_agent(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run(tmp_path, script(SPEC, prepare="false"))


def test_equal_specs_have_equal_scripts() -> None:
    assert script(SPEC) == script(attrs.evolve(SPEC))


def test_without_a_bootstrap_there_is_nothing_to_start() -> None:
    with pytest.raises(InvalidRequest, match="needs a bootstrap"):
        script(attrs.evolve(SPEC, bootstrap=None))
