"""The API: `app.main:app`, built when it is first asked for, and `create_app` for everything else."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api import openapi
from app.api.http import errors, interactive
from app.api.http.cors import OriginMiddleware
from app.api.http.hosts import known_hosts
from app.api.http.middleware import HttpMiddleware
from app.api.http.secrets_guard import SecretsGuard
from app.api.v1 import (
    attachments,
    audit,
    cases,
    files,
    health,
    jobs,
    metrics,
    notes,
    notifications,
    orders,
    payments,
    refunds,
    returns,
    state_machines,
    stats,
)
from app.composition import Services
from app.config import Settings, SettingsError, get_settings
from app.config_rules import development_secrets
from app.core import error_tracking
from app.core.logging import configure_logging
from app.database import Database
from app.services.operations.probes import refuse_stand_ins
from app.services.operations.redis_check import refuse_cluster
from app.services.operations.schema_check import SchemaMismatchError, verify_schema
from app.utils.memory import limit_arenas

ROUTERS = (
    orders,
    returns,
    attachments,
    notes,
    files,
    payments,
    audit,
    refunds,
    jobs,
    cases,
    notifications,
    stats,
    health,
    metrics,
    state_machines,
)
_DOCS = {"/docs": "/api/v1/docs", "/redoc": "/api/v1/redoc", "/openapi.json": "/api/v1/openapi.json"}

logger = structlog.get_logger(__name__)


class _Api(FastAPI):
    """FastAPI without the layers that nothing here uses: telemetry, a limit of bodies, a stack of open files.

    A fault of ours is answered by `HttpMiddleware`, the limit of a body is `StrictRequest`'s.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Return the router between the answers to errors and the middleware that was added."""
        handlers = {of: handler for of, handler in self.exception_handlers.items() if of not in (500, Exception)}
        application: ASGIApp = ExceptionMiddleware(self.router, handlers=handlers)
        for middleware in reversed(self.user_middleware):
            application = middleware.cls(application, *middleware.args, **middleware.kwargs)
        return application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)


def create_app(settings: Settings, services: Services | None = None) -> FastAPI:
    """Return the API.

    Args:
        settings: of this process.
        services: to serve with; made from the settings, on a pool of their own, when absent.
    """
    is_production = settings.environment == "production"
    has_docs = not is_production
    application = _Api(
        title="ArtiCurated",
        version=__version__,
        # One flat list: an included router is matched twice for every request.
        routes=[*_routes(), *([*_aliases(), *interactive.routes()] if has_docs else [])],
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if has_docs else None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    application.state.services = services or Services(settings, Database(settings, "articurated-api", hints=True))
    errors.install(application)
    if not settings.allow_development_secrets and not is_production and development_secrets(settings):
        application.add_middleware(SecretsGuard, settings=settings)
    if settings.cors_origins:
        application.add_middleware(OriginMiddleware, origins=settings.cors_origins)
    application.add_middleware(
        HttpMiddleware,
        production=is_production,
        https_only=is_production and settings.force_https,
        hosts=known_hosts(settings),
    )
    kept: list[dict[str, Any]] = []

    def document() -> dict[str, Any]:
        if not kept:
            kept.append(openapi.document_of(application))
        return kept[0]

    application.openapi = document  # type: ignore[method-assign]
    return application


def _routes() -> list[BaseRoute]:
    return [route for module in ROUTERS for route in module.router.routes]


def _aliases() -> list[BaseRoute]:
    def leading_to(target: str) -> Any:
        async def redirect(_: object) -> RedirectResponse:
            return RedirectResponse(target)

        return redirect

    aliases = {"/": "/docs", **{alias: target for target, alias in _DOCS.items()}}
    return [Route(alias, leading_to(target), include_in_schema=False) for alias, target in aliases.items()]


@asynccontextmanager
async def _lifespan(application: FastAPI) -> AsyncIterator[None]:
    """Refuse to serve a database that this code was not written for; close every connection at the end."""
    services: Services = application.state.services
    limit_arenas()
    log = configure_logging(services.settings)
    error_tracking.configure(services.settings, "api")
    try:
        await refuse_stand_ins(services.settings)
        await asyncio.to_thread(refuse_cluster, services.settings.redis_url)
        await verify_schema(services.database, restricted=services.settings.environment == "production")
    except (SchemaMismatchError, SettingsError) as fault:
        application.state.refusal = f"Not starting. {fault}"
        await services.close()
        raise
    # Modules loaded at start are never freed. A full collection would otherwise look through all their objects, 100 ms in
    # which no request is served, each time that a large body has made enough new objects.
    gc.collect()
    gc.freeze()
    # A request makes some thousand objects, hardly any in cycles. With the thresholds of Python, the collector took a
    # tenth of the CPU time.
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    log.gather(asyncio.get_running_loop())
    yield
    log.gather(None)
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    await services.close()
    error_tracking.flush()


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document; no setting changes it."""
    return openapi.document_of(FastAPI(routes=_routes()))


def openapi_yaml() -> str:
    """Return the text of `API-SPECIFICATION.yml`, which `articurated openapi` prints."""
    from app.api.http.yaml_text import as_yaml  # noqa: PLC0415 - serving requests takes no YAML

    return f"# Generated by `articurated openapi`; a test compares it with the code.\n{as_yaml(openapi_document())}"


def __getattr__(name: str) -> FastAPI:
    """Build `app` when a server asks for it: importing this module reads no configuration."""
    if name != "app":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    try:
        application = create_app(get_settings())
    except SettingsError as fault:
        # A server imports us in each of its processes: one message, no traceback.
        raise SystemExit(str(fault)) from None
    globals()["app"] = application
    return application
