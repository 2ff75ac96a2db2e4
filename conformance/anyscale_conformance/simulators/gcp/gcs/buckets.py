"""Buckets, by the JSON API. Their names are the whole cloud's."""

import re
from datetime import timedelta

from anyscale_conformance.simulators.gcp import policies
from anyscale_conformance.simulators.gcp.answers import paged, zulu
from anyscale_conformance.simulators.gcp.calls import Call, handles, merged
from anyscale_conformance.simulators.gcp.catalogue import ZONES
from anyscale_conformance.simulators.gcp.compute import common
from anyscale_conformance.simulators.gcp.errors import ApiError
from anyscale_conformance.simulators.gcp.gcs.store import policy_key
from anyscale_conformance.simulators.gcp.schema import Json
from anyscale_conformance.simulators.gcp.world import Bucket

NAME = re.compile(r"(?!goog)(?!.*google)[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]")
LOCATIONS = {"US", "EU", "ASIA", *(region.upper() for region in ZONES), "US-WEST1", "EUROPE-WEST1", "ASIA-EAST1"}
CLASSES = frozenset(
    {"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"}
)
FIXED = frozenset(
    {"kind", "id", "name", "projectNumber", "selfLink", "timeCreated", "metageneration", "etag", "location"}
)
EVERYBODY = frozenset({"allUsers", "allAuthenticatedUsers"})


@handles("storage.buckets.insert")
def insert(call: Call) -> Json:
    """Make a bucket; its first policy gives the project's owners, editors and viewers their old rights."""
    name = str(call.body.get("name", ""))
    if not NAME.fullmatch(name):
        raise ApiError(400, "invalid", f"Invalid bucket name: '{name}'")
    if home := call.cloud.home_of(name):
        message = "Your previous request to create the named bucket succeeded and you already own it."
        if home != call.project.id:
            message = (
                "The requested bucket name is not available. The bucket namespace is shared by all users of the system. "
                "Please select a different name and try again."
            )
        raise ApiError(409, "conflict", message)
    location = str(call.body.get("location", "US")).upper()
    if location not in LOCATIONS:
        raise ApiError(400, "invalid", "The specified location constraint is not valid.")
    at = zulu(call.project.now)
    access: Json = {"publicAccessPrevention": "inherited", "uniformBucketLevelAccess": {"enabled": False}}
    body: Json = {
        "storageClass": "STANDARD", **call.body, "kind": "storage#bucket", "id": name, "name": name, "location": location,
        "locationType": "multi-region" if "-" not in location else "region", "projectNumber": str(call.project.number),
        "selfLink": f"https://www.googleapis.com/storage/v1/b/{name}", "timeCreated": at, "updated": at,
        "metageneration": "1", "etag": "CAE=", "iamConfiguration": merged(access, call.body.get("iamConfiguration", {})),
        "softDeletePolicy": {"retentionDurationSeconds": "604800", "effectiveTime": at, **call.body.get("softDeletePolicy", {})},
    }  # fmt: skip
    bucket = Bucket(name=name, body=_checked(body))
    if "predefinedAcl" in call.params and _is_uniform(bucket):
        raise ApiError(
            400, "invalid", "Cannot use ACL API to set bucket policy when uniform bucket-level access is enabled."
        )
    call.project.buckets[name] = bucket
    people = {kind: f"project{kind.capitalize()}:{call.project.id}" for kind in ("editor", "owner", "viewer")}
    roles = ["legacyBucket", "legacyObject"] if _is_uniform(bucket) else ["legacyBucket"]
    bindings = [
        {"role": f"roles/storage.{role}{word}", "members": members}
        for role in roles
        for word, members in (("Owner", [people["editor"], people["owner"]]), ("Reader", [people["viewer"]]))
    ]
    policies.write(call.cloud, call.project, policy_key(name), {"bindings": bindings}, api="storage")
    return body


@handles("storage.buckets.get")
def get(call: Call) -> Json:
    """Answer with a bucket."""
    bucket = call.project.buckets[call.params["bucket"]]
    _must_match(call, bucket)
    return bucket.body


@handles("storage.buckets.list")
def list_buckets(call: Call) -> Json:
    """Answer with the buckets of a project."""
    before, prefix = call.project.now - call.project.lag, call.params.get("prefix", "")
    found = [
        bucket.body
        for name, bucket in sorted(call.project.buckets.items())
        if name.startswith(prefix) and (call.project.lag == timedelta() or bucket.body["timeCreated"] <= zulu(before))
    ]
    return {"kind": "storage#buckets", **paged(call, "items", found, size="maxResults", default=1000)}


