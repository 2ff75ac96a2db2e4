import base64
import getpass
import json
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from anyscale_local.identity import LocalIdentity
from anyscale_local.testing import owned

from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, Unauthenticated
from anyscale_core.models.identity import IdentitySpec, Proof
from anyscale_core.models.ids import Token
from anyscale_core.models.instance import Deletion
from anyscale_core.models.secret import Secret
from anyscale_core.testing import ManualClock

AUDIENCE = "anyscale-core/register"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def driver(tmp_path: Path, clock: ManualClock) -> LocalIdentity:
    return built(tmp_path, clock)


def built(home: Path, clock: ManualClock) -> LocalIdentity:
    return LocalIdentity(DriverConfig(owner=owned(), home=home, clock=clock))


def later(clock: ManualClock) -> datetime:
    return clock.now() + timedelta(seconds=30)


def why(driver: LocalIdentity, proof: Proof, clock: ManualClock, audience: str = AUDIENCE) -> str:
    with pytest.raises(Unauthenticated) as error:
        driver.verify(proof, audience=audience, deadline=later(clock))
    return error.value.reason


def test_a_proof_names_the_instance_and_the_machine(driver: LocalIdentity, clock: ManualClock, tmp_path: Path) -> None:
    proof = driver.prove(AUDIENCE, subject="one", deadline=later(clock))
    principal = built(tmp_path, clock).verify(proof, audience=AUDIENCE, deadline=later(clock))
    assert (principal.subject, principal.instance) == ("one", "one")
    assert principal.account.startswith("mch_")
    assert stat.S_IMODE((tmp_path / "local" / "machine.pem").stat().st_mode) == 0o600


