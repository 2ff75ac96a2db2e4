import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from anyscale_local import processes
from anyscale_local.cluster import LocalCluster
from anyscale_local.testing import Machine, eventually, owned, soon, specified

from anyscale_core.errors import (
    AlreadyExists,
    CloudError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unclassified,
    Unsupported,
)
from anyscale_core.models import wire
from anyscale_core.models.cluster import MarketType
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Created, Deletion, Instance, InstanceState, NotCreated, Outcome
from anyscale_core.models.owner import TAG_NAME, TAG_NODE


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine.lent(tmp_path) as lent:
        yield lent


def made(outcome: Outcome) -> Instance:
    assert isinstance(outcome, Created), outcome
    return outcome.instance


def refused(outcome: Outcome) -> CloudError:
    assert isinstance(outcome, NotCreated), outcome
    return outcome.error


def one(driver: LocalCluster, token: str = "t1", name: str = "one") -> Instance:
    (outcome,) = driver.create([specified(name)], token=Token(token), deadline=soon())
    return made(outcome)


def shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script, "sh", "{bootstrap}", "{home}", "{name}", "{address}")


def record_file(machine: Machine, id: str) -> Path:
    return machine.state / "instances" / id / "record.json"


def rewrite(machine: Machine, id: str, **fields: object) -> None:
    path = record_file(machine, id)
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_instance_runs_is_listed_as_it_was_returned_and_leaves_nothing_when_it_is_deleted(machine: Machine) -> None:
    driver = machine.cluster()
    instance = one(driver)
    base = Path(json.loads(record_file(machine, instance.id).read_text())["base"])

    assert instance.state is InstanceState.RUNNING
    assert driver.list(owned(), deadline=soon()) == (instance,)
    assert driver.get(instance.id, owner=owned(), deadline=soon()) == instance
    assert instance.tags == owned().tags() | {TAG_NODE: "nod_one", TAG_NAME: "one"}
    assert len(machine.processes()) == 1
    assert base.is_dir()

    assert driver.delete([instance.id], owner=owned(), deadline=soon()) == {instance.id: Deletion.GONE}
    assert driver.list(owned(), deadline=soon()) == ()
    assert machine.processes() == ()
    assert machine.leftovers() == []
    assert not base.exists()
    assert not (machine.state / "gone").exists()
    with pytest.raises(NotFound):
        driver.get(instance.id, owner=owned(), deadline=soon())


def test_deleting_twice_or_the_unknown_says_already_absent(machine: Machine) -> None:
    driver = machine.cluster()
    instance = one(driver)
    driver.delete([instance.id], owner=owned(), deadline=soon())
    strange = InstanceId("../../etc")

    gone = driver.delete([instance.id, strange], owner=owned(), deadline=soon())

    assert gone == {instance.id: Deletion.ALREADY_ABSENT, strange: Deletion.ALREADY_ABSENT}


def test_the_same_token_makes_one_thing_and_another_spec_or_a_spent_one_is_a_conflict(machine: Machine) -> None:
    driver = machine.cluster()
    first = one(driver)
    assert one(driver) == first
    assert one(machine.cluster()) == first
    assert len(machine.processes()) == 1

    with pytest.raises(Conflict) as mismatch:
        driver.create([specified(group="other")], token=Token("t1"), deadline=soon())
    assert mismatch.value.reason == "TOKEN_MISMATCH"

    (taken,) = driver.create([specified()], token=Token("t2"), deadline=soon())
    assert isinstance(refused(taken), AlreadyExists)
    assert refused(taken).reason == "OWNED"

    driver.delete([first.id], owner=owned(), deadline=soon())
    with pytest.raises(Conflict) as spent:
        one(driver)
    assert spent.value.reason == "TOKEN_SPENT"
    assert machine.processes() == ()
    assert one(driver, token="t3").id != first.id


def test_a_batch_has_one_outcome_per_item_and_stops_at_the_quota_item_by_item(machine: Machine) -> None:
    driver = machine.cluster(max_instances=2)
    specs = [specified(name) for name in ("a", "b", "c")]
    a, b, c = driver.create(specs, token=Token("t1"), deadline=soon())

    error = refused(c)
    assert isinstance(error, QuotaExceeded)
    assert (error.metric, error.limit, error.used, error.reason) == ("instances", 2, 2, "COUNT")
    (quota,) = driver.quotas(deadline=soon())
    assert (quota.limit, quota.used) == (2, 2)
    assert made(a).address != made(b).address

    driver.delete([made(a).id], owner=owned(), deadline=soon())
    again = driver.create(specs, token=Token("t1"), deadline=soon())
    assert refused(again[0]).reason == "TOKEN_SPENT"
    assert made(again[1]) == made(b)
    assert made(again[2]).name == "c"


