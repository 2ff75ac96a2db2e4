"""The gateway on a head: TLS and tokens in front of Ray's dashboard and Jobs API, which have neither TLS nor users.

``python -m anyscale_core.node.gateway``, a process of its own, so that a user's large download delays no heartbeat. One
JSON line (GatewaySettings) on stdin, one (``{"port": n}``) on stdout; it ends with its stdin. It asks nobody: a token is
good if the control plane's key signed it, so it works while the control plane is away.
"""

import asyncio
import json
import os
import ssl
import sys
import tempfile
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import attrs
from aiohttp import web
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import OKPKey
from yarl import URL

from anyscale_core.errors import Refused
from anyscale_core.models import wire
from anyscale_core.models.node import GATEWAY_AUDIENCE
from anyscale_core.models.secret import Secret

COOKIE = "anyscale_core_token"
"""For browsers, which cannot set a header on a page or a websocket."""
ALGORITHMS = ["Ed25519"]
"""The JOSE name of the signature (RFC 9864)."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# RFC 9110 7.6.1: these are about one connection, not about the message.
HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
STRIPPED = HOP | {"authorization", "x-ray-authorization", "cookie", "host", "content-length"}
"""Of a request: the client's token is for the gateway, not for Ray."""
ANSWER_STRIPPED = HOP | {"content-length", "content-encoding", "set-cookie", "server", "date"}


@attrs.frozen(kw_only=True)
class GatewaySettings:
    """All that a gateway needs. ``upstream``: ``host:port`` of the dashboard."""

    address: str
    upstream: str
    ray_token: Secret[str]
    cluster_id: str
    cert_pem: str
    key_pem: Secret[str]
    token_key_pem: str


