"""The command line itself: what is loaded, what is refused, where the control plane is found or started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

HEAVY = ("attrs", "cattrs", "httpx", "litestar", "obstore", "rich", "ssl", "typer", "yaml")


def test_help_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; from anyscale_core.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('loaded', *sorted(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: anyscale-core" in done.stdout
    assert not set(HEAVY) & set(done.stderr.split())


def test_status_loads_no_server_and_no_terminal_library(tmp_path: Path) -> None:
    code = "import sys; import anyscale_core.cli.look; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"httpx", "litestar", "obstore", "rich", "sqlalchemy", "yaml", "cryptography"} & set(done.stdout.split())


def test_a_run_without_a_command_says_where_it_goes(cli: Cli, spec: str) -> None:
    for words in (("run", "-f", spec), ("run", "-f", spec, "python", "x.py"), ("run", "-f", spec, "--")):
        done = cli(*words)
        assert done.code == 2
        assert done.err.startswith("error: write the command after `--`")


def test_an_unknown_verb_is_a_usage_error(cli: Cli) -> None:
    assert cli("launch").code == 2


def test_options_may_stand_before_and_after_the_verb(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    for words in (("--home", str(home), "--json", "stop"), ("stop", "--home", str(home), "--json")):
        assert cli(*words).document == {"stopped": False, "clusters": []}


def test_a_plan_without_a_control_plane_starts_nothing_and_makes_no_home(cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: demo\ncloud: local\nhead_node: {instance_type: local.1cpu}\n")
    done = cli("plan", "-f", str(spec), "--json")
    assert done.code == 0, done.err
    assert [nodes["instance_type"] for nodes in done.document["nodes"]] == ["local.1cpu"]
    assert not (tmp_path / "home").exists()


def test_a_traceback_is_shown_to_those_who_ask_for_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "anyscale_core.cli", "plan", "-f", str(tmp_path / "none.yaml")]
    quiet = subprocess.run(words, capture_output=True, text=True, check=False)
    assert quiet.returncode == 2
    assert "Traceback" not in quiet.stderr
    loud = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=False)
    assert "Traceback" in loud.stderr


def test_a_verb_starts_the_control_plane_in_the_background_and_stop_ends_it(cli: Cli, tmp_path: Path) -> None:
    first = cli("status", "--json")
    assert first.code == 0, first.err
    assert first.document == {"clusters": []}
    assert "starting the control plane" in first.err
    assert cli("status").err == ""
    connection = tmp_path / "home" / "server.json"
    assert connection.stat().st_mode & 0o777 == 0o600
    stopped = cli("stop", "--json")
    assert stopped.document == {"stopped": True, "clusters": []}
    assert not connection.exists()


def test_a_control_plane_that_cannot_start_tells_why_and_where_its_log_is(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYSCALE_CORE_TIMING_LOST_AFTER", "soon")
    done = cli("status")
    assert done.code == 3
    assert "ANYSCALE_CORE_TIMING_LOST_AFTER" in done.err
    assert str(tmp_path / "home" / "serve.log") in done.err


def test_a_stale_connection_file_is_no_control_plane(cli: Cli, tmp_path: Path) -> None:
    assert cli("status").code == 0
    connection = tmp_path / "home" / "server.json"
    text = connection.read_text()
    assert cli("stop").code == 0
    connection.write_text(text)
    assert cli("stop", "--json").document["stopped"] is False


def test_output_that_nobody_reads_ends_the_command_quietly(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "anyscale_core.cli", "providers"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1