def test_what_can_never_work_is_refused_before_anything_is_written(machine: Machine) -> None:
    driver = machine.cluster()
    wrong = {
        "type": specified(instance_type="m5.large"),
        "zone": specified(zones=("us-east-1a",)),
        "name": specified(name="Not A Name"),
        "launch fields": specified(advanced_instance_config={"KeyName": "x"}),
    }
    for spec in wrong.values():
        with pytest.raises(InvalidRequest) as error:
            driver.create([spec], token=Token("t1"), deadline=soon())
        assert error.value.hint
    for spec, capability in (
        (specified(market_type=MarketType.SPOT), "cluster.spot"),
        (specified(image_uri="x:1"), "cluster.images"),
    ):
        with pytest.raises(Unsupported) as unsupported:
            driver.create([spec], token=Token("t1"), deadline=soon())
        assert unsupported.value.reason == capability
    with pytest.raises(InvalidRequest):
        driver.create([specified(), specified()], token=Token("t1"), deadline=soon())
    with pytest.raises(InvalidRequest):
        machine.cluster(command=()).create([specified(bootstrap=None)], token=Token("t1"), deadline=soon())
    with pytest.raises(InvalidRequest):
        machine.cluster(command=("no-such-program",)).create([specified()], token=Token("t1"), deadline=soon())
    assert not machine.state.exists()


def test_a_zone_list_that_holds_local_is_met(machine: Machine) -> None:
    (outcome,) = machine.cluster().create([specified(zones=("x", "local"))], token=Token("t1"), deadline=soon())
    assert made(outcome).zone == "local"


def test_a_deadline_that_has_passed_stops_every_verb(machine: Machine) -> None:
    driver, past = machine.cluster(), soon(-1)
    for call in (
        lambda: driver.create([specified()], token=Token("t1"), deadline=past),
        lambda: driver.list(owned(), deadline=past),
        lambda: driver.get(InstanceId("i-1"), owner=owned(), deadline=past),
        lambda: driver.delete([], owner=owned(), deadline=past),
        lambda: driver.offerings(deadline=past),
        lambda: driver.quotas(deadline=past),
    ):
        with pytest.raises(DeadlineExceeded):
            call()
    assert not machine.state.exists()


def test_a_lock_that_is_held_too_long_ends_at_the_deadline(machine: Machine) -> None:
    driver = machine.cluster()
    with driver._state.lock(soon()), pytest.raises(DeadlineExceeded):
        driver.create([specified()], token=Token("t1"), deadline=soon(0.1))
    assert machine.processes() == ()


def test_an_instance_gets_a_clean_environment_its_own_address_and_a_private_bootstrap(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    driver = machine.cluster(command=shell('env > seen.part; echo "$3 $4" > words; mv seen.part seen; exec sleep 300'))
    instance = one(driver)
    record = json.loads(record_file(machine, instance.id).read_text())
    home = Path(record["base"]) / "home"
    eventually((home / "seen").exists)
    seen = dict(line.split("=", 1) for line in (home / "seen").read_text().splitlines() if "=" in line)

    assert (home / "words").read_text().split() == ["one", instance.address]
    assert instance.address.startswith("127.")
    assert seen["ANYSCALE_CORE_INSTANCE"] == "one"
    assert seen["ANYSCALE_LOCAL_STATE"] == str(machine.state)
    assert (seen["HOME"], seen["TMPDIR"]) == (str(home), str(home.parent / "tmp"))
    assert "PYTHONDONTWRITEBYTECODE" not in seen
    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert len(str(home)) <= 38
    assert stat.S_IMODE(home.stat().st_mode) == 0o700

    bootstrap = record_file(machine, instance.id).with_name("bootstrap.json")
    assert json.loads(bootstrap.read_text()) == wire.unstructure_revealed(specified().bootstrap)
    for path in machine.state.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        if path.is_file() and path != bootstrap:
            assert "canary" not in path.read_text()
    for process in machine.processes():
        assert b"canary" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_an_instance_whose_processes_end_is_stopped_and_a_repeat_does_not_start_it_again(machine: Machine) -> None:
    driver = machine.cluster()
    instance = one(driver)
    (process,) = machine.processes()
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: driver.list(owned(), deadline=soon())[0].state is InstanceState.STOPPED)

    (stopped,) = driver.list(owned(), deadline=soon())
    assert "agent.log" in stopped.reason
    assert one(driver) == stopped
    assert machine.processes() == ()
    assert driver.delete([instance.id], owner=owned(), deadline=soon()) == {instance.id: Deletion.GONE}


