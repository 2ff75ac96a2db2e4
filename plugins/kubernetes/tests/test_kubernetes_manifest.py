"""What is installed is enough, and not more: the drivers work with exactly the rights that the manifest gives."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.kinds import NAMESPACE as NAMESPACES
from anyscale_kubernetes.kinds import SERVICE_ACCOUNT, Kind
from anyscale_kubernetes.manifest import NAME, manifest
from anyscale_kubernetes.testing import OWNER, TYPES, Land, specified

from anyscale_core.errors import NotFound, PermissionDenied, SpecError
from anyscale_core.models.identity import Binding, Identity, IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Created
from anyscale_core.models.manifest import ManifestConfig
from anyscale_core.models.networking import EndpointSpec, NetworkSpec
from anyscale_core.models.secret import Secret

NAMESPACE = "ray"
CONFIG = ManifestConfig(
    cloud="factory", provider="kubernetes", url="https://plane.invalid:8443", ca_pem="-----CA-----",
    image="registry.invalid/operator:1", namespace=NAMESPACE, token=Secret("tok-canary"),
    settings={"kubernetes": {"image": "ray:1", "instance_types": TYPES}},
)  # fmt: skip


def of_kind(kind: str, config: ManifestConfig = CONFIG) -> list[dict[str, Any]]:
    return [obj for obj in manifest(config) if obj["kind"] == kind]


def test_everything_that_an_operator_needs_is_there_once() -> None:
    assert [obj["kind"] for obj in manifest(CONFIG)] == [
        "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "Secret",
        "Deployment", "PodDisruptionBudget", "NetworkPolicy",
    ]  # fmt: skip
    assert manifest(CONFIG) == manifest(CONFIG)


def test_the_token_is_in_the_secret_alone() -> None:
    for obj in manifest(CONFIG):
        assert ("tok-canary" in str(obj)) is (obj["kind"] == "Secret")
    proven = attrs.evolve(CONFIG, token=None, identity="kubernetes")
    assert of_kind("Secret", proven) == []
    assert "--identity" in of_kind("Deployment", proven)[0]["spec"]["template"]["spec"]["containers"][0]["args"]


def test_no_rule_has_a_wildcard_and_secrets_are_read_by_name_alone() -> None:
    stored = attrs.evolve(
        CONFIG, settings={"kubernetes": {"store": {"endpoint": "https://s3.invalid", "secret": "store"}}}
    )
    for config in (CONFIG, stored):
        for obj in manifest(config):
            for rule in obj.get("rules", ()):
                assert "*" not in str(rule)
                if rule["resources"] == ["secrets"] and "get" in rule["verbs"]:
                    assert rule["resourceNames"] == ["store"]


def test_a_workload_may_not_run_as_the_operator() -> None:
    assert of_kind("ServiceAccount")[0]["metadata"]["name"] == NAME
    assert Settings().operator_service_account == NAME


def test_accounts_that_another_clouds_identities_are_bound_to_are_installed_with_the_operator() -> None:
    config = attrs.evolve(
        CONFIG, node_identities=(bound("nodes", "workloads"), bound("jobs", "oidc:arn#system:serviceaccount:ray:jobs")),
        binding=Binding(account={"bind": "operator"}, workload={"use": "true"}),
    )  # fmt: skip
    own, *accounts = of_kind("ServiceAccount", config)
    assert own["metadata"]["annotations"] == {"bind": "operator"}
    assert [obj["metadata"]["name"] for obj in accounts] == ["workloads", "jobs"]
    assert [obj["metadata"]["annotations"] for obj in accounts] == [{"bind": "nodes"}, {"bind": "jobs"}]
    assert not any(obj["automountServiceAccountToken"] for obj in accounts)
    (deployment,) = of_kind("Deployment", config)
    assert deployment["spec"]["template"]["metadata"]["labels"].items() > {"use": "true"}.items()


def test_where_another_provider_makes_the_identities_the_operator_may_write_no_account_and_still_looks_at_proofs() -> (
    None
):
    slots = {"cluster": "kubernetes", "identity": "else", "storage": "else", "networking": "kubernetes"}
    config = attrs.evolve(CONFIG, slots=slots, node_identities=(bound("nodes", "workloads"),))
    written = {
        resource for kind in ("Role", "ClusterRole") for obj in of_kind(kind, config) for rule in obj["rules"]
        for resource in rule["resources"] if {"create", "patch", "delete"} & set(rule["verbs"])
    }  # fmt: skip
    assert "serviceaccounts" not in written
    assert written >= {"pods", "networkpolicies", "tokenreviews"}


def test_every_identity_that_no_account_of_the_namespace_may_become_is_told() -> None:
    config = attrs.evolve(
        CONFIG, namespace="other", node_identities=(bound("nodes", "workloads"), bound("jobs", "jobs"))
    )
    with pytest.raises(SpecError) as caught:
        manifest(config)
    assert [fault.path for fault in caught.value.faults] == ["identity nodes", "identity jobs"]
    with pytest.raises(SpecError):
        manifest(attrs.evolve(CONFIG, node_identities=(bound("nodes", NAME),)))
    theirs = {"kubernetes": {"service_accounts": {"nodes": "theirs"}}}
    of_theirs = attrs.evolve(CONFIG, settings=theirs, node_identities=(bound("nodes", "elsewhere:x"),))
    assert [obj["metadata"]["name"] for obj in of_kind("ServiceAccount", of_theirs)] == [NAME]


def bound(name: str, account: str) -> Identity:
    subject = account if ":" in account else f"system:serviceaccount:{NAMESPACE}:{account}"
    return Identity(name=name, owner=OWNER, principal="p", subjects=(subject,), binding=Binding(account={"bind": name}))


@pytest.fixture
def installed(land: Land, tmp_path: Path) -> Land:
    """The land as the operator's own account sees it, its manifest applied by an administrator."""
    return as_operator(land, tmp_path, CONFIG)


