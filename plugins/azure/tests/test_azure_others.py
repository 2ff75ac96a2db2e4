import json
from datetime import timedelta

import attrs
import pytest
from anyscale_azure.identity import AzureIdentity
from anyscale_azure.permissions import NEEDS, custom_role, permissions_for
from anyscale_azure.testing import OWNER, World
from anyscale_conformance.simulators.azure.kinds import Flow

from anyscale_core.errors import AlreadyExists, Conflict, NotFound, PermissionDenied, Unauthenticated
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.instance import Created, Deletion, InstanceState, NotCreated
from anyscale_core.models.networking import CheckStatus, EndpointSpec, EndpointState, NetworkMode, NetworkSpec
from anyscale_core.models.storage import BucketSpec

SUBJECTS = ("system:serviceaccount:ray:head", "system:serviceaccount:ray:worker")


def types(world: World, ending: str) -> list[str]:
    return sorted(thing.name for thing in world.at.inventory() if thing.type.lower().endswith(ending.lower()))


def test_service_accounts_become_an_identity_by_federated_credentials_that_go_with_it(world: World) -> None:
    driver = world.identity
    spec = IdentitySpec(name="ray", owner=OWNER, subjects=SUBJECTS)
    made = driver.create(spec, token=world.token(), deadline=world.soon())
    bodies = [t.body["properties"] for t in world.at.inventory() if t.type.endswith("federatedIdentityCredentials")]
    assert {body["subject"] for body in bodies} == set(SUBJECTS)
    assert {body["issuer"] for body in bodies} == {"https://oidc.invalid/aks/"}
    assert {tuple(body["audiences"]) for body in bodies} == {("api://AzureADTokenExchange",)}
    assert driver.get("ray", owner=OWNER, deadline=world.soon()) == made
    assert driver.delete("ray", owner=OWNER, deadline=world.soon()) is Deletion.GONE
    assert types(world, "federatedIdentityCredentials") == types(world, "userAssignedIdentities") == []


def test_a_machine_proves_itself_and_nothing_else_and_its_name_is_in_the_proof(world: World) -> None:
    (outcome,) = world.cluster.create([world.spec()], token=world.token(), deadline=world.soon())
    assert isinstance(outcome, Created)
    world.clock.sleep(timedelta(minutes=2))
    machine = outcome.instance.id.rpartition(".")[0]
    node = AzureIdentity(world.config(), world.azure(), metadata=lambda _: world.at.hands.metadata_url(machine))
    proof = node.prove("anyscale-core/register", subject="node-1", deadline=world.soon())
    plane = world.identity
    who = plane.verify(proof, audience="anyscale-core/register", deadline=world.soon())
    assert (who.instance, who.account) == ("node-1", world.at.id)
    with pytest.raises(Unauthenticated, match="another audience"):
        plane.verify(proof, audience="somebody-else", deadline=world.soon())
    world.more["resource_group"] = "another"
    with pytest.raises(PermissionDenied, match="not of this cloud's group"):
        world.identity.verify(proof, audience="anyscale-core/register", deadline=world.soon())


def test_the_custom_role_names_every_action_once_and_keeps_data_actions_apart(world: World) -> None:
    role = custom_role(permissions_for(NEEDS, world.settings), name="core", scope=world.settings.group)
    assert len(role["Actions"]) == len(set(role["Actions"]))
    assert all("/blobs/" not in action for action in role["Actions"])
    assert all("/blobs/" in action for action in role["DataActions"])
    assert "*" not in json.dumps(role)


def test_an_account_that_is_made_is_private_and_busy_until_azure_has_made_it(world: World) -> None:
    world.at.flows["put", "microsoft.storage/storageaccounts"] = Flow.LOCATION
    driver, token = world.storage, world.token()
    spec = BucketSpec(name="data")
    with pytest.raises(Conflict) as caught:
        driver.create(spec, owner=OWNER, token=token, deadline=world.soon())
    assert caught.value.reason == "BUSY"
    assert caught.value.retry_after is not None
    assert driver.list(OWNER, deadline=world.soon()) == ()
    world.clock.sleep(timedelta(minutes=1))
    made = driver.create(spec, owner=OWNER, token=token, deadline=world.soon())
    assert made.url.startswith("abfss://data-")
    (account,) = (t for t in world.at.inventory() if t.type == "Microsoft.Storage/storageAccounts")
    assert account.body["properties"]["allowBlobPublicAccess"] is False
    assert account.body["properties"]["isHnsEnabled"] is True


