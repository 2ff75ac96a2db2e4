"""Whether a Pod fits a node, and if not, the reason that the scheduler counts."""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from anyscale_conformance.simulators.kubernetes import quantities, selectors
from anyscale_conformance.simulators.kubernetes.admission import requests
from anyscale_conformance.simulators.kubernetes.store import Entry

Placed = Callable[[], Iterable[tuple[Entry, Entry]]]
_AFFINITY = "requiredDuringSchedulingIgnoredDuringExecution"


def refusal(pod: Entry, node: Entry, used: Mapping[str, Decimal], there: list[Entry], placed: Placed) -> str:
    """Return why a node does not do for a Pod, empty if it does; in the order in which the scheduler's filters run."""
    spec = pod.obj["spec"]
    tolerations = spec.get("tolerations", ())
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if node.obj.get("spec", {}).get("unschedulable") and not any(tolerates(one, cordon) for one in tolerations):
        return "node(s) were unschedulable"
    for taint in node.obj.get("spec", {}).get("taints", ()):
        if taint["effect"] != "PreferNoSchedule" and not any(tolerates(one, taint) for one in tolerations):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if not matches(spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    wanted = _host_ports(spec)
    if wanted and wanted & {port for one in there for port in _host_ports(one.obj["spec"])}:
        return "node(s) didn't have free ports for the requested pod ports"
    whole = allocatable(node)
    if len(there) + 1 > whole.get("pods", Decimal(110)):
        return "Too many pods"
    for word, amount in requests(spec).items():
        if amount > 0 and used.get(word, Decimal()) + amount > whole.get(word, Decimal()):
            return f"Insufficient {word}"
    return _neighbours(pod, node, placed)


def allocatable(node: Entry) -> dict[str, Decimal]:
    """Return what a node can carry."""
    return _worth(tuple(sorted(node.obj.get("status", {}).get("allocatable", {}).items())))


@lru_cache(maxsize=1024)
def _worth(resources: tuple[tuple[str, str], ...]) -> dict[str, Decimal]:
    return {word: quantities.value(text) for word, text in resources}


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Tell whether a toleration is one of a taint."""
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def matches(spec: Mapping[str, Any], node: Entry) -> bool:
    """Tell whether a node has the labels that a Pod asks for."""
    if any(node.labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    needed = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(_AFFINITY)
    if needed is None:
        return True
    return any(_term(term, node) for term in needed.get("nodeSelectorTerms", ()))


def _term(term: Mapping[str, Any], node: Entry) -> bool:
    expressions, fields = term.get("matchExpressions", ()), term.get("matchFields", ())
    if not expressions and not fields:
        return False
    named = {"metadata.name": node.name}
    return all(_meets(one, node.labels) for one in expressions) and all(_meets(one, named) for one in fields)


def _meets(one: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    return selectors.Requirement(
        key=one["key"], operator=one["operator"], values=frozenset(one.get("values") or ())
    ).is_met(labels)


def _host_ports(spec: Mapping[str, Any]) -> set[tuple[int, str]]:
    return {
        (port["hostPort"], port.get("protocol", "TCP"))
        for container in spec.get("containers", ())
        for port in container.get("ports", ())
        if port.get("hostPort")
    }


def _neighbours(pod: Entry, node: Entry, placed: Placed) -> str:
    affinity = pod.obj["spec"].get("affinity") or {}
    apart = (affinity.get("podAntiAffinity") or {}).get(_AFFINITY) or ()
    together = (affinity.get("podAffinity") or {}).get(_AFFINITY) or ()
    for term in apart:
        if any(_is_near(term, pod, other, where, node) for other, where in placed()):
            return "node(s) didn't match pod anti-affinity rules"
    for term in together:
        found = list(placed())
        if any(_is_near(term, pod, other, where, node) for other, where in found):
            continue
        selector = selectors.from_object(term.get("labelSelector"))
        is_first = selector is not None and selector.selects(pod.labels)
        if not is_first or any(selector is not None and selector.selects(other.labels) for other, _ in found):
            return "node(s) didn't match pod affinity rules"
    return ""


def _is_near(term: Mapping[str, Any], pod: Entry, other: Entry, where: Entry, node: Entry) -> bool:
    key = term.get("topologyKey", "")
    if key not in node.labels or where.labels.get(key) != node.labels[key]:
        return False
    if other.namespace not in (term.get("namespaces") or (pod.namespace,)):
        return False
    selector = selectors.from_object(term.get("labelSelector"))
    return selector is not None and selector.selects(other.labels)
