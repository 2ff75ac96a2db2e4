"""I-TOK and I-WHO: credentials that end, and proofs that say who a machine is and nothing else."""

from datetime import timedelta
from typing import Any

import attrs

from anyscale_conformance.context import Context
from anyscale_conformance.expect import CheckFailed, expect, expect_equal, expect_error, expect_one
from anyscale_conformance.kit import Mode
from anyscale_conformance.rules import Hand, check
from anyscale_core.clock import Clock
from anyscale_core.errors import InvalidRequest, NotFound, PermissionDenied, Unauthenticated, Unsupported
from anyscale_core.models.identity import Credentials, Principal, Proof
from anyscale_core.models.secret import Secret
from anyscale_core.testing.clock import ManualClock

LONGEST = timedelta(hours=12)
"""No cloud gives a role credentials for longer; beyond it they are not short-lived."""
STALE = timedelta(hours=24)
"""No proof is fresh after it."""
LEFT = timedelta(seconds=60)
"""What must be left of credentials that are handed out: time enough to use them."""


@check("I-TOK-01", slots=("identity",), needs=("identity.create", "identity.credentials"))
def credentials_end_and_are_renewed(ctx: Context) -> None:
    """Takes credentials, looks at their end and their secrecy, and takes them again shortly before it."""
    it = ctx.subject("identity")
    who = it.make().name
    first = _sound(ctx, _credentials(ctx, who))
    other = _credentials(ctx, it.make().name)
    expect(_revealed(first) != _revealed(other), "two identities were given the same credentials")
    if ctx.kit.is_virtual:
        ctx.pass_time(first.expires_at - ctx.clock.now() - LEFT / 2)
        later = _sound(ctx, _credentials(ctx, who))
        expect(
            later.expires_at > first.expires_at, f"credentials asked for {LEFT / 2} before their end were not renewed"
        )
    for name, owner, whose in ((ctx.name(), ctx.owner, "nobody's"), (who, ctx.stranger, "a stranger's")):
        with expect_error(NotFound, when=f"asking for credentials of {whose} identity"):
            ctx.identity.credentials(name, owner=owner, deadline=ctx.deadline())


def _credentials(ctx: Context, who: str) -> Credentials:
    return ctx.identity.credentials(who, owner=ctx.owner, deadline=ctx.deadline())


def _sound(ctx: Context, credentials: Credentials) -> Credentials:
    now = ctx.clock.now()
    # Read as anything: a broken driver may put whatever it likes there.
    end: Any = credentials.expires_at
    expect(getattr(end, "tzinfo", None) is not None, f"the credentials end at {end!r}, which has no time zone")
    expect(end > now + LEFT, f"the credentials have {end - now} left when they are handed out")
    expect(end <= now + LONGEST, f"the credentials last {end - now}; short-lived ones last {LONGEST} at most")
    expect(credentials.values, "the credentials have no values")
    shown = f"{credentials!r} {credentials}"
    for field, value in credentials.values.items():
        expect(isinstance(value, Secret), f"the credential {field!r} is a {type(value).__name__}, not a Secret")
        expect(value.reveal() not in shown, f"the repr of the credentials shows {field!r}")
    return credentials


def _revealed(credentials: Credentials) -> set[str]:
    return {value.reveal() for value in credentials.values.values()}


@check("I-TOK-02", slots=("identity",), needs=("identity.prove",))
def what_is_not_genuine_is_unauthenticated(ctx: Context) -> None:
    """Shows no proof, nonsense, a proof with a character changed here and there, another provider's, and one that is old."""
    audience, subject = f"{ctx.owner.plane}", ctx.kit.proving_subject(ctx)
    proof = _prove(ctx, audience, subject)
    for document, what in _forgeries(proof.document.reveal()):
        forged = Proof(provider=proof.provider, document=Secret(document))
        reason = "MISSING" if not document else "FORGED"
        with expect_error(Unauthenticated, reason=reason, when=f"verifying {what}"):
            _verify(ctx, forged, audience)
    foreign = attrs.evolve(proof, provider="conformance")
    with expect_error(Unauthenticated, reason="FORGED", when="verifying the proof of another provider"):
        _verify(ctx, foreign, audience)
    if ctx.kit.is_virtual:
        ctx.pass_time(STALE)
        with expect_error(Unauthenticated, reason="EXPIRED", when=f"verifying a proof {STALE} later"):
            _verify(ctx, proof, audience)
    elif ctx.scope.mode is Mode.HERMETIC:
        # Nobody waits a day: another driver, whose clock is ahead, is asked.
        ahead = ctx.new_driver("identity", attrs.evolve(ctx.kit.config(), clock=_ahead(ctx.clock)))
        with expect_error(Unauthenticated, reason="EXPIRED", when=f"verifying a proof {STALE} later"):
            ahead.verify(proof, audience=audience, deadline=ctx.deadline() + STALE)


