"""Identities of the simulated Google Cloud: service accounts, policies, federation that is really verified, tokens."""

import base64
import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Guard, ProjectHands, Timings
from anyscale_conformance.simulators.gcp.clients import client
from anyscale_conformance.simulators.gcp.keys import keys_of
from anyscale_conformance.simulators.gcp.lab import reason, refused
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from google.auth import identity_pool
from google.auth.exceptions import OAuthError, RefreshError
from google.auth.transport.requests import Request
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from anyscale_core.clock import SystemClock
from anyscale_core.testing.clock import ManualClock

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
KEY = RSAKey.generate_key(2048)
HOUR = timedelta(hours=1)


class World:
    """A simulator with a project, its owner's clients, and a service account ``worker``."""

    def __init__(self, clock: ManualClock | SystemClock, guard: Guard = Guard.TOKENS) -> None:
        self.simulator = GcpSimulator(guard=guard)
        self.clock = clock
        self.project: ProjectHands = self.simulator.add_project("p-1", clock=clock, timings=Timings.none())
        self.token = self.project.token(lifetime=timedelta(days=9))
        iam = client(self.simulator, "iam", token=self.token).projects()
        self.accounts = iam.serviceAccounts()
        self.pools = iam.locations().workloadIdentityPools()
        self.roles = iam.roles()
        self.worker = self.accounts.create(name="projects/p-1", body={"accountId": "worker"}).execute()
        self.pool = f"projects/{self.project.number}/locations/global/workloadIdentityPools/planes"

    def federate(self, issuer: str, **oidc: Any) -> str:
        """Let tokens of an issuer be exchanged; return the audience."""
        parent = f"projects/{self.project.number}/locations/global"
        self.pools.create(parent=parent, workloadIdentityPoolId="planes", body={}).execute()
        body = {
            "attributeMapping": {
                "google.subject": "assertion.sub", "attribute.cloud": "assertion.cloud", "google.groups": "assertion.groups",
            },
            "attributeCondition": "assertion.cloud.startsWith('prod-') || 'admins' in google.groups",
            "oidc": {"issuerUri": issuer, **oidc},
        }  # fmt: skip
        create = self.pools.providers().create(parent=self.pool, workloadIdentityPoolProviderId="plane", body=body)
        assert create.execute()["done"] is True
        return f"//iam.googleapis.com/{self.pool}/providers/plane"

    def signed(self, audience: str, *, key: RSAKey = KEY, **claims: Any) -> str:
        """Return a token of the issuer."""
        now = int(self.clock.now().timestamp())
        plain = {
            "iss": "https://plane.example.com", "sub": "system:plane", "aud": audience, "iat": now, "exp": now + 600,
            "cloud": "prod-eu", "groups": ["ops"], **claims,
        }  # fmt: skip
        return jwt.encode({"alg": "RS256", "kid": KEY.kid or KEY.thumbprint()}, plain, key)

    def exchange(self, audience: str, token: str, **more: str) -> Any:
        """Exchange a token as a client of OAuth does."""
        body = {
            "grantType": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": audience, "scope": SCOPE,
            "requestedTokenType": "urn:ietf:params:oauth:token-type:access_token", "subjectToken": token,
            "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt", **more,
        }  # fmt: skip
        return client(self.simulator, "sts", token=self.token).v1().token(body=body)


def jwks(key: RSAKey = KEY) -> str:
    return json.dumps(KeySet([key]).as_dict(private=False))


@pytest.fixture
def world() -> Iterator[World]:
    world = World(ManualClock())
    yield world
    faults = list(world.simulator.faults)
    world.simulator.close()
    assert faults == []


def test_a_service_account_is_made_changed_disabled_and_deleted(world: World) -> None:
    name = world.worker["name"]
    assert world.worker["email"] == "worker@p-1.iam.gserviceaccount.com"
    assert reason(refused(world.accounts.create(name="projects/p-1", body={"accountId": "worker"}))) == "alreadyExists"
    assert refused(world.accounts.create(name="projects/p-1", body={"accountId": "x"})).status_code == 400
    patch = {"serviceAccount": {"description": "of plane 1"}, "updateMask": "description"}
    assert world.accounts.patch(name=name, body=patch).execute()["description"] == "of plane 1"
    world.accounts.disable(name=name).execute()
    assert world.accounts.get(name=name).execute()["disabled"] is True
    world.accounts.enable(name=name, body={}).execute()
    world.accounts.delete(name=name).execute()
    assert reason(refused(world.accounts.get(name=name))) == "notFound"
    undelete = world.accounts.undelete(name=f"projects/p-1/serviceAccounts/{world.worker['uniqueId']}", body={})
    assert undelete.execute()["restoredAccount"]["email"] == world.worker["email"]


