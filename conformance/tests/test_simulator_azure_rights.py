"""The simulated Azure: identities, tokens that verify, roles that are enforced, locks."""

import json
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from anyscale_conformance.simulators.azure import AzureSimulator
from anyscale_conformance.simulators.azure.conditions import NAME, PATH, Asked, parse
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ClientAssertionCredential, ClientSecretCredential, ManagedIdentityCredential
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.msi import ManagedServiceIdentityClient
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from tests.conformance.azure import SCOPE, World, a_machine, a_network

READER = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
ISSUER = "https://eastus.oic.prod-aks.azure.com/cluster/"
EXCHANGE = "api://AzureADTokenExchange"
SUBJECT = "system:serviceaccount:ray:head"


@pytest.fixture(scope="module")
def azure() -> Iterator[AzureSimulator]:
    with AzureSimulator() as azure:
        yield azure


@pytest.fixture
def world(azure: AzureSimulator) -> Iterator[World]:
    with World(azure) as world:
        yield world


@pytest.fixture
def identity(world: World) -> Any:
    client = world.client(ManagedServiceIdentityClient)
    return client.user_assigned_identities.create_or_update("rg", "reader", {"location": "eastus"})


def assign(world: World, principal: str, role: str = READER, *, name: str = "", **properties: Any) -> Any:
    path = f"Microsoft.Authorization/roleAssignments/{name or uuid.uuid4()}"
    definition = f"{world.at.path}/providers/Microsoft.Authorization/roleDefinitions/{role}"
    return world.put(path, {"properties": {"principalId": principal, "roleDefinitionId": definition, **properties}})


def test_an_identity_keeps_its_ids_when_it_is_put_again(world: World, identity: Any) -> None:
    client = world.client(ManagedServiceIdentityClient)
    again = client.user_assigned_identities.create_or_update("rg", "reader", {"location": "eastus", "tags": {"a": "b"}})
    assert (again.principal_id, again.client_id) == (identity.principal_id, identity.client_id)
    assert [one.name for one in client.user_assigned_identities.list_by_resource_group("rg")] == ["reader"]
    client.user_assigned_identities.delete("rg", "reader")
    assert list(client.user_assigned_identities.list_by_subscription()) == []


def test_a_new_principal_is_unknown_for_a_while_unless_its_type_is_told(world: World, identity: Any) -> None:
    answer = assign(world, identity.principal_id)
    assert (answer.status, answer.code) == (400, "PrincipalNotFound")
    assert assign(world, identity.principal_id, principalType="ServicePrincipal").status == 201
    world.wait()
    other = "b24988ac-6180-42a0-ab88-20f7382dd24c"
    assert assign(world, identity.principal_id, other).status == 201
    assert assign(world, str(uuid.uuid4()), principalType="ServicePrincipal").code == "PrincipalNotFound"


def test_a_role_is_assigned_once_at_a_scope_and_its_condition_may_change(world: World, identity: Any) -> None:
    name = str(uuid.uuid4())
    given: dict[str, Any] = {"name": name, "principalType": "ServicePrincipal"}
    assert assign(world, identity.principal_id, **given).status == 201
    assert assign(world, identity.principal_id, **given, description="again").status == 200
    answer = assign(world, identity.principal_id, principalType="ServicePrincipal")
    assert (answer.status, answer.code) == (409, "RoleAssignmentExists")
    other = assign(world, identity.principal_id, "b24988ac-6180-42a0-ab88-20f7382dd24c", **given)
    assert (other.status, other.code) == (400, "RoleAssignmentUpdateNotPermitted")
    for bad, code in (
        ({"condition": "@Resource[", "conditionVersion": "2.0"}, "InvalidConditionSyntax"),
        ({"condition": "Exists @Resource[x]"}, "InvalidConditionVersion"),
    ):
        assert assign(world, identity.principal_id, **given, **bad).code == code
    assert (
        assign(world, identity.principal_id, str(uuid.uuid4()), principalType="User").code
        == "RoleDefinitionDoesNotExist"
    )


