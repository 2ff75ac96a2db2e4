from pathlib import Path

import pytest
from anyscale_azure.client import new_session
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter


class Kept(HTTPAdapter):
    """Keeps what would be sent, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[object, dict[str, str], object]] = []

    def send(self, request: PreparedRequest, *args: object, **kwargs: object) -> Response:
        proxies = dict(kwargs.get("proxies") or {})  # type: ignore[call-overload]
        self.sent.append((request.headers.get("Authorization"), proxies, kwargs.get("verify")))
        response = Response()
        response.status_code, response.request, response.url = 204, request, str(request.url)
        return response


def test_the_environment_names_proxies_and_authorities_and_netrc_takes_no_tokens_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine arm.invalid login me password secret\n")
    for name, value in {
        "NETRC": str(netrc), "HTTPS_PROXY": "http://proxy.invalid:3128", "NO_PROXY": "near.invalid",
        "REQUESTS_CA_BUNDLE": "/authorities.pem",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    session, kept = new_session(2), Kept()
    session.mount("https://", kept)
    for url, verify in (("https://arm.invalid/a", True), ("https://near.invalid/b", "/own.pem")):
        session.get(url, headers={"Authorization": "Bearer ours"}, verify=verify)
    (far, proxies, trusted), (near, none, own) = kept.sent
    assert (far, near) == ("Bearer ours", "Bearer ours")
    assert proxies["https"] == "http://proxy.invalid:3128"
    assert "https" not in none
    assert (trusted, own) == ("/authorities.pem", "/own.pem")