@handles("storage.buckets.patch", "storage.buckets.update")
def patch(call: Call) -> Json:
    """Change a bucket; an update replaces everything that can be changed."""
    bucket = call.project.buckets[call.params["bucket"]]
    _must_match(call, bucket)
    old = bucket.body
    if call.method.id.endswith("update"):
        old = {key: value for key, value in old.items() if key in FIXED or key in ("iamConfiguration", "locationType")}
    changed = merged(old, {key: value for key, value in call.body.items() if key not in FIXED})
    metageneration = str(int(bucket.body["metageneration"]) + 1)
    changed |= {"metageneration": metageneration, "etag": f"CA{metageneration}=", "updated": zulu(call.project.now)}
    bucket.body = _checked(changed)
    return bucket.body


@handles("storage.buckets.delete")
def delete(call: Call) -> None:
    """Delete an empty bucket; unfinished uploads go with it."""
    bucket = call.project.buckets[call.params["bucket"]]
    _must_match(call, bucket)
    if bucket.objects:
        raise ApiError(409, "conflict", "The bucket you tried to delete is not empty.")
    del call.project.buckets[bucket.name]
    call.project.policies.pop(policy_key(bucket.name), None)


@handles("storage.buckets.getIamPolicy")
def get_policy(call: Call) -> Json:
    """Answer with who may do what to a bucket."""
    name = call.params["bucket"]
    version = call.number("optionsRequestedPolicyVersion", 1)
    return _shown(name, policies.read(call.project, policy_key(name), version=version))


@handles("storage.buckets.setIamPolicy")
def set_policy(call: Call) -> Json:
    """Replace who may do what to a bucket. Raises 412 for everybody where public access is prevented."""
    bucket = call.project.buckets[call.params["bucket"]]
    bindings = call.body.get("bindings", [])
    if bucket.body["iamConfiguration"]["publicAccessPrevention"] == "enforced" and any(
        EVERYBODY & set(binding.get("members", [])) for binding in bindings
    ):
        message = "The member bindings allUsers and allAuthenticatedUsers are not allowed"
        raise ApiError(412, "conditionNotMet", f"{message} since public access prevention is enforced.")
    if any("condition" in binding for binding in bindings) and not _is_uniform(bucket):
        message = "Cannot use conditional role bindings when uniform bucket-level access is not enabled."
        raise ApiError(412, "conditionNotMet", message)
    policy = policies.write(call.cloud, call.project, policy_key(bucket.name), call.body, api="storage")
    return _shown(bucket.name, policy)


@handles("storage.buckets.testIamPermissions")
def test(call: Call) -> Json:
    """Answer with those of some permissions on a bucket that the caller has."""
    asked = call.many.get("permissions", [call.params.get("permissions", "")])
    key = policy_key(call.params["bucket"])
    found = [word for word in asked if policies.permitted(call.cloud, call.caller, word, call.project, [key])]
    return {"kind": "storage#testIamPermissionsResponse"} | ({"permissions": found} if found else {})


def _shown(name: str, policy: Json) -> Json:
    return {"kind": "storage#policy", "resourceId": f"projects/_/buckets/{name}", **policy}


def _is_uniform(bucket: Bucket) -> bool:
    return bool(bucket.body["iamConfiguration"]["uniformBucketLevelAccess"].get("enabled"))


def _must_match(call: Call, bucket: Bucket) -> None:
    wanted = call.params.get("ifMetagenerationMatch")
    if wanted is not None and wanted != bucket.body["metageneration"]:
        raise ApiError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


def _checked(body: Json) -> Json:
    """Return a bucket as it is kept. Raises 400."""
    common.check_labels(body.get("labels", {}), "labels")
    if body["storageClass"] not in CLASSES:
        raise ApiError(400, "invalid", f"Invalid argument: storage class '{body['storageClass']}'.")
    if body["iamConfiguration"]["publicAccessPrevention"] not in ("inherited", "enforced", "unspecified"):
        raise ApiError(400, "invalid", "Invalid argument: publicAccessPrevention.")
    for rule in body.get("lifecycle", {}).get("rule", []):
        if rule.get("action", {}).get("type") not in ("Delete", "SetStorageClass", "AbortIncompleteMultipartUpload"):
            raise ApiError(400, "invalid", "A lifecycle management rule's action is not valid.")
        if not rule.get("condition"):
            raise ApiError(400, "invalid", "A lifecycle management rule must have at least one condition.")
    return body