def test_assignments_are_listed_at_a_scope_above_it_and_below_it(world: World, identity: Any) -> None:
    world.at.hands.assign(identity.principal_id, "Reader", world.at.path)
    world.at.hands.assign(identity.principal_id, "Contributor", world.group)
    client = world.client(AuthorizationManagementClient).role_assignments
    assert len(list(client.list_for_resource_group("rg"))) == 2
    assert len(list(client.list_for_subscription(filter="atScope()"))) == 1
    assert len(list(client.list_for_subscription(filter=f"principalId eq '{identity.principal_id}'"))) == 2
    assert list(client.list_for_subscription(filter=f"principalId eq '{uuid.uuid4()}'")) == []


def test_a_role_of_ones_own_allows_exactly_what_it_says(world: World) -> None:
    roles = world.client(AuthorizationManagementClient).role_definitions
    permission = {"actions": ["Microsoft.Network/virtualNetworks/*"], "notActions": ["*/delete"]}
    body = {
        "properties": {"roleName": "networker", "permissions": [permission], "assignableScopes": [world.at.path]},
    }
    path = f"/providers/Microsoft.Authorization/roleDefinitions/{uuid.uuid4()}"
    assert world.send("PUT", path, body).status == 201
    assert [one.role_type for one in roles.list(world.at.path, filter="roleName eq 'networker'")] == ["CustomRole"]
    who = world.at.directory.application()
    world.at.hands.enforce_roles()
    world.at.hands.assign(who.principal, "networker", world.group)
    assert world.put("Microsoft.Network/virtualNetworks/v", a_network(), who=who).code == "AuthorizationFailed"
    world.wait()
    assert world.put("Microsoft.Network/virtualNetworks/v", a_network(), who=who).status == 201
    answer = world.delete("Microsoft.Network/virtualNetworks/v", who=who)
    assert (answer.status, answer.code) == (403, "AuthorizationFailed")
    assert "Microsoft.Network/virtualNetworks/delete" in answer.body["error"]["message"]
    assert world.send("DELETE", path).code == "RoleDefinitionHasAssignments"


def test_what_a_request_refers_to_needs_a_right_too(world: World) -> None:
    subnet = world.network()
    who = world.at.directory.application()
    world.at.hands.enforce_roles()
    permission = {"actions": ["Microsoft.Compute/*"]}
    world.send(
        "PUT", f"/providers/Microsoft.Authorization/roleDefinitions/{uuid.uuid4()}",
        {"properties": {"roleName": "maker", "permissions": [permission], "assignableScopes": [world.at.path]}},
    )  # fmt: skip
    world.at.hands.assign(who.principal, "maker", world.at.path)
    world.wait()
    answer = world.put("Microsoft.Compute/virtualMachines/vm", a_machine(subnet), who=who)
    assert (answer.status, answer.code) == (403, "LinkedAuthorizationFailed")
    assert "Microsoft.Network/virtualNetworks/subnets/join/action" in answer.body["error"]["message"]


def test_what_is_locked_is_not_deleted_nor_is_its_group(world: World) -> None:
    world.network()
    lock = "Microsoft.Network/virtualNetworks/v/providers/Microsoft.Authorization/locks/mine"
    assert world.put(lock, {"properties": {"level": "CanNotDelete"}}).status == 201
    for path in (world.below("Microsoft.Network/virtualNetworks/v"), world.group):
        answer = world.send("DELETE", path)
        assert (answer.status, answer.code) == (409, "ScopeLocked")
    assert world.delete(lock).status == 200
    assert world.send("DELETE", world.group).status == 202


