"""Who is let in as an operator, and whose orders an operator performs."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from anyscale_core.controlplane.keys import REGISTRATION, USER, KeyRing
from anyscale_core.errors import Refused, SpecError, Transient
from anyscale_core.models import wire
from anyscale_core.models.cloud import CloudMode, CloudSpec, OperatorIdentity
from anyscale_core.models.ids import Token
from anyscale_core.models.order import OPERATOR_AUDIENCE, Dispatch, Login, Poll, Session
from anyscale_core.models.secret import Secret
from anyscale_core.operator.trust import Forged, opener
from anyscale_core.testing.builders import an_instance_spec
from anyscale_core.testing.fake_identity import sign_proof
from tests.operator.pull import CLOUD, Pull

HOUR = timedelta(hours=1)


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    return Pull.new(tmp_path / "home")


def stranger_of(pull: Pull) -> KeyRing:
    return KeyRing(pull.world.home.parent / "stranger", now=pull.world.clock.now())


def tokens(pull: Pull) -> dict[str, tuple[str, Secret[str] | None]]:
    """Return tokens that let nobody in, each with the word of its refusal."""
    keys, now = pull.world.plane.keys, pull.world.clock.now()
    claims = {"sub": CLOUD, "epoch": 1}
    return {
        "another plane's": (
            "forged", stranger_of(pull).sign(REGISTRATION, claims, issued=now, expires=now + HOUR),
        ),
        "an old one": ("expired", keys.sign(REGISTRATION, claims, issued=now - 2 * HOUR, expires=now - HOUR)),
        "a user's": ("foreign", keys.sign(USER, claims, issued=now, expires=now + HOUR)),
        "another cloud's": (
            "foreign", keys.sign(REGISTRATION, {"sub": "other", "epoch": 1}, issued=now, expires=now + HOUR),
        ),
        "of another epoch": (
            "revoked", keys.sign(REGISTRATION, {"sub": CLOUD, "epoch": 2}, issued=now, expires=now + HOUR),
        ),
        "none": ("missing", None),
    }  # fmt: skip


def test_a_token_that_is_not_fresh_and_for_this_cloud_lets_nobody_in_and_is_audited(pull: Pull) -> None:
    plane = pull.world.plane
    for name, (why, token) in tokens(pull).items():
        with pytest.raises(Refused) as caught:
            plane.operators.login(Login(cloud=CLOUD, replica="x", token=token))
        assert caught.value.why == why, name
    records = [record for record in plane.store.audit() if record.action == "operator.login"]
    assert [record.outcome for record in records].count("refused") == len(tokens(pull))


def test_a_credential_lets_nobody_do_anything_but_ask_and_report(pull: Pull) -> None:
    plane, session = pull.world.plane, pull.operator._contact.session()
    with pytest.raises(Refused):
        plane.keys.verify(USER, session.credential, now=pull.world.clock.now())
    with pytest.raises(Refused):
        plane.heartbeats.identify(session.credential)
    token = plane.operators.token(CLOUD).token
    with pytest.raises(Refused) as caught:
        plane.operators.poll(token, Poll())
    assert caught.value.why == "foreign", "a registration token is no credential"


def test_a_credential_is_renewed_at_half_its_life_and_an_expired_one_is_replaced_by_a_new_login(pull: Pull) -> None:
    operator, clock = pull.operator, pull.world.clock
    first = operator._contact.session().credential
    clock.advance(timedelta(minutes=40))
    operator.turn()
    renewed = operator._contact._credential
    assert renewed is not None
    assert renewed != first
    clock.advance(timedelta(hours=3))
    with pytest.raises(Refused, match="expired"):
        operator.turn()
    operator.turn()


@pytest.fixture
def proving(tmp_path: Path) -> Pull:
    """A cloud that names the identity of its operator."""
    pull = Pull.new(tmp_path / "home")
    identity = OperatorIdentity(provider="fake", subject="fake:operator-0")
    spec = CloudSpec(name="proved", provider="fake", mode=CloudMode.OPERATOR, operator=identity)
    pull.world.plane.register_cloud(spec, actor="tester")
    return pull


def login_of(pull: Pull, *, subject: str = "operator-0", audience: str = OPERATOR_AUDIENCE, **fields: str) -> Login:
    return Login(
        cloud="proved", replica="x", proof=sign_proof(pull.world.cloud, audience=audience, subject=subject, **fields)
    )


def test_the_identity_that_a_cloud_names_is_let_in_by_its_proof(proving: Pull) -> None:
    operators = proving.world.plane.operators
    assert operators.login(login_of(proving)).owner.cloud == "proved"


def test_a_proof_of_somebody_else_or_for_another_purpose_lets_nobody_in(proving: Pull) -> None:
    refused = {
        "foreign": login_of(proving, subject="somebody-else"),
        "unproven": login_of(proving, audience="anyscale-core/node"),
    }
    for why, login in refused.items():
        with pytest.raises(Refused) as caught:
            proving.world.plane.operators.login(login)
        assert caught.value.why == why
    with pytest.raises(Refused, match="account"):
        proving.world.plane.operators.login(login_of(proving, account="another-account"))


def test_a_proof_that_cannot_be_looked_at_now_is_no_refusal(proving: Pull) -> None:
    proving.world.cloud.refuse("identity.verify", Transient("no answer", reason="NETWORK"), count=10)
    with pytest.raises(Transient, match="try again"):
        proving.world.plane.operators.login(login_of(proving))


def test_a_cloud_whose_operator_cannot_be_known_names_every_fault(pull: Pull) -> None:
    identity = OperatorIdentity(provider="nobody", subject="x")
    spec = CloudSpec(name="odd", provider="fake", operator=identity)
    with pytest.raises(SpecError) as caught:
        pull.world.plane.register_cloud(spec, actor="tester")
    assert {fault.path for fault in caught.value.faults} == {"operator", "operator.provider"}


class Liar:
    """A door behind which somebody changes the orders."""

    def __init__(self, door: object, change: Callable[[str], str], certificate: str = "") -> None:
        self._door, self._change, self._certificate = door, change, certificate

    def __getattr__(self, name: str) -> object:
        return getattr(self._door, name)

    def login(self, login: Login) -> Session:
        session: Session = self._door.login(login)  # type: ignore[attr-defined]
        return attrs.evolve(session, order_certificate=self._certificate or session.order_certificate)

    def poll(self, poll: Poll, *, credential: Secret[str]) -> Dispatch:
        found: Dispatch = self._door.poll(poll, credential=credential)  # type: ignore[attr-defined]
        return attrs.evolve(found, slips=tuple(Secret(self._change(slip.reveal())) for slip in found.slips))


def resigned(keys: KeyRing, cloud: str = CLOUD) -> Callable[[str], str]:
    """Return what signs an order anew, for a cloud."""
    from joserfc.jws import extract_compact

    def change(slip: str) -> str:
        order = json.loads(extract_compact(slip.encode()).payload)
        return keys.sign_order(json.dumps({**order, "cloud": cloud}).encode()).reveal()

    return change


@pytest.mark.parametrize(
    "lie", ["signed by another plane", "one letter changed", "for another cloud", "no order at all"]
)
def test_an_order_that_is_not_the_planes_own_is_not_performed(pull: Pull, lie: str) -> None:
    world, keys = pull.world, pull.world.plane.keys
    change: dict[str, Callable[[str], str]] = {
        "signed by another plane": resigned(stranger_of(pull)),
        "one letter changed": lambda slip: slip[:-20] + ("A" if slip[-20] != "A" else "B") + slip[-19:],
        "for another cloud": resigned(keys, "other"),
        "no order at all": lambda slip: keys.sign(
            USER, {}, issued=world.clock.now(), expires=world.clock.now() + HOUR
        ).reveal(),
    }
    pull.operator._contact._door = Liar(pull.door, change[lie])  # type: ignore[assignment]
    cloud, told = world.plane.clouds.get(CLOUD), []

    def idle(most: timedelta) -> None:
        try:
            pull.operator.turn()
        except Forged as forged:
            told.append(forged)
        world.clock.advance(max(most, timedelta(seconds=1)))

    world.plane.mailbox.idle = idle
    with pytest.raises(Exception, match=r"cluster\.create"):
        cloud.cluster.create(
            [an_instance_spec(owner=cloud.owner)], token=Token("t"), deadline=world.clock.now() + timedelta(seconds=20)
        )
    assert told
    assert world.instances() == []


def test_a_key_that_the_given_authority_has_not_certified_is_not_trusted(pull: Pull) -> None:
    keys, now = pull.world.plane.keys, pull.world.clock.now()
    stranger = stranger_of(pull)
    with pytest.raises(Forged, match="not certified"):
        opener(keys.ca_pem, stranger.order_certificate(now=now), now=now)
    with pytest.raises(Forged, match="not for the key"):
        opener(keys.ca_pem, keys.issue("localhost", hosts=(), now=now).cert_pem, now=now)
    with pytest.raises(Forged, match="not valid now"):
        opener(keys.ca_pem, keys.order_certificate(now=now), now=now + timedelta(days=800))
    opened = opener(keys.ca_pem, keys.order_certificate(now=now), now=now)(keys.sign_order(b"x" * 300_000))
    assert len(opened) == 300_000, "an order for a thousand nodes is large"


def test_what_is_said_survives_the_wire(pull: Pull) -> None:
    session = pull.operator._contact.session()
    said = json.loads(json.dumps(wire.unstructure_revealed(session)))
    assert wire.structure(said, Session) == session
    assert session.credential.reveal() not in str(wire.unstructure(session))
