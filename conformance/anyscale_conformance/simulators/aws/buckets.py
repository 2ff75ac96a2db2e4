"""S3: bucket tags in the creating call, policies that know TLS, private from the first moment, and who may read what.

Source: S3 API Reference (CreateBucket, PutBucketPolicy) and User Guide, "Blocking public access": since April 2023 all new
buckets have it on.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import attrs
from moto.s3.models import PublicAccessBlock as PublicAccessBlock
from moto.s3.models import s3_backends

from anyscale_conformance.simulators.aws import policies
from anyscale_conformance.simulators.aws.accounts import Account
from anyscale_conformance.simulators.aws.signing import Refusal
from anyscale_conformance.simulators.aws.wire import Answer, node

if TYPE_CHECKING:
    from anyscale_conformance.simulators.aws.app import AwsSimulator, Exchange

SUBRESOURCES = {
    "tagging": "BucketTagging", "policy": "BucketPolicy", "publicAccessBlock": "PublicAccessBlock",
    "lifecycle": "BucketLifecycleConfiguration", "cors": "BucketCors", "encryption": "BucketEncryption",
    "location": "BucketLocation", "versioning": "BucketVersioning", "policyStatus": "BucketPolicyStatus",
}  # fmt: skip
PERMISSIONS = {
    "ListObjectsV2": "s3:ListBucket", "ListObjects": "s3:ListBucket", "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject", "CopyObject": "s3:PutObject", "DeleteObjects": "s3:DeleteObject",
    "CreateMultipartUpload": "s3:PutObject", "UploadPart": "s3:PutObject", "CompleteMultipartUpload": "s3:PutObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads", "ListBuckets": "s3:ListAllMyBuckets",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock", "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "GetBucketCors": "s3:GetBucketCORS", "PutBucketCors": "s3:PutBucketCORS",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration", "PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "ListParts": "s3:ListMultipartUploadParts", "DeleteBucketTagging": "s3:PutBucketTagging",
    "DeleteBucketCors": "s3:PutBucketCORS", "DeleteBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "DeletePublicAccessBlock": "s3:PutBucketPublicAccessBlock", "DeleteBucketEncryption": "s3:PutEncryptionConfiguration",
}  # fmt: skip
"""Operations whose permission has another name (Service Authorization Reference, "Actions for S3")."""


def action(environ: Mapping[str, Any]) -> str:
    """Return the operation that a request of S3's REST protocol is."""
    bucket, key = place(environ)
    method = environ["REQUEST_METHOD"]
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    verb = method.title()
    if not bucket:
        return "ListBuckets"
    if key:
        if "uploads" in query:
            return "CreateMultipartUpload"
        if "uploadId" in query:
            return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}.get(
                method, "ListParts"
            )
        return "CopyObject" if method == "PUT" and environ.get("HTTP_X_AMZ_COPY_SOURCE") else f"{verb}Object"
    for name, kind in SUBRESOURCES.items():
        if name in query:
            return f"{verb}{kind}"
    if "uploads" in query:
        return "ListMultipartUploads"
    if method == "POST":
        return "DeleteObjects"
    return {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}.get(
        method, "ListObjectsV2" if query.get("list-type") == "2" else "ListObjects"
    )


