"""The simulated Kubernetes API server: selectors, pages, watches, and what load and cuts do to them."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta

import kubernetes
import pytest
import urllib3
from anyscale_conformance.simulators.kubernetes import Cluster, Servers

from anyscale_core.testing.clock import ManualClock
from tests.conformance.kubernetes_api import CONFIGS, PODS, Wire, a_config, a_pod

WAIT = 20


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.fixture
def cluster(servers: Servers) -> Iterator[Cluster]:
    cluster = servers.start(clock=ManualClock())
    yield cluster
    cluster.close()


@pytest.fixture
def wire(cluster: Cluster) -> Wire:
    wire = Wire(cluster)
    labels = {"a": {"app": "ray", "zone": "1"}, "b": {"app": "ray", "zone": "2"}, "c": {"app": "web"}, "d": {}}
    for name, found in labels.items():
        config = a_config(name)
        config["metadata"]["labels"] = found
        wire.post(CONFIGS, config)
    return wire


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=ray", ["a", "b"]),
        ("app==ray,zone!=1", ["b"]),
        ("app!=ray", ["c", "d", "kube-root-ca.crt"]),
        ("app in (web, ray),zone notin (2)", ["a", "c"]),
        ("zone", ["a", "b"]),
        ("!app", ["d", "kube-root-ca.crt"]),
        ("zone>1", ["b"]),
        (" app = ray ,zone in (1)", ["a"]),
        ("", ["a", "b", "c", "d", "kube-root-ca.crt"]),
    ],
)
def test_a_label_selector_selects(wire: Wire, selector: str, names: list[str]) -> None:
    assert wire.get(CONFIGS, labelSelector=selector).names == names


@pytest.mark.parametrize("selector", ["a=b,", "=x", "a in ()b", "a b", "a in (x", "-a=b", "a>x", f"a={'x' * 64}"])
def test_a_selector_that_is_none_is_a_bad_request(wire: Wire, selector: str) -> None:
    reply = wire.get(CONFIGS, labelSelector=selector)
    assert (reply.status, reply.body["reason"]) == (400, "BadRequest")


def test_field_selectors_ask_for_the_fields_that_a_kind_declares(wire: Wire) -> None:
    for name in "xy":
        wire.post(PODS, a_pod(name))
    wire.delete(f"{PODS}/y", gracePeriodSeconds=100)
    wire.cluster.world.clock.sleep(timedelta(seconds=2))
    assert wire.get(PODS, fieldSelector="metadata.name=x").names == ["x"]
    assert wire.get(PODS, fieldSelector="status.phase=Running,spec.nodeName!=").names == ["x"]
    assert wire.get("/api/v1/events", fieldSelector="involvedObject.name=x,reason=Scheduled").names != []
    assert wire.get(PODS, fieldSelector="spec.image=x").message == "field label not supported: spec.image"


def test_pages_show_one_moment_and_end(wire: Wire) -> None:
    first = wire.get(CONFIGS, limit=2)
    assert first.names == ["a", "b"]
    assert first.body["metadata"]["remainingItemCount"] == 3
    wire.delete(f"{CONFIGS}/c")
    wire.post(CONFIGS, a_config("bb"))
    second = wire.get(CONFIGS, limit=2, **{"continue": first.body["metadata"]["continue"]})
    assert second.names == ["c", "d"]
    assert second.body["metadata"]["resourceVersion"] == first.body["metadata"]["resourceVersion"]
    last = wire.get(CONFIGS, limit=2, **{"continue": second.body["metadata"]["continue"]})
    assert last.names == ["kube-root-ca.crt"]
    assert "continue" not in last.body["metadata"]
    assert wire.get(CONFIGS).names == ["a", "b", "bb", "d", "kube-root-ca.crt"]
    assert wire.get(CONFIGS, **{"continue": "nonsense"}).status == 400
    assert len(wire.get(CONFIGS, limit=2, resourceVersion="0").names) == 5, "what may be stale does not page"


def test_a_page_that_is_too_old_is_gone_and_may_be_gone_on_with_inconsistently(wire: Wire) -> None:
    token = wire.get(CONFIGS, limit=2).body["metadata"]["continue"]
    wire.post(CONFIGS, a_config("bb"))
    wire.cluster.compact()
    old = wire.get(CONFIGS, limit=9, **{"continue": token})
    assert (old.status, old.body["reason"]) == (410, "Expired")
    rest = wire.get(CONFIGS, limit=9, **{"continue": old.body["metadata"]["continue"]})
    assert rest.names == ["bb", "c", "d", "kube-root-ca.crt"]


def test_a_list_can_be_had_of_metadata_alone_and_its_items_have_no_kind(wire: Wire) -> None:
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    partial = wire.send("GET", CONFIGS, accept=accept).body
    assert partial["kind"] == "PartialObjectMetadataList"
    assert {tuple(item) for item in partial["items"]} == {("kind", "apiVersion", "metadata")}
    assert "kind" not in wire.get(CONFIGS).body["items"][0]
    assert wire.send("GET", CONFIGS, accept="application/vnd.kubernetes.protobuf").status == 406


def test_a_list_from_the_future_is_a_timeout(wire: Wire) -> None:
    reply = wire.get(CONFIGS, resourceVersion="999999", resourceVersionMatch="NotOlderThan")
    assert (reply.status, reply.body["reason"]) == (504, "Timeout")
    assert reply.message.startswith("Timeout: Too large resource version: 999999, current: ")


def test_a_watch_tells_what_is_there_and_what_comes_as_its_selector_sees_it(wire: Wire) -> None:
    seen: list[tuple[str, str]] = []
    for event in wire.watch(CONFIGS, labelSelector="app=ray", timeoutSeconds=5):
        seen.append((event["type"], event["object"]["metadata"]["name"]))
        match len(seen):
            case 2:
                wire.patch(f"{CONFIGS}/c", {"metadata": {"labels": {"app": "ray"}}})
            case 3:
                wire.patch(f"{CONFIGS}/c", {"data": {"x": "y"}})
            case 4:
                wire.patch(f"{CONFIGS}/c", {"metadata": {"labels": {"app": "web"}}})
            case 5:
                wire.delete(f"{CONFIGS}/a")
            case 6:
                wire.cluster.world.clock.sleep(timedelta(seconds=6))
    assert seen == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("ADDED", "c"),
        ("MODIFIED", "c"),
        ("DELETED", "c"),
        ("DELETED", "a"),
    ]


def test_a_watch_goes_on_from_a_version_and_ends_with_a_bookmark(wire: Wire) -> None:
    since = wire.get(CONFIGS).body["metadata"]["resourceVersion"]
    wire.post(CONFIGS, a_config("e"))
    events = []
    for event in wire.watch(CONFIGS, resourceVersion=since, allowWatchBookmarks="true", timeoutSeconds=5):
        events.append(event)
        wire.cluster.world.clock.sleep(timedelta(seconds=6))
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    bookmark = events[1]["object"]
    assert bookmark["kind"] == "ConfigMap"
    assert int(bookmark["metadata"]["resourceVersion"]) >= int(events[0]["object"]["metadata"]["resourceVersion"])


def test_a_watch_can_begin_with_everything_and_say_when_that_ends(wire: Wire) -> None:
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    for event in wire.watch(CONFIGS, timeoutSeconds=5, **query):
        if event["type"] == "BOOKMARK":
            assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            break


def test_a_watch_from_too_long_ago_is_told_so(wire: Wire) -> None:
    wire.cluster.compact()
    [event] = list(wire.watch(CONFIGS, resourceVersion="1", timeoutSeconds=5))
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert event["object"]["message"].startswith("too old resource version: 1 (")


def test_a_watch_hears_of_what_happens_by_time_alone(wire: Wire) -> None:
    phases = []
    wire.post(PODS, a_pod("p"))
    for event in wire.watch(PODS, timeoutSeconds=60):
        phases.append(event["object"]["status"]["phase"])
        wire.cluster.world.clock.sleep(timedelta(seconds=1))
        if phases[-1] == "Running":
            break
    assert phases[0] == "Pending"


def test_the_sdks_watch_sees_a_cut_as_a_broken_connection(wire: Wire) -> None:
    core = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config_dict(wire.cluster.kubeconfig()))
    stream = kubernetes.watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=60)
    assert next(stream)["type"] == "ADDED"
    cut = threading.Timer(0.2, wire.cluster.cut_watches)
    cut.start()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        list(stream)
    cut.join()


def test_load_refuses_in_plain_text_with_a_time_to_wait(wire: Wire) -> None:
    wire.cluster.throttle(retry_after=3)
    reply = wire.get(PODS)
    assert (reply.status, reply.headers["retry-after"]) == (429, "3")
    assert reply.body == "Too many requests, please try again later.\n", "load is shed before there is a Status"
    assert wire.get(PODS).status == 200
    wire.cluster.throttle(matches=lambda call: call.method == "POST")
    assert wire.get(PODS).status == 200
    assert wire.post(PODS, a_pod("p")).status == 429


def test_a_delay_holds_an_answer_up_but_nobody_else(wire: Wire) -> None:
    wire.cluster.delay(30, matches=lambda call: call.path.endswith("/slow"))
    slow = urllib3.PoolManager(ca_certs=str(wire.cluster.ca_file), retries=False)
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        slow.request("GET", f"{wire.cluster.url}{CONFIGS}/slow", timeout=0.1)
    assert wire.get(CONFIGS).status == 200


def test_many_threads_make_many_objects_and_each_is_seen_once(wire: Wire) -> None:
    def make(part: int) -> None:
        mine = wire.as_user(wire.cluster.admin_token)
        for index in range(25):
            assert mine.apply(f"{PODS}/p-{part}-{index}", a_pod(f"p-{part}-{index}")).status == 201

    threads = [threading.Thread(target=make, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert len(wire.get(PODS).names) == 200
    versions = [item["metadata"]["resourceVersion"] for item in wire.get(PODS).body["items"]]
    assert len(set(versions)) == 200


def test_two_clusters_of_a_process_know_nothing_of_each_other(servers: Servers, wire: Wire) -> None:
    other = servers.start(clock=ManualClock())
    assert Wire(other).get(CONFIGS).names == ["kube-root-ca.crt"]
    assert Wire(other, wire.cluster.admin_token).get(CONFIGS).status == 401
    raw = json.dumps(other.kubeconfig())
    assert wire.cluster.url not in raw
    other.close()
    other.close()