def as_operator(land: Land, folder: Path, config: ManifestConfig) -> Land:
    namespace, api = land.settings["namespace"], land.api()
    for obj in manifest(attrs.evolve(config, namespace=namespace)):
        if obj["kind"] != "Deployment":
            api.apply(
                kind_of(obj),
                obj,
                manager="kubectl",
                deadline=land.soon(),
                namespace=obj["metadata"].get("namespace", ""),
            )
    path = SERVICE_ACCOUNT.path(namespace, NAME, "token")
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = api.request("POST", path, body=request, deadline=land.soon())["status"]["token"]
    known = yaml.safe_load(Path(land.settings["kubeconfig"]).read_text())
    for user in known["users"]:
        user["user"] = {"token": token}
    kubeconfig = folder / "operator"
    kubeconfig.write_text(yaml.safe_dump(known))
    return attrs.evolve(land, settings={**land.settings, "kubeconfig": str(kubeconfig)})


def kind_of(obj: dict[str, Any]) -> Kind:
    kind = str(obj["kind"])
    plural = f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"
    return Kind(kind=kind, plural=plural, group_version=obj["apiVersion"], is_namespaced="namespace" in obj["metadata"])


def test_a_whole_life_passes_with_the_rights_of_the_manifest(installed: Land) -> None:
    land, soon = installed, installed.soon()
    identity, networking, cluster = land.identity(), land.networking(), land.cluster()
    identity.create(IdentitySpec(name="jobs", owner=OWNER), token=Token("i"), deadline=soon)
    networking.create(NetworkSpec(name="net"), owner=OWNER, token=Token("n"), deadline=soon)
    spec = specified(identity="jobs", network="net", volume="gcs")
    (outcome,) = cluster.create([spec], token=Token("c"), deadline=soon)
    assert isinstance(outcome, Created), outcome
    proof = identity.prove("plane", subject=spec.name, deadline=soon)
    assert identity.verify(proof, audience="plane", deadline=soon).instance == spec.name
    identity.credentials("jobs", owner=OWNER, deadline=soon)
    way = EndpointSpec(name="head", owner=OWNER, network="net", target_address="10.0.0.9", target_port=8443)
    networking.expose(way, token=Token("e"), deadline=soon)
    assert networking.check("net", owner=OWNER, deadline=soon)
    assert cluster.get(outcome.instance.id, owner=OWNER, deadline=soon).name == spec.name
    assert cluster.list(OWNER, deadline=soon)
    assert networking.list(OWNER, deadline=soon)
    assert cluster.offerings(deadline=soon)
    cluster.quotas(deadline=soon)
    networking.withdraw("head", owner=OWNER, deadline=soon)
    cluster.delete([outcome.instance.id], owner=OWNER, deadline=soon)
    networking.delete("none", owner=OWNER, deadline=soon)
    identity.delete("jobs", owner=OWNER, deadline=soon)


def test_a_right_that_is_missing_is_named_with_its_remedy(installed: Land) -> None:
    driver = installed.networking(route="ingress", ingress_class="nginx", hostname="{name}.ray.invalid")
    spec = EndpointSpec(name="head", owner=OWNER, network="", target_address="10.0.0.9", target_port=8443)
    with pytest.raises(PermissionDenied) as caught:
        driver.expose(spec, token=Token("e"), deadline=installed.soon())
    assert "grant get on ingressclasses" in caught.value.hint


def test_a_gateway_in_a_namespace_of_its_own_is_read_with_the_rights_of_the_manifest(
    land: Land, tmp_path: Path
) -> None:
    gateway = {"name": "public", "namespace": "gateways"}
    routed = {"route": "httproute", "gateway": gateway, "hostname": "{name}.ray.invalid"}
    config = attrs.evolve(CONFIG, settings={"kubernetes": {"image": "ray:1", **routed}})
    assert {obj["metadata"]["namespace"] for obj in of_kind("Role", config)} == {NAMESPACE, "gateways"}
    land.api().apply(NAMESPACES, {"metadata": {"name": "gateways"}}, manager="admin", deadline=land.soon())
    driver = as_operator(land, tmp_path, config).networking(**routed)
    spec = EndpointSpec(name="head", owner=OWNER, network="", target_address="10.0.0.9", target_port=8443)
    with pytest.raises(NotFound) as caught:
        driver.expose(spec, token=Token("e"), deadline=land.soon())
    assert caught.value.reason == "REFERENCE", "not that it may not look"