def test_a_secret_gets_a_token_that_arm_takes(azure: AzureSimulator, world: World) -> None:
    def credential(secret: str) -> Any:
        return ClientSecretCredential(
            world.at.tenant_id, world.at.owner.client_id, secret, authority=azure.url, disable_instance_discovery=True,
            connection_verify=str(azure.ca_path),
        )  # fmt: skip

    token = credential(world.at.owner.secret).get_token(SCOPE).token
    answer = world.send("GET", "/resourceGroups", headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 200
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        credential("wrong").get_token(SCOPE)


@pytest.mark.parametrize(
    ("audience", "code"),
    [("https://vault.azure.net", "InvalidAuthenticationTokenAudience"), (None, "InvalidAuthenticationToken")],
)
def test_a_token_for_something_else_and_no_token_are_refused(world: World, audience: str | None, code: str) -> None:
    token = "x.y.z"
    if audience is not None:
        token = world.at.credential().get_token(f"{audience}/.default").token
    request = urllib.request.Request(f"{world.azure.url}{world.at.path}?api-version=2022-12-01", method="GET")
    request.add_header("Authorization", f"Bearer {token}")
    status, body, headers = _fetched(world, request)
    assert (status, body["error"]["code"]) == (401, code)
    assert "Bearer" in headers["WWW-Authenticate"]


def test_a_token_of_kubernetes_is_exchanged_when_issuer_subject_and_audience_are_those_that_are_trusted(
    azure: AzureSimulator, world: World, identity: Any
) -> None:
    key = RSAKey.generate_key(2048, auto_kid=True)
    world.at.directory.trust(ISSUER, KeySet([key]).as_dict(private=False))
    client = world.client(ManagedServiceIdentityClient)
    client.federated_identity_credentials.create_or_update(
        "rg", "reader", "head", {"issuer": ISSUER, "subject": SUBJECT, "audiences": [EXCHANGE]}
    )

    def token(
        *, issuer: str = ISSUER, subject: str = SUBJECT, audience: str = EXCHANGE, by: RSAKey = key, ago: int = 0
    ) -> str:
        expires = int((datetime.now(UTC) + timedelta(hours=1 - ago)).timestamp())
        claims = {"iss": issuer, "sub": subject, "aud": [audience], "exp": expires}
        assertion = jwt.encode({"alg": "RS256", "kid": by.kid}, claims, by)
        credential = ClientAssertionCredential(
            world.at.tenant_id, identity.client_id, lambda: assertion, authority=azure.url,
            disable_instance_discovery=True, connection_verify=str(azure.ca_path),
        )  # fmt: skip
        return str(credential.get_token("api://control-plane/.default").token)

    with pytest.raises(ClientAuthenticationError, match="AADSTS700211"):
        token()  # the credential has not spread yet
    world.wait()
    claims = world.at.directory.claims(token())
    assert (claims["oid"], claims["aud"]) == (identity.principal_id, "api://control-plane")
    stranger = RSAKey.generate_key(2048, auto_kid=True)
    for changed, number in (
        ({"subject": f"{SUBJECT}x"}, "AADSTS700213"),
        ({"audience": "api://other"}, "AADSTS700212"),
        ({"issuer": "https://other/"}, "AADSTS700027"),
        ({"by": stranger}, "AADSTS700027"),
        ({"ago": 2}, "AADSTS700027"),
    ):
        with pytest.raises(ClientAuthenticationError, match=number):
            token(**changed)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"audiences": []}, 400),
        ({"issuer": "http://plain/"}, 400),
        ({"subject": ""}, 400),
        ({"audiences": ["a", "b"]}, 400),
    ],
)
def test_a_federated_credential_is_whole(world: World, identity: Any, change: dict[str, Any], status: int) -> None:
    client = world.client(ManagedServiceIdentityClient).federated_identity_credentials
    body = {"issuer": ISSUER, "subject": SUBJECT, "audiences": [EXCHANGE], **change}
    with pytest.raises(HttpResponseError) as failure:
        client.create_or_update("rg", "reader", "head", body)
    assert failure.value.status_code == status


def test_two_credentials_of_an_identity_are_not_for_the_same_subject(world: World, identity: Any) -> None:
    path = "Microsoft.ManagedIdentity/userAssignedIdentities/reader/federatedIdentityCredentials"
    body = {"properties": {"issuer": ISSUER, "subject": SUBJECT, "audiences": [EXCHANGE]}}
    assert world.put(f"{path}/head", body).status == 201
    assert world.put(f"{path}/head", body).status == 200
    assert world.put(f"{path}/other", body).status == 409
    assert world.delete(f"{path}/head").status == 200
    assert world.delete(f"{path}/head").status == 204