def test_a_container_is_adopted_by_either_name_and_keeps_the_customers_own_metadata(world: World) -> None:
    driver = world.storage
    account = world.settings.storage_account
    world.at.hands.storage_account("rg", account)
    world.at.blobs.call(world.at, "PUT", f"{account}/theirs?restype=container", {"x-ms-meta-team": "blue"})
    world.at.blobs.call(world.at, "PUT", f"{account}/others?restype=container")
    for name, url in (
        ("one", f"abfss://theirs@{account}.dfs.core.windows.net"),
        ("two", f"{world.simulator.blobs.service.url}/{account}/others"),
    ):
        made = driver.create(BucketSpec(name=name, adopt=url), owner=OWNER, token=world.token(), deadline=world.soon())
        assert made.adopted
    driver.objects("one", owner=OWNER).put("key", b"x")
    assert driver.delete("one", owner=OWNER, deadline=world.soon()) is Deletion.GONE
    left = world.at.blobs.call(world.at, "GET", f"{account}?comp=list&include=metadata&prefix=theirs")
    assert b"<team>blue</team>" in left
    assert b"anyscale" not in left


def test_grants_of_one_identity_share_an_assignment_and_a_revoked_one_leaves_the_others(world: World) -> None:
    storage, identity = world.storage, world.identity
    world.at.hands.storage_account("rg", world.settings.storage_account)
    storage.create(BucketSpec(name="data"), owner=OWNER, token=world.token(), deadline=world.soon())
    who = identity.create(IdentitySpec(name="ray", owner=OWNER), token=world.token(), deadline=world.soon())
    for prefix in ("a/", "b/"):
        storage.grant(
            "data", prefix, identity="ray", access=Access.WRITE, owner=OWNER, token=world.token(), deadline=world.soon()
        )
    world.clock.sleep(timedelta(minutes=2))
    container = storage.get("data", owner=OWNER, deadline=world.soon()).url[8:].partition("@")[0]

    def may(path: str) -> bool:
        account = world.settings.storage_account
        return bool(world.at.hands.may_blob(who.principal, account, container, path, "write"))

    assert [may("a/x"), may("b/x"), may("ab/x")] == [True, True, False]
    assert len(types(world, "roleAssignments")) == 1
    storage.revoke("data", "a/", identity="ray", owner=OWNER, deadline=world.soon())
    world.clock.sleep(timedelta(minutes=2))
    assert [may("a/x"), may("b/x")] == [False, True]
    identity.delete("ray", owner=OWNER, deadline=world.soon())
    assert types(world, "roleAssignments") == []


def test_a_public_way_in_has_an_address_and_a_rule_that_one_withdrawal_takes_away(world: World) -> None:
    driver = world.networking
    driver.create(
        NetworkSpec(name="open", mode=NetworkMode.PUBLIC), owner=OWNER, token=world.token(), deadline=world.soon()
    )
    world.clock.sleep(timedelta(seconds=30))
    way = EndpointSpec(name="way", owner=OWNER, network="open", target_address="10.1.0.4", target_port=8443)
    token = world.token()
    with pytest.raises(Conflict) as caught:
        driver.expose(way, token=token, deadline=world.soon())
    assert caught.value.reason == "BUSY"  # the address is being made
    world.clock.sleep(timedelta(seconds=10))
    driver.expose(way, token=token, deadline=world.soon())
    world.clock.sleep(timedelta(minutes=1))
    (network,) = driver.list(OWNER, deadline=world.soon())
    (endpoint,) = network.endpoints
    assert endpoint.state is EndpointState.READY
    assert endpoint.url.startswith("https://20.")
    (rule,) = (t.body["properties"] for t in world.at.inventory() if t.type.endswith("securityRules"))
    assert (rule["destinationAddressPrefix"], rule["destinationPortRange"]) == ("10.1.0.4", "8443")

    assert driver.withdraw("way", owner=OWNER, deadline=world.soon()) is Deletion.GOING
    world.clock.sleep(timedelta(minutes=2))
    assert driver.withdraw("way", owner=OWNER, deadline=world.soon()) is Deletion.ALREADY_ABSENT
    assert types(world, "publicIPAddresses") == types(world, "loadBalancers") == []
    assert driver.delete("open", owner=OWNER, deadline=world.soon()) is Deletion.GOING
    world.clock.sleep(timedelta(minutes=2))
    assert types(world, "networkSecurityGroups") == []
    assert types(world, "virtualNetworks") == ["customers"]


