"""The gateway: who may pass, and that what passes arrives. In front of a small dashboard of ours, and of Ray's."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from joserfc import jwt
from joserfc.jwk import OKPKey
from yarl import URL

from anyscale_core.models.ids import JobId
from anyscale_core.models.node import GATEWAY_AUDIENCE, GatewayConfig, JobOrder, Orders
from anyscale_core.models.phases import JobPhase
from anyscale_core.models.secret import Secret
from anyscale_core.node.gateway import GatewaySettings, serve
from tests.node.scripted import RAY_TOKEN, Authority, Cluster, ControlPlane, by_submission

KEY = OKPKey.generate_key("Ed25519")
FOREIGN = OKPKey.generate_key("Ed25519")
ATTACK = "https://elsewhere.example"


def public_pem(key: OKPKey) -> str:
    return key.public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def token(key: OKPKey = KEY, **changed: Any) -> str:
    claims = {"aud": GATEWAY_AUDIENCE, "sub": "clu_1", "exp": int(time.time()) + 60} | changed
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": "Ed25519"}, kept, key, algorithms=["Ed25519"])


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {value}"}


def cookie(value: str, **more: str) -> dict[str, str]:
    return {"Cookie": f"other=1; anyscale_core_token={value}", **more}


def settings(authority: Authority, upstream: str) -> GatewaySettings:
    return GatewaySettings(
        address="127.0.0.1",
        upstream=upstream,
        ray_token=RAY_TOKEN,
        cluster_id="clu_1",
        cert_pem=authority.cert_pem,
        key_pem=Secret(authority.key_pem),
        token_key_pem=public_pem(KEY),
    )


async def echo(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade") == "websocket":
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str(f"authorized {request.headers['Authorization'] == 'Bearer ' + RAY_TOKEN.reveal()}")
        async for message in ws:
            await ws.send_str(f"you said {message.data}")
        return ws
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": dict(request.headers),
            "body": (await request.read()).decode(),
        }
    )


@asynccontextmanager
async def gateway(authority: Authority) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Run a gateway in front of an echo; give a client that trusts our authority, and the gateway's host:port."""
    app = web.Application(client_max_size=10_000_000)
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    until, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    upstream = f"127.0.0.1:{runner.addresses[0][1]}"
    serving = asyncio.create_task(serve(settings(authority, upstream), until=until, listening=listening))
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority.ca_pem))
    try:
        async with aiohttp.ClientSession(connector=connector) as client:
            yield client, f"127.0.0.1:{await listening}"
    finally:
        until.set()
        await serving
        await runner.cleanup()


def ask(
    authority: Authority, headers: Mapping[str, str], *, method: str = "GET", path: str = "/api/x?a=%2F", body: str = ""
) -> tuple[int, Any]:
    async def run() -> tuple[int, Any]:
        async with (
            gateway(authority) as (client, address),
            client.request(
                method, URL(f"https://{address}{path}", encoded=True), headers=headers, data=body or None
            ) as answer,
        ):
            return answer.status, json.loads(await answer.read())

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "missing"),
        ({"Authorization": "Basic eDp5"}, "missing"),
        (bearer("not.a.token"), "forged"),
        (bearer(RAY_TOKEN.reveal()), "forged"),
        (bearer(token(FOREIGN)), "forged"),
        (bearer(token(exp=int(time.time()) - 60)), "expired"),
        (bearer(token(exp=None)), "foreign"),
        (bearer(token(aud="somebody-else")), "foreign"),
        (bearer(token(sub="clu_2")), "foreign"),
        ({"X-Ray-Authorization": f"Bearer {RAY_TOKEN.reveal()}"}, "missing"),
        ({"Cookie": "anyscale_core_token=nonsense"}, "forged"),
    ],
)
def test_whoever_has_no_good_token_of_this_cluster_is_told_401_and_why(
    authority: Authority, headers: dict[str, str], why: str
) -> None:
    status, problem = ask(authority, headers)
    assert (status, problem["status"], problem["title"]) == (401, 401, "Unauthorized")
    assert problem["why"] == why


def test_a_token_without_a_signature_is_refused(authority: Authority) -> None:
    _, claims, _ = token().split(".")
    forged = f"eyJhbGciOiJub25lIn0.{claims}."
    assert ask(authority, bearer(forged))[0] == 401


@pytest.mark.parametrize("name", ["Ed25519"])
def test_a_signature_is_good_under_its_old_and_its_new_name(authority: Authority, name: str) -> None:
    claims = {"aud": GATEWAY_AUDIENCE, "sub": "clu_1", "exp": int(time.time()) + 60}
    assert ask(authority, bearer(jwt.encode({"alg": name}, claims, KEY, algorithms=[name])))[0] == 200


