"""The verb of pull mode against a served control plane."""

import json
import stat
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli
from tests.cli.world import Town

RENDERER = """
def render(config):
    return [
        {"kind": "Secret", "stringData": {"token": config.token.reveal()} if config.token else {}},
        {"kind": "Deployment", "spec": {"image": config.image, "replicas": config.replicas, "url": config.url}},
        {"kind": "ConfigMap", "data": {name: dict(keys) for name, keys in config.settings.items()}},
    ]
"""


@pytest.fixture
def cloud(tmp_path: Path) -> str:
    path = tmp_path / "cloud.yaml"
    path.write_text("{name: far, provider: fake, region: fake-1, mode: operator}")
    return str(path)


@pytest.fixture
def renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that renders manifests for the provider ``fake``."""
    site = tmp_path / "site"
    (site / "renderer-1.dist-info").mkdir(parents=True)
    (site / "renderer.py").write_text(RENDERER)
    (site / "renderer-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: renderer\nVersion: 1\n")
    points = "[anyscale_core.manifests]\nfake = renderer:render\n"
    (site / "renderer-1.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(site))


def test_a_cloud_is_registered_its_operator_expected_and_a_token_minted_and_revoked(
    cli: Cli, town: Town, cloud: str, tmp_path: Path
) -> None:
    assert cli("operator", "list").text == "no cloud is in pull mode\n"
    registered = cli("cloud", "register", "-f", cloud)
    assert registered.code == 0, registered.err
    assert cli("operator", "list").text.splitlines()[1].split()[:2] == ["far", "EXPECTED"]
    (view,) = cli("operator", "list", "--json").document["clouds"]
    assert (view["mode"], view["operator"]["state"]) == ("operator", "EXPECTED")
    token, ca = tmp_path / "token", tmp_path / "ca.pem"
    minted = cli("operator", "token", "--cloud", "far", "--token-file", str(token), "--ca", str(ca))
    assert minted.code == 0, minted.err
    assert token.read_text() not in minted.text + minted.err
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert ca.read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert cli("operator", "token", "--cloud", "far").text.count(".") == 2, "the token itself, to be piped"
    assert cli("operator", "revoke", "--cloud", "far").code == 0


def test_a_cloud_that_is_not_in_pull_mode_has_no_token(cli: Cli, town: Town) -> None:
    done = cli("operator", "token", "--cloud", "fake", "--json")
    assert done.code == 2
    assert "mode direct" in done.document["error"]["message"]
    assert cli("operator", "token", "--cloud", "nowhere").code == 2


def test_faults_of_a_cloud_and_of_settings_name_their_lines(cli: Cli, town: Town, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: far\nprovider: fake\nregoin: x\n")
    done = cli("cloud", "register", "-f", str(bad))
    assert done.code == 2
    assert "line 3" in done.err
    assert "regoin" in done.err
    bad.write_text("fake: 3\n")
    words = ["--url", "https://127.0.0.1:1", "--ca", str(bad), "--cloud", "far", "--token-file", str(bad)]
    done = cli("operator", "run", *words, "--settings", str(bad))
    assert done.code == 2
    assert "line 1" in done.err


@pytest.mark.usefixtures("renderer")
def test_a_manifest_is_what_the_providers_renderer_makes_of_it(
    cli: Cli, town: Town, cloud: str, tmp_path: Path
) -> None:
    cli("cloud", "register", "-f", cloud)
    settings = tmp_path / "settings.yaml"
    settings.write_text("fake: {key: 1}")
    words = ["operator", "manifest", "--cloud", "far", "--image", "registry.example/op:1", "--settings", str(settings)]
    secret, deployment, config = yaml.safe_load_all(cli(*words).text)
    assert secret["stringData"]["token"].count(".") == 2
    assert deployment["spec"]["image"] == "registry.example/op:1"
    assert deployment["spec"]["url"].startswith("https://")
    assert config["data"] == {"fake": {"key": 1}}
    listed = cli(*words, "--identity", "fake", "--json").document
    assert listed["kind"] == "List"
    assert "token" not in json.dumps(listed)


def test_a_provider_without_a_renderer_is_told_so(cli: Cli, town: Town, cloud: str) -> None:
    cli("cloud", "register", "-f", cloud)
    done = cli("operator", "manifest", "--cloud", "far", "--image", "x")
    assert done.code == 2
    assert "'fake' renders no manifest" in done.err
