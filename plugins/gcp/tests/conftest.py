"""A project of the simulated Google Cloud, and the control plane's way in: an OIDC issuer, a pool, a service account."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyscale_conformance.simulators.gcp import CERTIFICATES, GcpSimulator, ProjectHands, Timings
from anyscale_gcp.client import Client
from anyscale_gcp.config import Settings
from joserfc import jwt
from joserfc.jwk import RSAKey

from anyscale_core.clock import SystemClock

REGION = "us-central1"
ISSUER = "https://plane.example"
POOL, PROVIDER, SUBJECT = "anyscale-core", "plane", "pln_test"


@attrs.frozen(kw_only=True)
class Static:
    """Credentials of google-auth's form, with a token that is good."""

    token: str
    valid: bool = True
    expiry: None = None


@attrs.define(kw_only=True)
class World:
    """One project, its service account for the control plane, and the key that the plane's issuer signs with."""

    simulator: GcpSimulator
    project: ProjectHands
    folder: Path
    key: RSAKey
    account: str = ""
    audience: str = ""

    def endpoints(self) -> dict[str, str]:
        apis = ("compute", "iam", "iamcredentials", "sts", "storage")
        return {api: self.simulator.endpoint(api) for api in apis} | {"objects": self.simulator.url}

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the provider's settings: the plane comes in by its own token, in a file."""
        federation = {"audience": self.audience, "token_file": str(self.folder / "token")}
        return {
            "project": self.project.id, "service_account": self.account, "federation": federation,
            "endpoints": self.endpoints(), "certs_url": f"{self.simulator.url}{CERTIFICATES}", **more,
        }  # fmt: skip

    def owner(self) -> Client:
        """Return a client of the project's owner."""
        settings = Settings(project=self.project.id, endpoints=self.endpoints())
        return Client(settings, SystemClock(), credentials=Static(token=self.project.token()))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do something as the project's owner."""
        return self.owner().call(method, deadline=datetime.now(UTC) + timedelta(seconds=30), **parameters)

    def write_token(self, *, audience: str = "", lifetime_s: int = 3600, subject: str = SUBJECT) -> None:
        """Write a token of the plane's issuer where the settings say."""
        now = int(time.time())
        audience = audience or f"https:{self.audience}"
        claims = {"iss": ISSUER, "sub": subject, "aud": audience, "iat": now, "exp": now + lifetime_s}
        header = {"alg": "RS256", "kid": self.key.thumbprint()}
        (self.folder / "token").write_text(jwt.encode(header, claims, self.key))

    def let_plane_in(self) -> None:
        """Do what docs/gcp.md has the customer do: a pool, a provider that trusts the issuer, an account to act as."""
        parent = f"projects/{self.project.id}/locations/global"
        pools = "iam.projects.locations.workloadIdentityPools"
        self.call(f"{pools}.create", parent=parent, workloadIdentityPoolId=POOL, body={"displayName": "anyscale-core"})
        key = {**self.key.as_dict(private=False), "kid": self.key.thumbprint(), "use": "sig", "alg": "RS256"}
        oidc = {"issuerUri": ISSUER, "jwksJson": json.dumps({"keys": [key]})}
        body = {"oidc": oidc, "attributeMapping": {"google.subject": "assertion.sub"}}
        self.call(
            f"{pools}.providers.create", parent=f"{parent}/workloadIdentityPools/{POOL}",
            workloadIdentityPoolProviderId=PROVIDER, body=body,
        )  # fmt: skip
        pool = f"projects/{self.project.number}/locations/global/workloadIdentityPools/{POOL}"
        self.audience = f"//iam.googleapis.com/{pool}/providers/{PROVIDER}"
        self.account = self.project.add_account("control-plane")
        member = f"principal://iam.googleapis.com/{pool}/subject/{SUBJECT}"
        self.project.bind(self.account, "roles/iam.workloadIdentityUser", member)
        self.project.bind("", "roles/iam.serviceAccountTokenCreator", f"serviceAccount:{self.account}")
        self.write_token()


@pytest.fixture
def simulator() -> Iterator[GcpSimulator]:
    with GcpSimulator() as found:
        yield found


@pytest.fixture
def world(simulator: GcpSimulator, tmp_path: Path) -> World:
    project = simulator.add_project("gcp-tests", timings=Timings.none())
    found = World(simulator=simulator, project=project, folder=tmp_path, key=RSAKey.generate_key(2048))
    found.let_plane_in()
    return found
