"""The simulated Kubernetes API server: who may do what, who proves to be whom, and what quotas and namespaces allow."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.kubernetes import Cluster, Servers
from joserfc import jwt
from joserfc.jwk import KeySet

from anyscale_core.testing.clock import ManualClock
from tests.conformance.kubernetes_api import CONFIGS, PODS, Wire, a_config, a_pod

RBAC = "/apis/rbac.authorization.k8s.io/v1"
TOKENS = "/api/v1/namespaces/default/serviceaccounts/default/token"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


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


def granted(wire: Wire, *rules: dict[str, Any], user: str = "ada") -> Wire:
    """Return a user with a Role of these rules in ``default``."""
    wire.post(f"{RBAC}/namespaces/default/roles", {"metadata": {"name": user}, "rules": list(rules)})
    wire.post(f"{RBAC}/namespaces/default/rolebindings", {
        "metadata": {"name": user}, "subjects": [{"kind": "User", "name": user}],
        "roleRef": {"kind": "Role", "name": user, "apiGroup": "rbac.authorization.k8s.io"},
    })  # fmt: skip
    return wire.as_user(wire.cluster.add_user(user))


def test_nobody_may_what_no_role_allows_and_the_refusal_says_what_that_was(wire: Wire) -> None:
    ada = granted(wire, {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["mine"]})
    wire.post(PODS, a_pod("mine"))
    assert ada.get(f"{PODS}/mine").status == 200
    other = ada.get(f"{PODS}/other")
    assert (other.status, other.body["reason"]) == (403, "Forbidden")
    assert other.message == (
        'pods "other" is forbidden: User "ada" cannot get resource "pods" in API group "" in the namespace "default"'
    )
    assert other.body["details"] == {"name": "other", "kind": "pods"}
    assert ada.get("/api/v1/pods").message == (
        'pods is forbidden: User "ada" cannot list resource "pods" in API group "" at the cluster scope'
    )
    assert ada.post(f"{PODS}/mine/eviction", {}).message.endswith(
        'cannot create resource "pods/eviction" in API group "" in the namespace "default"'
    )
    assert ada.get("/version").status == 200
    assert ada.get("/secret").message == 'forbidden: User "ada" cannot get path "/secret"'


def test_applying_what_is_new_needs_the_right_to_create_it(wire: Wire) -> None:
    ada = granted(wire, {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch", "get"]})
    assert "cannot create resource" in ada.apply(f"{CONFIGS}/c", a_config("c")).message
    wire.post(CONFIGS, a_config("c"))
    assert ada.apply(f"{CONFIGS}/c", a_config("c", a="1")).status == 200


def test_nobody_grants_what_they_do_not_hold(wire: Wire) -> None:
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    roles = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create"]}
    ada = granted(wire, pods, roles)
    path = f"{RBAC}/namespaces/default/roles"
    assert ada.post(path, {"metadata": {"name": "less"}, "rules": [pods]}).status == 201
    more = ada.post(path, {"metadata": {"name": "more"}, "rules": [pods | {"verbs": ["get", "delete"]}]})
    assert more.status == 403
    assert (
        'is attempting to grant RBAC permissions not currently held:\n{APIGroups:[""], Resources:["pods"]'
        in more.message
    )
    binding = {"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}, "subjects": []}
    assert ada.post(f"{RBAC}/namespaces/default/rolebindings", binding).status == 403


def test_access_can_be_asked_for_beforehand(wire: Wire) -> None:
    ada = granted(wire, {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]})

    def may(verb: str) -> bool:
        spec = {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}
        reply = ada.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": spec})
        assert reply.status == 201
        return bool(reply.body["status"]["allowed"])

    assert (may("list"), may("delete")) == (True, False)
    asked = {"user": "ada", "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}
    assert wire.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": asked}).body["status"]["allowed"]
    assert ada.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": asked}).status == 403
    rules = ada.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "default"}}).body[
        "status"
    ]
    assert {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]} in rules["resourceRules"]
    me = ada.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", {}).body["status"]["userInfo"]
    assert me == {"username": "ada", "groups": ["system:authenticated"]}


def test_credentials_that_prove_nothing_are_unauthorized_and_none_are_anonymous(wire: Wire) -> None:
    assert (wire.as_user("nonsense").get(PODS).status, wire.as_user("nonsense").get(PODS).message) == (
        401,
        "Unauthorized",
    )
    assert 'User "system:anonymous" cannot list' in wire.as_user("").get(PODS).message
    assert wire.as_user("").get("/version").status == 200


def test_a_token_is_signed_for_its_audience_and_bound_to_its_pod(wire: Wire) -> None:
    wire.post(PODS, a_pod("p"))
    pod = wire.get(f"{PODS}/p").body
    ref = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]}
    made = wire.post(TOKENS, {"spec": {"audiences": ["plane"], "expirationSeconds": 600, "boundObjectRef": ref}})
    assert made.status == 201
    assert made.body["status"]["expirationTimestamp"] == "2026-01-01T00:10:00Z"
    keys = KeySet.import_key_set(wire.get("/openid/v1/jwks").body)
    claims = jwt.decode(made.body["status"]["token"], keys, algorithms=["RS256"]).claims
    assert claims["sub"] == "system:serviceaccount:default:default"
    assert claims["aud"] == ["plane"]
    assert claims["iss"] == wire.get("/.well-known/openid-configuration").body["issuer"]
    assert claims["exp"] - claims["iat"] == 600
    assert claims["kubernetes.io"]["pod"] == {"name": "p", "uid": ref["uid"]}
    assert claims["kubernetes.io"]["node"]["name"] == pod["spec"]["nodeName"]


def reviewed(wire: Wire, token: str, *audiences: str) -> dict[str, Any]:
    """Return the status of a review."""
    spec = {"token": token} | ({"audiences": list(audiences)} if audiences else {})
    status: dict[str, Any] = wire.post(REVIEWS, {"spec": spec}).body["status"]
    return status


def test_a_review_tells_whom_a_token_proves_and_for_whom(wire: Wire) -> None:
    wire.post(PODS, a_pod("p"))
    token = wire.cluster.token("default", "default", audiences=("plane",), pod="p")
    status = reviewed(wire, token, "plane", "other")
    assert status["authenticated"]
    assert status["audiences"] == ["plane"]
    assert status["user"]["username"] == "system:serviceaccount:default:default"
    assert status["user"]["groups"] == [
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    ]
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    wrong = reviewed(wire, token, "other")
    assert "authenticated" not in wrong
    assert 'token audiences ["plane"] is invalid for the target audiences ["other"]' in wrong["error"]
    assert "error" in reviewed(wire, token), "without audiences it is the API server's own that is asked for"
    assert reviewed(wire, "nonsense")["error"] == "invalid bearer token"


def test_a_token_ends_with_its_time_and_with_its_pod(wire: Wire) -> None:
    wire.post(PODS, a_pod("p"))
    token = wire.cluster.token("default", "default", pod="p", seconds=600)
    assert reviewed(wire, token)["authenticated"]
    wire.cluster.kill("default", "p")
    assert reviewed(wire, token)["error"] == "[invalid bearer token, service account token has been invalidated]"
    free = wire.cluster.token("default", "default", seconds=600)
    wire.cluster.world.clock.sleep(timedelta(seconds=600))
    assert reviewed(wire, free)["error"] == "[invalid bearer token, service account token has expired]"
    assert wire.as_user(free).get(PODS).status == 401


def test_a_token_request_that_cannot_be_is_refused(wire: Wire) -> None:
    assert wire.post(TOKENS, {"spec": {"audiences": ["a"], "expirationSeconds": 60}}).causes == [
        "spec.expirationSeconds"
    ]
    ref = {"kind": "Pod", "apiVersion": "v1", "name": "none", "uid": "x"}
    assert wire.post(TOKENS, {"spec": {"audiences": ["a"], "boundObjectRef": ref}}).message == 'pods "none" not found'
    wire.post(PODS, a_pod("p"))
    stale = wire.post(TOKENS, {"spec": {"audiences": ["a"], "boundObjectRef": ref | {"name": "p"}}})
    assert (stale.status, stale.body["reason"]) == (409, "Conflict")


def test_a_service_account_acts_by_its_roles(wire: Wire) -> None:
    token = wire.cluster.token("default", "default")
    ada = wire.as_user(token)
    assert 'User "system:serviceaccount:default:default" cannot list' in ada.get(PODS).message
    wire.post(f"{RBAC}/clusterrolebindings", {
        "metadata": {"name": "all"}, "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"},
    })  # fmt: skip
    assert ada.get(PODS).status == 200


def test_a_pod_needs_its_service_account(wire: Wire) -> None:
    reply = wire.post(PODS, a_pod("p", serviceAccountName="ghost"))
    assert reply.status == 403
    assert reply.message == (
        'pods "p" is forbidden: error looking up service account default/ghost: serviceaccount "ghost" not found'
    )


def test_a_quota_refuses_what_is_too_much_in_its_own_words_and_counts(wire: Wire) -> None:
    wire.cluster.set_quota("default", {"pods": "2", "requests.cpu": "3"})
    resources = {"resources": {"requests": {"cpu": "1"}}, "name": "m", "image": "i"}
    for name in "ab":
        assert wire.post(PODS, a_pod(name, containers=[resources])).status == 201
    third = wire.post(PODS, a_pod("c", containers=[resources]))
    assert (third.status, third.body["reason"]) == (403, "Forbidden")
    assert (
        third.message
        == 'pods "c" is forbidden: exceeded quota: quota, requested: pods=1, used: pods=2, limited: pods=2'
    )
    quota = wire.get("/api/v1/namespaces/default/resourcequotas/quota").body
    assert quota["status"] == {"hard": {"pods": "2", "requests.cpu": "3"}, "used": {"pods": "2", "requests.cpu": "2"}}
    wire.delete(f"{PODS}/a", gracePeriodSeconds=0)
    big = {**resources, "resources": {"requests": {"cpu": "2500m"}}}
    assert wire.post(PODS, a_pod("c", containers=[big])).message.endswith(
        "exceeded quota: quota, requested: requests.cpu=2500m, used: requests.cpu=1, limited: requests.cpu=3"
    )
    assert "must specify requests.cpu for: main" in wire.post(PODS, a_pod("c")).message
    wire.cluster.set_quota("default", {})
    assert wire.post(PODS, a_pod("c")).status == 201


def test_a_limit_range_fills_in_and_refuses(wire: Wire) -> None:
    limit = {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}, "max": {"cpu": "2"}}
    wire.post("/api/v1/namespaces/default/limitranges", {"metadata": {"name": "l"}, "spec": {"limits": [limit]}})
    made = wire.post(PODS, a_pod("p")).body["spec"]["containers"][0]["resources"]
    assert made == {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}
    big = {"name": "m", "image": "i", "resources": {"limits": {"cpu": "3"}}}
    assert (
        "maximum cpu usage per Container is 2, but limit is 3" in wire.post(PODS, a_pod("q", containers=[big])).message
    )


def test_a_namespace_that_ends_takes_nothing_new_and_goes_when_it_is_empty(wire: Wire) -> None:
    wire.cluster.make_namespace("ray")
    pods = "/api/v1/namespaces/ray/pods"
    wire.post(pods, a_pod("p"))
    wire.cluster.world.clock.sleep(timedelta(seconds=2))
    assert wire.delete("/api/v1/namespaces/ray").body["status"]["phase"] == "Terminating"
    late = wire.post(pods, a_pod("q"))
    assert late.status == 403
    assert late.body["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    assert "because it is being terminated" in late.message
    wire.cluster.world.clock.sleep(timedelta(seconds=2))
    assert wire.get("/api/v1/namespaces/ray").status == 404
    assert wire.cluster.inventory("ray") == []
    assert wire.delete("/api/v1/namespaces/default").status == 403


def test_every_namespace_has_an_account_and_the_authority_of_the_api_server(wire: Wire) -> None:
    assert wire.post("/api/v1/namespaces", {"metadata": {"name": "ray"}}).status == 201
    assert wire.get("/api/v1/namespaces/ray/serviceaccounts").names == ["default"]
    authority = wire.get("/api/v1/namespaces/ray/configmaps/kube-root-ca.crt").body["data"]["ca.crt"]
    assert authority == wire.cluster.ca_file.read_text()
