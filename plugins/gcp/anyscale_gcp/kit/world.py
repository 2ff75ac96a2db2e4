"""What is there before anything is made: the simulator, a project in it, and the control plane's way in."""

import functools
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from anyscale_conformance.simulators.gcp import CERTIFICATES, GcpSimulator, ProjectHands
from joserfc import jwt
from joserfc.jwk import RSAKey

from anyscale_core.clock import SystemClock
from anyscale_gcp.client import Client
from anyscale_gcp.config import Settings

REGION = "us-central1"
MACHINE = "n2-standard-2"
APIS = ("compute", "iam", "iamcredentials", "sts", "storage")
SIGNER = "control-plane"
SOMEBODYS = "somebodys"
"""A machine of the customer's."""
OWNER = "user:owner@example.com"
"""Who calls: the owner of the simulator's projects."""
SOMEBODY = "user:somebody@example.com"
"""Whom the customer lets into a bucket."""
ISSUER = "https://plane.example"
POOL, PROVIDER, SUBJECT = "anyscale-core", "plane", "pln_test"


@functools.cache
def simulator() -> GcpSimulator:
    """Return the one simulator of this process: every row has a project of its own in it."""
    return GcpSimulator()


def endpoints_of(simulator: GcpSimulator) -> dict[str, str]:
    """Return the setting ``endpoints`` for a simulator."""
    return {api: simulator.endpoint(api) for api in APIS} | {"objects": simulator.url}


class Ambient:
    """Credentials of google-auth's form: always a fresh token of the project's owner, for tokens end and rows last days."""

    valid, expiry = True, None

    def __init__(self, project: ProjectHands) -> None:
        self._project = project

    @property
    def token(self) -> str:
        """A token that is good now."""
        return self._project.token()


@attrs.define(kw_only=True)
class World:
    """One project, its service account for the control plane, and the key that the plane's issuer signs with."""

    simulator: GcpSimulator
    project: ProjectHands
    folder: Path
    key: RSAKey
    account: str = ""
    audience: str = ""

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the provider's settings: the plane comes in by its own token, in a file."""
        federation = {"audience": self.audience, "token_file": str(self.folder / "token")}
        return {
            "project": self.project.id, "service_account": self.account, "federation": federation,
            "endpoints": endpoints_of(self.simulator), "certs_url": f"{self.simulator.url}{CERTIFICATES}", **more,
        }  # fmt: skip

    def owner(self) -> Client:
        """Return a client of the project's owner."""
        settings = Settings(project=self.project.id, endpoints=endpoints_of(self.simulator))
        return Client(settings, SystemClock(), credentials=Ambient(self.project))

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

    def let_plane_in(self, *, issuer: str = ISSUER, jwks: str = "", subject: str = SUBJECT) -> None:
        """Do what the customer does: a pool, a provider that trusts the plane's issuer, a service account to act as."""
        parent = f"projects/{self.project.id}/locations/global"
        pools = "iam.projects.locations.workloadIdentityPools"
        self.call(f"{pools}.create", parent=parent, workloadIdentityPoolId=POOL, body={"displayName": "anyscale-core"})
        key = {**self.key.as_dict(private=False), "kid": self.key.thumbprint(), "use": "sig", "alg": "RS256"}
        oidc = {"issuerUri": issuer, "jwksJson": jwks or json.dumps({"keys": [key]})}
        body = {"oidc": oidc, "attributeMapping": {"google.subject": "assertion.sub"}}
        self.call(
            f"{pools}.providers.create", parent=f"{parent}/workloadIdentityPools/{POOL}",
            workloadIdentityPoolProviderId=PROVIDER, body=body,
        )  # fmt: skip
        pool = f"projects/{self.project.number}/locations/global/workloadIdentityPools/{POOL}"
        self.audience = f"//iam.googleapis.com/{pool}/providers/{PROVIDER}"
        self.account = self.project.add_account("control-plane")
        member = f"principal://iam.googleapis.com/{pool}/subject/{subject}"
        self.project.bind(self.account, "roles/iam.workloadIdentityUser", member)
        self.project.bind("", "roles/iam.serviceAccountTokenCreator", f"serviceAccount:{self.account}")
        self.write_token()
