"""Which web pages may call the API from a browser: those of the origins in the configuration, or none (NFR-004).

Credentials are headers that a page's own code adds, never cookies, so `Access-Control-Allow-Credentials` is not sent.
Without a configured origin this layer is not there at all: no answer ever has a CORS header.
"""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http.responses import refusal
from app.request_state import state_of

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
SENT_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "X-API-Key",
    "X-Request-ID",
)
SHOWN_HEADERS = (
    "Content-Disposition",
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Request-ID",
)
_NOT_ALLOWED = 400


class OriginMiddleware(CORSMiddleware):
    """Starlette's CORS with refusals in the one error shape."""

    def __init__(self, app: ASGIApp, *, origins: list[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=SENT_HEADERS,
            expose_headers=SHOWN_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a browser's question, or add what it needs to know to the answer."""
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            if "origin" in headers and "access-control-request-method" in headers:
                await self._preflight(headers, scope)(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def _preflight(self, headers: Headers, scope: Scope) -> Response:
        response = self.preflight_response(headers)
        if response.status_code != _NOT_ALLOWED:
            return Response(status_code=204, headers=dict(self._of_cors(response)))
        return refusal(
            code="FORBIDDEN",
            status=403,
            message="This origin, method or header is not open to web pages.",
            details={"origin": headers["origin"][:200]},
            request_id=state_of(scope).request_id,
            headers={"Vary": response.headers["vary"]},
        )

    @staticmethod
    def _of_cors(response: Response) -> list[tuple[str, str]]:
        return [(name, value) for name, value in response.headers.items() if not name.startswith("content-")]
