"""The Helm chart, rendered by Go's own text/template, makes what `operator manifest` prints."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest
import yaml
from anyscale_kubernetes.config import Settings
from anyscale_kubernetes.manifest import manifest, rules_of
from anyscale_kubernetes.permissions import WHOLE_CLUSTER

from anyscale_core.models import wire
from anyscale_core.models.manifest import ManifestConfig
from anyscale_core.models.secret import Secret

CHART = Path(__file__).parents[1] / "deploy" / "anyscale-operator"
TEMPLATES = sorted((CHART / "templates").glob("*"))
PEM = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
CONFIG = ManifestConfig(
    cloud="factory", provider="kubernetes", url="https://plane.invalid:8443", ca_pem=PEM, image="registry.invalid/op:1",
    namespace="rays", token=Secret('a "quoted" token'),
    settings={"kubernetes": {"image": "ray:1", "zones": ["a", "b"]}, "other": {"key": "value: with {braces}"}},
)  # fmt: skip
STORED = {"store": {"endpoint": "https://s3.invalid", "secret": "store"}}
ROUTED = {
    "route": "httproute", "gateway": {"name": "public", "namespace": "gateways"}, "hostname": "{name}.ray.invalid",
}  # fmt: skip
CASES = {
    "a token": CONFIG,
    "an identity": attrs.evolve(CONFIG, token=None, identity="kubernetes"),
    "more of them": attrs.evolve(CONFIG, replicas=3, health_port=9999),
    "a store": attrs.evolve(CONFIG, settings={"kubernetes": STORED}),
    "a gateway elsewhere": attrs.evolve(CONFIG, settings={"kubernetes": ROUTED}),
    "no settings": attrs.evolve(CONFIG, settings={}),
}
RENDER = """
import json, pathlib, sys
import go_template
values = json.load(sys.stdin)
print(json.dumps([go_template.render(pathlib.Path(path), values).decode() for path in sys.argv[1:]]))
"""
"""In a process of its own: Go ends it at the first fault of a template."""


def rendered(values: Mapping[str, Any], namespace: str) -> list[dict[str, Any]]:
    """Return the chart's objects, as `helm template --namespace` would print them."""
    told = json.dumps({"Values": values, "Release": {"Namespace": namespace, "Name": "operator"}})
    words = [sys.executable, "-c", RENDER, *map(str, TEMPLATES)]
    done = subprocess.run(words, input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [obj for text in json.loads(done.stdout) for obj in yaml.safe_load_all(text) if obj]


def values_of(config: ManifestConfig) -> dict[str, Any]:
    """Return the values that say what a ManifestConfig says; the rules are those that the settings need."""
    own = wire.structure(
        {**config.settings.get("kubernetes", {}), "namespace": config.namespace}, Settings, subject="settings"
    )
    rules = rules_of(own)
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text()) | {
        "cloud": config.cloud, "url": config.url, "caPem": config.ca_pem, "image": config.image,
        "replicas": config.replicas, "healthPort": config.health_port, "identity": config.identity,
        "token": config.token.reveal() if config.token is not None else "", "clusterRules": rules.pop(WHOLE_CLUSTER),
        "rules": rules.pop(config.namespace), "otherRules": rules,
    }  # fmt: skip
    values["settings"] = {**values["settings"], **config.settings}
    return values


def by_name(objects: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], Any]:
    """Return objects by kind, namespace and name; settings as what they say, for YAML has many ways to say it."""
    out = {}
    for obj in objects:
        known, metadata = dict(obj), obj["metadata"]
        if obj["kind"] == "ConfigMap":
            known["data"] = obj["data"] | {"settings.yaml": yaml.safe_load(obj["data"]["settings.yaml"])}
        out[obj["kind"], metadata.get("namespace", ""), metadata["name"]] = known
    return out


def schema() -> Any:
    return json.loads((CHART / "values.schema.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_the_chart_makes_the_objects_of_the_manifest(case: str) -> None:
    values = values_of(CASES[case])
    jsonschema.Draft7Validator(schema()).validate(values)
    objects = rendered(values, CASES[case].namespace)
    wanted = manifest(CASES[case])
    assert len(objects) == len(wanted)
    assert by_name(objects) == by_name(wanted)


def test_a_secret_of_ones_own_holds_the_token_and_the_chart_makes_none() -> None:
    values = values_of(attrs.evolve(CONFIG, token=None)) | {"tokenSecret": "theirs"}
    jsonschema.Draft7Validator(schema()).validate(values)
    objects = rendered(values, "rays")
    assert [obj for obj in objects if obj["kind"] == "Secret"] == []
    (deployment,) = (obj for obj in objects if obj["kind"] == "Deployment")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert {"name": "secret", "secret": {"secretName": "theirs"}} in volumes
    assert "--token-file" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


def test_accounts_of_workloads_are_made_with_their_annotations_and_no_token() -> None:
    binding = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/ray"}
    objects = rendered(values_of(CONFIG) | {"workloadServiceAccounts": {"ray": binding}}, "rays")
    made = by_name(objects)["ServiceAccount", "rays", "ray"]
    assert made["metadata"]["annotations"] == binding
    assert made["automountServiceAccountToken"] is False


def test_what_is_switched_off_is_not_made() -> None:
    objects = rendered(values_of(CONFIG) | {"headBudget": False, "networkPolicy": False}, "rays")
    assert {obj["kind"] for obj in objects}.isdisjoint({"PodDisruptionBudget", "NetworkPolicy"})


def test_the_charts_values_hold_the_rights_of_the_manifest() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert {"default": values["rules"], WHOLE_CLUSTER: values["clusterRules"]} == rules_of(Settings())


@pytest.mark.parametrize(
    ("change", "is_fine"),
    [
        ({}, True), ({"token": ""}, False), ({"token": "", "identity": "kubernetes"}, True), ({"tokenSecret": "x"}, False),
        ({"url": "http://plane"}, False), ({"cloud": ""}, False), ({"unknown": 1}, False), ({"replicas": 0}, False),
        ({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}]}, False),
        ({"otherRules": {"gw": [{"apiGroups": ["*"], "resources": ["gateways"], "verbs": ["get"]}]}}, False),
    ],
)  # fmt: skip
def test_the_values_schema_lets_through_what_can_work_and_nothing_else(change: dict[str, Any], is_fine: bool) -> None:
    assert jsonschema.Draft7Validator(schema()).is_valid(values_of(CONFIG) | change) is is_fine
