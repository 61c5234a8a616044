"""The gateway as an ASGI application (INT-001).

Run it with `articurated gateway`, or `uvicorn --factory devtools.mock_gateway.main:create_app_from_env`.
One process per data folder.

`GET /` is a page for people, `GET /health` for supervisors; everything else wants
`Authorization: Bearer <api key>` and speaks JSON, errors as
`{"error": {"type", "code", "message"}}`. Amounts are decimal strings ("120.50"). Every answer and every webhook has the
header `Articurated-Mock-Gateway: true`, and `GET /health` has `"mock": true`: production refuses this gateway by it.

    POST /v1/payments                 authorise; with `capture` also capture; without token report
    POST /v1/payments/{id}/capture    once, in full or in part
    POST /v1/payments/{id}/void       release an authorisation
    GET  /v1/payments/{id}            GET /v1/payments?reference=
    POST /v1/refunds                  never more than captured minus refunded
    GET  /v1/refunds/{id}             GET /v1/refunds?reference=
    GET  /v1/transactions             ?after=<transaction id>&limit=&type=
    GET  /v1/balance
    POST|GET|DELETE /control/faults   GET|PUT /control/profile    GET /control/ledger
    GET  /control/events              POST /control/events/{id}/resend    POST /control/reset

Every POST under /v1 takes an `Idempotency-Key`: `devtools.mock_gateway.request_handler`. Tokens with a meaning:
`devtools.mock_gateway.ledger`. Faults: `devtools.mock_gateway.faults`. Webhooks: `devtools.mock_gateway.webhooks`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from devtools.mock_gateway import control_api, payments_api
from devtools.mock_gateway.clock import Clock, system_clock
from devtools.mock_gateway.connections import GatewayMiddleware
from devtools.mock_gateway.errors import RefusalError, error_body
from devtools.mock_gateway.gateway import CurrentGateway, Gateway
from devtools.mock_gateway.page import PAGE_HEADERS, render
from devtools.mock_gateway.request_handler import json_response
from devtools.mock_gateway.settings import GatewaySettings

_LATEST = 25


def create_app(settings: GatewaySettings, clock: Clock = system_clock) -> FastAPI:
    """Return a gateway; its ledger is opened when the server starts it and closed when it stops.

    Args:
        settings: where the ledger is, the API key, and where events go.
        clock: the present, aware; tests inject their own.

    Raises:
        StoreInUseError: at start, when another process has its ledger in the same folder.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gateway = Gateway(settings, clock)
        app.state.gateway = gateway
        deliveries = asyncio.create_task(gateway.dispatcher.run())
        try:
            yield
        finally:
            deliveries.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await deliveries
            finally:
                gateway.store.close()

    app = FastAPI(title="ArtiCurated development payment gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(GatewayMiddleware, api_key=settings.api_key)
    app.include_router(payments_api.router)
    app.include_router(control_api.router)
    app.add_api_route("/health", _health, methods=["GET"])
    app.add_api_route("/", _page, methods=["GET"], response_class=HTMLResponse)
    app.exception_handler(RefusalError)(_refused)
    app.exception_handler(RequestValidationError)(_not_valid)
    app.exception_handler(HTTPException)(_framework_error)
    app.exception_handler(Exception)(_failed)
    return app


def create_app_from_env() -> FastAPI:
    """Return a gateway configured by the environment.

    Raises:
        GatewaySettingsError: a variable is missing or invalid.
    """
    return create_app(GatewaySettings.from_env())


async def _health(gateway: CurrentGateway) -> dict[str, str | bool]:
    gateway.store.row("SELECT 1")
    return {"status": "ok", "mock": True}


async def _page(gateway: CurrentGateway) -> HTMLResponse:
    payments, refunds = gateway.queries.latest(_LATEST)
    return HTMLResponse(render(payments, refunds, gateway.queries.balance()), headers=PAGE_HEADERS)


async def _refused(_request: Request, refusal: RefusalError) -> Response:
    return json_response(refusal.status, refusal.body)


async def _not_valid(_request: Request, fault: RequestValidationError) -> Response:
    first = fault.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    message = f"{where}: {first['msg']}"
    return json_response(400, error_body("invalid_request_error", "parameter_invalid", message, param=where))


async def _framework_error(_request: Request, fault: HTTPException) -> Response:
    code = {404: "resource_missing", 405: "method_not_allowed"}.get(fault.status_code, "request_invalid")
    body = error_body("invalid_request_error", code, str(fault.detail))
    return json_response(fault.status_code, body, fault.headers)


async def _failed(_request: Request, _fault: Exception) -> Response:
    return json_response(500, error_body("api_error", "internal_error", "The gateway failed."))