def test_service_accounts_are_listed_in_pages_and_limited(world: World) -> None:
    for number in range(24):
        world.project.add_account(f"account-{number:02d}")
    request, found = world.accounts.list(name="projects/p-1"), []
    while request is not None:
        page = request.execute()
        assert len(page["accounts"]) <= 20
        found += page["accounts"]
        request = world.accounts.list_next(request, page)
    assert len(found) == 25
    world.project.limit("SERVICE_ACCOUNTS", 25)
    assert refused(world.accounts.create(name="projects/p-1", body={"accountId": "one-more"})).status_code == 429


def test_a_policy_is_written_by_its_present_etag(world: World) -> None:
    name = world.worker["name"]
    policy = world.accounts.getIamPolicy(resource=name).execute()
    policy["bindings"] = [
        {"role": "roles/iam.serviceAccountUser", "members": ["user:ada@example.com", "user:ada@example.com"]}
    ]
    written = world.accounts.setIamPolicy(resource=name, body={"policy": policy}).execute()
    assert written["bindings"][0]["members"] == ["user:ada@example.com"]
    error = refused(world.accounts.setIamPolicy(resource=name, body={"policy": policy}))
    assert (error.status_code, reason(error)) == (409, "aborted")
    assert "concurrent policy changes" in error.reason
    del policy["etag"]
    world.accounts.setIamPolicy(resource=name, body={"policy": policy}).execute()


def test_a_condition_needs_version_three_and_is_hidden_from_who_asks_for_less(world: World) -> None:
    name = world.worker["name"]
    condition = {"title": "until", "expression": 'request.time < timestamp("2026-01-02T00:00:00Z")'}
    binding = {
        "role": "roles/iam.serviceAccountTokenCreator",
        "members": ["user:ada@example.com"],
        "condition": condition,
    }
    body = {"policy": {"bindings": [binding]}}
    assert "version" in refused(world.accounts.setIamPolicy(resource=name, body=body)).reason
    body["policy"]["version"] = 3  # type: ignore[assignment]
    world.accounts.setIamPolicy(resource=name, body=body).execute()
    old = world.accounts.getIamPolicy(resource=name).execute()
    assert "condition" not in old["bindings"][0]
    assert old["bindings"][0]["role"].startswith("roles/iam.serviceAccountTokenCreator_withcond_")
    assert (
        refused(world.accounts.setIamPolicy(resource=name, body={"policy": {**old, "bindings": []}})).status_code == 400
    )
    new = world.accounts.getIamPolicy(resource=name, options_requestedPolicyVersion=3).execute()
    assert new["bindings"][0]["condition"] == condition
    for wrong in ({"title": "x", "expression": "request.time <"}, {"expression": "true"}):
        body["policy"]["bindings"] = [{**binding, "condition": wrong}]
        assert refused(world.accounts.setIamPolicy(resource=name, body=body)).status_code == 400


def test_conditions_are_limited_in_length_and_number(world: World) -> None:
    member = {"role": "roles/iam.serviceAccountUser", "members": ["user:ada@example.com"]}

    def write(*expressions: str) -> Any:
        bindings = [{**member, "condition": {"title": "t", "expression": text}} for text in expressions]
        body = {"policy": {"version": 3, "bindings": bindings}}
        return world.accounts.setIamPolicy(resource=world.worker["name"], body=body)

    part = 'resource.name.startsWith("a")'
    write(" || ".join([part] * 13)).execute()
    assert "logical operators" in refused(write(" || ".join([part] * 14))).reason
    write(*(f'resource.name == "{number}"' for number in range(20))).execute()
    assert "same principal" in refused(write(*(f'resource.name == "{number}"' for number in range(21)))).reason


@pytest.mark.parametrize(
    "member",
    ["ada@example.com", "serviceAccount:nobody@p-1.iam.gserviceaccount.com", "principal://example.com/x", "everybody"],
)
def test_a_policy_names_only_members_that_there_can_be(world: World, member: str) -> None:
    body = {"policy": {"bindings": [{"role": "roles/viewer", "members": [member]}]}}
    assert reason(refused(world.accounts.setIamPolicy(resource=world.worker["name"], body=body))) == "badRequest"


