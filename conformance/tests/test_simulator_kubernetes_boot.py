"""The simulated cluster: Pods that really run, as processes of this machine."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from anyscale_conformance.simulators.kubernetes import Servers, Settings

from anyscale_core.clock import SystemClock
from tests.conformance.kubernetes_api import PODS, Wire, a_pod

WAIT = 20


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.fixture
def booting(servers: Servers) -> Iterator[Wire]:
    cluster = servers.start(clock=SystemClock(), settings=Settings(boots=True, starts=timedelta()))
    yield Wire(cluster)
    cluster.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a real process does."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def test_a_booted_pod_runs_its_command_with_its_files_and_variables(booting: Wire) -> None:
    booting.post(
        "/api/v1/namespaces/default/secrets",
        {"metadata": {"name": "s"}, "stringData": {"boot.json": "{}", "other": "x"}},
    )
    token = {"serviceAccountToken": {"path": "token", "audience": "plane", "expirationSeconds": 600}}
    script = (
        'set -e; echo "$NAME $IP $MODE"; cat /var/run/boot/boot.json; test ! -e /var/run/boot/other; echo; '
        'cut -d. -f1 /var/run/token/token | wc -l; touch "$HOME_DIR/made"; echo "$1"; exec sleep 60'
    )
    env = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "MODE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "other"}}},
        {"name": "HOME_DIR", "value": "/var/lib/home"},
    ]
    mounts = [{"name": "boot", "mountPath": "/var/run/boot"}, {"name": "token", "mountPath": "/var/run/token"},
              {"name": "home", "mountPath": "/var/lib/home"}]  # fmt: skip
    container = {
        "name": "m",
        "image": "i",
        "command": ["sh", "-c", script, "sh"],
        "args": ["$(NAME)!"],
        "env": env,
        "volumeMounts": mounts,
    }
    volumes = [
        {"name": "boot", "secret": {"secretName": "s", "items": [{"key": "boot.json", "path": "boot.json"}]}},
        {"name": "token", "projected": {"sources": [token]}}, {"name": "home", "emptyDir": {}},
    ]  # fmt: skip
    booting.post(PODS, a_pod("p", containers=[container], volumes=volumes))
    until(lambda: booting.get(f"{PODS}/p").body["status"]["phase"] == "Running")
    address = booting.get(f"{PODS}/p").body["status"]["podIP"]
    assert address.startswith("127.")
    until(lambda: "p!" in booting.get(f"{PODS}/p/log").body)
    assert booting.get(f"{PODS}/p/log").body.split() == ["p", address, "x", "{}", "1", "p!"]
    booting.delete(f"{PODS}/p")
    until(lambda: booting.get(f"{PODS}/p").status == 404)


def test_a_booted_pod_ends_as_its_command_does(booting: Wire) -> None:
    for name, command in (("good", "exit 0"), ("bad", "echo sorry; exit 7")):
        container = {"name": "m", "image": "i", "command": ["sh", "-c", command]}
        booting.post(PODS, a_pod(name, restartPolicy="Never", containers=[container]))
    until(lambda: booting.get(f"{PODS}/good").body["status"]["phase"] == "Succeeded")
    until(lambda: booting.get(f"{PODS}/bad").body["status"]["phase"] == "Failed")
    assert booting.get(f"{PODS}/bad").body["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7
    assert booting.get(f"{PODS}/bad/log").body == "sorry\n"
    booting.post(PODS, a_pod("none", containers=[{"name": "m", "image": "i"}]))
    until(lambda: "RunContainerError" in str(booting.get(f"{PODS}/none").body["status"].get("containerStatuses")))


def test_a_booted_pod_that_does_not_end_is_killed_after_its_grace(booting: Wire) -> None:
    container = {
        "name": "m",
        "image": "i",
        "command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"],
    }
    booting.post(PODS, a_pod("p", containers=[container], terminationGracePeriodSeconds=1))
    until(lambda: booting.get(f"{PODS}/p/log").body == "up\n")
    assert booting.delete(f"{PODS}/p").status == 200
    assert booting.get(f"{PODS}/p").status == 200, "it has a second"
    until(lambda: booting.get(f"{PODS}/p").status == 404)


def test_a_claims_disk_outlives_the_pods_that_use_it(booting: Wire) -> None:
    booting.post("/apis/storage.k8s.io/v1/storageclasses", {"metadata": {"name": "fast"}, "provisioner": "x/y"})
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}
    claims = "/api/v1/namespaces/default/persistentvolumeclaims"
    booting.post(claims, {"metadata": {"name": "c"}, "spec": spec})
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]

    def run(name: str, command: str) -> str:
        mounts = [{"name": "v", "mountPath": "/data"}]
        container = {"name": "m", "image": "i", "command": ["sh", "-c", command], "volumeMounts": mounts}
        booting.post(PODS, a_pod(name, restartPolicy="Never", containers=[container], volumes=volumes))
        until(lambda: booting.get(f"{PODS}/{name}").body["status"]["phase"] == "Succeeded")
        return str(booting.get(f"{PODS}/{name}/log").body)

    run("first", "echo kept > /data/file")
    assert run("second", "cat /data/file") == "kept\n"