def place(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return bucket and key of a request in path style."""
    path = environ["PATH_INFO"].encode("latin-1", errors="replace").decode(errors="replace")
    bucket, _, key = path.lstrip("/").partition("/")
    return bucket, key


def account_of(simulator: "AwsSimulator", path: str) -> Account | None:
    """Return whose a bucket is."""
    found = s3_backends.bucket_accounts.get(path.lstrip("/").partition("/")[0])
    return None if found is None else simulator.accounts.get(found[1])


def check_access(exchange: "Exchange") -> None:
    """Refuse what neither the caller's policies nor the bucket's let through."""
    key, environ = exchange.key, exchange.environ
    bucket, name = place(environ)
    owner = account_of(exchange.simulator, environ["PATH_INFO"])
    denied = Refusal("AccessDenied", "Access Denied", status=403)
    if key is None:
        raise denied
    documents = exchange.account.binding(key)
    if owner is not None and owner.id != key.account and exchange.action != "CreateBucket":
        raise denied
    if exchange.action == "DeleteObjects":
        return  # each key is asked for by itself
    operations = [exchange.action]
    if exchange.action == "CreateBucket" and _wanted(exchange.body)[1]:
        operations.append("TagResource")
    for operation in operations:
        asked = (operation, bucket, name, environ)
        scoped = key.scope is None or may(owner or exchange.account, [key.scope], *asked)
        if not scoped or not may(owner or exchange.account, documents, *asked, principal=key.principal):
            raise Refusal(
                "AccessDenied",
                f"User: {key.principal} is not authorized to perform: {permission_of(operation)} on resource: "
                f"arn:aws:s3:::{bucket}",
                status=403,
            )


def may(
    account: Account, documents: list[Any] | None, operation: str, bucket: str, key: str, environ: Mapping[str, Any],
    *, principal: str = "",
) -> bool:  # fmt: skip
    """Tell whether these policies and the bucket's own allow an operation; None are an administrator's."""
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    arn = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
    context = {"aws:SecureTransport": "true", "s3:prefix": query.get("prefix", ""), "aws:PrincipalArn": principal}
    context["aws:ResourceAccount"] = account.id
    found = account.s3.buckets.get(bucket)
    own = [json.loads(found.own_policy)] if found is not None and getattr(found, "own_policy", None) else []
    wanted = permission_of(operation)
    denied = any(
        policies.allows([_as_allow(document)], action=wanted, resource=arn, context=context) for document in own
    )
    if denied:
        return False
    return documents is None or policies.allows(documents, action=wanted, resource=arn, context=context)


def _as_allow(document: Any) -> Mapping[str, Any]:
    """Return what a document denies, as if it allowed it: to ask whether it does."""
    denials = [statement for statement in document["Statement"] if statement["Effect"] == "Deny"]
    return {"Statement": [{**statement, "Effect": "Allow"} for statement in denials]}


def permission_of(operation: str) -> str:
    """Return the permission that an operation needs."""
    return PERMISSIONS.get(operation, f"s3:{operation}")


def create(exchange: "Exchange") -> Answer:
    """Answer CreateBucket: with tags, and closed to the public."""
    account = exchange.account
    name, _ = place(exchange.environ)
    if not re.fullmatch(r"(?!xn--)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
        raise Refusal("InvalidBucketName", "The specified bucket is not valid.")
    taken = s3_backends.bucket_accounts.get(name)
    if taken is not None and taken[1] == account.id:
        if account.region == "us-east-1":
            return Answer(headers={"location": f"/{name}"})
        raise Refusal(
            "BucketAlreadyOwnedByYou",
            "Your previous request to create the named bucket succeeded and you already own it.",
            status=409,
        )
    if taken is not None:
        raise Refusal("BucketAlreadyExists", "The requested bucket name is not available.", status=409)
    region, tags = _wanted(exchange.body)
    if (region or "us-east-1") != account.region:
        raise Refusal(
            "IllegalLocationConstraintException",
            "The location constraint is incompatible for the region specific endpoint this request was sent to.",
        )
    bucket = account.s3.create_bucket(name, account.region)
    bucket.creation_date = account.clock.now()
    bucket.public_access_block = PublicAccessBlock("true", "true", "true", "true")
    if tags:
        account.s3.tagger.tag_resource(bucket.arn, [{"Key": key, "Value": value} for key, value in tags.items()])
    return Answer(headers={"location": f"http://{name}.s3.amazonaws.com/"})


def _wanted(body: bytes) -> tuple[str, dict[str, str]]:
    if not body.strip():
        return "", {}
    root = ET.fromstring(body)
    found = {re.sub(r"\{.*\}", "", element.tag): element for element in root}
    region = found["LocationConstraint"].text or "" if "LocationConstraint" in found else ""
    tags: dict[str, str] = {}
    for tag in found.get("Tags", ()):
        parts = {re.sub(r"\{.*\}", "", each.tag): each.text or "" for each in tag}
        tags[parts["Key"]] = parts.get("Value", "")
    return region, tags


def delete_objects(exchange: "Exchange") -> Answer:
    """Answer DeleteObjects: what may not be deleted is told key by key, and the rest goes."""
    account, key = exchange.account, exchange.key
    if key is None:
        raise Refusal("AccessDenied", "Access Denied", status=403)
    bucket, _ = place(exchange.environ)
    documents, root = account.binding(key), ET.fromstring(exchange.body)
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]
    refused: list[str] = []
    for element in root.findall("Object"):
        name = element.findtext("Key", "")
        asked = ("DeleteObject", bucket, name, exchange.environ)
        scoped = key.scope is None or may(account, [key.scope], *asked)
        if not scoped or not may(account, documents, *asked, principal=key.principal):
            root.remove(element)
            refused.append(name)
    nothing = Answer(headers={"content-type": "application/xml"}, body=b"<DeleteResult></DeleteResult>")
    answer = exchange.inner(body=ET.tostring(root)) if root.find("Object") is not None else nothing
    message = f"User: {key.principal} is not authorized to perform: s3:DeleteObject"
    told = "".join(node("Error", Key=name, Code="AccessDenied", Message=message) for name in refused)
    return attrs.evolve(answer, body=answer.body.replace(b"</DeleteResult>", f"{told}</DeleteResult>".encode()))


def put_policy(exchange: "Exchange") -> Answer:
    """Answer PutBucketPolicy. moto would read it without its conditions, so it is kept beside."""
    bucket = _bucket(exchange)
    document = json.loads(exchange.body)
    public = any(
        statement["Effect"] == "Allow"
        and statement.get("Principal") in ("*", {"AWS": "*"})
        and not statement.get("Condition")
        for statement in document["Statement"]
    )
    if public and bucket.public_access_block is not None and bucket.public_access_block.block_public_policy:
        raise Refusal(
            "AccessDenied", "User is not authorized: public policies are blocked by BlockPublicPolicy", status=403
        )
    bucket.own_policy = exchange.body.decode()
    return Answer(status=204)


def get_policy(exchange: "Exchange") -> Answer:
    """Answer GetBucketPolicy."""
    found = getattr(_bucket(exchange), "own_policy", None)
    if not found:
        raise Refusal("NoSuchBucketPolicy", "The bucket policy does not exist", status=404)
    return Answer(headers={"content-type": "application/json"}, body=found.encode())


def _bucket(exchange: "Exchange") -> Any:
    name, _ = place(exchange.environ)
    found = exchange.account.s3.buckets.get(name)
    if found is None:
        raise Refusal("NoSuchBucket", "The specified bucket does not exist", status=404)
    return found


HANDLERS = {
    ("s3", "CreateBucket"): create,
    ("s3", "DeleteObjects"): delete_objects,
    ("s3", "PutBucketPolicy"): put_policy,
    ("s3", "GetBucketPolicy"): get_policy,
}