def test_a_new_service_account_is_not_known_to_policies_at_once(world: World) -> None:
    world.project.project.propagation = timedelta(seconds=30)
    email = world.accounts.create(name="projects/p-1", body={"accountId": "fresh-one"}).execute()["email"]
    member = f"serviceAccount:{email}"
    body = {"policy": {"bindings": [{"role": "roles/iam.serviceAccountUser", "members": [member]}]}}
    write = world.accounts.setIamPolicy(resource=world.worker["name"], body=body)
    assert f"Service account {email} does not exist" in refused(write).reason
    world.clock.sleep(timedelta(seconds=30))
    write.execute()
    world.accounts.delete(name=f"projects/p-1/serviceAccounts/{email}").execute()
    policy = world.accounts.getIamPolicy(resource=world.worker["name"]).execute()
    assert policy["bindings"][0]["members"][0].startswith(f"deleted:serviceAccount:{email}?uid=")


def test_a_federated_token_is_given_for_a_good_one_and_for_no_other(world: World) -> None:
    audience = world.federate("https://plane.example.com", jwksJson=jwks())
    answer = world.exchange(audience, world.signed(audience)).execute()
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 600)
    other = RSAKey.generate_key(2048)
    wrong = {
        "another key": world.signed(audience, key=other),
        "another issuer": world.signed(audience, iss="https://other.example.com"),
        "another audience": world.signed("https://other.example.com"),
        "expired": world.signed(audience, exp=int(world.clock.now().timestamp()) - 1),
        "for too long": world.signed(audience, exp=int((world.clock.now() + 30 * HOUR).timestamp())),
        "no subject": world.signed(audience, sub=""),
        "the condition": world.signed(audience, cloud="test"),
        "no token": "nothing",
    }
    said = {}
    for name, token in wrong.items():
        error = refused(world.exchange(audience, token))
        assert error.status_code == 400, name
        said[name] = json.loads(error.content)["error"]
    assert said.pop("the condition") == "unauthorized_client"
    assert set(said.values()) == {"invalid_grant"}
    assert (
        json.loads(refused(world.exchange(audience.replace("plane", "none"), "x")).content)["error"] == "invalid_target"
    )
    assert json.loads(refused(world.exchange("https://x", "x")).content)["error"] == "invalid_request"
    world.exchange(audience, world.signed(audience, cloud="test", groups=["admins"])).execute()
    world.pools.delete(name=world.pool).execute()
    assert json.loads(refused(world.exchange(audience, world.signed(audience))).content)["error"] == "invalid_target"


def test_a_federated_principal_acts_as_the_accounts_that_let_it(world: World) -> None:
    audience = world.federate("https://plane.example.com", jwksJson=jwks())
    federated = world.exchange(audience, world.signed(audience)).execute()["access_token"]
    credentials = client(world.simulator, "iamcredentials", token=federated).projects().serviceAccounts()
    name = f"projects/-/serviceAccounts/{world.worker['email']}"
    ask = credentials.generateAccessToken(name=name, body={"scope": [SCOPE], "lifetime": "600s"})
    error = refused(ask)
    assert (error.status_code, error.error_details[0]["reason"]) == (403, "IAM_PERMISSION_DENIED")
    for member in (
        f"principal://iam.googleapis.com/{world.pool}/subject/system:plane",
        f"principalSet://iam.googleapis.com/{world.pool}/attribute.cloud/prod-eu",
        f"principalSet://iam.googleapis.com/{world.pool}/group/ops",
        f"principalSet://iam.googleapis.com/{world.pool}/*",
    ):
        body = {"policy": {"bindings": [{"role": "roles/iam.workloadIdentityUser", "members": [member]}]}}
        world.accounts.setIamPolicy(resource=world.worker["name"], body=body).execute()
        answer = ask.execute()
    assert datetime.fromisoformat(answer["expireTime"]) - world.clock.now() == timedelta(seconds=600)
    acting = client(world.simulator, "iam", token=answer["accessToken"]).projects().serviceAccounts()
    assert len(acting.list(name="projects/p-1").execute()["accounts"]) == 1
    world.clock.sleep(timedelta(seconds=600))
    for call in (ask.execute, acting.list(name="projects/p-1").execute):
        with pytest.raises(RefreshError):  # the client was told 401, and has nothing to refresh by
            call()