def _forgeries(document: str) -> tuple[tuple[str, str], ...]:
    """Return documents that are not genuine, each with what it is."""
    changed = []
    for part in (0.2, 0.5, 0.8):
        place = _letter(document, int(len(document) * part))
        letter = "b" if document[place] != "b" else "c"
        changed.append(
            (f"{document[:place]}{letter}{document[place + 1 :]}", f"a proof with character {place} changed")
        )
    return (
        ("", "an empty proof"),
        ("nonsense", "a word that is no proof"),
        ("ключ\0{}", "characters that no proof has"),
        (document[: len(document) // 2], "half a proof"),
        (document + document, "a proof twice over"),
        *changed,
    )


def _letter(document: str, place: int) -> int:
    """Return the place of the first letter or digit from ``place`` on: separators mean something, letters are signed."""
    return next((at for at in range(place, len(document)) if document[at].isalnum()), place)


def _ahead(clock: Clock) -> Clock:
    return ManualClock(clock.now() + STALE)


@check("I-TOK-03", slots=("identity",), needs=("identity.prove",))
def for_one_audience_and_one_subject(ctx: Context) -> None:
    """Shows a proof to audiences that look like its own; a proof of one machine never names another; subjects stay exact."""
    audience = f"{ctx.owner.plane}"
    one, two = ctx.kit.proving_subject(ctx), ctx.kit.proving_subject(ctx)
    proof = _prove(ctx, audience, one)
    others = (
        f"{ctx.stranger.plane}",
        f"{audience}2",
        audience[:-1],
        audience.upper(),
        f"{audience}/",
        f" {audience}",
        "",
    )
    for other in others:
        with expect_error(Unauthenticated, reason="FORGED", when=f"showing a proof for {audience!r} to {other!r}"):
            _verify(ctx, proof, other)
    first, second = _verify(ctx, proof, audience), _verify(ctx, _prove(ctx, audience, two), audience)
    if ctx.provider.capabilities.has("identity.binds_instance"):
        expect_equal(first.instance, one, "the instance that a proof is about")
        expect_equal(second.instance, two, "the instance that another's proof is about")
    if ctx.provider.capabilities.has("identity.create"):
        _subjects_are_exact(ctx)


def _subjects_are_exact(ctx: Context) -> None:
    it = ctx.subject("identity")
    subjects = ("system:serviceaccount:apps:one", "system:serviceaccount:apps:two")
    try:
        made = it.create(attrs.evolve(it.spec(), subjects=subjects))
    except (InvalidRequest, Unsupported):
        return
    listed = expect_one([each for each in it.listed() if each.name == made.name], "identities of that name in the list")
    for shown, where in ((made, "create"), (it.get(it.key(made)), "get"), (listed, "list")):
        expect_equal(sorted(shown.subjects), sorted(subjects), f"the external subjects that `{where}` shows")
    expect_equal(it.make().subjects, (), "the external subjects of an identity that was given none")


@check("I-WHO-01", slots=("identity",), needs=("identity.prove",), uses=(Hand.FOREIGN_PROOF,))
def verify_names_whom_the_cloud_would(ctx: Context) -> None:
    """Verifies proofs of two machines, by another process too, against the kit's account; a foreign account's is refused."""
    audience, subject = f"{ctx.owner.plane}", ctx.kit.proving_subject(ctx)
    who = _verify(ctx, _prove(ctx, audience, subject), audience)
    expect(who.subject, "the principal has no subject")
    expect(who.account, "the principal has no account")
    if ctx.samples.account:
        expect_equal(who.account, ctx.samples.account, "the account that `verify` names")
    if ctx.provider.capabilities.has("identity.binds_instance"):
        expect_equal(who.instance, subject, "the instance that `verify` names")
    ctx.restart()
    again = _verify(ctx, _prove(ctx, audience, subject), audience)
    expect_equal((again.subject, again.account), (who.subject, who.account), "whom another process names")
    foreign = ctx.hand(Hand.FOREIGN_PROOF)(audience, subject)
    when = "verifying a genuine proof of a machine of another account"
    with expect_error(PermissionDenied, Unauthenticated, reason=("BOUNDARY", "POLICY", "FORGED"), when=when):
        _verify(ctx, foreign, audience)


def _prove(ctx: Context, audience: str, subject: str) -> Proof:
    proof = ctx.identity.prove(audience, subject=subject, deadline=ctx.deadline())
    expect_equal(proof.provider, ctx.provider.name, "the provider that a proof names")
    if proof.document.reveal() in repr(proof):
        raise CheckFailed("the repr of a proof shows its document")
    return proof


def _verify(ctx: Context, proof: Proof, audience: str) -> Principal:
    return ctx.identity.verify(proof, audience=audience, deadline=ctx.deadline())