def test_a_request_passes_with_rays_token_in_place_of_the_clients(authority: Authority) -> None:
    mine = token()
    status, seen = ask(authority, {**bearer(mine), "X-Mine": "1"}, method="PUT", body="x" * 3_000_000)
    assert (status, seen["method"], seen["path"]) == (200, "PUT", "/api/x?a=%2F")
    assert seen["headers"]["Authorization"] == f"Bearer {RAY_TOKEN.reveal()}"
    assert seen["headers"]["X-Mine"] == "1"
    assert len(seen["body"]) == 3_000_000
    assert mine not in json.dumps(seen)


def test_a_cookie_opens_pages_but_not_to_pages_of_other_origins(authority: Authority) -> None:
    assert ask(authority, cookie(token()))[0] == 200
    assert ask(authority, cookie(token()))[1]["headers"].get("Cookie") is None
    assert ask(authority, cookie(token(), Origin=ATTACK), method="POST")[0] == 401
    assert ask(authority, bearer(token()) | {"Origin": ATTACK}, method="POST")[0] == 200


def test_websockets_pass_both_ways_and_not_from_pages_of_other_origins(authority: Authority) -> None:
    async def run() -> tuple[str, str, int]:
        async with gateway(authority) as (client, address):
            async with client.ws_connect(f"wss://{address}/tail", headers=bearer(token())) as ws:
                first = await ws.receive_str()
                await ws.send_str("hello")
                second = await ws.receive_str()
            try:
                await client.ws_connect(f"wss://{address}/tail", headers=cookie(token(), Origin=ATTACK))
            except aiohttp.WSServerHandshakeError as error:
                return first, second, error.status
            return first, second, 101

    assert asyncio.run(run()) == ("authorized True", "you said hello", 401)


def test_a_dashboard_that_does_not_answer_is_told_as_502(authority: Authority) -> None:
    async def run() -> int:
        until, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(settings(authority, "127.0.0.1:1"), until=until, listening=listening))
        context = ssl.create_default_context(cadata=authority.ca_pem)
        url = f"https://127.0.0.1:{await listening}/"
        async with aiohttp.ClientSession() as client, client.get(url, headers=bearer(token()), ssl=context) as answer:
            status = answer.status
        until.set()
        await serving
        return status

    assert asyncio.run(run()) == 502


def test_plain_http_and_old_tls_get_nowhere(authority: Authority) -> None:
    async def run() -> None:
        async with gateway(authority) as (client, address):
            with pytest.raises(aiohttp.ClientError):
                await client.get(f"http://{address}/", headers=bearer(token()))
            old = ssl.create_default_context(cadata=authority.ca_pem)
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises(aiohttp.ClientError):
                await client.get(f"https://{address}/", headers=bearer(token()), ssl=old)

    asyncio.run(run())


@pytest.mark.real_ray
def test_a_jobs_log_can_be_followed_through_a_heads_gateway(
    cluster: Cluster, plane: ControlPlane, authority: Authority
) -> None:
    config = GatewayConfig(
        cert_pem=authority.cert_pem, key_pem=Secret(authority.key_pem), token_key_pem=public_pem(KEY)
    )
    cluster.head(gateway=config)
    order = JobOrder(job_id=JobId("j"), submission_id="j-1", entrypoint="echo first; sleep 3; echo last")
    plane.give("head", Orders(jobs=(order,)))
    beat = plane.until("head", lambda beat: bool(beat.head and beat.head.gateway_port), within=40)
    assert beat.head is not None
    address = f"127.0.0.2:{beat.head.gateway_port}"
    plane.until("head", lambda beat: _runs(by_submission(beat)), within=40)
    plane.close()  # the gateway asks nobody

    async def follow() -> tuple[int, list[str], str]:
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority.ca_pem))
        async with aiohttp.ClientSession(connector=connector) as client:
            async with client.get(f"https://{address}/api/jobs/") as answer:
                status = answer.status
            async with client.get(f"https://{address}/api/jobs/", headers=bearer(token())) as answer:
                jobs = [job["submission_id"] for job in await answer.json()]
            url = f"wss://{address}/api/jobs/j-1/logs/tail"
            async with client.ws_connect(url, headers=bearer(token())) as ws:
                lines = "".join([message.data async for message in ws if message.type is aiohttp.WSMsgType.TEXT])
            return status, jobs, lines

    status, jobs, lines = asyncio.run(follow())
    assert (status, jobs) == (401, ["j-1"])
    assert "first" in lines
    assert "last" in lines


def _runs(jobs: Mapping[str, Any]) -> bool:
    return "j-1" in jobs and jobs["j-1"].phase is JobPhase.RUNNING
