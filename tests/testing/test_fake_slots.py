"""The fake identity, storage and networking drivers keep the contract."""

from datetime import timedelta
from typing import Any

import attrs
import pytest

from anyscale_core.errors import (
    AlreadyExists,
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from anyscale_core.models.identity import Access, IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import (
    Deletion,
)
from anyscale_core.models.networking import Check, CheckStatus, EndpointSpec, EndpointState, NetworkSpec
from anyscale_core.models.owner import Owner
from anyscale_core.models.secret import Secret
from anyscale_core.models.storage import BucketSpec, UrlMethod
from anyscale_core.testing import builders as build
from anyscale_core.testing.fake_identity import sign_proof
from anyscale_core.testing.fake_storage import use_signed_url
from tests.testing.rig import OURS, SECOND, THEIRS, Rig

# Identity --------------------------------------------------------------------------------------------------------


def an_identity(rig: Rig, name: str = "nodes", owner: Owner = OURS, token: str = "tok", **fields: Any) -> Any:
    return rig.identity.create(
        IdentitySpec(name=name, owner=owner, **fields), token=Token(token), deadline=rig.deadline
    )


def test_an_identity_is_made_once_and_its_name_is_unique_in_the_account(rig: Rig) -> None:
    assert an_identity(rig) == an_identity(rig) == rig.identity.get("nodes", owner=OURS, deadline=rig.deadline)
    assert len(rig.cloud.inventory("identity")) == 1
    with pytest.raises(AlreadyExists) as ours:
        an_identity(rig, token="tok_2")
    with pytest.raises(AlreadyExists) as theirs:
        an_identity(rig, owner=THEIRS)
    assert (ours.value.reason, theirs.value.reason) == ("OWNED", "FOREIGN")
    with pytest.raises(Conflict) as mismatch:
        an_identity(rig, name="other")
    assert mismatch.value.reason == "TOKEN_MISMATCH"


def test_an_identity_is_deleted_once_and_its_token_is_then_spent(rig: Rig) -> None:
    an_identity(rig)
    assert rig.identity.delete("nodes", owner=THEIRS, deadline=rig.deadline) is Deletion.ALREADY_ABSENT
    assert rig.identity.delete("nodes", owner=OURS, deadline=rig.deadline) is Deletion.GONE
    assert rig.identity.delete("nodes", owner=OURS, deadline=rig.deadline) is Deletion.ALREADY_ABSENT
    with pytest.raises(Conflict) as caught:
        an_identity(rig)
    assert caught.value.reason == "TOKEN_SPENT"
    assert rig.identity.list(OURS, deadline=rig.deadline) == ()


def test_adopting_needs_something_that_exists_and_never_deletes_it(rig: Rig) -> None:
    with pytest.raises(NotFound):
        an_identity(rig, adopt="role/theirs", token="early")
    rig.cloud.exists("identity", "role/theirs")
    assert an_identity(rig, adopt="role/theirs").adopted
    assert rig.identity.delete("nodes", owner=OURS, deadline=rig.deadline) is Deletion.GONE
    assert ("identity", "role/theirs") in rig.cloud.foreign


def test_credentials_expire_and_do_not_show(rig: Rig) -> None:
    an_identity(rig)
    credentials = rig.identity.credentials("nodes", owner=OURS, deadline=rig.deadline)
    assert credentials.expires_at > rig.clock.now()
    assert credentials.values["token"].reveal() not in repr(credentials)


def test_a_proof_names_its_instance_to_its_audience_for_a_while(rig: Rig) -> None:
    proof = rig.identity.prove("register", subject="w-1", deadline=rig.deadline)
    principal = rig.identity.verify(proof, audience="register", deadline=rig.deadline)
    assert (principal.instance, principal.account) == ("w-1", rig.cloud.account)
    with pytest.raises(Unauthenticated) as other:
        rig.identity.verify(proof, audience="gateway", deadline=rig.deadline)
    rig.clock.advance(timedelta(minutes=5))
    with pytest.raises(Unauthenticated) as late:
        rig.identity.verify(proof, audience="register", deadline=rig.deadline)
    assert (other.value.reason, late.value.reason) == ("FORGED", "EXPIRED")


def test_forged_missing_and_foreign_proofs_are_told_apart(rig: Rig) -> None:
    proof = rig.identity.prove("register", subject="w-1", deadline=rig.deadline)
    document = proof.document.reveal()
    forged = [Secret("x"), Secret("." + document), Secret(document[:-1] + ("0" if document[-1] != "0" else "1"))]
    for fake in forged:
        with pytest.raises(Unauthenticated) as caught:
            rig.identity.verify(attrs.evolve(proof, document=fake), audience="register", deadline=rig.deadline)
        assert caught.value.reason == "FORGED"
    with pytest.raises(Unauthenticated) as missing:
        rig.identity.verify(attrs.evolve(proof, document=Secret("")), audience="register", deadline=rig.deadline)
    assert missing.value.reason == "MISSING"
    stranger = sign_proof(rig.cloud, audience="register", subject="w-1", account="another")
    with pytest.raises(PermissionDenied):
        rig.identity.verify(stranger, audience="register", deadline=rig.deadline)


def test_permissions_are_least_and_offline(rig: Rig) -> None:
    permissions = rig.identity.permissions(["cluster.list", "cluster.create"])
    assert [permission.action for permission in permissions] == ["fake:cluster.create", "fake:cluster.list"]
    assert all("*" not in permission.action + permission.resource for permission in permissions)
    with pytest.raises(InvalidRequest):
        rig.identity.permissions(["cluster.fly"])
    assert rig.cloud.calls == []


# Storage ---------------------------------------------------------------------------------------------------------


def a_bucket(rig: Rig, name: str = "logs", owner: Owner = OURS, token: str = "tok", **fields: Any) -> Any:
    return rig.storage.create(BucketSpec(name=name, **fields), owner=owner, token=Token(token), deadline=rig.deadline)


def test_a_bucket_is_made_once_and_its_name_is_unique_in_the_world(rig: Rig) -> None:
    assert a_bucket(rig) == a_bucket(rig) == rig.storage.get("logs", owner=OURS, deadline=rig.deadline)
    with pytest.raises(AlreadyExists) as caught:
        a_bucket(rig, owner=THEIRS)
    assert caught.value.reason == "FOREIGN"
    assert rig.storage.list(THEIRS, deadline=rig.deadline) == ()
    with pytest.raises(NotFound):
        rig.storage.get("logs", owner=THEIRS, deadline=rig.deadline)


def test_objects_are_real_and_a_prefix_is_a_store_of_its_own(rig: Rig) -> None:
    a_bucket(rig)
    below = rig.storage.objects("logs", "clusters/a/", owner=OURS)
    below.put("x.log", b"hello")
    whole = rig.storage.objects("logs", owner=OURS)
    whole.put("clusters/ab/y.log", b"other")
    assert bytes(whole.get("clusters/a/x.log").bytes()) == b"hello"
    assert bytes(below.get("x.log").bytes()) == b"hello"
    assert [meta["path"] for page in below.list() for meta in page] == ["x.log"]
    below.delete("x.log")
    assert [meta["path"] for page in whole.list() for meta in page] == ["clusters/ab/y.log"]
    assert rig.cloud.calls[-1].action == "storage.create"


def test_a_bucket_with_objects_is_not_deleted(rig: Rig) -> None:
    a_bucket(rig)
    store = rig.storage.objects("logs", owner=OURS)
    store.put("x", b"1")
    with pytest.raises(Conflict) as caught:
        rig.storage.delete("logs", owner=OURS, deadline=rig.deadline)
    assert caught.value.reason == "NOT_EMPTY"
    store.delete("x")
    assert rig.storage.delete("logs", owner=OURS, deadline=rig.deadline) is Deletion.GONE
    assert rig.storage.delete("logs", owner=OURS, deadline=rig.deadline) is Deletion.ALREADY_ABSENT


def test_a_grant_is_by_prefix_repeatable_and_gone_with_its_identity(rig: Rig) -> None:
    a_bucket(rig)
    an_identity(rig)

    def grant(prefix: str, access: Access = Access.WRITE, token: str = "tok_g") -> Any:
        return rig.storage.grant(
            "logs", prefix, identity="nodes", access=access, owner=OURS, token=Token(token), deadline=rig.deadline
        )

    assert grant("a/") == grant("a/")
    assert grant("a/").store.url == "memory://logs/a/"
    assert grant("a/", Access.READ, token="tok_h").access is Access.READ
    held = [(item.name, item.state) for item in rig.cloud.inventory("grant")]
    assert held == [("logs/a/", "write"), ("logs/a/", "read")], (
        "one who may only read takes nothing from one who may write"
    )
    with pytest.raises(InvalidRequest):
        grant("a", token="tok_i")
    rig.identity.delete("nodes", owner=OURS, deadline=rig.deadline)
    assert rig.cloud.inventory("grant") == ()
    with pytest.raises(NotFound):
        grant("b/", token="tok_j")


def test_a_revoked_grant_is_gone_and_its_objects_and_other_grants_stay(rig: Rig) -> None:
    a_bucket(rig)
    an_identity(rig)
    for number, (prefix, access) in enumerate([("a/", Access.WRITE), ("a/", Access.READ), ("ab/", Access.READ)]):
        rig.storage.grant(
            "logs", prefix, identity="nodes", access=access, owner=OURS, token=Token(f"tok_{number}"),
            deadline=rig.deadline,
        )  # fmt: skip
    rig.storage.objects("logs", owner=OURS).put("a/x", b"1")

    def revoke(prefix: str, bucket: str = "logs", owner: Owner = OURS) -> Deletion:
        return rig.storage.revoke(bucket, prefix, identity="nodes", owner=owner, deadline=rig.deadline)

    assert revoke("a/", owner=THEIRS) is Deletion.ALREADY_ABSENT
    assert revoke("a/") is Deletion.GONE
    assert [item.name for item in rig.cloud.inventory("grant")] == ["logs/ab/"]
    assert bytes(rig.storage.objects("logs", owner=OURS).get("a/x").bytes()) == b"1"
    assert revoke("a/") is Deletion.ALREADY_ABSENT
    assert revoke("a/", bucket="never-made") is Deletion.ALREADY_ABSENT


def test_a_signed_url_is_good_for_one_method_on_one_key_for_a_time(rig: Rig) -> None:
    a_bucket(rig)

    def url(method: UrlMethod) -> Secret[str]:
        return rig.storage.signed_url(
            "logs", "a b/ü.txt", method=method, expires_in=60 * SECOND, owner=OURS, deadline=rig.deadline
        )

    put, get = url(UrlMethod.PUT), url(UrlMethod.GET)
    use_signed_url(rig.cloud, put, UrlMethod.PUT, b"body")
    assert use_signed_url(rig.cloud, get, UrlMethod.GET).body == b"body"
    with pytest.raises(PermissionDenied):
        use_signed_url(rig.cloud, get, UrlMethod.PUT, b"x")
    with pytest.raises(Unauthenticated):
        use_signed_url(rig.cloud, Secret(get.reveal().replace("GET", "PUT")), UrlMethod.PUT, b"x")
    rig.clock.advance(60 * SECOND)
    with pytest.raises(Unauthenticated):
        use_signed_url(rig.cloud, get, UrlMethod.GET)


# Networking ------------------------------------------------------------------------------------------------------


def a_network(rig: Rig, name: str = "net", owner: Owner = OURS, token: str = "tok", **fields: Any) -> Any:
    return rig.networking.create(
        NetworkSpec(name=name, **fields), owner=owner, token=Token(token), deadline=rig.deadline
    )


def expose(rig: Rig, target: str = "10.0.0.1", token: str = "tok_e", name: str = "head") -> Any:
    spec = EndpointSpec(
        name=name, owner=build.owner(cluster="clu_1"), network="net", target_address=target, target_port=8443
    )
    return rig.networking.expose(spec, token=Token(token), deadline=rig.deadline)


def test_a_network_is_made_once_and_ranges_never_overlap(rig: Rig) -> None:
    assert a_network(rig, cidr="10.0.0.0/16") == a_network(rig, cidr="10.0.0.0/16")
    with pytest.raises(Conflict, match=r"overlaps 10\.0\.0\.0/16"):
        a_network(rig, "other", cidr="10.0.128.0/17", token="tok_2")
    with pytest.raises(InvalidRequest):
        a_network(rig, "other", cidr="10.0.0.1/16", token="tok_3")
    assert len(rig.cloud.inventory("network")) == 1
    a_network(rig, "free", token="tok_4")
    assert {net.cidr for net in rig.cloud.networks.values()} == {"10.0.0.0/16", "10.1.0.0/16"}


def test_two_planes_may_use_one_name_and_see_only_their_own(rig: Rig) -> None:
    mine, theirs = a_network(rig), a_network(rig, owner=THEIRS)
    assert mine.id != theirs.id
    assert rig.networking.list(OURS, deadline=rig.deadline) == (mine,)
    assert rig.networking.get("net", owner=THEIRS, deadline=rig.deadline) == theirs


def test_an_endpoint_has_a_url_only_once_it_can_be_reached(rig: Rig) -> None:
    a_network(rig)
    assert (expose(rig).state, expose(rig).url) == (EndpointState.PENDING, "")
    rig.clock.advance(rig.cloud.exposes_in)
    ready = expose(rig)
    assert ready.state is EndpointState.READY
    assert ready.url.startswith("https://")
    assert rig.networking.get("net", owner=OURS, deadline=rig.deadline).endpoints == (ready,)


def test_an_endpoint_moves_to_a_new_target_and_is_pending_meanwhile(rig: Rig) -> None:
    a_network(rig)
    expose(rig)
    rig.clock.advance(rig.cloud.exposes_in)
    assert expose(rig, "10.0.0.2", token="tok_2").state is EndpointState.PENDING
    assert len(rig.cloud.inventory("endpoint")) == 1
    with pytest.raises(Conflict) as caught:
        expose(rig, "10.0.0.3", token="tok_2")
    assert caught.value.reason == "TOKEN_MISMATCH"


def test_a_network_in_use_is_not_deleted(rig: Rig) -> None:
    a_network(rig)
    expose(rig)
    instance = rig.launch("w", network="net")
    for _ in range(2):
        with pytest.raises(Conflict) as caught:
            rig.networking.delete("net", owner=OURS, deadline=rig.deadline)
        assert caught.value.reason == "IN_USE"
        rig.networking.withdraw("head", owner=OURS, deadline=rig.deadline)
        rig.clock.advance(rig.cloud.delete_takes)
    rig.delete(instance.id)
    rig.clock.advance(rig.cloud.delete_takes)
    assert rig.networking.delete("net", owner=OURS, deadline=rig.deadline) is Deletion.GOING
    rig.clock.advance(rig.cloud.delete_takes)
    assert rig.networking.delete("net", owner=OURS, deadline=rig.deadline) is Deletion.ALREADY_ABSENT
    assert rig.cloud.inventory() == ()


def test_a_withdrawal_ends_with_its_address_gone(rig: Rig) -> None:
    a_network(rig)
    expose(rig)
    assert rig.networking.withdraw("head", owner=THEIRS, deadline=rig.deadline) is Deletion.ALREADY_ABSENT
    assert rig.networking.withdraw("head", owner=OURS, deadline=rig.deadline) is Deletion.GOING
    assert rig.networking.get("net", owner=OURS, deadline=rig.deadline).endpoints[0].state is EndpointState.DELETING
    rig.clock.advance(rig.cloud.delete_takes)
    assert rig.networking.withdraw("head", owner=OURS, deadline=rig.deadline) is Deletion.ALREADY_ABSENT
    with pytest.raises(Conflict) as caught:
        expose(rig)
    assert caught.value.reason == "TOKEN_SPENT"


def test_an_endpoint_needs_its_network(rig: Rig) -> None:
    with pytest.raises(NotFound) as caught:
        expose(rig)
    assert caught.value.reason == "PARENT"


def test_a_check_shows_what_a_hand_put_there(rig: Rig) -> None:
    a_network(rig)
    assert {c.status for c in rig.networking.check("net", owner=OURS, deadline=rig.deadline)} == {CheckStatus.PASSED}
    broken = Check(id="network.outbound", status=CheckStatus.FAILED, detail="no way out", remedy="add a NAT")
    rig.cloud.checks[broken.id] = broken
    assert broken in rig.networking.check("net", owner=OURS, deadline=rig.deadline)
