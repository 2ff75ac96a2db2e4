"""Google's own client of each API, pointed at a simulator."""

from typing import Any

from anyscale_conformance.simulators.gcp.simulator import GcpSimulator

VERSIONS = {"cloudresourcemanager": "v3"}
"""Versions of APIs; ``v1`` where none is named."""


def client(simulator: GcpSimulator, api: str, *, token: str, version: str = "") -> Any:
    """Return googleapiclient's service of an API, for who has the token. For one thread: its transport is shared by none."""
    from google.oauth2.credentials import Credentials
    from googleapiclient.discovery import build

    return build(
        api, version or VERSIONS.get(api, "v1"), static_discovery=True, credentials=Credentials(token),
        client_options={"api_endpoint": simulator.endpoint(api)},
    )  # fmt: skip
