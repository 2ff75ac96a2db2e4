"""Cloud Storage as it is simulated: buckets by the JSON API, objects through obstore, signed URLs, conditions by prefix."""

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import obstore
import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Guard, ProjectHands, Timings
from anyscale_conformance.simulators.gcp.clients import client
from anyscale_conformance.simulators.gcp.lab import reason, refused
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import GCSStore

MINUTE = timedelta(minutes=1)
UNIFORM = {"iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}, "publicAccessPrevention": "enforced"}}


class World:
    """A simulator with a project, a bucket, and its owner's client."""

    def __init__(self, guard: Guard = Guard.TOKENS) -> None:
        self.simulator = GcpSimulator(guard=guard)
        self.project: ProjectHands = self.simulator.add_project("p-1", timings=Timings.none())
        self.storage = client(self.simulator, "storage", token=self.project.token())
        self.buckets = self.storage.buckets()
        self.buckets.insert(project="p-1", body={"name": "stock", "location": "us-central1", **UNIFORM}).execute()

    def store(self, member: str = "user:owner@example.com") -> GCSStore:
        """Return obstore's store of the bucket, for somebody."""
        token = self.project.token(member)
        return self._opened(credential_provider=lambda: {"token": token, "expires_at": None})

    def signing(self, email: str) -> GCSStore:
        """Return a store that signs tokens and URLs with a service account's own key."""
        return self._opened(service_account_key=json.dumps(self.project.key_file(email)))

    def anonymous(self) -> GCSStore:
        """Return a store of nobody's."""
        return self._opened(skip_signature=True)

    def _opened(self, **options: Any) -> GCSStore:
        return GCSStore(
            "stock",
            base_url=self.simulator.url,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
            **options,
        )


def carried_out(
    url: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Do what a browser would; return the status and the body."""
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    faults = list(world.simulator.faults)
    world.simulator.close()
    assert faults == []


def test_a_bucket_name_is_the_whole_clouds_and_a_full_bucket_stays(world: World) -> None:
    again = world.buckets.insert(project="p-1", body={"name": "stock"})
    assert (refused(again).status_code, reason(refused(again))) == (409, "conflict")
    assert "you already own it" in refused(again).reason
    world.simulator.add_project("p-2")
    assert "is not available" in refused(world.buckets.insert(project="p-2", body={"name": "stock"})).reason
    for wrong in (
        {"name": "Upper"},
        {"name": "ok-name", "location": "moon"},
        {"name": "ok-name", "labels": {"A": "b"}},
    ):
        assert refused(world.buckets.insert(project="p-1", body=wrong)).status_code == 400
    store = world.store()
    store.put("key", b"data")
    assert reason(refused(world.buckets.delete(bucket="stock"))) == "conflict"
    store.delete("key")
    world.buckets.delete(bucket="stock").execute()
    assert reason(refused(world.buckets.get(bucket="stock"))) == "notFound"


def test_a_bucket_is_changed_by_its_present_metageneration(world: World) -> None:
    rules = {"lifecycle": {"rule": [{"action": {"type": "Delete"}, "condition": {"age": 7}}]}, "labels": {"a": "b"}}
    changed = world.buckets.patch(bucket="stock", body=rules, ifMetagenerationMatch=1).execute()
    assert (changed["metageneration"], changed["labels"]) == ("2", {"a": "b"})
    error = refused(world.buckets.patch(bucket="stock", body=rules, ifMetagenerationMatch=1))
    assert (error.status_code, reason(error)) == (412, "conditionNotMet")
    assert "lifecycle" not in world.buckets.patch(bucket="stock", body={"lifecycle": None}).execute()
    names = [found["name"] for found in world.buckets.list(project="p-1", prefix="st").execute()["items"]]
    assert names == ["stock"]


def test_a_new_buckets_policy_lets_the_projects_people_in_and_nobody_else_where_that_is_prevented(world: World) -> None:
    policy = world.buckets.getIamPolicy(bucket="stock", optionsRequestedPolicyVersion=3).execute()
    roles = {binding["role"]: binding["members"] for binding in policy["bindings"]}
    assert roles["roles/storage.legacyBucketOwner"] == ["projectEditor:p-1", "projectOwner:p-1"]
    everybody = {"bindings": [{"role": "roles/storage.objectViewer", "members": ["allUsers"]}]}
    error = refused(world.buckets.setIamPolicy(bucket="stock", body=everybody))
    assert (error.status_code, reason(error)) == (412, "conditionNotMet")
    world.buckets.setIamPolicy(bucket="stock", body=policy).execute()
    assert refused(world.buckets.setIamPolicy(bucket="stock", body=policy)).status_code == 412, "its etag has passed"
    world.buckets.insert(project="p-1", body={"name": "old-fashioned"}).execute()
    condition = {"title": "t", "expression": "true"}
    conditional = {
        "version": 3,
        "bindings": [{**everybody["bindings"][0], "members": ["user:a@b.com"], "condition": condition}],
    }
    assert "uniform" in refused(world.buckets.setIamPolicy(bucket="old-fashioned", body=conditional)).reason


def test_obstore_puts_gets_lists_copies_and_deletes(world: World) -> None:
    store = world.store()
    put = store.put("dir/one", b"hello world", attributes={"Content-Type": "text/plain", "colour": "blue"})
    head = store.head("dir/one")
    assert (head["size"], head["e_tag"], head["version"]) == (11, put["e_tag"], put["version"])
    got = store.get("dir/one")
    assert (bytes(got.bytes()), got.attributes) == (b"hello world", {"Content-Type": "text/plain", "colour": "blue"})
    assert bytes(store.get_range("dir/one", start=6, end=11)) == b"world"
    assert bytes(store.get("dir/one", options={"range": {"suffix": 5}}).bytes()) == b"world"
    store.copy("dir/one", "dir/two")
    store.rename("dir/two", "dir/sub/three")
    listed = store.list_with_delimiter("dir/")
    assert ([item["path"] for item in listed["objects"]], listed["common_prefixes"]) == (["dir/one"], ["dir/sub"])
    for number in range(1100):
        world.project.put_object("stock", f"many/{number:04d}", b"x")
    assert [len(batch) for batch in store.list("many/", chunk_size=2000)] == [1100], "in pages of a thousand"
    store.delete(["dir/one", "dir/sub/three"])
    with pytest.raises(FileNotFoundError):
        store.get("dir/one")
    odd = "with space/ü+%.txt"
    store.put(odd, b"odd")
    assert bytes(store.get(odd).bytes()) == b"odd"
    assert world.storage.objects().get(bucket="stock", object=odd).execute()["size"] == "3"


def test_preconditions_hold_or_the_request_is_refused(world: World) -> None:
    store = world.store()
    first = store.put("key", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        store.put("key", b"2", mode="create")
    store.put("key", b"2", mode={"version": first["version"]})
    with pytest.raises(PreconditionError):
        store.put("key", b"3", mode={"version": first["version"]})
    with pytest.raises(PreconditionError):
        store.get("key", options={"if_match": "other"})
    with pytest.raises(AlreadyExistsError):
        store.copy("key", "key", overwrite=False)
    objects = world.storage.objects()
    error = refused(objects.delete(bucket="stock", object="key", ifGenerationMatch=1))
    assert (error.status_code, reason(error)) == (412, "conditionNotMet")
    assert bytes(store.get("key").bytes()) == b"2"


def test_a_large_object_travels_in_parts_and_an_unfinished_one_is_seen(world: World) -> None:
    store, data = world.store(), bytes(range(256)) * 4096 * 12
    store.put("large", data, chunk_size=5 * 1024 * 1024)
    assert hashlib.sha256(bytes(store.get("large").bytes())).digest() == hashlib.sha256(data).digest()
    assert [item for item in world.project.inventory() if item.kind == "uploads"] == []
    token = world.project.token()
    url = f"{world.simulator.url}/stock/half?uploads"
    status, _ = carried_out(url, method="POST", body=b"", headers={"Authorization": f"Bearer {token}"})
    assert status == 200
    assert [item.name for item in world.project.inventory() if item.kind == "uploads"] == ["stock/half"]


def test_a_digest_that_travels_along_notices_a_bad_line(world: World) -> None:
    store = world.store()
    store.put("key", b"good")
    world.project.damage("stock")
    assert bytes(store.get("key").bytes()) != b"good"
    assert bytes(store.get("key").bytes()) == b"good"
    world.project.damage("stock")
    digest = base64.b64encode(hashlib.md5(b"good", usedforsecurity=False).digest()).decode()
    headers = {"Authorization": f"Bearer {world.project.token()}", "Content-MD5": digest}
    status, text = carried_out(f"{world.simulator.url}/stock/other", method="PUT", body=b"good", headers=headers)
    assert (status, b"BadDigest" in text) == (400, True)


def test_rights_on_a_prefix_reach_no_further() -> None:
    world = World(Guard.PERMISSIONS)
    member = f"serviceAccount:{world.project.add_account('worker')}"
    prefix = "projects/_/buckets/stock/objects/mine/"
    listing = 'api.getAttribute("storage.googleapis.com/objectListPrefix", "").startsWith("mine/")'
    condition = {"title": "mine", "expression": f'resource.name.startsWith("{prefix}") || {listing}'}
    policy = world.buckets.getIamPolicy(bucket="stock", optionsRequestedPolicyVersion=3).execute()
    policy["bindings"].append({"role": "roles/storage.objectUser", "members": [member], "condition": condition})
    world.buckets.setIamPolicy(bucket="stock", body={**policy, "version": 3}).execute()
    store = world.store(member)
    store.put("mine/a", b"1")
    assert bytes(store.get("mine/a").bytes()) == b"1"
    assert [item["path"] for batch in store.list("mine/") for item in batch] == ["mine/a"]
    store.delete("mine/a")
    for call in (
        lambda: store.put("theirs/a", b"1"), lambda: store.get("theirs/a"), lambda: store.put("mine", b"1"),
        lambda: list(store.list("theirs/")), lambda: list(store.list()),
    ):  # fmt: skip
        with pytest.raises(BaseError, match=r"does not have storage\.objects"):
            call()
    assert world.project.may(member, "storage.objects.get", "stock", "mine/x")
    assert not world.project.may(member, "storage.objects.get", "stock", "minemine")
    world.simulator.close()
    assert world.simulator.faults == []


def test_who_is_nobody_sees_a_public_bucket_alone(world: World) -> None:
    world.store().put("key", b"1")
    assert carried_out(f"{world.simulator.url}/stock/key")[0] == 401
    world.buckets.insert(project="p-1", body={"name": "open-to-all"}).execute()
    world.project.bind("b/open-to-all", "roles/storage.objectViewer", "allUsers")
    world.project.put_object("open-to-all", "key", b"for you")
    assert carried_out(f"{world.simulator.url}/open-to-all/key") == (200, b"for you")
    with pytest.raises(UnauthenticatedError):
        world.anonymous().get("key")


def test_a_signed_url_is_good_for_one_method_on_one_object_for_a_while() -> None:
    world = World(Guard.PERMISSIONS)
    email = world.project.add_account("worker")
    world.project.bind("b/stock", "roles/storage.objectUser", f"serviceAccount:{email}")
    store = world.signing(email)
    store.put("key", b"hello")  # with a token that the account signed itself
    url = obstore.sign(store, "GET", "key", MINUTE)
    assert carried_out(url) == (200, b"hello")
    for changed, code in (
        (url.replace("/stock/key", "/stock/other"), b"SignatureDoesNotMatch"),
        (url.replace("Expires=60", "Expires=600"), b"SignatureDoesNotMatch"),
        (url.replace("Expires=60", "Expires=6000000"), b"InvalidQueryParameterValue"),
        (url.replace("GOOG4-RSA-SHA256", "NONE"), b"InvalidQueryParameterValue"),
    ):
        status, text = carried_out(changed)
        assert (status in (400, 403), code in text) == (True, True), changed
    assert carried_out(url, method="PUT", body=b"x")[0] == 403
    assert carried_out(url, headers={"x-goog-meta-a": "b"})[0] == 400, "a header of Google's has to be signed"
    put = obstore.sign(store, "PUT", "made", MINUTE)
    assert carried_out(put, method="PUT", body=b"made")[0] == 200
    assert bytes(store.get("made").bytes()) == b"made"
    signer = world.project.add_account("nobody")
    assert carried_out(obstore.sign(world.signing(signer), "GET", "key", MINUTE))[0] == 403, "its signer may not"
    with pytest.raises(PermissionDeniedError):
        world.signing(signer).get("key")
    world.simulator.close()
    assert world.simulator.faults == []


def test_a_page_of_another_origin_reads_what_the_buckets_cors_rules_allow(world: World) -> None:
    rule = {"origin": ["https://console.example.com"], "method": ["GET"], "responseHeader": ["Content-Type"]}
    world.buckets.patch(bucket="stock", body={"cors": [rule]}).execute()
    headers = {"Origin": "https://console.example.com", "Access-Control-Request-Method": "GET"}
    request = urllib.request.Request(f"{world.simulator.url}/stock/key", method="OPTIONS", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "https://console.example.com"
    headers["Origin"] = "https://evil.example.com"
    request = urllib.request.Request(f"{world.simulator.url}/stock/key", method="OPTIONS", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] is None


def test_objects_are_there_for_the_json_api_as_well(world: World) -> None:
    token = world.project.token()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
    upload = f"{world.simulator.url}/upload/storage/v1/b/stock/o"
    status, text = carried_out(f"{upload}?uploadType=media&name=a%2Fb", method="POST", body=b"hello", headers=headers)
    assert (status, json.loads(text)["contentType"]) == (200, "text/plain")
    related = b'--x\r\nContent-Type: application/json\r\n\r\n{"name": "c", "metadata": {"k": "v"}}\r\n--x\r\n'
    related += b"Content-Type: image/png\r\n\r\n\x00\r\n\xff\r\n--x--"
    headers["Content-Type"] = "multipart/related; boundary=x"
    assert (
        carried_out(f"{upload}?uploadType=multipart&ifGenerationMatch=0", method="POST", body=related, headers=headers)[
            0
        ]
        == 200
    )
    assert (
        carried_out(f"{upload}?uploadType=multipart&ifGenerationMatch=0", method="POST", body=related, headers=headers)[
            0
        ]
        == 412
    )
    assert bytes(world.store().get("c").bytes()) == b"\x00\r\n\xff"
    objects = world.storage.objects()
    assert objects.get_media(bucket="stock", object="a/b").execute() == b"hello"
    listed = objects.list(bucket="stock", delimiter="/").execute()
    assert (listed["prefixes"], [item["name"] for item in listed["items"]]) == (["a/"], ["c"])
    rewritten = objects.rewrite(
        sourceBucket="stock", sourceObject="c", destinationBucket="stock", destinationObject="d", body={}
    ).execute()  # fmt: skip
    assert (rewritten["done"], rewritten["resource"]["metadata"]) == (True, {"k": "v"})
    objects.delete(bucket="stock", object="c").execute()
    assert reason(refused(objects.get(bucket="stock", object="c"))) == "notFound"


def test_what_is_older_than_the_buckets_rule_is_gone(world: World) -> None:
    rule = {"action": {"type": "Delete"}, "condition": {"age": 0, "matchesPrefix": ["tmp/"]}}
    world.buckets.patch(bucket="stock", body={"lifecycle": {"rule": [rule]}}).execute()
    store = world.store()
    store.put("tmp/a", b"1")
    store.put("kept", b"1")
    assert [item["path"] for batch in store.list() for item in batch] == ["kept"]