def test_an_owner_may_not_act_as_an_account_and_a_token_creator_may(world: World) -> None:
    credentials = client(world.simulator, "iamcredentials", token=world.token).projects().serviceAccounts()
    name = f"projects/-/serviceAccounts/{world.worker['email']}"
    payload = base64.b64encode(b"to sign").decode()
    assert refused(credentials.signBlob(name=name, body={"payload": payload})).status_code == 403
    world.project.bind(world.worker["email"], "roles/iam.serviceAccountTokenCreator", "user:owner@example.com")
    signed = credentials.signBlob(name=name, body={"payload": payload}).execute()
    document = world.project.key_file(world.worker["email"])
    key: Any = RSAKey.import_key(document["private_key"]).public_key
    key.verify(base64.b64decode(signed["signedBlob"]), b"to sign", padding.PKCS1v15(), hashes.SHA256())
    token = credentials.generateIdToken(name=name, body={"audience": "a", "includeEmail": True}).execute()["token"]
    certificates = keys_of(world.simulator.certificates())
    claims = jwt.decode(token, certificates, algorithms=["RS256"]).claims
    assert (claims["aud"], claims["email"], claims["sub"]) == ("a", world.worker["email"], world.worker["uniqueId"])
    claims = {"iss": world.worker["email"], "aud": "x"}
    assert credentials.signJwt(name=name, body={"payload": json.dumps(claims)}).execute()["keyId"] == signed["keyId"]
    world.accounts.disable(name=world.worker["name"]).execute()
    assert reason(refused(credentials.signBlob(name=name, body={"payload": payload}))) == "failedPrecondition"


