"""Expiry and CORS of buckets, which Azure keeps in one document each for the whole storage account.

A bucket's expiry is a rule of its own in the account's lifecycle policy. The origins of all buckets stand in one rule of the
account's blob service, as an account has five at most: what a browser may do at one container it may do at all of them. Nothing
is let in by that: a browser needs a signed URL too. What a bucket wants is noted in its container's metadata, where it is found
again when a rule has to go. Rules of the customer's stay as they are.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import attrs

from anyscale_azure.client import Azure
from anyscale_core.errors import InvalidRequest, NotFound
from anyscale_core.models.storage import BucketSpec

ACCOUNT = "Microsoft.Storage/storageAccounts"
RULE = "anyscale-core-"
MARK = "x-ms-meta-anyscale-core"
"""An exposed header that tells the one CORS rule of ours: those rules have no names."""
Change = Callable[[], object]
RULES_MAX = 100
CORS_MAX = 5


@attrs.frozen(kw_only=True)
class Upkeep:
    """What a bucket wants of its account. ``expire_days``: 0 keeps objects for ever."""

    expire_days: int = 0
    origins: tuple[str, ...] = ()


NOTHING = Upkeep()


def wanted(spec: BucketSpec) -> Upkeep:
    """Return what a spec asks for. Raises InvalidRequest(FIELD) for a negative number of days."""
    if spec.expire_days < 0:
        message = f"expire_days {spec.expire_days} is below 0"
        raise InvalidRequest(message, reason="FIELD", resource=spec.name, hint="give days, or 0 to keep objects")
    return Upkeep(expire_days=spec.expire_days, origins=tuple(spec.cors_origins))


def noted(upkeep: Upkeep) -> str:
    """Return the note for a container's metadata; empty where nothing is wanted."""
    if upkeep == NOTHING:
        return ""
    return base64.b64encode(json.dumps([upkeep.expire_days, *upkeep.origins]).encode()).decode()


def read(note: str) -> Upkeep:
    """Return what a note says; of a note that somebody else has written, nothing."""
    try:
        days, *origins = json.loads(base64.b64decode(note)) if note else [0]
        return Upkeep(expire_days=int(days), origins=tuple(str(origin) for origin in origins))
    except (TypeError, ValueError):
        return NOTHING


def planned(
    azure: Azure, container: str, upkeep: Upkeep, others: Iterable[Upkeep], deadline: datetime
) -> tuple[Change, ...]:
    """Return the writes after which an account has what a container wants, and nothing that neither it nor the ``others`` want.

    Raises InvalidRequest where the account has no room for that: before anything is changed.
    """
    origins = {origin for each in (upkeep, *others) for origin in each.origins}
    changes = (_expiring(azure, container, upkeep.expire_days, deadline), _allowing(azure, origins, deadline))
    return tuple(change for change in changes if change is not None)


def _expiring(azure: Azure, container: str, days: int, deadline: datetime) -> Change | None:
    account = (azure.settings.resource_group, azure.settings.storage_account, "default")
    policies = azure.storage.management_policies
    action = f"{ACCOUNT}/managementPolicies"
    try:
        body = azure.first(f"{action}/read", policies.get, *account, deadline=deadline).body
    except NotFound:
        body = {}
    there = body.get("properties", {}).get("policy", {}).get("rules") or []
    name = f"{RULE}{container}"
    rules = [rule for rule in there if rule.get("name") != name]
    if days:
        rules.append(_rule(name, container, days))
    if rules == there:
        return None
    if len(rules) > RULES_MAX:
        message = f"the lifecycle policy of the storage account has {RULES_MAX} rules, and takes no more"
        raise InvalidRequest(message, reason="COMBINATION", resource=container, hint="leave expire_days out")
    if not rules:
        return partial(azure.first, f"{action}/delete", policies.delete, *account, deadline=deadline)
    policy: Any = {"properties": {"policy": {"rules": rules}}}
    return partial(azure.first, f"{action}/write", policies.create_or_update, *account, policy, deadline=deadline)


def _rule(name: str, container: str, days: int) -> dict[str, Any]:
    return {
        "name": name,
        "type": "Lifecycle",
        "enabled": True,
        "definition": {
            "filters": {"blobTypes": ["blockBlob"], "prefixMatch": [f"{container}/"]},
            "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": days}}},
        },
    }


def _allowing(azure: Azure, origins: set[str], deadline: datetime) -> Change | None:
    account = (azure.settings.resource_group, azure.settings.storage_account)
    services = azure.storage.blob_services
    action = f"{ACCOUNT}/blobServices"
    there = azure.first(f"{action}/read", services.get_service_properties, *account, deadline=deadline).body
    properties: Mapping[str, Any] = there.get("properties", {})
    before: Sequence[Mapping[str, Any]] = properties.get("cors", {}).get("corsRules") or []
    rules = [rule for rule in before if MARK not in rule.get("exposedHeaders", ())]
    if origins:
        rules.append(
            {
                "allowedOrigins": sorted(origins), "allowedMethods": ["GET", "HEAD", "PUT"], "allowedHeaders": ["*"],
                "exposedHeaders": ["*", MARK], "maxAgeInSeconds": 3600,
            }
        )  # fmt: skip
    if rules == before:
        return None
    if len(rules) > CORS_MAX:
        hint = "make room for one rule, or leave cors_origins out"
        raise InvalidRequest(
            f"the storage account has {CORS_MAX} CORS rules, and takes no more", reason="COMBINATION", hint=hint
        )
    body: Any = {"properties": {**properties, "cors": {"corsRules": rules}}}
    return partial(azure.first, f"{action}/write", services.set_service_properties, *account, body, deadline=deadline)
