"""Driver calls as JSON and back."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anyscale_core.drivers import speech
from anyscale_core.drivers.layers import WRITES, verbs_of
from anyscale_core.errors import CATEGORIES, QuotaExceeded, Vendor, error_from
from anyscale_core.models.identity import Access, Proof
from anyscale_core.models.ids import InstanceId, Token
from anyscale_core.models.instance import Created, Deletion, Instance, InstanceState, NotCreated
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import UrlMethod
from anyscale_core.testing.builders import a_bootstrap, an_instance_spec, owner

ACTIONS = [
    f"{slot}.{verb}"
    for slot, interface in speech.INTERFACES.items()
    for verb in sorted(verbs_of(interface) - {"objects"})
]
MINE = owner(cluster="clu_1")
CALLS: dict[str, dict[str, Any]] = {
    "cluster.create": {"specs": (an_instance_spec(bootstrap=a_bootstrap()),), "token": Token("t")},
    "cluster.delete": {"ids": (InstanceId("i-1"), InstanceId("i-2")), "owner": MINE},
    "cluster.list": {"owner": MINE},
    "cluster.offerings": {},
    "identity.verify": {"proof": Proof(provider="fake", document=Secret("d")), "audience": "a"},
    "identity.permissions": {"features": ("cluster.create",)},
    "storage.grant": {
        "bucket": "b", "prefix": "p/", "identity": "i", "access": Access.WRITE, "owner": MINE, "token": Token("t"),
    },
    "storage.signed_url": {
        "bucket": "b", "key": "k", "method": UrlMethod.PUT, "expires_in": timedelta(seconds=90), "owner": MINE,
    },
}  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_every_call_of_every_driver_can_be_ordered(action: str) -> None:
    signature = speech.signature(action)
    assert "deadline" not in signature.arguments
    assert signature.result is not None
    assert speech.is_write(action) == (action.partition(".")[2] in WRITES)


@pytest.mark.parametrize("action", CALLS)
def test_a_call_arrives_as_it_was_made(action: str) -> None:
    said = json.loads(json.dumps(speech.say_call(CALLS[action])))
    assert speech.hear_call(action, said) == CALLS[action]


def test_outcomes_arrive_in_order_each_with_its_instance_or_its_error() -> None:
    instance = Instance(
        id=InstanceId("i-1"), name="a", node_id=None, owner=MINE, instance_type="x", state=InstanceState.PENDING,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    error = QuotaExceeded("no more", reason="COUNT", metric="m", limit=1.0, used=1.0)
    said = json.loads(
        json.dumps(speech.say_result("cluster.create", (Created(instance=instance), NotCreated(name="b", error=error))))
    )
    made, refused = speech.hear_result("cluster.create", said)
    assert made == Created(instance=instance)
    assert isinstance(refused, NotCreated)
    assert (refused.name, refused.error.record()) == ("b", error.record())


def test_results_of_other_kinds_arrive() -> None:
    for action, result in {
        "cluster.delete": {InstanceId("i-1"): Deletion.GOING},
        "storage.signed_url": Secret("https://x"),
        "storage.delete": Deletion.ALREADY_ABSENT,
    }.items():
        said = json.loads(json.dumps(speech.say_result(action, result)))
        assert speech.hear_result(action, said) == result


@pytest.mark.parametrize("action", ["cluster.reboot", "storage.objects", "cluster.__init__", "objects.exec", "nothing"])
def test_what_no_driver_has_cannot_be_ordered(action: str) -> None:
    with pytest.raises(speech.UnknownAction):
        speech.hear_call(action, {})


@pytest.mark.parametrize("cls", CATEGORIES, ids=lambda cls: cls.category)
def test_an_error_is_the_same_behind_the_wire(cls: Any) -> None:
    vendor = Vendor(provider="p", service="s", code="c", http_status=409, request_id="r")
    error = cls(
        "words", reason="R", retry_after=timedelta(seconds=3), vendor=vendor, resource="x", attempts=3, hint="h"
    )
    back = error_from(json.loads(json.dumps(error.record())))
    assert type(back) is cls
    assert back.record() == error.record()


def test_writes_of_a_cluster_have_a_lane_and_reads_have_none() -> None:
    assert speech.lane_of("cluster.create", CALLS["cluster.create"]) == "clu_1"
    assert speech.lane_of("cluster.delete", {"ids": (), "owner": owner()}) == "cloud"
    assert speech.lane_of("cluster.list", CALLS["cluster.list"]) == ""