def test_an_adopted_networks_subnets_stay_as_they_are_and_machines_go_into_them(world: World) -> None:
    vnet = f"{world.settings.group}/providers/Microsoft.Network/virtualNetworks/customers"
    before = [t.body for t in world.at.inventory() if t.id.startswith(vnet)]
    driver = world.networking
    spec = NetworkSpec(name="theirs", adopt=vnet, subnets=(f"{vnet}/subnets/default",))
    made = driver.create(spec, owner=OWNER, token=world.token(), deadline=world.soon())
    assert made.adopted
    assert {check.status for check in driver.check("theirs", owner=OWNER, deadline=world.soon())} == {
        CheckStatus.PASSED
    }
    world.clock.sleep(timedelta(seconds=30))
    (outcome,) = world.cluster.create([world.spec(network="theirs")], token=world.token(), deadline=world.soon())
    assert isinstance(outcome, Created)
    with pytest.raises(Conflict, match="nic"):
        driver.delete("theirs", owner=OWNER, deadline=world.soon())
    world.cluster.delete([outcome.instance.id], owner=OWNER, deadline=world.soon())
    world.clock.sleep(timedelta(minutes=5))
    assert driver.delete("theirs", owner=OWNER, deadline=world.soon()) is Deletion.GOING
    assert [t.body for t in world.at.inventory() if t.id.startswith(vnet)] == before
    with pytest.raises(NotFound, match="no subnet"):
        driver.create(
            attrs.evolve(spec, name="wrong", subnets=(f"{vnet}/subnets/none",)),
            owner=OWNER, token=world.token(), deadline=world.soon(),
        )  # fmt: skip


def test_a_network_that_is_not_ready_makes_machines_wait_with_a_conflict_that_passes(world: World) -> None:
    world.networking.create(NetworkSpec(name="main"), owner=OWNER, token=world.token(), deadline=world.soon())
    spec, token = world.spec(network="main"), world.token()
    (outcome,) = world.cluster.create([spec], token=token, deadline=world.soon())
    assert isinstance(outcome, NotCreated)
    assert isinstance(outcome.error, Conflict)
    assert outcome.error.reason == "BUSY"
    world.clock.sleep(timedelta(seconds=30))
    (outcome,) = world.cluster.create([spec], token=token, deadline=world.soon())
    assert isinstance(outcome, Created)
    assert outcome.instance.state is InstanceState.PENDING


def test_an_identity_of_the_customers_is_adopted_once_for_a_cloud(world: World) -> None:
    path = "/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/theirs"
    properties = {"principalId": "11111111-2222-3333-4444-555555555555", "clientId": "c"}
    world.at.hands.put(path, {"location": "eastus", "tags": {"team": "blue"}, "properties": properties})
    driver = world.identity
    spec = IdentitySpec(name="ours", owner=OWNER, adopt=f"{world.at.path}{path}")
    assert driver.create(spec, token=world.token(), deadline=world.soon()).adopted
    with pytest.raises(AlreadyExists):
        driver.create(attrs.evolve(spec, name="again"), token=world.token(), deadline=world.soon())
    driver.delete("ours", owner=OWNER, deadline=world.soon())
    (thing,) = (t for t in world.at.inventory() if t.type.endswith("userAssignedIdentities"))
    assert dict(thing.tags) == {"team": "blue"}
