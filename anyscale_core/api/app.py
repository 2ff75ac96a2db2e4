"""The Litestar application: lets in, reads, has the work done, and answers; every failure is a problem (RFC 9457)."""

import contextlib
import inspect
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import structlog
from litestar import HttpMethod, Litestar, Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.exc import OperationalError

from anyscale_core.api.metrics import CONTENT_TYPE, DriverCalls
from anyscale_core.api.problems import TooLarge, body_of, internal, problem_of
from anyscale_core.api.protocol import MAX_BODY, PROBLEM, Problem
from anyscale_core.api.routes import ROUTES, Answer, Call, Door, Route, Show, read
from anyscale_core.api.service import Service
from anyscale_core.controlplane.keys import USER
from anyscale_core.controlplane.plane import ControlPlane
from anyscale_core.controlplane.rows import AuditRecord
from anyscale_core.errors import CoreError, Fault, Refused, SpecError, Transient, UnknownName
from anyscale_core.models import wire
from anyscale_core.models.secret import Secret

log = structlog.get_logger(__name__)


def create_app(
    plane: ControlPlane, *, calls: DriverCalls | None = None, stop: Callable[[], None] | None = None
) -> Litestar:
    """Return the ASGI application of a plane, to be served over TLS and in one process.

    ``calls`` counts driver calls for ``/metrics``; ``stop`` ends the serving process for ``/v1/stop`` (None: it is not ours
    to end). Its ``Service`` is ``app.state.service``; whoever serves it calls ``release`` before waiting for open requests.
    """
    service = Service(plane, calls=calls, stop=stop)
    app = Litestar(
        route_handlers=[_handler(service, route) for route in ROUTES],
        lifespan=[_lifespan],
        exception_handlers={HTTPException: _http_exception},
        openapi_config=None,
        logging_config=None,  # logs are the process's business, not the application's
        request_max_body_size=MAX_BODY,
    )
    app.state.service = service
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Litestar) -> AsyncIterator[None]:
    service: Service = app.state.service
    await service.open()
    try:
        yield
    finally:
        await service.close()


def _handler(service: Service, route: Route) -> HTTPRouteHandler:
    async def handle(request: Request[Any, Any, Any]) -> Response[bytes]:
        try:
            return _response(route, await _answer(service, route, request))
        except HTTPException as error:
            return _http_exception(request, error)
        except CoreError as error:
            problem = problem_of(error)
            return _problem(problem) if problem.status != 500 else _internal(route)
        except OperationalError:
            return _problem(
                problem_of(Transient("the control plane cannot reach its store; try again", reason="SERVER"))
            )
        except Exception:
            return _internal(route)

    path = route.path.replace("}", ":str}")
    return HTTPRouteHandler(
        path, http_method=HttpMethod(route.method), status_code=route.status, name=f"{route.method} {path}",
        request_max_body_size=route.max_body,
    )(handle)  # fmt: skip


async def _answer(service: Service, route: Route, request: Request[Any, Any, Any]) -> Any:
    token, actor = _bearer(request), ""
    path = {name: str(value) for name, value in request.path_params.items()}
    query = dict(request.query_params) if route.query else {}
    if route.door is Door.USER:
        asked = Call(token=token, path=path)
        actor = await service.for_people(_let_in, service.plane, route, asked)
    body = _read(await request.body(), route) if route.body is not None else None
    call = Call(actor=actor, token=token, path=path, query=query, body=body)
    work = getattr(service, route.work)
    return await work(call) if inspect.iscoroutinefunction(work) else await service.for_people(work, call)


def _bearer(request: Request[Any, Any, Any]) -> Secret[str] | None:
    # From the scope: making a mapping of all headers takes longer than this.
    found = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
    scheme, _, token = found.decode("latin-1").partition(" ")
    return Secret(token.strip()) if scheme.lower() == "bearer" and token.strip() else None


def _let_in(plane: ControlPlane, route: Route, call: Call) -> str:
    """Return whose token it is. Raises Refused, with an audit record."""
    now = plane.clock.now()
    try:
        if call.token is None:
            raise Refused("missing", "send a user's token as Authorization: Bearer <token>")
        return str(plane.keys.verify(USER, call.token, now=now).get("sub", "unknown"))
    except Refused as refusal:
        plane.store.add_audit(
            AuditRecord(
                at=now, actor="unknown", action=f"{route.method} {route.path}", subject=",".join(call.path.values()),
                outcome="refused", detail=f"{refusal.why}: {refusal}",
            )
        )  # fmt: skip
        raise


def _read(raw: bytes, route: Route) -> Any:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
        raise SpecError([Fault(path="", message=f"the body {why}")], subject="request") from None
    return read(body, route.body)


def _response(route: Route, value: Any) -> Response[bytes]:
    status = route.status
    if isinstance(value, Answer):
        value, status = value.value, value.status
    if route.answer is bytes:
        return _made(value, CONTENT_TYPE, status)
    body = wire.unstructure_revealed(value) if route.show is Show.REVEALED else wire.unstructure(value)
    response = _made(msgspec.json.encode(body), "application/json", status)
    if route.fresh:
        response.headers["Cache-Control"] = f"public, max-age={round(route.fresh.total_seconds())}"
    return response


def _problem(problem: Problem) -> Response[bytes]:
    response = _made(msgspec.json.encode(body_of(problem)), PROBLEM, problem.status)
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _internal(route: Route) -> Response[bytes]:
    id = f"err_{secrets.token_hex(6)}"
    log.exception("a request failed", id=id, route=f"{route.method} {route.path}")
    return _problem(internal(id))


def _http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what Litestar itself refuses: no such route, not that method, too large a body."""
    if error.status_code == 413:
        return _problem(problem_of(TooLarge(f"the body is larger than {MAX_BODY} bytes")))
    if error.status_code == 404:
        return _problem(problem_of(UnknownName(f"there is nothing at {request.url.path}; see /schema for the routes")))
    title = error.detail or "The request cannot be served"
    problem = Problem(type="about:blank", title=title, status=error.status_code, detail="see /schema for the routes")
    return _problem(problem)


def _made(content: bytes, media_type: str, status: int) -> Response[bytes]:
    return Response(
        content=content, media_type=media_type, status_code=status, headers={"Cache-Control": "no-store"}
    )  # fmt: skip
