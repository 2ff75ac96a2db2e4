"""Who may do what: roles and their bindings, read anew for every question, and the words of a refusal."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from anyscale_conformance.simulators.kubernetes.problems import Problem, forbidden
from anyscale_conformance.simulators.kubernetes.users import MASTERS, User
from anyscale_conformance.simulators.kubernetes.world import World

GROUP = "rbac.authorization.k8s.io"
Rule = Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Question:
    """What somebody wants: a verb on a resource, or (``path``) on a path that is no resource's."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def whole(self) -> str:
        """The resource with its subresource, as rules name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


class Authorizer:
    """Answers for one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def allows(self, user: User, question: Question) -> bool:
        """Tell whether somebody may."""
        if MASTERS in user.groups:
            return True
        return any(covers(rule, question) for rule in self.rules(user, question.namespace))

    def check(self, user: User, question: Question) -> None:
        """Raise Problem 403 unless somebody may."""
        if not self.allows(user, question):
            raise self.refusal(user, question)

    def refusal(self, user: User, question: Question) -> Problem:
        """Return what somebody is told who may not."""
        if question.path:
            return Problem(
                403, "Forbidden", f'forbidden: User "{user.name}" cannot {question.verb} path "{question.path}"'
            )
        where = f'in the namespace "{question.namespace}"' if question.namespace else "at the cluster scope"
        return forbidden(
            question.resource, question.group, question.name,
            f'User "{user.name}" cannot {question.verb} resource "{question.whole}" in API group "{question.group}" {where}',
        )  # fmt: skip

    def rules(self, user: User, namespace: str) -> Iterator[Rule]:
        """Yield the rules that hold for somebody in a namespace; those of the cluster hold everywhere."""
        for entry in self._world.entries("clusterrolebindings", group=GROUP):
            if _binds(entry.obj, user):
                yield from self._role(entry.obj["roleRef"], "")
        if namespace:
            for entry in self._world.entries("rolebindings", namespace, group=GROUP):
                if _binds(entry.obj, user):
                    yield from self._role(entry.obj["roleRef"], namespace)

    def check_escalation(self, user: User, plural: str, obj: Mapping[str, Any], namespace: str) -> None:
        """Raise Problem 403 when a role or a binding would give what its writer does not have."""
        if MASTERS in user.groups or plural not in ("roles", "clusterroles", "rolebindings", "clusterrolebindings"):
            return
        is_binding = plural.endswith("bindings")
        ref = obj.get("roleRef", {})
        given = list(self._role(ref, namespace)) if is_binding else list(obj.get("rules") or ())
        held = list(self.rules(user, namespace))
        extra = Question(
            verb="bind" if is_binding else "escalate", group=GROUP, namespace=namespace,
            resource=f"{ref.get('kind', '').lower()}s" if is_binding else plural,
            name=ref.get("name", "") if is_binding else obj["metadata"].get("name", ""),
        )  # fmt: skip
        lacking = [rule for rule in given if not all(any(covers(own, one) for own in held) for one in _questions(rule))]
        if not lacking or any(covers(own, extra) for own in held):
            return
        words = "\n".join(_shown(rule) for rule in lacking)
        groups = " ".join(f'"{group}"' for group in user.groups)
        raise forbidden(
            plural, GROUP, obj["metadata"].get("name", ""),
            f'user "{user.name}" (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{words}',
        )  # fmt: skip

    def _role(self, ref: Mapping[str, str], namespace: str) -> Iterable[Rule]:
        is_cluster = ref.get("kind") == "ClusterRole"
        entry = self._world.get(
            "clusterroles" if is_cluster else "roles", "" if is_cluster else namespace, ref.get("name", ""), group=GROUP
        )
        return () if entry is None else entry.obj.get("rules") or ()


def covers(rule: Rule, question: Question) -> bool:
    """Tell whether a rule allows what is asked."""
    verbs = rule.get("verbs", ())
    if question.verb not in verbs and "*" not in verbs:
        return False
    if question.path:
        return any(_is_path(pattern, question.path) for pattern in rule.get("nonResourceURLs", ()))
    groups, resources, names = rule.get("apiGroups", ()), rule.get("resources", ()), rule.get("resourceNames", ())
    if question.group not in groups and "*" not in groups:
        return False
    starred = f"*/{question.subresource}"
    if question.whole not in resources and "*" not in resources and not (question.subresource and starred in resources):
        return False
    return not names or question.name in names


def _is_path(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def _binds(binding: Mapping[str, Any], user: User) -> bool:
    for subject in binding.get("subjects") or ():
        match subject.get("kind"):
            case "User" if subject["name"] == user.name:
                return True
            case "Group" if subject["name"] in user.groups:
                return True
            case "ServiceAccount" if f"system:serviceaccount:{subject.get('namespace')}:{subject['name']}" == user.name:
                return True
    return False


def _questions(rule: Rule) -> Iterator[Question]:
    for verb in rule.get("verbs", ()):
        for path in rule.get("nonResourceURLs", ()):
            yield Question(verb=verb, path=path)
        for group in rule.get("apiGroups", ()):
            for resource in rule.get("resources", ()):
                plural, _, subresource = resource.partition("/")
                for name in rule.get("resourceNames") or ("",):
                    yield Question(verb=verb, group=group, resource=plural, subresource=subresource, name=name)


def _shown(rule: Rule) -> str:
    parts = (("APIGroups", "apiGroups"), ("Resources", "resources"), ("ResourceNames", "resourceNames"),
             ("NonResourceURLs", "nonResourceURLs"), ("Verbs", "verbs"))  # fmt: skip
    words = (
        f"{title}:[{' '.join(chr(34) + word + chr(34) for word in rule[key])}]" for title, key in parts if rule.get(key)
    )
    return "{" + ", ".join(words) + "}"
