"""The simulated Kubernetes API server: what its verbs do to objects, and what they refuse."""

from collections.abc import Iterator
from datetime import timedelta

import kubernetes
import pytest
from anyscale_conformance.simulators.kubernetes import Cluster, Servers, Settings

from anyscale_core.testing.clock import ManualClock
from tests.conformance.kubernetes_api import APPLY, CONFIGS, JSON_PATCH, MERGE, PODS, STRATEGIC, Wire, a_config, a_pod


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
    return Wire(cluster)


def typed(cluster: Cluster) -> kubernetes.client.ApiClient:
    """Return the SDK's client for a cluster, as a kubeconfig makes it."""
    return kubernetes.config.new_client_from_config_dict(cluster.kubeconfig())


def test_the_typed_client_reads_every_kind_that_is_served(cluster: Cluster) -> None:
    client = typed(cluster)
    core, apps = kubernetes.client.CoreV1Api(client), kubernetes.client.AppsV1Api(client)
    core.create_namespaced_pod("default", a_pod("p"))
    core.create_namespaced_service("default", {
        "metadata": {"name": "s"}, "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]},
    })  # fmt: skip
    apps.create_namespaced_deployment("default", {
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"d": "d"}},
                 "template": {"metadata": {"labels": {"d": "d"}}, "spec": a_pod("x")["spec"]}},
    })  # fmt: skip
    cluster.world.clock.sleep(timedelta(seconds=5))
    assert {pod.status.phase for pod in core.list_namespaced_pod("default").items} == {"Running"}
    assert [node.metadata.name for node in core.list_node().items] == ["node-a", "node-b", "node-c"]
    assert core.list_namespaced_service("default").items[0].spec.cluster_ip.startswith("10.96.")
    assert len(core.read_namespaced_endpoints("s", "default").subsets[0].addresses) == 1
    assert apps.read_namespaced_deployment("d", "default").status.ready_replicas == 1
    assert core.list_namespaced_event("default").items
    for group in (
        kubernetes.client.NetworkingV1Api(client).list_ingress_for_all_namespaces,
        kubernetes.client.PolicyV1Api(client).list_pod_disruption_budget_for_all_namespaces,
        kubernetes.client.CoordinationV1Api(client).list_lease_for_all_namespaces,
        kubernetes.client.RbacAuthorizationV1Api(client).list_cluster_role,
        kubernetes.client.DiscoveryV1Api(client).list_endpoint_slice_for_all_namespaces,
        kubernetes.client.SchedulingV1Api(client).list_priority_class,
    ):
        assert group().kind.endswith("List")


