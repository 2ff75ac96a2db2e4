"""The plane as an OIDC issuer: what it publishes verifies what it signs, also after a change of its key."""

import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import KeySet

from anyscale_core.cli import main as command
from anyscale_core.controlplane.keys import KeyRing, issuer_of, share
from anyscale_core.controlplane.settings import Settings
from anyscale_core.errors import SpecError
from tests.api.serving import Service

NOW = datetime.now(UTC)
ISSUER = "https://plane.example/issuer"
AUDIENCE = "https://cloud.example"


def verified(keys: KeyRing, jwks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims of a new token of the plane's, as a cloud that has these keys reads them."""
    token = keys.identity_token("pln_1", AUDIENCE, now=NOW).reveal()
    return dict(jwt.decode(token, KeySet.import_key_set(json.loads(json.dumps(jwks))), algorithms=["ES256"]).claims)


def test_whoever_reaches_the_service_reads_its_description_and_keys_without_a_token(service: Service) -> None:
    context = ssl.create_default_context(cadata=service.plane.keys.ca_pem)

    def fetched(url: str) -> dict[str, Any]:
        with urlopen(url, context=context) as answer:
            assert answer.headers["Cache-Control"] == "public, max-age=300"
            return dict(json.load(answer))

    described = fetched(f"{service.plane.settings.url}/.well-known/openid-configuration")
    assert described["issuer"] == issuer_of(service.plane.id)
    assert described["jwks_uri"] == f"{described['issuer']}/.well-known/jwks.json"
    jwks = fetched(f"{service.plane.settings.url}/.well-known/jwks.json")
    token = service.plane.keys.identity_token(service.plane.id, AUDIENCE, now=NOW).reveal()
    claims = jwt.decode(token, KeySet.import_key_set(jwks), algorithms=["ES256"]).claims  # type: ignore[arg-type]
    assert (claims["iss"], claims["sub"], claims["aud"]) == (described["issuer"], service.plane.id, AUDIENCE)
    assert all({"d", "p", "q"}.isdisjoint(key) for key in jwks["keys"])


def test_keys_that_were_handed_over_before_a_change_of_the_key_verify_tokens_after_it(tmp_path: Path) -> None:
    first = KeyRing(tmp_path, now=NOW, issuer=ISSUER)
    handed_over = first.jwks()
    second = KeyRing(tmp_path, now=NOW, issuer=ISSUER, issuer_key=1)
    assert verified(second, handed_over)["iss"] == ISSUER
    assert verified(first, second.jwks())["iss"] == ISSUER
    assert len(second.jwks()["keys"]) == 3
    third = KeyRing(tmp_path, now=NOW, issuer=ISSUER, issuer_key=2)
    with pytest.raises(InvalidKeyIdError):
        verified(third, handed_over)
    assert json.loads((tmp_path / "jwks.json").read_text()) == third.jwks()


def test_processes_of_one_plane_change_to_the_same_key(tmp_path: Path) -> None:
    said: dict[str, str] = {}
    for folder in ("one", "other"):
        for number in (0, 1):
            share(tmp_path / folder, said.setdefault, now=NOW, issuer_key=number)
    one, other = (KeyRing(tmp_path / folder, now=NOW, issuer_key=1) for folder in ("one", "other"))
    assert one.jwks() == other.jwks()


def test_what_is_published_can_be_served_by_another_web_server(service: Service, tmp_path: Path) -> None:
    assert command.main(["--home", str(service.home), "issuer", str(tmp_path / "site")]) == 0
    well_known = tmp_path / "site" / ".well-known"
    assert json.loads((well_known / "openid-configuration").read_text()) == service.plane.keys.discovery(
        service.plane.id
    )
    assert json.loads((well_known / "jwks.json").read_text()) == service.plane.keys.jwks()


def test_an_issuer_that_is_no_url_and_a_key_that_is_no_number_are_told_together() -> None:
    with pytest.raises(SpecError) as caught:
        Settings.from_env({"ANYSCALE_CORE_ISSUER": "plane.example", "ANYSCALE_CORE_ISSUER_KEY": "-1"})
    assert [fault.path for fault in caught.value.faults] == ["ANYSCALE_CORE_ISSUER", "ANYSCALE_CORE_ISSUER_KEY"]
    settings = Settings.from_env({"ANYSCALE_CORE_ISSUER": f"{ISSUER}/", "ANYSCALE_CORE_ISSUER_KEY": "2"})
    assert (settings.issuer, settings.issuer_key) == (ISSUER, 2)
