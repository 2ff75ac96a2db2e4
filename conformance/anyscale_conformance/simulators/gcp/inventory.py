"""Everything that is in a project: what an oracle looks at instead of asking the API."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from anyscale_conformance.simulators.gcp.gcs import store
from anyscale_conformance.simulators.gcp.world import Project

GOODS = frozenset({"acceleratorTypes", "images", "machineTypes", "operations", "regions", "zones"})
"""Collections that hold what the cloud offers or remembers, not what somebody has made."""


@attrs.frozen(kw_only=True)
class Seen:
    """One thing. ``kind``: the API's name of the collection (``instances``, ``serviceAccounts``, ``buckets``, ``objects``).

    Members of policies are of the kind ``bindings``: ``name`` is the policy's resource (a service account's address,
    ``b/BUCKET``, empty for the project), ``body`` has ``role``, ``member`` and, if there is one, ``condition``. Unfinished
    ``uploads`` are named as ``objects`` are, ``BUCKET/KEY``.
    """

    kind: str
    name: str
    id: str
    scope: str = ""
    body: Mapping[str, Any] = attrs.field(factory=dict)


def inventory(project: Project) -> Iterator[Seen]:
    """Yield everything, whoever made it and however lists lag."""
    for collection in sorted(set(project.things) - GOODS):
        for thing in project.all(collection):
            yield Seen(kind=collection, name=thing.name, id=thing.body["id"], scope=thing.scope, body=thing.body)
    for email, account in sorted(project.accounts.items()):
        yield Seen(kind="serviceAccounts", name=email, id=account["uniqueId"], body=account)
    for id, role in sorted(project.roles.items()):
        yield Seen(kind="roles", name=id, id=role["name"], body=role)
    for name, pool in sorted(project.pools.items()):
        if pool["state"] != "DELETED":
            kind = "workloadIdentityPoolProviders" if "/providers/" in name else "workloadIdentityPools"
            yield Seen(kind=kind, name=name.rpartition("/")[2], id=name, body=pool)
    for name, bucket in sorted(project.buckets.items()):
        yield Seen(kind="buckets", name=name, id=name, body=bucket.body)
        for key in sorted(bucket.objects):
            if store.find(project, bucket, key) is not None:
                blob = bucket.objects[key]
                yield Seen(
                    kind="objects",
                    name=f"{name}/{key}",
                    id=str(blob.generation),
                    body={"size": len(blob.data), "md5": blob.md5},
                )
        for upload in bucket.uploads.values():
            yield Seen(kind="uploads", name=f"{name}/{upload.name}", id=upload.id)
    for resource, policy in sorted(project.policies.items()):
        for binding in policy.get("bindings", ()):
            for member in binding["members"]:
                body = {key: value for key, value in binding.items() if key != "members"} | {"member": member}
                yield Seen(kind="bindings", name=resource, id=f"{resource} {binding['role']} {member}", body=body)
    for name, cluster in sorted(project.clusters.items()):
        yield Seen(kind="clusters", name=cluster["name"], id=name, body=cluster)
