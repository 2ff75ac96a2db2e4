"""The door before Azurite: who is let at which blob, by tokens and by signatures for folders."""

import base64
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest
import requests
from anyscale_conformance.simulators.azure import AzureSimulator, Subscription
from anyscale_conformance.simulators.azure.tokens import STORAGE

from anyscale_core.testing.clock import ManualClock

VERSION = "2023-11-03"
ACCOUNT = "door"
CONTAINER = {"restype": "container"}
LISTING = {**CONTAINER, "comp": "list", "prefix": "in/"}


@attrs.frozen(kw_only=True)
class Door:
    """An account with the blob ``box/in/here``, and what sends requests to it."""

    at: Subscription
    url: str
    ca: str

    def ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, *, token: str = "", body: bytes = b""
    ) -> requests.Response:
        headers = {"x-ms-version": VERSION} | ({"Authorization": f"Bearer {token}"} if token else {})
        headers |= {"x-ms-blob-type": "BlockBlob"} if method == "PUT" else {}
        url = f"{self.url}/{ACCOUNT}/{path}"
        return requests.request(method, url, params=query, headers=headers, data=body, verify=self.ca, timeout=20)

    def token(self, principal: str, *, audience: str = STORAGE) -> str:
        return str(self.at.directory.token(client=principal, principal=principal, audience=audience))

    @property
    def owner(self) -> str:
        return self.token(self.at.owner.principal)


@pytest.fixture(scope="module")
def simulator() -> Iterator[AzureSimulator]:
    with AzureSimulator() as made:
        yield made


@pytest.fixture
def door(simulator: AzureSimulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    at = simulator.subscription(ManualClock(datetime.now(UTC)))
    at.hands.storage_account("rg", ACCOUNT)
    at.hands.enforce_roles()
    made = Door(at=at, url=simulator.front.url, ca=str(simulator.ca_path))
    made.ask("PUT", "box", CONTAINER, token=made.owner)
    assert made.ask("PUT", "box/in/here", token=made.owner, body=b"0123456789").status_code == 201
    yield made
    simulator.forget(at)


def signed(door: Door, folder: str, *, rights: str = "rl", ends: timedelta = timedelta(hours=1)) -> dict[str, str]:
    """Return a signature for a folder of the container by the owner's key, as the documentation says it is made."""
    now = datetime.now(UTC)
    start, end = (f"{(now + add):%Y-%m-%dT%H:%M:%SZ}" for add in (timedelta(minutes=-5), timedelta(hours=2)))
    asked = f"<KeyInfo><Start>{start}</Start><Expiry>{end}</Expiry></KeyInfo>".encode()
    answer = door.ask("POST", "", {"restype": "service", "comp": "userdelegationkey"}, token=door.owner, body=asked)
    key: dict[str, Any] = {each.tag: each.text for each in ElementTree.fromstring(answer.text.lstrip("\ufeff"))}
    fields = {
        "sp": rights, "st": start, "se": f"{(now + ends):%Y-%m-%dT%H:%M:%SZ}", "skoid": key["SignedOid"],
        "sktid": key["SignedTid"], "skt": key["SignedStart"], "ske": key["SignedExpiry"], "sks": key["SignedService"],
        "skv": key["SignedVersion"], "spr": "https", "sv": VERSION, "sr": "d",
    }  # fmt: skip
    words = [fields[name] for name in ("sp", "st", "se")] + [f"/blob/{ACCOUNT}/box/{folder}"]
    words += [fields[name] for name in ("skoid", "sktid", "skt", "ske", "sks", "skv")] + [""] * 4
    words += [fields[name] for name in ("spr", "sv", "sr")] + [""] * 7
    digest = hmac.new(base64.b64decode(key["Value"]), "\n".join(words).encode(), hashlib.sha256).digest()
    return {**fields, "sdd": str(folder.count("/") + 1), "sig": base64.b64encode(digest).decode()}


def test_nobody_is_let_in_without_a_token_for_storage_and_a_role_that_has_spread(door: Door) -> None:
    assert door.ask("GET", "box/in/here").status_code == 401
    assert door.ask("GET", "box/in/here", token=door.token("me", audience="https://vault.azure.net")).status_code == 401
    assert door.ask("GET", "box/in/here", token=door.token("me")).status_code == 403
    account = door.at.named(ACCOUNT, "Microsoft.Storage/storageAccounts")
    scope = f"{account.id}/blobServices/default/containers/box"
    door.at.hands.assign("me", "Storage Blob Data Reader", scope)
    assert door.ask("GET", "box/in/here", token=door.token("me")).status_code == 403
    door.at.clock.sleep(door.at.propagation)
    assert door.ask("GET", "box/in/here", token=door.token("me")).content == b"0123456789"
    assert door.ask("HEAD", "box/in/here", token=door.token("me")).headers["Content-Length"] == "10"
    assert b"in/here" in door.ask("GET", "box", LISTING, token=door.token("me")).content
    assert door.ask("PUT", "box/in/here", token=door.token("me"), body=b"").status_code == 403
    assert door.ask("DELETE", "box", CONTAINER, token=door.token("me")).status_code == 403
    assert door.ask("GET", "nobody/in/here", token=door.token("me")).status_code == 403


def test_a_signature_for_a_folder_is_good_there_for_its_rights_and_its_time(door: Door) -> None:
    good = signed(door, "in")
    assert door.ask("GET", "box/in/here", good).content == b"0123456789"
    assert b"in/here" in door.ask("GET", "box", {**good, **LISTING}).content
    assert door.ask("GET", "box", {**good, **LISTING, "prefix": ""}).status_code == 403
    assert door.ask("PUT", "box/in/more", good).status_code == 403
    assert door.ask("PUT", "box/in/more", signed(door, "in", rights="cw")).status_code == 201
    for wrong in (
        signed(door, "out"), signed(door, "in/here/below"), signed(door, "in", ends=timedelta(seconds=-5)),
        {**good, "sp": "rwdl"}, {**good, "sdd": "2"}, {**good, "skoid": "somebody"},
    ):  # fmt: skip
        assert door.ask("GET", "box/in/here", wrong).status_code == 403
