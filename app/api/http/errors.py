"""Where errors meet HTTP, once: every one ends in the same shape."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from app.api.http.responses import ERROR_KINDS, refusal
from app.core.logging import describe_exception
from app.request_state import state_of
from app.services.workflow import tampering
from app.utils.disk import database_full, is_disk_full
from app.utils.exceptions import AppError, RecordTamperedError
from app.utils.strict_json import printable

FAULTS_SHOWN = 20
RETRY_AFTER_SECONDS = "5"

logger = structlog.get_logger(__name__)


def install(application: FastAPI) -> None:
    """Make every error of `application` answer in the one shape."""
    handlers: dict[Any, Any] = {
        AppError: _refused,
        RecordTamperedError: _tampered,
        RequestValidationError: _invalid,
        HTTPException: _framework_refused,
        DBAPIError: _database_failed,
        PoolTimeoutError: _database_failed,
        OSError: _system_failed,
    }
    for kind, handler in handlers.items():
        application.add_exception_handler(kind, handler)


def plain_refusal(scope: Scope, code: str, headers: dict[str, str] | None = None) -> Response:
    """Return the error `code` with its standard message and nothing else in it."""
    kind = ERROR_KINDS[code]
    return refusal(
        code=code,
        status=kind.status,
        message=kind.message,
        details={},
        request_id=state_of(scope).request_id,
        headers=headers,
    )


async def _refused(request: Request, error: AppError) -> Response:
    return refused(request.scope, error)


async def _tampered(request: Request, error: RecordTamperedError) -> Response:
    """Answer that a record was tampered with, and open its case, once; the answer does not depend on that."""
    try:
        await tampering.report(request.app.state.services.database, error)
    except (SQLAlchemyError, OSError) as fault:
        logger.critical("case.not_opened", error=describe_exception(fault), entity_id=str(error.entity_id))
    return refused(request.scope, error)


def refused(scope: Scope, error: AppError) -> Response:
    """Return the answer that says `error`."""
    headers = dict(error.headers)
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", RETRY_AFTER_SECONDS)
    return refusal(
        code=error.code,
        status=error.status,
        message=error.message,
        details=error.details,
        request_id=state_of(scope).request_id,
        headers=headers,
    )


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    return refusal(
        code="VALIDATION_ERROR",
        status=422,
        message=ERROR_KINDS["VALIDATION_ERROR"].message,
        details=faults_of(error.errors()),
        request_id=state_of(request.scope).request_id,
    )


def faults_of(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Return pydantic's errors as `{"field", "message"}`: which field, and why; never what was sent."""
    faults = [
        {
            "field": printable(".".join(str(part) for part in error["loc"][1:]) or str(error["loc"][0])),
            "message": str(error["msg"]).removeprefix("Value error, ")[:300],
        }
        for error in errors[:FAULTS_SHOWN]
    ]
    if len(errors) > FAULTS_SHOWN:
        faults.append({"field": "", "message": f"and {len(errors) - FAULTS_SHOWN} more"})
    return faults


async def _framework_refused(request: Request, error: HTTPException) -> Response:
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _method_refused(request)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return plain_refusal(request.scope, "NOT_FOUND")
    status = HTTPStatus(error.status_code)
    return refusal(
        code=status.name,
        status=status,
        message=f"{status.phrase}.",
        details={},
        request_id=state_of(request.scope).request_id,
        headers=error.headers,
    )


def _method_refused(request: Request) -> Response:
    """Answer 405 with all methods of the address, of which the framework names but one route's; OPTIONS asks for them."""
    allowed = ", ".join(_methods_at(request))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": allowed})
    kind = ERROR_KINDS["METHOD_NOT_ALLOWED"]
    return refusal(
        code="METHOD_NOT_ALLOWED",
        status=kind.status,
        message=kind.message,
        details={"allowed": allowed.split(", ")},
        request_id=state_of(request.scope).request_id,
        headers={"Allow": allowed},
    )


def _methods_at(request: Request) -> list[str]:
    methods = {"OPTIONS"}
    scope = {**request.scope, "path_params": {}}
    for route in request.app.routes:
        if route.matches(scope)[0] is not Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _system_failed(request: Request, error: OSError) -> Response:
    """Answer 503 where a disk of ours is full, so that the caller tries again; any other error is a fault of ours."""
    if not is_disk_full(error):
        raise error
    logger.error("disk.filled", error=describe_exception(error))
    return plain_refusal(request.scope, "SERVICE_UNAVAILABLE", {"Retry-After": RETRY_AFTER_SECONDS})


async def _database_failed(request: Request, error: DBAPIError | PoolTimeoutError) -> Response:
    away = isinstance(error, OperationalError | InterfaceError | PoolTimeoutError) or error.connection_invalidated
    if away:
        if is_disk_full(error):
            database_full.note()
        logger.error("database.not_reached", error=describe_exception(error))
        return plain_refusal(request.scope, "SERVICE_UNAVAILABLE", {"Retry-After": RETRY_AFTER_SECONDS})
    if isinstance(error, DataError):
        # The schemas should have refused it; the database did. Nothing was written, and it is no fault of ours
        # towards the caller, but a gap in a schema that someone has to close.
        logger.error("schema.mismatched", error=describe_exception(error))
        faults = [{"field": "body", "message": "holds a value that cannot be stored"}]
        return refusal(
            code="VALIDATION_ERROR",
            status=422,
            message=ERROR_KINDS["VALIDATION_ERROR"].message,
            details=faults,
            request_id=state_of(request.scope).request_id,
        )
    raise error