def test_an_instance_runs_on_while_any_process_of_its_session_does(machine: Machine) -> None:
    driver = machine.cluster(command=shell("sleep 300 & sleep 0.05"))
    one(driver)
    eventually(lambda: [p for p in machine.processes() if os.getsid(p.pid) != p.pid] and len(machine.processes()) == 1)
    assert driver.list(owned(), deadline=soon())[0].state is InstanceState.RUNNING


def test_a_delete_kills_grandchildren_other_process_groups_and_those_that_left_the_session(machine: Machine) -> None:
    script = "(sleep 300 &) ; setsid sleep 301 & setsid sh -c 'sleep 302 & sleep 303' & sleep 304"
    driver = machine.cluster(command=shell(script))
    instance = one(driver)
    eventually(lambda: len(machine.processes()) >= 7)

    assert driver.delete([instance.id], owner=owned(), deadline=soon()) == {instance.id: Deletion.GONE}
    assert machine.processes() == ()


def test_a_delete_that_died_after_its_record_is_carried_through_by_the_next_list(machine: Machine) -> None:
    driver = machine.cluster()
    instance = one(driver)
    rewrite(machine, instance.id, deleting=True)

    def gone() -> bool:
        shown = machine.cluster().list(owned(), deadline=soon())
        assert all(item.state is InstanceState.DELETING for item in shown)
        return shown == ()

    eventually(gone)
    assert machine.processes() == ()
    assert machine.leftovers() == []


def test_two_clouds_live_side_by_side_and_neither_sees_or_deletes_the_others_things(machine: Machine) -> None:
    driver, other = machine.cluster(), owned(cloud="other")
    mine = one(driver)
    (outcome,) = driver.create([specified(owner=other)], token=Token("t1"), deadline=soon())
    theirs = made(outcome)

    assert theirs.id != mine.id
    assert driver.list(owned(), deadline=soon()) == (mine,)
    assert driver.list(other, deadline=soon()) == (theirs,)
    with pytest.raises(NotFound):
        driver.get(theirs.id, owner=owned(), deadline=soon())
    assert driver.delete([theirs.id], owner=owned(), deadline=soon()) == {theirs.id: Deletion.ALREADY_ABSENT}
    assert driver.list(other, deadline=soon()) == (theirs,)
    assert driver.delete([mine.id], owner=owned(), deadline=soon()) == {mine.id: Deletion.GONE}
    assert driver.list(other, deadline=soon()) == (theirs,)
    assert driver.list(owned(cloud="local", cluster=None), deadline=soon()) == ()


def test_the_owner_without_a_cluster_sees_all_of_its_cloud(machine: Machine) -> None:
    driver = machine.cluster()
    one(driver)
    second = specified("two", owner=owned(cluster="clu_2"))
    driver.create([second], token=Token("t2"), deadline=soon())
    assert [item.name for item in driver.list(owned(cluster=None), deadline=soon())] == ["one", "two"]
    assert [item.name for item in driver.list(owned(cluster="clu_2"), deadline=soon())] == ["two"]


def test_a_pid_that_now_belongs_to_somebody_else_is_neither_running_nor_killed(machine: Machine) -> None:
    driver = machine.cluster()
    instance = one(driver)
    machine.clear()
    stranger = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        rewrite(machine, instance.id, pid=stranger.pid)
        assert driver.list(owned(), deadline=soon())[0].state is InstanceState.STOPPED
        assert driver.delete([instance.id], owner=owned(), deadline=soon()) == {instance.id: Deletion.GONE}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_session_without_its_leader_is_ours_only_with_our_marker(machine: Machine) -> None:
    driver = machine.cluster()
    instance = one(driver)
    machine.clear()
    script = "sleep 300 >&- 2>&- & echo $!"
    leader = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True)
    member = int(leader.communicate()[0])
    try:
        rewrite(machine, instance.id, pid=leader.pid)
        assert driver.list(owned(), deadline=soon())[0].state is InstanceState.STOPPED
        assert driver.delete([instance.id], owner=owned(), deadline=soon()) == {instance.id: Deletion.GONE}
        assert processes.started(member) > 0
    finally:
        os.kill(member, signal.SIGKILL)


