"""How the control plane comes in, and who may become an identity."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from anyscale_conformance.simulators.gcp import GcpSimulator, Timings
from anyscale_gcp.identity import GcpIdentity
from anyscale_gcp.kit.world import REGION, World
from joserfc.jwk import RSAKey

from anyscale_core.controlplane.keys import JWKS, KeyRing, issuer_of
from anyscale_core.drivers.base import DriverConfig
from anyscale_core.errors import InvalidRequest, NotFound, PermissionDenied, SpecError, Unauthenticated
from anyscale_core.models.identity import IdentitySpec
from anyscale_core.models.ids import Token
from anyscale_core.models.secret import Secret
from anyscale_core.testing.builders import owner

OURS = owner(cloud="gke")
POD = "system:serviceaccount:ray:workers"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with GcpSimulator() as simulator:
        project = simulator.add_project("gcp-identity", timings=Timings.none())
        found = World(simulator=simulator, project=project, folder=tmp_path, key=RSAKey.generate_key(2048))
        found.let_plane_in()
        yield found


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=60)


def driver(world: World) -> GcpIdentity:
    return GcpIdentity(DriverConfig(owner=OURS, home=world.folder, region=REGION, settings=world.settings()))


def policy(world: World, email: str) -> list[tuple[str, str]]:
    found = (seen.body for seen in world.project.inventory() if seen.kind == "bindings" and seen.name == email)
    return sorted((str(body["role"]), str(body["member"])) for body in found)


def test_the_planes_own_token_is_exchanged_once_and_it_acts_as_the_service_account(world: World) -> None:
    identities = driver(world)
    assert identities.list(OURS, deadline=soon()) == ()
    assert identities.list(OURS, deadline=soon()) == ()
    methods = [entry.method for entry in world.simulator.requests]
    assert methods.count("sts.token") == 1
    assert methods.count("iamcredentials.projects.serviceAccounts.generateAccessToken") == 1
    listing = [entry for entry in world.project.requests("iam.projects.serviceAccounts.list") if entry.status == 200]
    assert {entry.caller for entry in listing} == {f"serviceAccount:{world.account}"}


@pytest.mark.parametrize(
    "token", [{"lifetime_s": -60}, {"audience": "https://somebody.else"}, {"subject": "pln_other"}], ids=str
)
def test_a_token_that_is_not_the_planes_is_unauthenticated(world: World, token: dict[str, object]) -> None:
    world.write_token(**token)  # type: ignore[arg-type]
    with pytest.raises((Unauthenticated, PermissionDenied)) as caught:
        driver(world).list(OURS, deadline=soon())
    assert (world.folder / "token").read_text() not in f"{caught.value}{caught.value.record()}"


def test_a_pod_becomes_the_identity_of_its_cluster_and_others_who_may_stay(world: World) -> None:
    identities = driver(world)
    spec = IdentitySpec(name="nodes", owner=OURS, subjects=(POD,))
    made = identities.create(spec, token=Token("t1"), deadline=soon())
    email = made.principal.removeprefix("serviceAccount:")
    pod = f"serviceAccount:{world.project.id}.svc.id.goog[ray/workers]"
    assert policy(world, email) == [("roles/iam.workloadIdentityUser", pod)]
    world.project.bind(email, "roles/iam.serviceAccountUser", "user:somebody@example.com")
    assert identities.create(spec, token=Token("t1"), deadline=soon()) == made
    assert ("roles/iam.serviceAccountUser", "user:somebody@example.com") in policy(world, email)
    assert identities.get("nodes", owner=OURS, deadline=soon()).subjects == (POD,)


def test_an_adopted_account_is_let_go_of_with_whom_we_let_in_and_stays(world: World) -> None:
    identities = driver(world)
    theirs = world.project.add_account("theirs")
    world.project.bind(theirs, "roles/iam.workloadIdentityUser", "user:somebody@example.com")
    spec = IdentitySpec(name="nodes", owner=OURS, adopt=theirs, subjects=(POD,))
    made = identities.create(spec, token=Token("t1"), deadline=soon())
    assert made.principal == f"serviceAccount:{theirs}"
    assert len(policy(world, theirs)) == 2
    identities.delete("nodes", owner=OURS, deadline=soon())
    assert policy(world, theirs) == [("roles/iam.workloadIdentityUser", "user:somebody@example.com")]
    with pytest.raises(NotFound):
        identities.get("nodes", owner=OURS, deadline=soon())


def test_a_plane_signs_for_itself_with_a_key_that_google_was_given(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    keys = KeyRing(tmp_path / "keys", now=now)
    with GcpSimulator() as simulator:
        project = simulator.add_project("gcp-identity", timings=Timings.none())
        world = World(simulator=simulator, project=project, folder=tmp_path, key=RSAKey.generate_key(2048))
        jwks = (tmp_path / "keys" / JWKS).read_text()
        world.let_plane_in(issuer=issuer_of("pln_docs"), jwks=jwks, subject="pln_docs")
        settings = world.settings(federation={"audience": world.audience})

        def signed(audience: str) -> Secret[str]:
            return keys.identity_token("pln_docs", audience, now=now)

        config = DriverConfig(owner=OURS, home=tmp_path, region=REGION, settings=settings, identity_token=signed)
        assert GcpIdentity(config).list(OURS, deadline=soon()) == ()
        silent = attrs.evolve(config, identity_token=None)
        with pytest.raises(Unauthenticated, match="nothing here signs"):
            GcpIdentity(silent).list(OURS, deadline=soon())


@pytest.mark.parametrize("subject", ["arn:aws:iam::1:role/x", "system:serviceaccount:only-one-part", "allUsers"])
def test_a_subject_that_google_cannot_know_is_refused_before_anything_is_made(world: World, subject: str) -> None:
    spec = IdentitySpec(name="nodes", owner=OURS, subjects=(subject,))
    with pytest.raises(InvalidRequest, match="no subject"):
        driver(world).create(spec, token=Token("t1"), deadline=soon())
    assert driver(world).list(OURS, deadline=soon()) == ()


def test_settings_name_every_fault_at_once(tmp_path: Path) -> None:
    settings = {
        "project": "X",
        "endpoints": {"computer": "http://x"},
        "federation": {"audience": "a", "token_file": "t"},
        "disk_gb": 1,
    }
    with pytest.raises(SpecError) as caught:
        GcpIdentity(DriverConfig(owner=OURS, home=tmp_path, settings=settings))
    assert [fault.path for fault in caught.value.faults] == [
        "project",
        "endpoints.computer",
        "service_account",
        "disk_gb",
    ]