class Gateway:
    """The proxy: checks a request's token, then passes it on with Ray's."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._key = OKPKey.import_key(settings.token_key_pem)
        self._claims = jwt.JWTClaimsRegistry(
            exp={"essential": True},
            aud={"essential": True, "value": GATEWAY_AUDIENCE},
            sub={"essential": True, "value": settings.cluster_id},
        )

    def check(self, *, authorization: str, cookie: str, method: str, origin: str, host: str) -> None:
        """Raise Refused unless the request may pass.

        A header is set by a program on purpose; a cookie is sent by browsers also when a foreign page asks, so with a
        cookie only the gateway's own pages may do more than look.
        """
        scheme, _, token = authorization.partition(" ")
        if not authorization:
            token = _cookie(cookie)
            own = not origin or urlsplit(origin).netloc == host
            if token and not own and method not in SAFE:
                raise Refused("foreign-origin", "a page of another origin may not use this browser's token")
        elif scheme.lower() != "bearer":
            raise Refused("missing", "send Authorization: Bearer <token of this cluster>")
        if not token:
            raise Refused("missing", "send Authorization: Bearer <token of this cluster>")
        try:
            self._claims.validate(jwt.decode(token, self._key, algorithms=ALGORITHMS).claims)
        except ExpiredTokenError:
            raise Refused("expired", "the token has expired; ask the control plane for a new one") from None
        except (InvalidClaimError, MissingClaimError):
            raise Refused(
                "foreign", "the token is not for this cluster; ask the control plane for one that is"
            ) from None
        except (JoseError, ValueError, TypeError):
            raise Refused("forged", "the token was not signed by this cluster's control plane") from None

    def application(self) -> web.Application:
        """Return the web application; every path and method goes through it."""
        app = web.Application(client_max_size=0)
        app.cleanup_ctx.append(self._session)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _session(self, _: web.Application) -> Any:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as self._upstream:
            yield

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        is_websocket = request.headers.get("Upgrade", "").lower() == "websocket"
        try:
            self.check(
                authorization=request.headers.get("Authorization", ""),
                cookie=request.headers.get("Cookie", ""),
                # What comes back over a websocket can be read by the page that opened it, unlike a foreign GET.
                method="WEBSOCKET" if is_websocket else request.method,
                origin=request.headers.get("Origin", ""),
                host=request.host,
            )
        except Refused as refused:
            return problem(401, str(refused), why=refused.why)
        try:
            if is_websocket:
                return await self._tunnel(request)
            return await self._pass(request)
        except aiohttp.ClientConnectionError:
            return problem(502, "the dashboard of this cluster does not answer; it may be starting", why="upstream")

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        body = request.content if request.can_read_body else None
        url, headers = self._url("http", request), self._headers(request)
        async with self._upstream.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers, ANSWER_STRIPPED))
            if "Content-Encoding" in answer.headers:
                response.headers["Content-Encoding"] = answer.headers["Content-Encoding"]
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def _tunnel(self, request: web.Request) -> web.StreamResponse:
        headers = {key: value for key, value in self._headers(request).items() if not key.lower().startswith("sec-")}
        headers.pop("Origin", None)
        async with self._upstream.ws_connect(self._url("ws", request), headers=headers, max_msg_size=0) as inner:
            outer = web.WebSocketResponse(max_msg_size=0)
            await outer.prepare(request)
            ways = [asyncio.create_task(_pump(inner, outer)), asyncio.create_task(_pump(outer, inner))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await outer.close()
            return outer

    def _url(self, scheme: str, request: web.Request) -> URL:
        # As it was sent: what it means, quoted or not, is for the dashboard to say.
        return URL(f"{scheme}://{self._settings.upstream}{request.raw_path}", encoded=True)

    def _headers(self, request: web.Request) -> dict[str, str]:
        token = self._settings.ray_token.reveal()
        return _kept(request.headers, STRIPPED) | {"Authorization": f"Bearer {token}"}


def problem(status: int, detail: str, *, why: str) -> web.Response:
    """Return an RFC 9457 answer."""
    body = {"type": "about:blank", "title": "Unauthorized" if status == 401 else "Bad Gateway", "status": status}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    text = json.dumps(body | {"detail": detail, "why": why})
    return web.Response(status=status, text=text, content_type="application/problem+json", headers=headers)


def tls(settings: GatewaySettings) -> ssl.SSLContext:
    """Return the server's TLS context: the certificate of the control plane's making, TLS 1.2 or later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The ssl module reads keys from files alone; this one is 0600 and gone at once.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(settings.cert_pem + "\n" + settings.key_pem.reveal())
        file.flush()
        context.load_cert_chain(file.name)
    return context


async def serve(settings: GatewaySettings, *, until: asyncio.Event, listening: "asyncio.Future[int]") -> None:
    """Serve until the event is set; ``listening`` gets the port."""
    runner = web.AppRunner(Gateway(settings).application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, settings.address, 0, ssl_context=tls(settings))
    await site.start()
    listening.set_result(runner.addresses[0][1])
    await until.wait()
    await runner.cleanup()


async def _pump(source: Any, sink: Any) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await sink.send_bytes(message.data)


def _kept(headers: Mapping[str, str], stripped: frozenset[str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.lower() not in stripped}


def _cookie(header: str) -> str:
    morsel = SimpleCookie(header).get(COOKIE)
    return morsel.value if morsel else ""


async def _main() -> None:
    loop = asyncio.get_running_loop()
    line = await loop.run_in_executor(None, sys.stdin.readline)
    settings = wire.structure(json.loads(line), GatewaySettings)
    until = asyncio.Event()
    listening: asyncio.Future[int] = loop.create_future()
    serving = asyncio.create_task(serve(settings, until=until, listening=listening))
    watched: set[asyncio.Future[Any]] = {serving, listening}
    await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    print(json.dumps({"port": listening.result()}), flush=True)
    # The agent's end closes it, whatever the way it ended.
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", closefd=False))
    await reader.read()
    until.set()
    await serving


if __name__ == "__main__":
    asyncio.run(_main())
