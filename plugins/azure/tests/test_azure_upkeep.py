from typing import Any

import pytest
from anyscale_azure import containers
from anyscale_azure.containers import container_of
from anyscale_azure.testing import GROUP, OWNER, World
from anyscale_azure.upkeep import Upkeep, noted, read

from anyscale_core.errors import InvalidRequest, Transient
from anyscale_core.models.storage import BucketSpec

THEIRS = {
    "name": "theirs", "type": "Lifecycle", "enabled": True,
    "definition": {
        "filters": {"blobTypes": ["blockBlob"], "prefixMatch": ["theirs/"]},
        "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 900}}},
    },
}  # fmt: skip
PAGE = {
    "allowedOrigins": ["https://theirs.example"], "allowedMethods": ["GET"], "allowedHeaders": [], "exposedHeaders": [],
    "maxAgeInSeconds": 60,
}  # fmt: skip


@pytest.fixture
def account(world: World) -> str:
    """Return the path of an account, by ARM, that the customer keeps rules of their own in."""
    name = world.settings.storage_account
    found: str = world.at.hands.storage_account(GROUP, name).id
    azure = world.storage._azure
    for path, properties in (
        ("managementPolicies/default", {"policy": {"rules": [THEIRS]}}),
        ("blobServices/default", {"cors": {"corsRules": [PAGE]}, "isVersioningEnabled": True}),
    ):
        azure.send("PUT", f"{found}/{path}", "2024-01-01", body={"properties": properties}, deadline=world.soon())
    return found


def rules(world: World, account: str) -> list[dict[str, Any]]:
    found = world.at.find(f"{account}/managementPolicies/default")
    return list(found.properties["policy"]["rules"]) if found else []


def cors(world: World, account: str) -> list[dict[str, Any]]:
    found = world.at.find(f"{account}/blobServices/default")
    assert found is not None
    assert found.properties["isVersioningEnabled"] is True
    return list(found.properties["cors"]["corsRules"])


def make(world: World, name: str, **fields: Any) -> None:
    spec = BucketSpec(name=name, **fields)
    world.storage.create(spec, owner=OWNER, token=world.token(), deadline=world.soon())


def test_a_bucket_that_expires_is_one_rule_beside_the_customers_and_takes_it_with_it(
    world: World, account: str
) -> None:
    make(world, "short", expire_days=7)
    make(world, "long", expire_days=30)
    make(world, "ever")
    container = container_of("short", OWNER)
    _, mine, _ = rules(world, account)
    assert mine["definition"] == {
        "filters": {"blobTypes": ["blockBlob"], "prefixMatch": [f"{container}/"]},
        "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 7.0}}},
    }
    for name in ("short", "long", "ever"):
        world.storage.delete(name, owner=OWNER, deadline=world.soon())
    assert [rule["name"] for rule in rules(world, account)] == ["theirs"]


def test_the_last_rule_of_ours_takes_a_policy_with_it_that_was_not_there_before(world: World) -> None:
    path = world.at.hands.storage_account(GROUP, world.settings.storage_account).id
    make(world, "short", expire_days=7)
    assert len(rules(world, path)) == 1
    world.storage.delete("short", owner=OWNER, deadline=world.soon())
    assert world.at.find(f"{path}/managementPolicies/default") is None


def test_the_origins_of_all_buckets_are_one_rule_that_has_those_of_none_that_is_gone(
    world: World, account: str
) -> None:
    make(world, "one", cors_origins=("https://a.example", "https://b.example"))
    make(world, "two", cors_origins=("https://b.example", "https://c.example"))
    theirs, ours = cors(world, account)
    assert theirs == PAGE
    assert ours["allowedOrigins"] == ["https://a.example", "https://b.example", "https://c.example"]
    assert ours["allowedMethods"] == ["GET", "HEAD", "PUT"]
    world.storage.delete("one", owner=OWNER, deadline=world.soon())
    assert cors(world, account)[1]["allowedOrigins"] == ["https://b.example", "https://c.example"]
    world.storage.delete("two", owner=OWNER, deadline=world.soon())
    assert cors(world, account) == [PAGE]


def test_a_create_that_failed_at_the_rule_is_finished_by_its_repetition(world: World, account: str) -> None:
    spec, token = BucketSpec(name="short", expire_days=7, cors_origins=("https://a.example",)), world.token()
    world.at.fail("blobServices.put", 500, "InternalServerError", "Encountered an error.", times=9)
    with pytest.raises(Transient):
        world.storage.create(spec, owner=OWNER, token=token, deadline=world.soon())
    world.at.troubles.clear()
    world.storage.create(spec, owner=OWNER, token=token, deadline=world.soon())
    before = len(world.at.journal)
    world.storage.create(spec, owner=OWNER, token=token, deadline=world.soon())
    assert (len(rules(world, account)), len(cors(world, account))) == (2, 2)
    assert {seen.method for seen in world.at.journal[before:]} == {"GET"}


def test_an_account_whose_rules_are_full_says_so_before_anything_of_it_is_changed(world: World, account: str) -> None:
    full = [{**PAGE, "maxAgeInSeconds": number} for number in range(5)]
    found = world.at.find(f"{account}/blobServices/default")
    assert found is not None
    found.properties["cors"] = {"corsRules": full}
    with pytest.raises(InvalidRequest, match="takes no more"):
        make(world, "one", cors_origins=("https://a.example",))
    assert cors(world, account) == full
    assert world.storage.list(OWNER, deadline=world.soon()) == ()


def test_what_a_bucket_wants_is_read_back_from_its_note_and_nothing_from_somebody_elses() -> None:
    for upkeep in (Upkeep(), Upkeep(expire_days=3), Upkeep(origins=("https://a.example", "*"))):
        assert read(noted(upkeep)) == upkeep
    assert {read(note) for note in ("", "?", "e30=", "bnVsbA==", "WyJ4Il0=")} == {Upkeep()}
    assert containers.metadata_of({}).keys() == {"x-ms-meta-anyscale_core_tags"}