def test_eight_threads_and_two_processes_with_one_token_make_one_instance(machine: Machine) -> None:
    program = (
        "import sys, threading; from pathlib import Path; from anyscale_core.models.ids import Token\n"
        "from anyscale_local.testing import Machine, soon, specified\n"
        "driver = Machine(home=Path(sys.argv[1])).cluster(); print('ready', flush=True); input()\n"
        "def go():\n"
        "    (o,) = driver.create([specified()], token=Token('t1'), deadline=soon()); print(o.instance.id, flush=True)\n"
        "ts = [threading.Thread(target=go) for _ in range(4)]; [t.start() for t in ts]; [t.join() for t in ts]\n"
    )
    helpers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(machine.home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for helper in helpers:
        assert helper.stdout is not None
        assert helper.stdout.readline() == "ready\n"
    driver = machine.cluster()
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(one(driver).id)) for _ in range(8)]
    for helper in helpers:
        assert helper.stdin is not None
        helper.stdin.write("\n")
        helper.stdin.flush()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for helper in helpers:
        ids += helper.communicate(timeout=20)[0].split()

    assert len(ids) == 16
    assert len(set(ids)) == 1
    assert len(machine.processes()) == 1
    assert len(driver.list(owned(), deadline=soon())) == 1


def test_many_threads_with_tokens_of_their_own_do_not_disturb_each_other(machine: Machine) -> None:
    driver = machine.cluster()
    instances: list[Instance] = []
    names = [f"n{index}" for index in range(8)]
    threads = [
        threading.Thread(target=lambda name=name: instances.append(one(driver, token=name, name=name)))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item.name for item in driver.list(owned(), deadline=soon())) == names
    assert len({item.address for item in instances}) == 8
    assert len(machine.processes()) == 8
    driver.delete([item.id for item in instances], owner=owned(), deadline=soon())
    assert machine.processes() == ()


def test_a_spawn_that_fails_is_that_items_outcome_and_leaves_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    driver = machine.cluster()
    monkeypatch.setattr(os, "posix_spawn", full)
    (outcome,) = driver.create([specified()], token=Token("t1"), deadline=soon())
    error = refused(outcome)
    assert (error.category, error.vendor and error.vendor.code) == ("CapacityUnavailable", "ENOMEM")
    assert driver.list(owned(), deadline=soon()) == ()
    monkeypatch.undo()
    assert one(driver).state is InstanceState.RUNNING


def test_a_list_that_meets_a_damaged_record_raises_rather_than_return_a_part(machine: Machine) -> None:
    driver = machine.cluster()
    instance = one(driver)
    one(driver, token="t2", name="two")
    record_file(machine, instance.id).write_text("{")
    with pytest.raises(Unclassified) as error:
        driver.list(owned(), deadline=soon())
    assert instance.id in str(error.value)


def test_ten_instances_are_listed_in_ten_milliseconds(machine: Machine) -> None:
    driver = machine.cluster()
    driver.create([specified(f"n{index}") for index in range(10)], token=Token("t1"), deadline=soon())
    driver.list(owned(), deadline=soon())
    times = []
    for _ in range(9):
        began = time.perf_counter()
        assert len(driver.list(owned(), deadline=soon())) == 10
        times.append(time.perf_counter() - began)
    assert min(times) < 0.010


def test_a_spec_is_not_changed_by_being_created(machine: Machine) -> None:
    spec = specified(tags={"team": "a", "Name": "x"})
    before = attrs.asdict(spec)
    (outcome,) = machine.cluster().create([spec], token=Token("t1"), deadline=soon())
    assert attrs.asdict(spec) == before
    assert made(outcome).tags["team"] == "a"
    assert made(outcome).tags["Name"] == "one"


def test_a_child_let_through_by_a_create_that_died_before_it_said_so_is_replaced_and_not_doubled(
    machine: Machine,
) -> None:
    driver = machine.cluster()
    instance = one(driver)
    (before,) = machine.processes()
    booted = record_file(machine, instance.id).with_name("booted")
    eventually(booted.exists)
    booted.unlink()
    rewrite(machine, instance.id, let_go=False)

    assert one(driver).id == instance.id
    (after,) = machine.processes()
    assert after.pid != before.pid
    assert os.getsid(after.pid) == json.loads(record_file(machine, instance.id).read_text())["pid"]


def test_an_address_in_use_is_passed_over_when_the_search_comes_round_to_it(machine: Machine) -> None:
    driver = machine.cluster()
    first = one(driver)
    (machine.state / "addresses.json").write_text('{"next": 0}')
    assert one(driver, token="t2", name="two").address != first.address


def test_an_instance_that_becomes_one_program_after_another_is_never_missed_by_its_marker(machine: Machine) -> None:
    again = '[ "$1" -gt 0 ] || { : > "$HOME/done"; exec sleep 300; }; exec sh -c "$0" "$0" $(($1 - 1))'
    instance = one(machine.cluster(command=("sh", "-c", again, again, "400")))
    done = Path(json.loads(record_file(machine, instance.id).read_text())["base"]) / "home" / "done"
    looks = 0
    while not done.exists():
        looks += 1
        assert len(machine.processes()) == 1
    assert looks > 10