def test_a_node_finds_the_key_of_its_machine_through_its_environment(
    driver: LocalIdentity, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYSCALE_LOCAL_STATE", str(tmp_path / "local"))
    on_node = built(tmp_path / "node", clock)
    proof = on_node.prove(AUDIENCE, subject="one", deadline=later(clock))
    assert driver.verify(proof, audience=AUDIENCE, deadline=later(clock)).instance == "one"
    assert not (tmp_path / "node").exists()


def test_a_proof_for_another_audience_or_of_another_machine_is_forged(
    driver: LocalIdentity, clock: ManualClock, tmp_path: Path
) -> None:
    proof = driver.prove(AUDIENCE, subject="one", deadline=later(clock))
    assert why(driver, proof, clock, audience="somebody else") == "FORGED"
    elsewhere = built(tmp_path / "other", clock).prove(AUDIENCE, subject="one", deadline=later(clock))
    assert why(driver, elsewhere, clock) == "FORGED"
    assert why(driver, Proof(provider="aws", document=proof.document), clock) == "FORGED"


def test_a_proof_is_good_for_five_minutes_and_not_a_second_longer(
    driver: LocalIdentity, clock: ManualClock, tmp_path: Path
) -> None:
    proof = driver.prove(AUDIENCE, subject="one", deadline=later(clock))
    clock.advance(timedelta(minutes=5, seconds=-1))
    assert driver.verify(proof, audience=AUDIENCE, deadline=later(clock)).instance == "one"
    clock.advance(timedelta(seconds=1))
    assert why(driver, proof, clock) == "EXPIRED"
    slow = ManualClock(clock.now() - timedelta(hours=1))
    assert why(built(tmp_path, slow), proof, slow) == "CLOCK_SKEW"


def encoded(body: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")


def test_a_document_that_this_machine_did_not_sign_is_forged_however_it_is_broken(
    driver: LocalIdentity, clock: ManualClock
) -> None:
    real = driver.prove(AUDIENCE, subject="one", deadline=later(clock)).document.reveal()
    header, claims, signature = real.split(".")
    body = json.loads(base64.urlsafe_b64decode(claims + "=="))
    renamed = encoded(body | {"sub": "two"})
    unsigned = encoded({"alg": "none", "typ": "anyscale-local-proof+jwt"})
    for document in (
        f"{header}.{renamed}.{signature}",
        f"{unsigned}.{claims}.",
        f"{unsigned}.{claims}.{signature}",
        f"{header}.{claims}",
        f"{header}.{claims}.",
        f"{header}..{signature}",
        "x",
        "...",
        "é.è.à",
        "\0",
        f"{encoded([])}.{claims}.{signature}",
    ):
        assert why(driver, Proof(provider="local", document=Secret(document)), clock) == "FORGED", document
    assert why(driver, Proof(provider="local", document=Secret("")), clock) == "MISSING"


def test_credentials_are_short_lived_and_are_no_proof(driver: LocalIdentity, clock: ManualClock) -> None:
    driver.create(IdentitySpec(name="work", owner=owned()), token=Token("t1"), deadline=later(clock))
    credentials = driver.credentials("work", owner=owned(), deadline=later(clock))
    token = credentials.values["token"]
    assert credentials.expires_at == clock.now() + timedelta(minutes=15)
    assert token.reveal() not in repr(credentials)
    assert why(driver, Proof(provider="local", document=token), clock, audience="anyscale-local/workload") == "FORGED"
    with pytest.raises(NotFound):
        driver.credentials("nobody", owner=owned(), deadline=later(clock))


def test_an_identity_is_made_once_per_token_and_is_its_owners(driver: LocalIdentity, clock: ManualClock) -> None:
    spec = IdentitySpec(name="work", owner=owned(), subjects=("a",))
    made = driver.create(spec, token=Token("t1"), deadline=later(clock))
    assert driver.create(spec, token=Token("t1"), deadline=later(clock)) == made
    assert driver.get("work", owner=owned(), deadline=later(clock)) == made
    assert driver.list(owned(), deadline=later(clock)) == (made,)
    with pytest.raises(Conflict) as mismatch:
        driver.create(IdentitySpec(name="work", owner=owned()), token=Token("t1"), deadline=later(clock))
    assert mismatch.value.reason == "TOKEN_MISMATCH"

    other = owned(cloud="other")
    with pytest.raises(AlreadyExists) as foreign:
        driver.create(IdentitySpec(name="work", owner=other), token=Token("t1"), deadline=later(clock))
    assert foreign.value.reason == "FOREIGN"
    assert driver.list(other, deadline=later(clock)) == ()
    assert driver.delete("work", owner=other, deadline=later(clock)) is Deletion.ALREADY_ABSENT

    assert driver.delete("work", owner=owned(), deadline=later(clock)) is Deletion.GONE
    assert driver.delete("work", owner=owned(), deadline=later(clock)) is Deletion.ALREADY_ABSENT
    with pytest.raises(Conflict) as spent:
        driver.create(spec, token=Token("t1"), deadline=later(clock))
    assert spent.value.reason == "TOKEN_SPENT"


def test_only_the_user_that_processes_run_as_can_be_adopted(driver: LocalIdentity, clock: ManualClock) -> None:
    def adopt(user: str) -> str:
        spec = IdentitySpec(name="work", owner=owned(), adopt=user)
        return driver.create(spec, token=Token(user), deadline=later(clock)).principal

    with pytest.raises(NotFound):
        adopt("no-such-user")
    with pytest.raises(InvalidRequest):
        adopt("daemon")
    assert adopt(getpass.getuser()) == f"user:{getpass.getuser()}"


def test_eight_threads_that_need_the_key_first_make_one(tmp_path: Path, clock: ManualClock) -> None:
    proofs: list[Proof] = []

    def prove() -> None:
        proofs.append(built(tmp_path, clock).prove(AUDIENCE, subject="one", deadline=later(clock)))

    threads = [threading.Thread(target=prove) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    driver = built(tmp_path, clock)
    accounts = {driver.verify(proof, audience=AUDIENCE, deadline=later(clock)).account for proof in proofs}
    assert len(proofs) == 8
    assert len(accounts) == 1
