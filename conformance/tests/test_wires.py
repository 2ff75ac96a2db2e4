"""The carriers below the SDKs: each effect strikes once, where it was put, with what the vendor would show."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from anyscale_conformance.faults.carriers import REQUEST_ID
from anyscale_conformance.faults.http import NoAnswer
from anyscale_conformance.faults.http_azure import AzureCarrier, resource_type
from anyscale_conformance.faults.http_botocore import BotocoreCarrier
from anyscale_conformance.faults.http_google import GoogleCarrier, collection
from anyscale_conformance.faults.http_kubernetes import KubernetesCarrier, resource_of, wired
from anyscale_conformance.faults.plan import Crashed, Effect, Fault, Reach, RetryAfter

from anyscale_core.errors import CATEGORIES, CapacityUnavailable, PermissionDenied, Transient
from anyscale_core.testing.clock import ManualClock
from tests.conformance.wires import SDKS, Sdk, Seen, Server, aws_client, sdk

EFFECTS = (
    Effect.REFUSE, Effect.THROTTLE, Effect.LOSE_BEFORE, Effect.LOSE_AFTER, Effect.RESET_AFTER, Effect.FAIL_AFTER,
)  # fmt: skip
SHOWN = {Effect.LOSE_BEFORE: "unsent", Effect.LOSE_AFTER: "unanswered", Effect.RESET_AFTER: "broken"}
"""How an SDK shows an effect that has no answer."""
every_sdk = pytest.mark.parametrize("name", SDKS)


@every_sdk
@pytest.mark.parametrize("effect", EFFECTS)
def test_each_effect_strikes_once_at_its_position_as_the_vendor_would(name: str, effect: Effect) -> None:
    with sdk(name) as it:
        fault = it.carrier.plan.arm(
            Fault(effect=effect, at=2, category=PermissionDenied, retry_after=timedelta(seconds=6.5))
        )
        it.write()
        seen = it.seen(raised(it))
        it.write()
        assert fault.fired == 1
        assert [request.action for request in it.carrier.plan.writes()] == [it.action] * 3
        assert len(it.server.carried) == (2 if effect.is_before else 3)
        assert seen == expected(it, effect)


def expected(it: Sdk, effect: Effect) -> Seen:
    if effect in SHOWN:
        return Seen(how=SHOWN[effect])
    category = {Effect.REFUSE: "PermissionDenied", Effect.THROTTLE: "Throttled", Effect.FAIL_AFTER: "Transient"}[effect]
    service = it.action.partition(".")[0]
    status, code = it.carrier.CODES.get(f"{service}:{category}", it.carrier.CODES[category])
    return Seen(how="answered", status=status, code=code, retry_after=None if effect is Effect.FAIL_AFTER else "7")


def raised(it: Sdk) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - each SDK has its own
        it.write()
    return caught.value


@every_sdk
def test_retry_after_comes_as_a_date_when_that_is_asked_for(name: str) -> None:
    with sdk(name) as it:
        wait = timedelta(seconds=90)
        it.carrier.plan.arm(Fault(effect=Effect.THROTTLE, retry_after=wait, retry_after_as=RetryAfter.DATE))
        told = parsedate_to_datetime(it.seen(raised(it)).retry_after or "")
        assert wait <= told - it.clock.now() <= wait + timedelta(seconds=2)


@every_sdk
def test_a_delay_lets_time_pass_and_something_happen_before_the_request(name: str) -> None:
    with sdk(name) as it:
        before, found, delay = it.clock.now(), list[int](), timedelta(seconds=3)
        fault = it.carrier.plan.arm(Fault(effect=Effect.DELAY, delay=delay))
        fault.hook = lambda: found.append(len(it.server.carried))
        it.write()
        assert (it.clock.now() - before, found, len(it.server.carried)) == (delay, [0], 1)


@every_sdk
@pytest.mark.parametrize(("effect", "carried"), [(Effect.CRASH_BEFORE, 0), (Effect.CRASH_AFTER, 1)])
def test_a_crash_ends_the_call_and_the_dead_send_nothing_more(name: str, effect: Effect, carried: int) -> None:
    with sdk(name, attempts=3) as it:
        fault = it.carrier.plan.arm(Fault(effect=effect))
        for call in (it.write, it.write, it.read):
            with pytest.raises(Crashed):
                call()
        assert (fault.fired, len(it.server.carried)) == (1, carried)
        it.carrier.plan.resume()
        it.write()
        assert len(it.server.carried) == carried + 1


@every_sdk
def test_the_retries_of_the_sdk_are_counted_and_hide_nothing(name: str) -> None:
    with sdk(name, attempts=2) as it:
        fault = it.carrier.plan.arm(Fault(effect=Effect.REFUSE, category=Transient))
        it.write()
        assert (fault.fired, len(it.carrier.plan.writes()), len(it.server.carried)) == (1, 2, 1)


@every_sdk
def test_a_second_attempt_of_the_sdk_is_the_second_position(name: str) -> None:
    with sdk(name, attempts=2) as it:
        first = it.carrier.plan.arm(Fault(effect=Effect.REFUSE, category=Transient))
        second = it.carrier.plan.arm(Fault(effect=Effect.LOSE_AFTER, at=2))
        assert it.seen(raised(it)) == Seen(how="unanswered")
        assert (first.fired, second.fired, len(it.server.carried)) == (1, 1, 1)


@every_sdk
def test_reads_are_no_writes_and_can_be_struck_by_themselves(name: str) -> None:
    with sdk(name) as it:
        writes = it.carrier.plan.arm(Fault(effect=Effect.LOSE_BEFORE))
        it.read()
        assert (it.carrier.plan.writes(), writes.fired) == ((), 0)
        reads = it.carrier.plan.arm(Fault(effect=Effect.LOSE_BEFORE, reach=Reach.READS))
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - each SDK has its own
            it.read()
        assert (it.seen(caught.value), reads.fired) == (Seen(how="unsent"), 1)


@every_sdk
def test_the_journal_tells_the_timeout_that_reached_the_request(name: str) -> None:
    with sdk(name) as it:
        it.write()
        (request,) = it.carrier.plan.writes()
        assert request.timeout_s == pytest.approx(300 if name == "azure" else 5)


@pytest.mark.parametrize("name", ["botocore", "google"])
def test_the_journal_tells_the_token_that_went_along(name: str) -> None:
    with sdk(name) as it:
        it.write()
        assert [request.token for request in it.carrier.plan.writes()] == ["tok-1"]


@every_sdk
def test_every_answer_of_the_table_is_understood_by_the_sdk(name: str) -> None:
    with sdk(name) as it:
        service = it.action.partition(".")[0]
        for key, (status, code) in it.carrier.CODES.items():
            owner, _, plain = key.rpartition(":")
            category, _, reason = plain.rstrip(")").partition("(")
            if owner not in ("", service) or (not owner and f"{service}:{category}" in it.carrier.CODES):
                continue
            kind = next(each for each in CATEGORIES if each.category == category)
            it.carrier.plan.arm(Fault(effect=Effect.REFUSE, category=kind, reason=reason))
            assert it.seen(raised(it)) == Seen(how="answered", status=status, code=code), key
            it.carrier.plan.clear()
        assert it.server.carried == []


@pytest.mark.parametrize("carrier", [AzureCarrier, BotocoreCarrier, GoogleCarrier])
def test_every_category_has_an_answer_of_the_vendors(carrier: Any) -> None:
    assert {category.category for category in CATEGORIES} <= set(carrier.CODES)


def test_what_the_vendor_has_no_answer_for_is_the_suites_fault_and_not_the_providers() -> None:
    with sdk("kubernetes") as it:
        it.carrier.plan.arm(Fault(effect=Effect.REFUSE, category=CapacityUnavailable))
        with pytest.raises(NoAnswer, match="codes="):
            it.write()


def test_a_kits_own_code_takes_the_place_of_the_tables() -> None:
    carrier = KubernetesCarrier(ManualClock(), codes={"CapacityUnavailable": (503, "Unschedulable")})
    carrier.plan.arm(Fault(effect=Effect.REFUSE, category=CapacityUnavailable))
    answer = carrier.carry(wired("POST", "/api/v1/namespaces/n/pods", 5), lambda: pytest.fail("it was sent"))
    assert (answer.status, b"Unschedulable" in answer.read()) == (503, True)


def test_aws_errors_are_rendered_in_the_protocol_of_each_service() -> None:
    import boto3
    from botocore.exceptions import ClientError

    session, carrier = boto3.Session(), BotocoreCarrier(ManualClock())
    carrier.attach(session)
    with Server.running() as server:
        calls: dict[str, Callable[[Any], object]] = {
            "s3": lambda client: client.create_bucket(Bucket="b"),
            "iam": lambda client: client.delete_role(RoleName="r"),
            "eks": lambda client: client.delete_cluster(name="c"),
            "ecr": lambda client: client.delete_repository(repositoryName="repo"),
        }
        for service, call in calls.items():
            client = aws_client(session, service, server.url)
            fault = carrier.plan.arm(Fault(effect=Effect.THROTTLE, retry_after=timedelta(seconds=2)))
            with pytest.raises(ClientError) as caught:
                call(client)
            status, code = carrier.CODES.get(f"{service}:Throttled", carrier.CODES["Throttled"])
            response = caught.value.response
            assert (response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]) == (status, code), (
                service
            )
            assert response["ResponseMetadata"]["RequestId"] == REQUEST_ID, service
            assert fault.fired == 1
        assert server.carried == []


@pytest.mark.parametrize(
    ("path", "type"),
    [
        ("/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v", "Microsoft.Compute/virtualMachines"),
        ("/x/providers/Microsoft.Network/virtualNetworks/v/subnets/s", "Microsoft.Network/virtualNetworks/subnets"),
        ("/x/providers/Microsoft.Compute/virtualMachines", "Microsoft.Compute/virtualMachines"),
        ("/subscriptions/s/resourceGroups/g", "resourceGroups"),
    ],
)  # fmt: skip
def test_a_path_of_arm_is_told_by_its_type(path: str, type: str) -> None:
    assert resource_type(path) == type


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/compute/v1/projects/p/zones/z/instances", "instances"),
        ("/compute/v1/projects/p/zones/z/instances/vm", "instances"),
        ("/compute/v1/projects/p/zones/z/instances/vm/setLabels", "setLabels"),
        ("/v1/projects/p/serviceAccounts/a:generateAccessToken", "generateAccessToken"),
        ("/storage/v1/b/bucket/o", "o"),
    ],
)
def test_a_path_of_google_is_told_by_its_collection_or_verb(path: str, word: str) -> None:
    assert collection(path) == word


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/namespaces/n/pods/p", "pods"),
        ("/api/v1/namespaces/n/pods/p/eviction", "pods/eviction"),
        ("/api/v1/namespaces/n", "namespaces"),
        ("/api/v1/nodes", "nodes"),
        ("/apis/apps/v1/namespaces/n/deployments/d/status", "deployments/status"),
        ("/version", "version"),
    ],
)
def test_a_path_of_an_api_server_is_told_by_its_resource(path: str, resource: str) -> None:
    assert resource_of(path) == resource


@pytest.mark.parametrize(
    ("method", "url", "is_write"),
    [
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", False),
        ("POST", "/api/v1/namespaces/n/pods?dryRun=All", False),
        ("PATCH", "/api/v1/namespaces/n/pods/p", True),
        ("GET", "/api/v1/pods", False),
    ],
)
def test_reviews_and_dry_runs_of_an_api_server_are_no_writes(method: str, url: str, is_write: bool) -> None:
    assert wired(method, url, None).is_write is is_write


def test_no_sdk_is_loaded_by_a_run_that_uses_none() -> None:
    modules = ", ".join(
        f"anyscale_conformance.faults.http_{name}" for name in ("azure", "botocore", "google", "kubernetes")
    )
    sdks = "'boto3', 'botocore', 'azure', 'googleapiclient', 'httplib2', 'kubernetes', 'requests', 'urllib3'"
    code = f"import sys, {modules}; print([name for name in ({sdks}) if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
