"""`anyscale-core cloud`: a cloud is set up, looked over and taken down."""

from pathlib import Path

import pytest

from anyscale_core.errors import Conflict, PermissionDenied, Throttled
from tests.cli.conftest import Cli
from tests.cli.world import Town

SPEC = "name: here\nprovider: fake\nregion: fake-1\n"


@pytest.fixture
def here(tmp_path: Path) -> str:
    path = tmp_path / "cloud.yaml"
    path.write_text(SPEC)
    return str(path)


def kinds(town: Town) -> list[str]:
    return sorted(item.kind for item in town.cloud.inventory())


def test_setup_makes_what_clusters_share_tells_each_step_and_verifies_it(cli: Cli, town: Town, here: str) -> None:
    done = cli("cloud", "setup", "-f", here)
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.err.splitlines()] == ["network", "bucket", "identity"]
    assert "storage.objects" in done.text
    assert kinds(town) == ["bucket", "identity", "network"]
    again = cli("cloud", "setup", "-f", here, "--json")
    assert again.code == 0
    assert again.document["cloud"]["missing"] == []
    assert {check["status"] for check in again.document["checks"]} <= {"passed", "skipped", "warning"}
    assert kinds(town) == ["bucket", "identity", "network"], "nothing was made twice"


@pytest.mark.parametrize("verb", ["networking.create", "storage.create", "identity.create", "cluster.list"])
def test_a_failure_at_any_step_takes_back_what_was_made(verb: str, cli: Cli, town: Town, here: str) -> None:
    town.cloud.refuse(verb, PermissionDenied("not allowed", reason="POLICY", hint="grant it"), count=1)
    done = cli("cloud", "setup", "-f", here)
    assert done.code == 1
    assert "taking back what was made for here" in done.err
    assert kinds(town) == []
    listed = cli("cloud", "list", "--json").document["clouds"]
    assert [cloud["name"] for cloud in listed if cloud["registered"]] == []


@pytest.mark.parametrize("verb", ["storage.create", "identity.create", "storage.get", "identity.get"])
def test_a_failure_at_any_step_of_a_cloud_in_pull_mode_takes_back_what_was_made_without_its_operator(
    verb: str, cli: Cli, town: Town, here: str
) -> None:
    Path(here).write_text(f"{SPEC}mode: operator\n")
    town.cloud.refuse(verb, PermissionDenied("not allowed", reason="POLICY", hint="grant it"), count=1)
    assert cli("cloud", "setup", "-f", here).code == 1
    assert kinds(town) == []
    done = cli("cloud", "setup", "-f", here)
    assert done.code == 0, done.err
    assert kinds(town) == ["bucket", "identity"]
    assert "anyscale-core operator manifest --cloud here" in done.err


def test_a_failure_leaves_a_cloud_that_was_there_before(cli: Cli, town: Town, here: str) -> None:
    assert cli("cloud", "register", "-f", here).code == 0
    town.cloud.refuse("identity.create", PermissionDenied("not allowed", reason="POLICY", hint="grant it"), count=1)
    assert cli("cloud", "setup", "-f", here).code == 1
    assert kinds(town) == ["bucket", "network"]
    assert cli("cloud", "setup", "-f", here).code == 0
    assert kinds(town) == ["bucket", "identity", "network"]


def test_a_step_that_fails_in_passing_is_tried_again(cli: Cli, town: Town, here: str) -> None:
    rule = town.cloud.refuse("storage.create", Throttled("too many", reason="RATE"), count=1)
    assert cli("cloud", "setup", "-f", here).code == 0
    assert rule.fired == 1


def test_verify_tells_what_fails_with_its_remedy_and_exits_1(cli: Cli, town: Town, here: str) -> None:
    assert cli("cloud", "setup", "-f", here).code == 0
    assert cli("cloud", "verify", "here").code == 0
    town.cloud.refuse("identity.get", PermissionDenied("not allowed", reason="POLICY", hint="grant it get"), count=1)
    done = cli("cloud", "verify", "here", "--json")
    assert done.code == 1
    (failed,) = (check for check in done.document["checks"] if check["status"] == "failed")
    assert (failed["id"], failed["remedy"]) == ("identity.get", "grant it get")


def test_delete_takes_away_what_was_made_and_forgets_the_cloud(cli: Cli, town: Town, here: str) -> None:
    assert cli("cloud", "setup", "-f", here).code == 0
    done = cli("cloud", "delete", "here")
    assert (done.code, done.text) == (0, "cloud here is gone\n")
    assert kinds(town) == []
    missing = cli("cloud", "delete", "here")
    assert missing.code == 2
    assert "no cloud 'here' is registered" in missing.err


def test_delete_refuses_while_a_cluster_is_alive_and_tells_which(cli: Cli, town: Town, spec: str) -> None:
    assert cli("up", "-f", spec).code == 0
    done = cli("cloud", "delete", "fake")
    assert done.code == 2
    assert "fake has live clusters (demo); take them down first" in done.err


def test_delete_asks_what_becomes_of_data(cli: Cli, town: Town, here: str) -> None:
    assert cli("cloud", "setup", "-f", here).code == 0
    full = Conflict("the bucket holds 1 object", reason="NOT_EMPTY")
    town.cloud.refuse("storage.delete", full, count=2)
    refused = cli("cloud", "delete", "here")
    assert refused.code == 2
    assert "--delete-data or --keep-data" in refused.err
    assert kinds(town) == ["bucket"]
    assert cli("cloud", "delete", "here", "--delete-data").code == 0
    assert kinds(town) == []