def test_the_dynamic_client_finds_kinds_by_discovery_and_applies(cluster: Cluster) -> None:
    dynamic = kubernetes.dynamic.DynamicClient(typed(cluster))
    routes = dynamic.resources.get(api_version="gateway.networking.k8s.io/v1", kind="HTTPRoute")
    made = routes.server_side_apply(
        body={"apiVersion": routes.group_version, "kind": "HTTPRoute", "metadata": {"name": "r"},
              "spec": {"parentRefs": [{"name": "g"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}},
        namespace="default", field_manager="me",
    )  # fmt: skip
    assert made.spec.rules[0].matches[0].path.value == "/"
    assert [item.metadata.name for item in routes.get(namespace="default").items] == ["r"]


def test_discovery_names_groups_resources_and_subresources(wire: Wire) -> None:
    assert wire.get("/version").body["minor"] == "36"
    assert wire.get("/api").body["versions"] == ["v1"]
    groups = {group["name"] for group in wire.get("/apis").body["groups"]}
    assert {"apps", "policy", "gateway.networking.k8s.io", "coordination.k8s.io"} <= groups
    core = {one["name"]: one for one in wire.get("/api/v1").body["resources"]}
    assert core["pods/eviction"]["kind"] == "Eviction"
    assert core["pods/eviction"]["group"] == "policy"
    assert not core["nodes"]["namespaced"]
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    whole = wire.send("GET", "/apis", accept=accept)
    assert whole.headers["content-type"].startswith(accept)
    assert {item["metadata"]["name"] for item in whole.body["items"]} == groups
    assert wire.get("/readyz").body == "ok"


def test_a_cluster_without_the_gateway_api_does_not_know_its_paths(servers: Servers) -> None:
    wire = Wire(servers.start(clock=ManualClock(), settings=Settings(gateway_api=False)))
    reply = wire.get("/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways")
    assert (reply.status, reply.body) == (404, "404 page not found\n")


def test_what_is_created_has_a_uid_a_version_a_time_and_defaults(wire: Wire) -> None:
    made = wire.post(PODS, a_pod("p")).body
    assert made["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"]
    assert int(made["metadata"]["resourceVersion"]) > 0
    assert made["spec"]["restartPolicy"] == "Always"
    assert made["spec"]["serviceAccountName"] == "default"
    assert made["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["path"] == "token"
    assert made["status"]["phase"] == "Pending"


def test_a_name_is_made_up_from_generate_name(wire: Wire) -> None:
    pod = a_pod("")
    pod["metadata"] = {"generateName": "ray-"}
    names = {wire.post(PODS, pod).body["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("ray-") and len(name) == 9 for name in names)


def test_quantities_are_kept_in_their_one_form(wire: Wire) -> None:
    resources = {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": "2000m", "memory": 2147483648}}
    pod = a_pod("p", containers=[{"name": "m", "image": "i", "resources": resources}])
    assert wire.post(PODS, pod).body["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2147483648"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"metadata": {"name": "Big"}}, "metadata.name", "a lowercase RFC 1123 subdomain"),
        ({"metadata": {}}, "metadata.name", "name or generateName is required"),
        ({"metadata": {"name": "p", "labels": {"a b": "c"}}}, "metadata.labels", "name part must consist of"),
        ({"metadata": {"name": "p", "labels": {"a": "x" * 64}}}, "metadata.labels", "must be no more than 63"),
        ({"spec": {"containers": []}}, "spec.containers", "Required value"),
        ({"spec": {"containers": [{"name": "m"}]}}, "spec.containers[0].image", "Required value"),
        ({"spec": a_pod("p", restartPolicy="Sometimes")["spec"]}, "spec.restartPolicy", 'supported values: "Always"'),
        (
            {"spec": {"containers": [{"name": "m", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}},
            "spec.containers[0].volumeMounts[0].name", 'Not found: "v"',
        ),
        (
            {"spec": {"containers": [
                {"name": "m", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            ]}},
            "spec.containers[0].resources.requests", "must be less than or equal to cpu limit of 1",
        ),
        (
            {"spec": a_pod("p", tolerations=[{"key": "a", "effect": "Never"}])["spec"]},
            "spec.tolerations[0].effect", "Unsupported value",
        ),
    ],
)  # fmt: skip
def test_a_pod_that_breaks_a_rule_is_invalid_and_every_cause_is_named(
    wire: Wire, change: dict[str, object], field: str, words: str
) -> None:
    reply = wire.post(PODS, a_pod("p") | change)
    assert (reply.status, reply.body["reason"]) == (422, "Invalid")
    assert field in reply.causes
    assert words in reply.message
    assert wire.get(PODS).names == []


def test_two_faults_are_told_at_once(wire: Wire) -> None:
    reply = wire.post(PODS, a_pod("Big", containers=[{"name": "m"}]))
    assert reply.causes == ["metadata.name", "spec.containers[0].image"]
    assert reply.message.startswith('Pod "Big" is invalid: [metadata.name: Invalid value: "Big": ')


def test_an_unknown_field_is_refused_strictly_warned_of_by_default_and_dropped(wire: Wire) -> None:
    pod = a_pod("p", frobnicate=True)
    strict = wire.post(PODS, pod, fieldValidation="Strict")
    assert strict.status == 400
    assert 'strict decoding error: unknown field "spec.frobnicate"' in strict.message
    warned = wire.post(PODS, pod)
    assert warned.status == 201
    assert warned.headers["warning"] == '299 - "unknown field \\"spec.frobnicate\\""'
    assert "frobnicate" not in warned.body["spec"]
    assert "warning" not in wire.post(PODS, a_pod("q", frobnicate=True), fieldValidation="Ignore").headers


def test_what_cannot_be_read_is_a_bad_request(wire: Wire) -> None:
    assert wire.post(PODS, b"{").status == 400
    wrong = wire.post(PODS, a_pod("p", restartPolicy=3))
    assert (wrong.status, "cannot unmarshal number into Go struct field" in wrong.message) == (400, True)
    assert wire.post(PODS, a_pod("p") | {"kind": "Service"}).status == 400
    assert wire.post(PODS, a_pod("p") | {"metadata": {"name": "p", "namespace": "other"}}).status == 400
    assert wire.send("POST", PODS, b"\x00", content="application/vnd.kubernetes.protobuf").status == 415
    assert wire.post(CONFIGS, a_config("big", a="x" * (3 * 1024 * 1024 + 1))).body["reason"] == "RequestEntityTooLarge"
    assert wire.post(CONFIGS, a_config("big", a="x" * (1024 * 1024 + 1))).status == 422


def test_refusals_by_name_version_and_path(wire: Wire) -> None:
    missing = wire.get(f"{PODS}/p")
    assert (missing.status, missing.message) == (404, 'pods "p" not found')
    assert missing.body["details"] == {"name": "p", "kind": "pods"}
    wire.post(PODS, a_pod("p"))
    taken = wire.post(PODS, a_pod("p"))
    assert (taken.status, taken.body["reason"], taken.message) == (409, "AlreadyExists", 'pods "p" already exists')
    assert wire.post("/api/v1/namespaces/none/pods", a_pod("p")).message == 'namespaces "none" not found'
    unknown = wire.get("/api/v1/namespaces/default/frobs")
    assert (unknown.status, unknown.message) == (404, "the server could not find the requested resource")
    assert wire.get("/apis/none.example.com/v1/frobs").body == "404 page not found\n"
    stranger = wire.as_user(wire.cluster.add_user("ada"))
    assert stranger.get("/apis/none.example.com/v1/frobs").status == 403, "access is decided first"
    assert wire.send("PUT", PODS, a_pod("p")).status == 405


def test_a_stale_version_is_a_conflict(wire: Wire) -> None:
    old = wire.post(CONFIGS, a_config("c", a="1")).body
    assert wire.send("PUT", f"{CONFIGS}/c", old | {"data": {"a": "2"}}).status == 200
    stale = wire.send("PUT", f"{CONFIGS}/c", old | {"data": {"a": "3"}})
    assert (stale.status, stale.body["reason"]) == (409, "Conflict")
    assert stale.message.startswith('Operation cannot be fulfilled on configmaps "c": the object has been modified')
    precondition = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {"a": "4"}}
    assert wire.patch(f"{CONFIGS}/c", precondition).status == 409
    assert wire.get(f"{CONFIGS}/c").body["data"] == {"a": "2"}


def test_a_write_that_changes_nothing_makes_no_version(wire: Wire) -> None:
    old = wire.post(CONFIGS, a_config("c", a="1")).body
    assert (
        wire.send("PUT", f"{CONFIGS}/c", old).body["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]
    )


def test_a_lease_needs_its_version_and_may_be_made_by_put(wire: Wire) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}
    made = wire.send("PUT", f"{leases}/l", lease)
    assert made.status == 201
    assert "metadata.resourceVersion" in wire.send("PUT", f"{leases}/l", lease).causes
    assert wire.send("PUT", f"{leases}/l", made.body | {"spec": {"holderIdentity": "b"}}).status == 200


def test_the_three_patches_change_what_they_say(wire: Wire) -> None:
    containers = [{"name": "a", "image": "i:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "i:1"}]
    wire.post(PODS, a_pod("p", containers=containers))
    path = f"{PODS}/p"
    changed = wire.patch(path, {"spec": {"containers": [{"name": "b", "image": "i:2"}]}}, STRATEGIC).body
    assert [one["image"] for one in changed["spec"]["containers"]] == ["i:1", "i:2"]
    changed = wire.patch(path, [{"op": "add", "path": "/metadata/labels/x~1y", "value": "z"}], JSON_PATCH).body
    assert changed["metadata"]["labels"]["x/y"] == "z"
    changed = wire.patch(path, {"metadata": {"labels": {"x/y": None}}}, MERGE).body
    assert "x/y" not in changed["metadata"]["labels"]
    assert wire.patch(path, [{"op": "test", "path": "/metadata/name", "value": "q"}], JSON_PATCH).status == 422
    assert wire.patch(path, {"metadata": {"name": "q"}}, MERGE).status == 400
    assert wire.patch(path, {}, "text/plain").status == 415
    assert wire.patch(path, {"spec": {"nodeName": "n"}}, MERGE).causes == ["spec"]


def test_a_strategic_merge_patch_deletes_by_key_and_replaces_on_demand(wire: Wire) -> None:
    env = [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    spec = {"containers": [{"name": "m", "image": "i:1", "env": env}]}
    wire.post(deployments, {
        "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}},
    })  # fmt: skip

    def patched(env: list[dict[str, str]]) -> list[str]:
        body = {"spec": {"template": {"spec": {"containers": [{"name": "m", "env": env}]}}}}
        reply = wire.patch(f"{deployments}/d", body, STRATEGIC).body
        return [one["name"] for one in reply["spec"]["template"]["spec"]["containers"][0].get("env", ())]

    assert patched([{"name": "X", "$patch": "delete"}, {"name": "Z", "value": "3"}]) == ["Y", "Z"]
    assert patched([{"$patch": "replace"}, {"name": "W", "value": "4"}]) == ["W"]


def test_status_is_written_through_its_own_path_alone(wire: Wire) -> None:
    wire.post(PODS, a_pod("p"))
    pod = wire.get(f"{PODS}/p").body
    assert wire.patch(f"{PODS}/p", {"status": {"message": "no"}}).body["status"].get("message") is None
    written = wire.patch(f"{PODS}/p/status", {"status": {"message": "yes"}, "spec": {"nodeName": "n"}}).body
    assert written["status"]["message"] == "yes"
    assert written["spec"] == pod["spec"]
    assert wire.delete(f"{PODS}/p/status").status == 405


def test_applying_again_changes_nothing_and_another_managers_field_is_a_conflict(wire: Wire) -> None:
    path = f"{CONFIGS}/c"
    made = wire.apply(path, a_config("c", a="1"))
    assert made.status == 201
    again = wire.apply(path, a_config("c", a="1"))
    assert (again.status, again.body["metadata"]["resourceVersion"]) == (200, made.body["metadata"]["resourceVersion"])
    clash = wire.apply(path, a_config("c", a="2"), manager="other")
    assert (clash.status, clash.body["reason"]) == (409, "Conflict")
    assert clash.message == 'Apply failed with 1 conflict: conflict with "me": .data.a'
    assert clash.body["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "me"', "field": ".data.a"}
    ]
    assert wire.apply(path, a_config("c", a="1", b="2"), manager="other").status == 200
    forced = wire.apply(path, a_config("c", a="2"), manager="other", force="true").body
    assert forced["data"] == {"a": "2"}, "b was the other's alone, and it names it no more"
    owners = {one["manager"]: one["fieldsV1"] for one in forced["metadata"]["managedFields"]}
    assert owners == {"other": {"f:data": {"f:a": {}}}}


def test_what_a_manager_applies_no_more_goes_unless_another_holds_it(wire: Wire) -> None:
    path = f"{PODS}/p"
    labels = a_pod("p")
    labels["metadata"]["labels"] = {"a": "1", "b": "2"}
    wire.apply(path, labels)
    shared = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"b": "2"}}}
    assert wire.apply(path, shared, manager="other").status == 200
    labels["metadata"]["labels"] = {}
    left = wire.apply(path, labels).body["metadata"]["labels"]
    assert {key: value for key, value in left.items() if "/" not in key} == {"b": "2"}


def test_an_update_takes_the_fields_that_it_changes(wire: Wire) -> None:
    path = f"{CONFIGS}/c"
    wire.apply(path, a_config("c", a="1", b="1"))
    wire.patch(path, {"data": {"a": "2"}}, fieldManager="editor")
    owners = {one["manager"]: one for one in wire.get(path).body["metadata"]["managedFields"]}
    assert owners["me"]["fieldsV1"] == {"f:data": {"f:b": {}}}
    assert owners["editor"]["fieldsV1"] == {"f:data": {"f:a": {}}}
    clash = wire.apply(path, a_config("c", a="3", b="1"))
    assert clash.message.startswith('Apply failed with 1 conflict: conflict with "editor" using v1 at ')


def test_apply_needs_a_manager_and_fields_that_the_schema_knows(wire: Wire) -> None:
    path = f"{PODS}/p"
    nobody = wire.send("PATCH", path, a_pod("p"), content=APPLY)
    assert (nobody.status, nobody.causes) == (422, ["fieldManager"])
    unknown = wire.apply(path, a_pod("p", frobnicate=1))
    assert unknown.status == 500
    assert unknown.message == (
        "failed to create typed patch object (default/p; /v1, Kind=Pod): .spec.frobnicate: field not declared in schema"
    )
    versionless = wire.apply(path, {"kind": "Pod", "metadata": {"name": "p"}})
    assert "Incorrect version specified in apply patch" in versionless.message
    assert wire.patch(path, {}, force="true").causes == ["force"]


def test_a_dry_run_answers_and_keeps_nothing(wire: Wire) -> None:
    assert wire.post(PODS, a_pod("p"), dryRun="All").body["spec"]["restartPolicy"] == "Always"
    assert wire.apply(f"{PODS}/q", a_pod("q"), dryRun="All").status == 201
    assert wire.get(PODS).names == []
    wire.post(PODS, a_pod("p"))
    assert wire.delete(f"{PODS}/p", dryRun="All").status == 200
    assert (
        wire.patch(f"{PODS}/p", {"metadata": {"labels": {"a": "b"}}}, dryRun="All").body["metadata"]["labels"]["a"]
        == "b"
    )
    assert "a" not in wire.get(f"{PODS}/p").body["metadata"]["labels"]


def test_deletion_keeps_preconditions_grace_and_finalizers(wire: Wire, cluster: Cluster) -> None:
    wire.post(PODS, a_pod("p", terminationGracePeriodSeconds=40))
    wire.get(PODS)
    wrong = wire.delete(f"{PODS}/p", {"preconditions": {"uid": "x"}})
    assert (wrong.status, wrong.body["reason"]) == (409, "Conflict")
    going = wire.delete(f"{PODS}/p").body["metadata"]
    assert (going["deletionTimestamp"], going["deletionGracePeriodSeconds"]) == ("2026-01-01T00:00:40Z", 40)
    cluster.world.clock.sleep(timedelta(seconds=2))
    assert wire.get(f"{PODS}/p").status == 404
    held = a_config("c")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    wire.post(CONFIGS, held)
    assert "deletionTimestamp" in wire.delete(f"{CONFIGS}/c").body["metadata"]
    assert wire.patch(f"{CONFIGS}/c", {"metadata": {"finalizers": None}}).status == 200
    assert wire.get(f"{CONFIGS}/c").status == 404
    wire.post(CONFIGS, a_config("d"))
    assert wire.delete(f"{CONFIGS}/d").body["status"] == "Success"


def test_a_collection_is_deleted_by_selector(wire: Wire) -> None:
    for name in "abc":
        wire.post(PODS, a_pod(name))
    assert wire.delete(PODS, labelSelector="name in (a,b)", gracePeriodSeconds=0).names == ["a", "b"]
    assert wire.get(PODS).names == ["c"]


def test_every_request_is_in_the_journal(wire: Wire, cluster: Cluster) -> None:
    cluster.requests.clear()
    wire.post(PODS, a_pod("p"))
    wire.get(f"{PODS}/q")
    assert [(one.method, one.path, one.status, one.user) for one in cluster.requests] == [
        ("POST", PODS, 201, "kubernetes-admin"), ("GET", f"{PODS}/q", 404, "kubernetes-admin"),
    ]  # fmt: skip
