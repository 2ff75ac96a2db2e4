"""Who is let in, and by which wire."""

import socket
import ssl
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from anyscale_core.api.client import Client, Unreachable
from anyscale_core.api.routes import ROUTES, Door, Route
from anyscale_core.controlplane.keys import NODE, USER, KeyRing
from anyscale_core.errors import Refused
from anyscale_core.models.identity import DISCOVERY_PATH, JWKS_PATH
from anyscale_core.models.node import GATEWAY_AUDIENCE
from anyscale_core.models.secret import Secret
from tests.api.serving import Service

HOUR = timedelta(hours=1)
USERS = [route for route in ROUTES if route.door is Door.USER]
OPEN = {("GET", "/healthz"), ("GET", "/schema"), ("GET", DISCOVERY_PATH), ("GET", JWKS_PATH)}
MACHINES = {("POST", f"/v1/nodes/{word}") for word in ("register", "heartbeat", "certify")} | {
    ("POST", f"/v1/operators/{word}") for word in ("session", "poll", "report")
}


def test_only_health_schema_and_the_keys_of_the_issuer_are_open_and_only_six_routes_are_for_machines() -> None:
    assert {(route.method, route.path) for route in ROUTES if route.door is Door.OPEN} == OPEN
    assert {(route.method, route.path) for route in ROUTES if route.door not in (Door.OPEN, Door.USER)} == MACHINES
    assert len(ROUTES) == len({(route.method, route.path) for route in ROUTES})


@pytest.mark.parametrize("route", USERS, ids=lambda route: f"{route.method} {route.path}")
def test_a_user_route_refuses_every_token_but_a_fresh_user_token(service: Service, route: Route) -> None:
    keys, now = service.plane.keys, service.plane.clock.now()
    stranger = KeyRing(service.home / "stranger", now=now)
    tokens = {
        "missing": None,
        "forged": stranger.sign(USER, {"sub": "x"}, issued=now, expires=now + HOUR).reveal(),
        "expired": keys.sign(USER, {"sub": "x"}, issued=now - 2 * HOUR, expires=now - HOUR).reveal(),
    }
    foreign = [
        keys.sign(audience, {"sub": "nod_1", "cluster": "clu_1"}, issued=now, expires=now + HOUR).reveal()
        for audience in (NODE, GATEWAY_AUDIENCE)
    ]
    path = route.path.replace("{name}", "demo").replace("{cloud}", "fake")
    for why, token in [*tokens.items(), *(("foreign", token) for token in foreign)]:
        status, problem = service.raw(route.method, path, token=token)
        assert (status, problem["why"]) == (401, why)


def test_a_refusal_is_an_audit_record_that_names_the_route_and_the_reason(service: Service) -> None:
    service.raw("GET", "/v1/clusters/audited")
    with service.client() as client:
        records = client.audit(limit=1000)
    mine = [record for record in records if record.subject == "audited"]
    assert [(record.outcome, record.action) for record in mine] == [("refused", "GET /v1/clusters/{name}")]
    assert "missing" in mine[0].detail


def test_a_refused_token_raises_refused_in_the_client(service: Service) -> None:
    with service.client(Secret("no.such.token")) as client, pytest.raises(Refused) as caught:
        client.clusters()
    assert caught.value.why == "forged"


def test_health_needs_no_token(service: Service) -> None:
    with service.client(Secret("none")) as client:
        assert client.health()["status"] == "ok"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2", 404), ("PUT", "/v1/clusters", 405)])
def test_a_way_that_is_no_route_is_a_problem_too(service: Service, method: str, path: str, status: int) -> None:
    got, problem = service.raw(method, path)
    assert (got, problem["status"]) == (status, status)


def test_plain_http_gets_no_answer(service: Service) -> None:
    with _connected(service) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            answer = plain.recv(100)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"HTTP")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
def test_tls_1_1_is_refused_and_1_2_is_not(service: Service) -> None:
    assert _handshake(service, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match=r"alert|EOF"):  # the service's doing, not this side's
        _handshake(service, ssl.TLSVersion.TLSv1_1)


def test_a_client_with_another_authority_does_not_talk_to_the_service(service: Service) -> None:
    assert service.serving is not None
    stranger = KeyRing(service.home / "stranger", now=service.plane.clock.now())
    connection = service.serving.connection
    with (
        Client(connection.url, connection.token, stranger.ca_pem) as client,
        pytest.raises(Unreachable, match="not this"),
    ):
        client.health()


def test_every_class_of_every_body_is_in_the_schema_as_the_wire_names_it(service: Service) -> None:
    status, document = service.raw("GET", "/schema")
    assert status == 200
    assert {(m.upper(), path) for path, item in document["paths"].items() for m in item} == {
        (route.method, route.path) for route in ROUTES
    }
    schemas = document["components"]["schemas"]
    assert {"ClusterSpec", "WorkerGroup", "Heartbeat", "HeadReport", "Orders", "ClusterView", "Problem"} <= set(schemas)
    assert "wait_s" in schemas["Heartbeat"]["properties"]
    assert schemas["Registered"]["properties"]["credential"] == {"type": "string", "format": "password"}


def _connected(service: Service) -> socket.socket:
    assert service.serving is not None
    parts = urlsplit(service.serving.connection.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=5)


def _handshake(service: Service, version: ssl.TLSVersion) -> str | None:
    assert service.serving is not None
    context = ssl.create_default_context(cadata=service.serving.connection.ca_pem)
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # else OpenSSL itself would not even offer 1.1
    context.minimum_version = context.maximum_version = version
    with _connected(service) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
        return secure.version()
