"""Requests that reach development secrets from other machines are refused, with any ASGI server (NFR-004).

`articurated api --host` refuses at start. Another server, such as `uvicorn app.main:app --host 0.0.0.0`, does not say
where it listens, so each request is judged by the address of ours that it came to.
"""

import ipaddress
from functools import lru_cache

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http.responses import refusal
from app.config import Settings
from app.config_rules import development_secrets, is_reachable
from app.request_state import state_of

logger = structlog.get_logger(__name__)


class SecretsGuard:
    """Middleware for processes that run with secrets which are published with the source."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._variables = development_secrets(settings)
        # One entry per address of this machine.
        self._is_open_at = lru_cache(maxsize=64)(
            lambda address: _is_address(address) and is_reachable(settings, address)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that came to a loopback address or a Unix socket; refuse every other one."""
        server = scope.get("server") if scope["type"] == "http" else None
        if server is None or not self._is_open_at(server[0]):
            await self._app(scope, receive, send)
            return
        logger.error("request.refused", error="development secrets on a public address", variables=self._variables)
        refused = refusal(
            code="FORBIDDEN",
            status=403,
            message="This installation runs with development secrets and serves its own machine only.",
            details={"needed": "own secrets, or ALLOW_DEVELOPMENT_SECRETS=true"},
            request_id=state_of(scope).request_id,
        )
        await refused(scope, receive, send)


def _is_address(text: str) -> bool:
    """Return whether it is an IP address; a socket has a path, a client in this process any name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
