"""What is really in a project of the simulator, past its APIs and past every lag."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anyscale_conformance.kit import Item
from anyscale_conformance.simulators.gcp import ProjectHands, Seen

from anyscale_core.models.identity import Access
from anyscale_core.models.owner import TAG_NAME
from anyscale_gcp import accounts, buckets, policies, tags
from anyscale_gcp.kit.world import SIGNER, SOMEBODYS


class ProjectOracle:
    """Looks into the simulator's project itself, past its APIs and past every lag."""

    def __init__(self, project: ProjectHands) -> None:
        self._hands = project

    def inventory(self) -> Iterator[Item]:
        """Yield everything in the project, whoever owns it, but for what every project of the kit has."""
        seen = [each for each in self._hands.inventory() if (each.kind, each.name) not in GIVEN]
        parsed = [accounts.parse(each.body) for each in seen if each.kind == "serviceAccounts"]
        names = {account.acting: account.name for account in parsed if account is not None}
        kept = [buckets.read(each.body) for each in seen if each.kind == "buckets"]
        called = {each.place: each.note.name for each in kept if each is not None}
        for each in seen:
            match each.kind:
                case "instances":
                    yield _instance(each)
                case "firewalls":
                    yield from _rule(each)
                case "serviceAccounts":
                    yield from _account(each)
                case "buckets":
                    keys = [
                        o.name.partition("/")[2]
                        for o in seen
                        if o.kind == "objects" and o.name.startswith(f"{each.name}/")
                    ]
                    yield _bucket(each, keys)
                case "bindings":
                    yield from _grant(each, names, called)
                case "objects" | "roles" | "routes":  # routes are a network's own, and come and go with it
                    pass
                case _:
                    yield _other(each)


LISTED = re.compile(r"""'\)\.startsWith\(("(?:[^"\\]|\\.)*")\)""")
OBJECTS = {policies.ROLES[access]: access for access in Access}
KINDS = {
    "disks": "disk", "networks": "network", "subnetworks": "subnetwork", "routers": "router", "addresses": "address",
    "healthChecks": "adopted network", "uploads": "upload",
}  # fmt: skip
"""What a collection's things are called in an inventory."""
GIVEN = {("networks", "default"), ("subnetworks", "default"), ("instances", SOMEBODYS), ("disks", SOMEBODYS)}
PASSING = ("description", "status", "users", "subnetworks", "fingerprint", "lastAttachTimestamp", "lastDetachTimestamp")
STATES = {"RUNNING": "running", "TERMINATED": "stopped", "STOPPING": "deleting"}


def _instance(seen: Seen) -> Item:
    owned = _tags(seen)
    zone = tags.plain(seen.body["zone"])
    detail = {
        "type": tags.plain(seen.body["machineType"]),
        "labels": json.dumps(seen.body.get("labels", {}), sort_keys=True),
    }
    return Item(
        kind="instance", id=f"{zone}/{seen.name}/{seen.id}", name=owned.get(TAG_NAME, seen.name), tags=owned,
        state=STATES.get(seen.body["status"], "pending"), detail=detail,
    )  # fmt: skip


def _rule(seen: Seen) -> Iterator[Item]:
    owned, note = _tags(seen), tags.parse(seen.body.get("description"))
    name = owned.get(TAG_NAME, seen.name)
    detail = {"from": " ".join(seen.body.get("sourceRanges", ())), "body": _stable(seen.body)}
    yield Item(kind="rule", id=seen.name, name=name, tags=owned, detail=detail)
    if note is not None and note.more.get("kind") == "endpoint":
        target = f"{note.more['address']}:{note.more['port']}"
        yield Item(kind="endpoint", id=seen.name, name=name, tags=owned, state="ready", detail={"target": target})


def _account(seen: Seen) -> Iterator[Item]:
    account = accounts.parse(seen.body)
    if account is not None:
        owned = {**account.owner.tags(), TAG_NAME: account.name}
        detail = {"description": str(seen.body["description"])}
        yield Item(kind="identity", id=seen.name, name=account.name, tags=owned, detail=detail)
    elif not seen.name.startswith(SIGNER) and not seen.name.endswith("developer.gserviceaccount.com"):
        yield Item(kind="foreign identity", id=seen.name)


def _bucket(seen: Seen, keys: Iterable[str]) -> Item:
    kept = buckets.read(seen.body)
    is_closed = seen.body["iamConfiguration"].get("publicAccessPrevention") == "enforced"
    detail = {"public": "no" if is_closed else "yes", "keys": " ".join(keys), "region": str(seen.body["location"])}
    if kept is None:
        return Item(kind="foreign bucket", id=seen.name, name=seen.name, detail=detail)
    return Item(kind="bucket", id=seen.name, name=kept.note.name, tags=kept.note.tags, detail=detail)


def _grant(seen: Seen, names: Mapping[str, str], called: Mapping[str, str]) -> Iterator[Item]:
    """Yield what a member of a bucket's policy is let at, by prefix."""
    prefixes = LISTED.findall(str((seen.body.get("condition") or {}).get("expression", "")))
    access = OBJECTS.get(str(seen.body["role"]))
    if access is not None:
        bucket = seen.name.removeprefix("b/")
        member = re.sub(r"^deleted:|\?uid=.*$|^serviceAccount:", "", str(seen.body["member"]))
        for prefix in prefixes:
            name = f"{called.get(bucket, bucket)}/{json.loads(prefix)}"
            yield Item(kind="grant", id=names.get(member, member), name=name, state=access.value)


def _other(seen: Seen) -> Item:
    owned = _tags(seen)
    kind = KINDS.get(seen.kind, seen.kind)
    return Item(
        kind=kind if owned or kind == "upload" else f"foreign {kind}", id=f"{seen.scope}/{seen.name}",
        name=owned.get(TAG_NAME, seen.name), tags=owned, detail={"body": _stable(seen.body)},
    )  # fmt: skip


def _tags(seen: Seen) -> dict[str, str]:
    """Return the tags of a thing: its note's, or what its labels hold of them."""
    note = tags.parse(seen.body.get("description"))
    if note is not None:
        return dict(note.tags)
    found = {k: buckets.decode(v) for k, v in (seen.body.get("labels") or {}).items() if k.startswith("anyscale-core-")}
    name = found.pop(tags.NAME_LABEL, None)
    return found if name is None else {**found, TAG_NAME: name}


def _stable(body: Mapping[str, Any]) -> str:
    """Return what of a thing must not change unasked; what changes by itself is left out."""
    # A description says what the tags say, and by which order it is so.
    return json.dumps({k: v for k, v in body.items() if k not in PASSING}, sort_keys=True, default=str)