class Issuer(BaseHTTPRequestHandler):
    """An issuer's two documents."""

    def do_GET(self) -> None:
        host = f"http://{self.headers['Host']}"
        found = {
            "/.well-known/openid-configuration": json.dumps({"issuer": host, "jwks_uri": f"{host}/keys"}), "/keys": jwks(),
        }.get(self.path, "")  # fmt: skip
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(found.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_googles_own_client_comes_in_by_an_issuer_whose_keys_are_fetched(tmp_path: Path) -> None:
    issuer = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    threading.Thread(target=issuer.serve_forever, args=(0.05,), daemon=True).start()
    world = World(SystemClock())  # Google's client has the machine's
    try:
        url = f"http://127.0.0.1:{issuer.server_port}"
        audience = world.federate(url)
        subject = tmp_path / "subject"
        subject.write_text(world.signed(audience, iss=url))
        member = f"principal://iam.googleapis.com/{world.pool}/subject/system:plane"
        world.project.bind(world.worker["email"], "roles/iam.workloadIdentityUser", member)
        url_of = f"{world.simulator.endpoint('iamcredentials')}v1/projects/-/serviceAccounts/{world.worker['email']}"
        information = {
            "type": "external_account", "audience": audience, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{world.simulator.endpoint('sts')}v1/token", "credential_source": {"file": str(subject)},
            "service_account_impersonation_url": f"{url_of}:generateAccessToken",
        }  # fmt: skip
        credentials = identity_pool.Credentials.from_info(information, scopes=[SCOPE])
        credentials.refresh(Request())
        acting = client(world.simulator, "iam", token=credentials.token).projects().serviceAccounts()
        assert acting.list(name="projects/p-1").execute()["accounts"][0]["email"] == world.worker["email"]
        subject.write_text(world.signed(audience, iss="http://127.0.0.1:9"))
        with pytest.raises(OAuthError, match="invalid_grant"):
            identity_pool.Credentials.from_info(information, scopes=[SCOPE]).refresh(Request())
    finally:
        world.simulator.close()
        issuer.shutdown()
        issuer.server_close()
    assert world.simulator.faults == []


def test_custom_roles_allow_exactly_what_they_list_and_permissions_can_be_tested() -> None:
    world = World(ManualClock(), Guard.PERMISSIONS)
    role = {"title": "Least", "includedPermissions": ["iam.serviceAccounts.list", "resourcemanager.projects.get"]}
    made = world.roles.create(parent="projects/p-1", body={"roleId": "least", "role": role}).execute()
    member = f"serviceAccount:{world.worker['email']}"
    world.project.bind("", made["name"], member)
    token = world.project.token(member, lifetime=timedelta(days=1))
    accounts = client(world.simulator, "iam", token=token).projects().serviceAccounts()
    accounts.list(name="projects/p-1").execute()
    error = refused(accounts.get(name=world.worker["name"]))
    assert (error.status_code, error.error_details[0]["metadata"]["permission"]) == (403, "iam.serviceAccounts.get")
    projects = client(world.simulator, "cloudresourcemanager", token=token).projects()
    assert projects.get(name="projects/p-1").execute()["projectId"] == "p-1"
    asked = {"permissions": ["iam.serviceAccounts.list", "compute.instances.create"]}
    tested = projects.testIamPermissions(resource="projects/p-1", body=asked).execute()
    assert tested == {"permissions": ["iam.serviceAccounts.list"]}
    old = client(world.simulator, "cloudresourcemanager", token=token, version="v1").projects()
    assert old.get(projectId="p-1").execute()["projectNumber"] == str(world.project.number)
    patched = {"includedPermissions": ["iam.serviceAccounts.get"], "etag": made["etag"]}
    world.roles.patch(name=made["name"], body=patched).execute()
    accounts.get(name=world.worker["name"]).execute()
    assert refused(world.roles.patch(name=made["name"], body=patched)).status_code == 409
    assert refused(world.roles.create(parent="projects/p-1", body={"roleId": "least", "role": role})).status_code == 409
    world.roles.delete(name=made["name"]).execute()
    assert refused(accounts.get(name=world.worker["name"])).status_code == 403
    world.simulator.close()
    assert world.simulator.faults == []


def test_a_projects_policy_is_read_and_written_with_its_etag(world: World) -> None:
    projects = client(world.simulator, "cloudresourcemanager", token=world.token).projects()
    options = {"options": {"requestedPolicyVersion": 3}}
    policy = projects.getIamPolicy(resource="projects/p-1", body=options).execute()
    assert policy["bindings"] == [{"role": "roles/owner", "members": ["user:owner@example.com"]}]
    member = f"serviceAccount:{world.worker['email']}"
    policy["bindings"].append({"role": "roles/viewer", "members": [member]})
    projects.setIamPolicy(resource="projects/p-1", body={"policy": policy}).execute()
    assert refused(projects.setIamPolicy(resource="projects/p-1", body={"policy": policy})).status_code == 409
    missing = {"role": "projects/p-1/roles/none", "members": [member]}
    write = projects.setIamPolicy(resource="projects/p-1", body={"policy": {"bindings": [missing]}})
    assert "does not exist" in refused(write).reason
    assert refused(projects.get(name="projects/p-9")).status_code == 403, "Google does not tell whether there is one"


def narrowed(world: World, rules: object, *, token: str = "") -> Any:
    """Ask for a token that these rules bound."""
    kind = "urn:ietf:params:oauth:token-type:access_token"
    body = {
        "grantType": "urn:ietf:params:oauth:grant-type:token-exchange", "requestedTokenType": kind, "subjectTokenType": kind,
        "subjectToken": token or world.token, "options": json.dumps({"accessBoundary": {"accessBoundaryRules": rules}}),
    }  # fmt: skip
    return client(world.simulator, "sts", token=world.token).v1().token(body=body)


BOUNDARY = {
    "availableResource": "//storage.googleapis.com/projects/_/buckets/data",
    "availablePermissions": ["inRole:roles/storage.objectViewer"],
    "availabilityCondition": {"expression": "resource.name.startsWith('projects/_/buckets/data/objects/a/')"},
}


def test_a_narrowed_token_does_what_its_boundary_holds_whatever_its_owner_may_do(world: World) -> None:
    mine = client(world.simulator, "storage", token=world.token)
    mine.buckets().insert(project="p-1", body={"name": "data"}).execute()
    for key in ("a/1", "b/1"):
        world.project.put_object("data", key, b"1")
    answer = narrowed(world, [BOUNDARY]).execute()
    assert "expires_in" not in answer  # the owner is no service account
    objects = client(world.simulator, "storage", token=answer["access_token"]).objects()
    assert objects.get(bucket="data", object="a/1").execute()["name"] == "a/1"
    for request in (
        objects.get(bucket="data", object="b/1"),
        objects.delete(bucket="data", object="a/1"),
        objects.list(bucket="data"),
        client(world.simulator, "storage", token=answer["access_token"]).buckets().get(bucket="data"),
        client(world.simulator, "compute", token=answer["access_token"]).networks().list(project="p-1"),
    ):
        assert refused(request).status_code == 403


def test_what_is_no_boundary_or_no_token_is_not_exchanged(world: World) -> None:
    once = narrowed(world, [BOUNDARY]).execute()["access_token"]
    for request in (
        narrowed(world, []),
        narrowed(world, [BOUNDARY] * 11),
        narrowed(world, [{**BOUNDARY, "availableResource": "//storage.googleapis.com/data"}]),
        narrowed(world, [{**BOUNDARY, "availablePermissions": ["storage.objects.get"]}]),
        narrowed(world, [{**BOUNDARY, "availabilityCondition": {"expression": "resource.name.startsWith("}}]),
        narrowed(world, [{**BOUNDARY, "until": "tomorrow"}]),
        narrowed(world, [BOUNDARY], token=once),
    ):
        assert refused(request).status_code == 400
