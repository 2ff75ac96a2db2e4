"""What the API says of itself: versions, groups, resources, health, and the issuer of its tokens."""

from typing import Any

from anyscale_conformance.simulators.kubernetes.calls import Answer, Call, encode
from anyscale_conformance.simulators.kubernetes.kinds import Catalogue, Kind
from anyscale_conformance.simulators.kubernetes.tokens import Tokens

VERSION = {
    "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "clean",
    "buildDate": "2026-06-09T00:00:00Z", "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip
_KINDS = {"scale": ("autoscaling", "v1", "Scale"), "eviction": ("policy", "v1", "Eviction"),
          "token": ("authentication.k8s.io", "v1", "TokenRequest"),
          "binding": ("", "v1", "Binding")}  # fmt: skip
_VERBS = {
    "status": ["get", "patch", "update"],
    "scale": ["get", "patch", "update"],
    "log": ["get"],
    "finalize": ["update"],
}


def answer(catalogue: Catalogue, call: Call, tokens: Tokens) -> Answer | None:
    """Return what a path that is no resource's says, or None when there is nothing."""
    words = [word for word in call.path.split("/") if word]
    match words:
        case ["version"]:
            return Answer(body=encode(VERSION))
        case ["healthz" | "livez" | "readyz", *_]:
            return Answer(body=b"ok", content_type="text/plain")
        case []:
            return Answer(body=encode({"paths": _paths(catalogue)}))
        case ["openid", "v1", "jwks"]:
            return Answer(body=encode(tokens.keys()), content_type="application/jwk-set+json")
        case [".well-known", "openid-configuration"]:
            return Answer(body=encode(tokens.configuration()))
        case ["api" | "apis" as root] if "as=APIGroupDiscoveryList" in call.headers.get("accept", ""):
            sort = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            return Answer(body=encode(_aggregated(catalogue, root)), content_type=sort)
        case ["api"]:
            return Answer(body=encode({
                "kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": call.headers.get("host", "")}],
            }))  # fmt: skip
        case ["apis"]:
            groups = [_group(group, versions) for group, versions in catalogue.groups.items() if group]
            return Answer(body=encode({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        case ["apis", group] if group in catalogue.groups:
            return Answer(
                body=encode({"kind": "APIGroup", "apiVersion": "v1"} | _group(group, catalogue.groups[group]))
            )
        case ["api", version] if version == "v1":
            return Answer(body=encode(_resources(catalogue, "", version)))
        case ["apis", group, version] if version in catalogue.groups.get(group, ()):
            return Answer(body=encode(_resources(catalogue, group, version)))
    return None


def _paths(catalogue: Catalogue) -> list[str]:
    groups = [(group, versions) for group, versions in catalogue.groups.items() if group]
    found = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"]
    for group, versions in groups:
        found += [f"/apis/{group}", *(f"/apis/{group}/{version}" for version in versions)]
    return sorted([*found, "/healthz", "/livez", "/openid/v1/jwks", "/readyz", "/version"])


def _group(group: str, versions: list[str]) -> dict[str, Any]:
    shown = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": shown, "preferredVersion": shown[0]}


def _resources(catalogue: Catalogue, group: str, version: str) -> dict[str, Any]:
    resources = []
    for kind in catalogue.kinds:
        if (kind.group, kind.version) != (group, version):
            continue
        shown: dict[str, Any] = {
            "name": kind.plural, "singularName": kind.kind.lower(), "namespaced": kind.is_namespaced, "kind": kind.kind,
            "verbs": list(kind.verbs),
        }  # fmt: skip
        resources.append(shown | ({"shortNames": list(kind.short_names)} if kind.short_names else {}))
        resources += [_subresource(kind, word) for word in kind.subresources]
    words = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": words, "resources": resources}


def _subresource(kind: Kind, word: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": f"{kind.plural}/{word}", "singularName": "", "namespaced": kind.is_namespaced, "kind": kind.kind,
        "verbs": _VERBS.get(word, ["create"]),
    }  # fmt: skip
    if word in _KINDS:
        shown |= dict(zip(("group", "version", "kind"), _KINDS[word], strict=True))
    return shown


def _aggregated(catalogue: Catalogue, root: str) -> dict[str, Any]:
    items = []
    for group, versions in catalogue.groups.items():
        if bool(group) != (root == "apis"):
            continue
        shown = [
            {"version": version, "freshness": "Current", "resources": [
                _aggregated_resource(kind) for kind in catalogue.kinds if (kind.group, kind.version) == (group, version)
            ]}
            for version in versions
        ]  # fmt: skip
        items.append({"metadata": {"name": group} if group else {}, "versions": shown})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _aggregated_resource(kind: Kind) -> dict[str, Any]:
    def words(group: str, version: str, name: str) -> dict[str, str]:
        return {"group": group, "version": version, "kind": name}

    return {
        "resource": kind.plural, "responseKind": words(kind.group, kind.version, kind.kind),
        "singularResource": kind.kind.lower(),
        "scope": kind.scope.value, "verbs": list(kind.verbs),
        "shortNames": list(kind.short_names),
        "subresources": [
            {"subresource": word, "verbs": _VERBS.get(word, ["create"]),
             "responseKind": words(*_KINDS.get(word, (kind.group, kind.version, kind.kind)))}
            for word in kind.subresources
        ],
    }  # fmt: skip