def test_a_machine_gets_tokens_of_its_own_identity_and_of_those_it_was_given(
    world: World, identity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = a_machine(world.network())
    body["identity"] = {"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": {identity.id: {}}}
    made = world.put("Microsoft.Compute/virtualMachines/vm", body).body
    world.wait()
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", world.at.hands.metadata_url("vm"))
    own = world.at.directory.claims(ManagedIdentityCredential().get_token("api://plane/.default").token)
    assert (own["oid"], own["xms_mirid"], own["aud"]) == (made["identity"]["principalId"], made["id"], "api://plane")
    given = ManagedIdentityCredential(client_id=identity.client_id).get_token("api://plane/.default").token
    claims = world.at.directory.claims(given)
    assert (claims["oid"], claims["xms_mirid"]) == (identity.principal_id, identity.id)
    with pytest.raises(ClientAuthenticationError):
        ManagedIdentityCredential(client_id=str(uuid.uuid4())).get_token("api://plane/.default")


def test_tokens_verify_by_the_keys_that_the_tenant_publishes(world: World) -> None:
    token = world.at.credential().get_token("api://plane/.default").token
    start = f"{world.azure.url}/{world.at.tenant_id}"
    _, found, _ = _fetched(world, urllib.request.Request(f"{start}/.well-known/openid-configuration"))
    _, keys, _ = _fetched(world, urllib.request.Request(found["jwks_uri"]))
    claims = jwt.decode(token, KeySet.import_key_set(keys), algorithms=["RS256"]).claims
    assert claims["iss"] == found["issuer"] == f"https://sts.windows.net/{world.at.tenant_id}/"


def test_a_tenant_refuses_tokens_for_applications_that_it_does_not_have(world: World) -> None:
    world.at.directory.audiences = frozenset({"api://plane"})
    body = a_machine(world.network())
    made = world.put("Microsoft.Compute/virtualMachines/vm", body | {"identity": {"type": "SystemAssigned"}}).body
    assert world.at.hands.machine_token(made["id"], "api://plane")
    with pytest.raises(Exception, match="AADSTS500011"):
        world.at.hands.machine_token(made["id"], "api://other")


def test_the_metadata_service_tells_of_an_eviction_before_it_comes(world: World) -> None:
    world.machine(priority="Spot", evictionPolicy="Delete")
    world.wait()
    url = f"{world.at.hands.metadata_url('vm')}/metadata/scheduledevents?api-version=2020-07-01"
    request = urllib.request.Request(url, headers={"Metadata": "true"})
    assert _fetched(world, request)[1]["Events"] == []
    world.at.hands.announce("vm", timedelta(seconds=30))
    (event,) = _fetched(world, request)[1]["Events"]
    assert (event["EventType"], event["Resources"]) == ("Preempt", ["vm"])
    assert _fetched(world, urllib.request.Request(url))[0] == 400
    world.wait()
    world.wait()
    assert world.things() == {}


CONDITION = f"""
((!(ActionMatches{{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read'}}
    AND NOT SubOperationMatches{{'Blob.List'}}))
 OR (@Resource[{NAME}] StringEquals 'box' AND @Resource[{PATH}] StringLike 'mine/*'))
"""


@pytest.mark.parametrize(
    ("action", "suboperation", "path", "box", "allowed"),
    [
        ("read", "", "mine/a", "box", True),
        ("read", "", "theirs/a", "box", False),
        ("read", "", "mine/a", "other", False),
        ("read", "Blob.List", "theirs/", "box", True),
        ("write", "", "theirs/a", "box", True),
    ],
)
def test_a_condition_is_read_as_azure_reads_it(
    action: str, suboperation: str, path: str, box: str, allowed: bool
) -> None:
    asked = Asked(
        action=f"Microsoft.Storage/storageAccounts/blobServices/containers/blobs/{action}", suboperation=suboperation,
        attributes={PATH: path, NAME: box},
    )  # fmt: skip
    assert parse(CONDITION)(asked) is allowed


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("@Resource[%s] StringEqualsIgnoreCase 'A/B'", "a/b", True),
        ("@Resource[%s] StringNotEquals 'a'", "a", False),
        ("@Resource[%s] StringNotStartsWithIgnoreCase 'MINE/'", "yours/a", True),
        ("@Resource[%s] ForAnyOfAnyValues:StringEquals {'a', 'b'}", "b", True),
        ("Exists @Resource[%s] && !(@Resource[%s] StringStartsWith 'it''s')", "it's", False),
    ],
)
def test_operators_of_conditions(text: str, path: str, allowed: bool) -> None:
    assert parse(text.replace("%s", PATH))(Asked(action="x", attributes={PATH: path})) is allowed


@pytest.mark.parametrize(
    "text", ["", "(", "@Resource[x]", "@Resource[x] Sounds 'like'", "ActionMatches{'a'} extra", "x"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


def _fetched(world: World, request: urllib.request.Request) -> tuple[int, Any, Any]:
    context = ssl.create_default_context(cafile=str(world.azure.ca_path))
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers
