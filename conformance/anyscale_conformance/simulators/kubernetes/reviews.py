"""Questions that are answered and not kept: whom a token proves, who somebody is, and what they may."""

from collections.abc import Mapping
from typing import Any

from anyscale_conformance.simulators.kubernetes.calls import Route
from anyscale_conformance.simulators.kubernetes.problems import bad_request, invalid, invalid_value, required
from anyscale_conformance.simulators.kubernetes.rbac import Authorizer, Question
from anyscale_conformance.simulators.kubernetes.tokens import Rejected, Tokens
from anyscale_conformance.simulators.kubernetes.users import User
from anyscale_conformance.simulators.kubernetes.world import World


def answer(asked: Route, body: Any, user: User, authorizer: Authorizer, tokens: Tokens, world: World) -> dict[str, Any]:
    """Return the review with its status. Raises Problem for a question that cannot be read."""
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized (must be of type Object)")
    spec = body.get("spec") or {}
    out = {
        "kind": asked.kind.kind, "apiVersion": asked.kind.api_version,
        "metadata": {"creationTimestamp": None} | (body.get("metadata") or {}), "spec": spec,
    }  # fmt: skip
    match asked.kind.kind:
        case "TokenReview":
            return out | {"status": _token(spec, tokens)}
        case "SelfSubjectReview":
            out.pop("spec")
            return out | {"metadata": {"creationTimestamp": world.stamp}, "status": {"userInfo": _shown(user)}}
        case "SelfSubjectRulesReview":
            return out | {"status": _rules(spec.get("namespace", ""), user, authorizer)}
        case "SelfSubjectAccessReview":
            return out | {"status": _access(asked, spec, user, authorizer)}
    if not spec.get("user") and not spec.get("groups"):
        raise invalid(
            asked.kind.kind,
            asked.kind.group,
            "",
            [invalid_value("spec.user", "", "at least one of user or group must be specified")],
        )
    about = User(name=spec.get("user", ""), groups=tuple(spec.get("groups") or ()))
    return out | {"status": _access(asked, spec, about, authorizer)}


def _token(spec: Mapping[str, Any], tokens: Tokens) -> dict[str, Any]:
    if not spec.get("token"):
        raise bad_request("token is required for TokenReview in authentication")
    try:
        proof = tokens.prove(spec["token"], spec.get("audiences") or ())
    except Rejected as error:
        return {"user": {}, "error": f"[{error}]" if ", " in str(error) else str(error)}
    return {"authenticated": True, "user": _shown(proof.user), "audiences": list(proof.audiences)}


def _access(asked: Route, spec: Mapping[str, Any], user: User, authorizer: Authorizer) -> dict[str, Any]:
    about, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if bool(about) == bool(path):
        fault = required(
            "spec.resourceAttributes", "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        )
        raise invalid(asked.kind.kind, asked.kind.group, "", [fault])
    if about:
        question = Question(
            verb=about.get("verb", ""), group=about.get("group", ""), resource=about.get("resource", ""),
            subresource=about.get("subresource", ""), namespace=about.get("namespace", ""), name=about.get("name", ""),
        )  # fmt: skip
    else:
        question = Question(verb=(path or {}).get("verb", ""), path=(path or {}).get("path", ""))
    allowed = authorizer.allows(user, question)
    return {"allowed": allowed, "reason": "" if not allowed else "RBAC: allowed"}


def _rules(namespace: str, user: User, authorizer: Authorizer) -> dict[str, Any]:
    found = list(authorizer.rules(user, namespace))
    resource = [
        {key: list(rule[key]) for key in ("verbs", "apiGroups", "resources", "resourceNames") if rule.get(key)}
        for rule in found
        if rule.get("resources")
    ]
    other = [
        {key: list(rule[key]) for key in ("verbs", "nonResourceURLs")} for rule in found if rule.get("nonResourceURLs")
    ]
    return {"resourceRules": resource, "nonResourceRules": other, "incomplete": False}


def _shown(user: User) -> dict[str, Any]:
    shown: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        shown["uid"] = user.uid
    if user.extra:
        shown["extra"] = {key: list(values) for key, values in user.extra.items()}
    return shown
