"""What is really there, for the conformance kit: the simulated cluster's own objects, and the store's buckets."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from anyscale_conformance.kit import Item, RunScope

from anyscale_kubernetes.kit_stages import GATEWAY, Stage
from anyscale_kubernetes.names import instance_name, short_name
from anyscale_kubernetes.tags import SLOT_LABEL, tags_of

PLACE_IN_STORE = "conformance-theirs"
"""How the name of a bucket begins that a row's customer has."""

SLOTS = {
    "cluster": "instance", "bootstrap": "secret", "volume": "volume", "identity": "identity", "network": "network",
    "endpoint": "endpoint", "bucket": "bucket-record", "grant": "grant",
}  # fmt: skip
"""What the objects of a slot are in the contract's words."""
IGNORED = frozenset({"spent"})
"""Events tell what was deleted; Kubernetes forgets them by itself."""


class ClusterOracle:
    """Looks into the cluster, and into the store, by themselves."""

    def __init__(self, stage: Stage, session: Any, scope: RunScope, stored: Callable[[], Any]) -> None:
        self._stage, self._scope, self._stored = stage, scope, stored
        self.uses_store = False
        """Whether anything was asked of the store in this row: it is not looked into before."""
        session.register("before-send.s3", self._note)

    def inventory(self) -> Iterator[Item]:
        """Yield every object of the row's namespace that somebody made, and every bucket of the row."""
        objects = self._stage.inventory()
        spent = {name for _, obj in objects for name in json.loads(_annotation(obj, "anyscale-core/names") or "[]")}
        slices = {obj["metadata"]["name"]: obj for plural, obj in objects if plural.startswith("endpointslices")}
        routes = {obj["metadata"]["name"]: obj for plural, obj in objects if plural.startswith("httproutes")}
        for plural, obj in objects:
            yield from self._items(plural.partition(".")[0], obj, spent, slices, routes)
        yield from self._buckets(objects)

    def _items(
        self, plural: str, obj: Any, spent: Iterable[str], slices: Mapping[str, Any], routes: Mapping[str, Any]
    ) -> Iterator[Item]:
        meta = obj["metadata"]
        slot = (meta.get("labels") or {}).get(SLOT_LABEL, "")
        if slot in IGNORED or (not slot and plural in ("events", "resourcequotas", "configmaps", "secrets", "pods")):
            return
        tags, going = tags_of(obj), bool(meta.get("deletionTimestamp"))
        if plural == "networkpolicies":
            yield from _rules(obj, tags)
        if not slot:
            if meta["name"] not in ("default", GATEWAY):
                yield Item(kind=f"foreign {plural}", id=meta["name"])
            return
        name, state, detail = tags.get("Name", meta["name"]), "deleting" if going else "", {}
        if plural == "pods":
            state = _pod_state(obj, name in spent)
            detail = {"zone": (obj["spec"].get("nodeSelector") or {}).get("topology.kubernetes.io/zone", "")}
            yield Item(kind="instance", id=_pod_id(obj), name=name, tags=tags, state=state, detail=detail)
        elif plural == "configmaps" and slot == "grant":
            data = obj["data"]
            yield Item(
                kind="grant",
                id=data["identity"],
                name=f"{data['bucket']}/{data['prefix']}",
                state=data["access"],
                tags=tags,
            )
        elif plural == "configmaps" and slot == "endpoint":
            state = "deleting" if going else "ready" if self._is_ready(routes.get(meta["name"])) else "pending"
            endpoint = slices.get(meta["name"])
            target = f"{endpoint['endpoints'][0]['addresses'][0]}:{endpoint['ports'][0]['port']}" if endpoint else ""
            yield Item(
                kind="endpoint", id=meta["uid"], name=name, state=state, tags=tags,
                detail={"target": target} if target else {},
            )  # fmt: skip
        elif plural in ("configmaps", "serviceaccounts", "persistentvolumeclaims", "secrets"):
            detail = (
                {key: str(value) for key, value in (obj.get("data") or {}).items()} if plural == "configmaps" else {}
            )
            yield Item(kind=SLOTS[slot], id=meta["uid"], name=name, tags=tags, state=state, detail=detail)
        elif plural != "endpoints":
            yield Item(kind=plural, id=meta["uid"], name=name, tags=tags, state=state)

    def _is_ready(self, route: Any) -> bool:
        return self._stage.route == "service" or _took(route)

    def _buckets(self, objects: Iterable[Any]) -> Iterator[Item]:
        tags = {
            obj["data"]["bucket"]: tags_of(obj)
            for plural, obj in objects
            if plural == "configmaps" and (obj["metadata"].get("labels") or {}).get(SLOT_LABEL) == "bucket"
        }
        if not self.uses_store:
            return
        for place, bucket in sorted(self._stored().items()):
            is_theirs = place == f"{PLACE_IN_STORE}-{self._scope.prefix}"
            if not (is_theirs or place in tags or self._is_ours(place)):
                continue
            name = tags.get(place, {}).get("Name", place)
            kind = "foreign bucket" if is_theirs else "bucket"
            detail = {"keys": " ".join(sorted(bucket.keys)), "public": "no"}
            yield Item(kind=kind, id=place, name=name, tags=tags.get(place, {}), detail=detail)
            yield from (Item(kind="upload", id=id, name=part.key_name) for id, part in bucket.multiparts.items())

    def _is_ours(self, place: str) -> bool:
        """Tell whether a bucket of the store is one of this row's owners', as its name tells."""
        owners = (self._scope.owner, self._scope.stranger)
        return any(place == short_name(owner, instance_name(place), "bucket") for owner in owners)

    def _note(self, **_: Any) -> None:
        self.uses_store = True


def _pod_state(pod: Any, is_spent: bool) -> str:
    conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", ())}
    taken = conditions.get("DisruptionTarget") == "True"
    if pod["metadata"].get("deletionTimestamp") and (is_spent or not taken):
        return "deleting"
    phase = pod.get("status", {}).get("phase", "Pending")
    return {"Running": "running", "Failed": "stopped", "Succeeded": "stopped"}.get(phase, "pending")


def _pod_id(pod: Any) -> str:
    meta = pod["metadata"]
    return f"{meta['namespace']}/{meta['name']}/{meta['uid']}"


def _rules(policy: Any, tags: Mapping[str, str]) -> Iterator[Item]:
    for place, rule in enumerate(policy["spec"].get("ingress") or ()):
        origin = "pods" if rule.get("from") else "0.0.0.0/0"
        id = f"{policy['metadata']['name']}/{place}"
        yield Item(kind="rule", id=id, name=tags.get("Name", ""), tags=tags, detail={"from": origin})


def _took(route: Any) -> bool:
    parents = (route or {}).get("status", {}).get("parents", ())
    return any(
        {"Accepted", "ResolvedRefs"} <= {each["type"] for each in parent["conditions"] if each["status"] == "True"}
        for parent in parents
    )


def _annotation(obj: Any, key: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(key, ""))
