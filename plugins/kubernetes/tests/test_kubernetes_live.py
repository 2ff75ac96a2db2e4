"""The conformance suite in mode L: the kit plays in namespaces of the cluster that ANYSCALE_TEST_KUBECONFIG names."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from anyscale_conformance.kit import Mode, RunScope
from anyscale_conformance.simulators.kubernetes import Servers, Settings
from anyscale_kubernetes.kinds import NAMESPACE, POD
from anyscale_kubernetes.kit_stages import KUBECONFIG, Real
from anyscale_kubernetes.testing import Land, eventually

from anyscale_core.clock import SystemClock
from anyscale_core.errors import NotFound, UnknownName

CHECKS = ("C-CRE-01",)


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The cluster that is named, else a simulated one whose time passes by itself."""
    if KUBECONFIG in os.environ:
        yield os.environ[KUBECONFIG]
        return
    quick = Settings(starts=timedelta(), provisions=timedelta())
    with Servers() as servers:
        cluster = servers.start(clock=SystemClock(), settings=quick)
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(cluster.kubeconfig(cluster.admin_token)))
        monkeypatch.setenv(KUBECONFIG, str(path))
        yield str(path)


def scope_of(home: Path) -> RunScope:
    return RunScope(run=uuid.uuid4().hex[:8], row="C-CRE-01", seed=0, mode=Mode.LIVE, home=home)


def test_without_a_kubeconfig_the_kit_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KUBECONFIG, raising=False)
    with pytest.raises(UnknownName, match=KUBECONFIG):
        Real(scope_of(tmp_path))


def test_a_stage_in_a_real_cluster_has_its_hands_and_leaves_no_namespace(kubeconfig: str, tmp_path: Path) -> None:
    stage = Real(scope_of(tmp_path))
    land = Land(folder=tmp_path, home=tmp_path, clock=stage.clock, settings=stage.settings())
    container = {"name": "main", "image": land.settings["image"], "command": land.settings["command"]}
    for name in ("stopped", "announced", "killed"):
        labels = {"app": name}
        stage.plant(POD, name, labels=labels, annotations={"a": "b"}, spec={"containers": [container]})

    def pods() -> dict[str, str]:
        return {
            obj["metadata"]["name"]: obj["status"]["phase"] for plural, obj in stage.inventory() if plural == "pods"
        }

    eventually(lambda: set(pods().values()) == {"Running"}, 120)
    stage.double("killed")
    stage.stop("stopped")
    stage.announce("announced")
    stage.kill("killed")
    assert pods()["stopped"] == "Failed"
    assert "killed-twin" in pods()
    assert "killed" not in pods()
    assert len(stage.foreign_token("somebody").split(".")) == 3
    stage.limit(7)
    assert stage.connect().configuration.host
    stage.close()
    api = Land(folder=tmp_path, home=tmp_path, clock=stage.clock, settings={"kubeconfig": kubeconfig}).api()

    def is_gone() -> bool:
        try:
            api.get(NAMESPACE, stage.namespace, deadline=stage.clock.now() + timedelta(minutes=1))
        except NotFound:
            return True
        return False

    eventually(is_gone, 120)


@pytest.mark.timeout(600)
def test_rows_of_the_suite_pass_on_the_cluster_that_is_named(kubeconfig: str) -> None:
    words = [sys.executable, "-m", "anyscale_conformance", "run", "--provider", "kubernetes", "--mode", "L"]
    words += ["--scope", uuid.uuid4().hex[:8], *(word for check in CHECKS for word in ("--check", check))]
    done = subprocess.run(
        words, env={**os.environ, KUBECONFIG: kubeconfig}, capture_output=True, text=True, check=False
    )
    assert f"{len(CHECKS)} PASS;" in done.stdout, done.stdout + done.stderr
