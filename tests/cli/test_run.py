"""``run`` from end to end: a served control plane, a cloud in memory, a real gateway and bucket."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from anyscale_core.models.phases import ClusterPhase, JobPhase
from tests.cli.conftest import Cli
from tests.cli.world import Town, eventually


def test_a_run_prints_the_jobs_output_byte_for_byte_and_leaves_nothing(
    cli: Cli, town: Town, spec: str, folder: Path
) -> None:
    town.output, town.last_words = b"caf\xc3\xa9 \xff\r\n50%\r100%\n", b"the end, without a line end"
    done = cli("run", "-f", spec, "--working-dir", str(folder), "--", "python", "main.py")
    assert done.code == 0, done.err
    assert done.out == town.output + town.last_words
    assert town.cloud.inventory("instance") == ()
    assert "nothing is left of it" in done.err
    assert f"logs: file://{town.bucket}/clusters/" in done.err


def test_the_command_reaches_the_job_as_it_was_written(cli: Cli, town: Town, spec: str, folder: Path) -> None:
    command = ("python", "-c", "print('a b'); $HOME", "--", "-x")
    town.job("python -c 'print('\"'\"'a b'\"'\"'); $HOME' -- -x")
    done = cli("run", "-f", spec, "--working-dir", str(folder), "--json", "--", *command)
    assert done.code == 0, done.err
    result = done.lines[-1]
    assert result["job"]["entrypoint"] == "python -c 'print('\"'\"'a b'\"'\"'); $HOME' -- -x"


def test_a_run_ends_with_the_exit_status_of_its_job(cli: Cli, town: Town, spec: str, folder: Path) -> None:
    town.job("false", phase=JobPhase.FAILED, exit_code=7, message="it failed")
    done = cli("run", "-f", spec, "--working-dir", str(folder), "--", "false")
    assert done.code == 7
    assert "it failed" in done.err
    assert town.cloud.inventory("instance") == ()


def test_json_gives_events_the_log_and_one_result_as_lines(cli: Cli, town: Town, spec: str, folder: Path) -> None:
    done = cli("run", "-f", spec, "--working-dir", str(folder), "--json", "--", "x")
    kinds = [line["type"] for line in done.lines]
    assert set(kinds) == {"event", "log", "result"}
    assert kinds.count("result") == 1
    assert kinds[-1] == "result"
    assert "".join(line["text"] for line in done.lines if line["type"] == "log") == "hello\nbye\n"
    assert done.lines[-1]["exit"] == 0
    assert done.lines[-1]["cluster"]["phase"] == "TERMINATED"


def test_keep_leaves_the_cluster_and_a_second_run_on_it_leaves_it_too(
    cli: Cli, town: Town, spec: str, folder: Path
) -> None:
    first = cli("run", "-f", spec, "--working-dir", str(folder), "--keep", "--", "x")
    assert first.code == 0, first.err
    assert len(town.cloud.inventory("instance")) == 3
    second = cli("run", "-f", spec, "--working-dir", str(folder), "--", "y")
    assert second.code == 0, second.err
    assert second.out == b"hello\nbye\n"
    assert "alive already" in second.err
    with town.client() as client:
        view = client.get("demo")
    assert view.phase is ClusterPhase.RUNNING
    assert len(view.jobs) == 2


def test_the_working_directory_is_uploaded_once(cli: Cli, town: Town, spec: str, folder: Path) -> None:
    for _ in range(2):
        assert cli("run", "-f", spec, "--working-dir", str(folder), "--", "x").code == 0
    packages = list((town.bucket / "packages").iterdir())
    assert len(packages) == 1
    assert packages[0].suffix == ".zip"


def test_a_bad_spec_makes_nothing_and_exits_2(cli: Cli, town: Town, tmp_path: Path, folder: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: demo\ncloud: fake\nhead_node: {instance_type: cpu-5}\n")
    done = cli("run", "-f", str(bad), "--working-dir", str(folder), "--", "x")
    assert done.code == 2
    assert "line 3: head_node.instance_type: fake has no instance type 'cpu-5'" in done.err
    assert town.cloud.inventory("instance") == ()
    assert not (town.bucket / "packages").exists()


def test_ctrl_c_takes_the_cluster_down_and_exits_130(town: Town, spec: str, folder: Path) -> None:
    town.job("forever", seconds=None)
    process = _start(town, "run", "-f", spec, "--working-dir", str(folder), "--", "forever")
    assert process.stdout is not None
    assert process.stdout.read(6) == b"hello\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert b"interrupted; taking demo down" in err
    assert town.cloud.inventory("instance") == ()


def test_sigterm_takes_the_cluster_down_too(town: Town, spec: str, folder: Path) -> None:
    town.job("forever", seconds=None)
    process = _start(town, "run", "-f", spec, "--working-dir", str(folder), "--", "forever")
    eventually(lambda: bool(town.cloud.inventory("instance")), "instances")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert town.cloud.inventory("instance") == ()


def test_a_cluster_outlives_a_killed_command_no_longer_than_its_job(town: Town, spec: str, folder: Path) -> None:
    town.job("short", seconds=0.5)
    process = _start(town, "run", "-f", spec, "--working-dir", str(folder), "--", "short")
    assert process.stdout is not None
    assert process.stdout.read(6) == b"hello\n"
    process.kill()
    process.communicate(timeout=20)
    eventually(lambda: town.cloud.inventory("instance") == (), "the end of the cluster")


def test_a_reader_that_goes_away_ends_the_run_and_the_cluster(town: Town, spec: str, folder: Path) -> None:
    town.job("forever", seconds=None)
    town.output = b"x" * 200_000
    process = _start(town, "run", "-f", spec, "--working-dir", str(folder), "--", "forever")
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=20) == 1
    assert town.cloud.inventory("instance") == ()


def test_a_second_attempt_is_announced_and_printed_from_its_start(
    cli: Cli, town: Town, spec: str, folder: Path
) -> None:
    town.job("long", seconds=1.5)
    process = _start(town, "run", "-f", spec, "--working-dir", str(folder), "--json", "--", "long")
    assert process.stdout is not None
    log: list[tuple[int, str]] = []
    killed = False
    for line in process.stdout:
        body = json.loads(line)
        if body["type"] == "log":
            log.append((body["attempt"], body["text"]))
        if body["type"] == "log" and not killed:
            killed = True
            head = next(item.name for item in town.cloud.inventory("instance") if "-head-" in item.name)
            town.cloud.kill(head)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert b"attempt 1 of the job was lost" in err
    assert "".join(text for attempt, text in log if attempt == 2) == "hello\nbye\n"


def _start(town: Town, *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "anyscale_core.cli", "--home", str(town.home), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ), bufsize=0,
    )  # fmt: skip
