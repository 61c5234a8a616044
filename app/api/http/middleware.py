"""What happens around every request, in one pure ASGI class (NFR-004, NFR-006).

Request id, safe headers, no plain HTTP in production, HEAD, the access log, metrics, and the last resort for
faults of ours. One class and no `BaseHTTPMiddleware`: a single one of those halves the throughput of a light route.
"""

import re
import time
from random import getrandbits
from urllib.parse import quote

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.http.errors import plain_refusal
from app.api.http.hosts import foreign_host
from app.api.http.incoming import in_time
from app.api.http.responses import ERROR_KINDS, refusal
from app.core import error_tracking, monitoring
from app.core.logging import entity_of_path
from app.dependencies import client_address
from app.request_state import RequestState, begin
from app.utils.strict_json import printable

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/_.~-]*")
"""What `quote` would leave as it is."""
_HEALTH = frozenset({"/api/v1/health", "/api/v1/health/live"})
_PROBED = _HEALTH | {"/api/v1/metrics"}
_DOC_PAGES = frozenset({"/docs", "/redoc"})

_CSP = b"content-security-policy"
# No answer of ours is a page: a browser that shows one may load, run and frame nothing.
_NOTHING = (_CSP, b"default-src 'none'; frame-ancestors 'none'")
# The two interactive pages, which production does not have, load their code from here. One picture of theirs, the
# maker's mark, comes from elsewhere and stays away.
_DOC_PAGE_POLICY = (
    b"default-src 'none'; frame-ancestors 'none'; connect-src 'self'; worker-src blob:; img-src 'self' data:;"
    b" script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
)
_DOC_PAGE = (_CSP, _DOC_PAGE_POLICY)

Header = tuple[bytes, bytes]

logger = structlog.get_logger("app.access")


class HttpMiddleware:
    """The outermost layer of the API.

    Args:
        production: whether browsers are asked to use TLS alone.
        https_only: whether to refuse what came over plain HTTP; health checks of an orchestrator may.
        hosts: names that the Host header may have (`app.api.http.hosts`); any when absent.
    """

    def __init__(
        self, app: ASGIApp, *, production: bool, https_only: bool = False, hosts: frozenset[str] | None = None
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._https_only = https_only
        self._headers = [
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-frame-options", b"DENY"),
        ]
        if production:
            self._headers.append((b"strict-transport-security", b"max-age=31536000; includeSubDomains"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, _in_one_sentence(scope, send))
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        method = scope["method"]
        request_id = _request_id(scope)
        headers = [(b"x-request-id", request_id.encode()), *self._headers]
        is_head = method == "HEAD"
        if is_head:
            # Answered as GET is, without the body. A copy: the server still has to know that it is a HEAD.
            scope = {**scope, "method": "GET"}
        state = begin(scope, request_id)
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status == 201:
                    bound.update(structlog.contextvars.bind_contextvars(**_made(message["headers"])))
                verdict = state.rate_limit
                told = headers if verdict is None else [*headers, *verdict.headers]
                message["headers"] = _completed(message["headers"], told, scope["path"])
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        bound = {**structlog.contextvars.bind_contextvars(request_id=request_id, **entity_of_path(scope["path"]))}
        try:
            answering = self._refusal(scope, request_id) or self._app
            await answering(scope, in_time(receive), send_on)
        except Exception as fault:
            logger.exception("request.failed", method=method, route=_route(scope))
            error_tracking.report(fault, method=_known(method), route=_route(scope))
            if status:
                # Half an answer is out: only a closed connection shows the caller that it failed.
                raise
            await plain_refusal(scope, "INTERNAL_ERROR")(scope, receive, send_on)
        finally:
            state.give_back()
            _record(scope, state, method, status, time.perf_counter() - started)
            structlog.contextvars.reset_contextvars(**bound)

    def _refusal(self, scope: Scope, request_id: str) -> Response | None:
        """Return the answer to a request that goes no further than here."""
        foreign = None if self._hosts is None else foreign_host(scope, self._hosts)
        if foreign is not None:
            return _misdirected(request_id, foreign)
        if self._https_only and scope["scheme"] != "https" and scope["path"] not in _HEALTH:
            return _plain_http_refused(request_id)
        return None


def _completed(given: list[Header], added: list[Header], path: str) -> list[Header]:
    """Return all headers of an answer; one that a route set for its own answer stays as it is."""
    present = {name for name, _ in given}
    policy = [] if _CSP in present else [_DOC_PAGE if path in _DOC_PAGES else _NOTHING]
    return [*given, *(header for header in added if header[0] not in present), *policy]


def _plain_http_refused(request_id: str) -> Response:
    """Answer what came unencrypted, its credentials in plain sight; a redirect would only hide that from the caller."""
    return refusal(
        code="FORBIDDEN",
        status=403,
        message="Plain HTTP is refused. Use https, and replace the credentials that were sent.",
        details={"needed": "https"},
        request_id=request_id,
    )


def _misdirected(request_id: str, host: str) -> Response:
    kind = ERROR_KINDS["MISDIRECTED_REQUEST"]
    return refusal(
        code="MISDIRECTED_REQUEST",
        status=kind.status,
        message=kind.message,
        details={"host": printable(host)},
        request_id=request_id,
    )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _GIVEN_ID.fullmatch(value):
            return str(value, "ascii")
    # It tells requests apart and is no secret; the generator is seeded anew in each process.
    return f"{getrandbits(128):032x}"


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", monitoring.UNKNOWN_ROUTE)


def _made(headers: list[Header]) -> dict[str, str]:
    """Return what a request has made, for the log: the order or return that the answer's Location names."""
    location = dict(headers).get(b"location", b"")
    return entity_of_path(location.decode("latin-1"))


def _known(method: str) -> str:
    return method if method in _METHODS else "(other)"


def _record(scope: Scope, state: RequestState, method: str, status: int, seconds: float) -> None:
    route = _route(scope)
    known_method = _known(method)
    monitoring.request_answered(known_method, route, status, seconds)
    actor = state.actor
    log = logger.debug if route in _PROBED and status < 400 else logger.info
    log(
        "request",
        method=known_method,
        route=route,
        # Ids are in the path, and ids only; a query may hold names and addresses.
        path=_shown(scope["path"][:200]),
        status=status,
        milliseconds=round(seconds * 1000, 2),
        actor=str(actor.id) if actor is not None else None,
        role=str(actor.role) if actor is not None else None,
        ip=client_address(scope),
    )


def _shown(path: str) -> str:
    return path if _PLAIN_PATH.fullmatch(path) else quote(path)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _in_one_sentence(scope: Scope, send: Send) -> Send:
    """Return a `send` that says why the start was refused instead of the framework's traceback."""

    async def send_on(message: Message) -> None:
        reason = getattr(scope["app"].state, "refusal", None)
        if message["type"] == "lifespan.startup.failed" and reason:
            message = {**message, "message": reason}
        await send(message)

    return send_on
