"""Every error code, and every fault of ours, in the one shape."""

import errno
import io
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

import httpx2
import psycopg
import pytest
import structlog
from fastapi import FastAPI, Query
from pydantic import BaseModel
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from app.api.http import errors
from app.api.http.middleware import HttpMiddleware
from app.api.http.responses import ERROR_KINDS
from app.config import Settings
from app.core.logging import configure_logging
from app.utils import exceptions
from app.utils.disk import LastSeen
from app.utils.exceptions import AppError

pytestmark = pytest.mark.req("REQ-005")

CANARY = "ada@example.com"

EXAMPLES: list[AppError] = [
    exceptions.NotFoundError("There is no such thing."),
    exceptions.OrderNotFoundError("1"),
    exceptions.ReturnNotFoundError("1"),
    exceptions.InvalidStateTransitionError("PAID", "SHIPPED", ["CANCELLED"]),
    exceptions.ReturnNotAllowedError("NOT_DELIVERED", "Not delivered."),
    exceptions.ReturnAlreadyExistsError("1"),
    exceptions.RecordTamperedError("ORDER", UUID(int=7), 3, "uq_events_entity_type_entity_id_seq"),
    exceptions.VersionConflictError(3, '"2"'),
    exceptions.IdempotencyKeyInUseError(),
    exceptions.IdempotencyKeyReusedError(),
    exceptions.AttachmentNotAllowedError("TOO_MANY", "No more.", maximum=10),
    exceptions.CorrectionNotAllowedError("tracking_number", "DELIVERED", ["SHIPPED"]),
    exceptions.LinkExpiredError(datetime(2026, 11, 23, tzinfo=UTC)),
    exceptions.InvalidInputError(("field", "is wrong")),
    exceptions.UnauthenticatedError(),
    exceptions.ForbiddenError("No."),
    exceptions.RateLimitedError(100, 60, 17),
    exceptions.PayloadTooLargeError("Too long."),
    exceptions.RequestTimeoutError("Too slow."),
    exceptions.UnsupportedMediaTypeError("Not JSON."),
    exceptions.ServiceUnavailableError("Away."),
]


DISK_FULL = OperationalError("INSERT", {}, psycopg.errors.DiskFull(f"could not extend file {CANARY}"))


class Wanted(BaseModel):
    """A query with one parameter."""

    limit: Annotated[int, Query(ge=1)] = 1


class DatabaseAway:
    """A database that cannot be reached."""

    def transaction(self) -> None:
        """Refuse."""
        raise OperationalError("BEGIN", {}, Exception("away"))


def application_that_raises(fault: Exception) -> FastAPI:
    """Return an application whose one route raises `fault`."""
    application = FastAPI()
    # A case is opened where a record was tampered with; here that fails, and the answer is the same.
    application.state.services = SimpleNamespace(database=DatabaseAway())
    errors.install(application)
    application.add_middleware(HttpMiddleware, production=False)

    @application.get("/fails")
    async def fails(_: Annotated[Wanted, Query()]) -> None:
        raise fault

    return application


async def answer_to(fault: Exception, method: str = "GET", path: str = "/fails") -> httpx2.Response:
    # Nothing may get past the application: a server would log it a second time, with what is in it.
    transport = httpx2.ASGITransport(app=application_that_raises(fault), raise_app_exceptions=True)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path)


def error_of(response: httpx2.Response) -> dict[str, Any]:
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert sorted(error) == ["code", "details", "message", "request_id"]
    assert error["request_id"] == response.headers["x-request-id"]
    return error


@pytest.mark.req("REQ-005.3")
@pytest.mark.parametrize("fault", EXAMPLES, ids=lambda fault: type(fault).__name__)
async def test_every_refusal_has_its_code_and_status(fault: AppError) -> None:
    response = await answer_to(fault)
    error = error_of(response)
    assert response.status_code == fault.status == ERROR_KINDS[fault.code].status
    assert (error["code"], error["message"]) == (fault.code, fault.message)
    assert error["details"] == fault.details
    assert ("www-authenticate" in response.headers) == (fault.status == 401)
    assert ("retry-after" in response.headers) == (fault.status == 503 or "Retry-After" in fault.headers)


def test_every_error_class_is_among_the_examples_and_documented() -> None:
    def all_of(kind: type[AppError]) -> set[type[AppError]]:
        found = {kind} if kind.__module__ == exceptions.__name__ else set()
        return found.union(*(all_of(inner) for inner in kind.__subclasses__()))

    assert all_of(AppError) - {AppError} == {type(example) for example in EXAMPLES}
    without_exception = {"METHOD_NOT_ALLOWED", "INTERNAL_ERROR", "BAD_REQUEST", "HEADERS_TOO_LARGE"}
    documented = set(ERROR_KINDS) - without_exception - {"MISDIRECTED_REQUEST"}
    assert documented == {example.code for example in EXAMPLES}


class Original(psycopg.errors.UniqueViolation):
    """An error of the driver that quotes what was sent."""


def database_error(kind: type[Any]) -> Exception:
    fault: Exception = kind("INSERT INTO orders VALUES (%s)", {"email": CANARY}, Original(CANARY))
    return fault


@pytest.mark.req("NFR-003.1")
@pytest.mark.parametrize(
    "fault", [database_error(OperationalError), database_error(InterfaceError), PoolTimeoutError("pool")]
)
async def test_a_database_that_is_away_is_503(fault: Exception) -> None:
    response = await answer_to(fault)
    assert response.status_code == 503
    assert error_of(response)["code"] == "SERVICE_UNAVAILABLE"
    assert int(response.headers["retry-after"]) > 0
    assert CANARY not in response.text


async def test_a_connection_that_broke_is_503_for_every_kind_of_error() -> None:
    fault = InternalError("SELECT", {}, Original("gone"), connection_invalidated=True)
    assert (await answer_to(fault)).status_code == 503


async def test_a_value_that_only_the_database_refused_is_still_the_callers() -> None:
    response = await answer_to(database_error(DataError))
    assert response.status_code == 422
    assert error_of(response)["code"] == "VALIDATION_ERROR"


@pytest.mark.req("NFR-004.9", "REQ-005.3")
@pytest.mark.security
@pytest.mark.parametrize(
    "fault", [RuntimeError(CANARY), database_error(IntegrityError), KeyError(CANARY), RecursionError(), UnicodeError()]
)
async def test_an_internal_error_discloses_only_the_request_id(fault: Exception) -> None:
    response = await answer_to(fault)
    assert response.status_code == 500
    error = error_of(response)
    assert error["code"] == "INTERNAL_ERROR"
    assert error["details"] == {}
    assert CANARY not in response.text
    assert "INSERT" not in response.text


@pytest.fixture(autouse=True)
def logged() -> Any:
    """Give a function that returns the lines logged so far; the configuration is put back at the end."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging(Settings(_env_file=None, environment="testing", log_format="json"), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    root.handlers[:], root.level = before


@pytest.mark.req("NFR-004.9", "NFR-006.1")
@pytest.mark.security
async def test_a_fault_is_logged_with_its_place_and_without_the_data(logged: Any) -> None:
    response = await answer_to(database_error(IntegrityError))
    fault, request = logged()
    assert fault["event"] == "request.failed"
    assert fault["request_id"] == request["request_id"] == error_of(response)["request_id"]
    assert fault["exception"]["type"] == "sqlalchemy.exc.IntegrityError"
    assert fault["exception"]["sqlstate"] == "23505"
    assert any("test_api_errors.py" in frame for frame in fault["exception"]["stack"])
    assert CANARY not in json.dumps([fault, request])
    assert (request["event"], request["status"], request["route"]) == ("request", 500, "/fails")


@pytest.mark.security
async def test_no_input_breaks_a_log_line(logged: Any) -> None:
    await answer_to(RuntimeError("x"), path="/a%0a%1b[31mb?email=" + CANARY)
    [line] = logged()
    assert line["path"] == "/a%0A%1B%5B31mb"
    assert CANARY not in json.dumps(line)


@pytest.mark.req("NFR-006.1")
@pytest.mark.security
async def test_libraries_log_in_the_same_form(logged: Any) -> None:
    logging.getLogger("uvicorn.error").warning("line\nbreak\x1b[31m %s", 5)
    [line] = logged()
    assert (line["event"], line["level"], line["logger"]) == ("line\nbreak\x1b[31m 5", "warning", "uvicorn.error")


async def test_an_answer_that_breaks_off_cuts_the_connection() -> None:
    application = FastAPI()
    application.add_middleware(HttpMiddleware, production=False)

    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("disk gone")

    @application.get("/half")
    async def broken() -> StreamingResponse:
        return StreamingResponse(half())

    transport = httpx2.ASGITransport(app=application, raise_app_exceptions=True)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(RuntimeError, match="disk gone"):
            await client.get("/half")


@pytest.mark.req("REQ-005.3")
@pytest.mark.parametrize("path", ["/nowhere", "/fails/", "/%00", "/fails%2e"])
async def test_an_unknown_address_is_404(path: str) -> None:
    response = await answer_to(RuntimeError(), path=path)
    assert response.status_code == (307 if path == "/fails/" else 404)
    if response.status_code == 404:
        assert error_of(response)["code"] == "NOT_FOUND"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
async def test_a_method_that_is_not_there_is_405_with_those_that_are(method: str) -> None:
    response = await answer_to(RuntimeError(), method)
    assert response.status_code == 405
    assert error_of(response)["code"] == "METHOD_NOT_ALLOWED"
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_options_lists_the_methods() -> None:
    response = await answer_to(RuntimeError(), "OPTIONS")
    assert (response.status_code, response.headers["allow"], response.content) == (204, "GET, HEAD, OPTIONS", b"")


async def test_head_is_get_without_the_body() -> None:
    refusal = exceptions.NotFoundError("no")
    got, headed = await answer_to(refusal), await answer_to(refusal, "HEAD")
    assert headed.status_code == got.status_code
    assert headed.content == b""
    assert headed.headers["content-type"] == got.headers["content-type"]


async def test_another_error_of_the_framework_has_the_shape_too() -> None:
    response = await answer_to(HTTPException(418))
    assert response.status_code == 418
    assert error_of(response)["code"] == "IM_A_TEAPOT"


async def test_a_query_that_does_not_fit_names_the_field() -> None:
    response = await answer_to(RuntimeError(), path="/fails?limit=0")
    assert response.status_code == 422
    assert error_of(response)["details"] == [
        {"field": "limit", "message": "Input should be greater than or equal to 1"}
    ]


def test_a_flood_of_faults_is_cut_short() -> None:
    flood = [{"loc": ("body", f"k{n}" * 500), "msg": "Extra inputs are not permitted"} for n in range(10_000)]
    faults = errors.faults_of(flood)
    assert len(faults) == errors.FAULTS_SHOWN + 1
    assert faults[-1] == {"field": "", "message": f"and {10_000 - errors.FAULTS_SHOWN} more"}
    assert all(len(fault["field"]) <= 100 for fault in faults)


@pytest.mark.req("NFR-003")
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left"), OSError(errno.EDQUOT, "Quota"), DISK_FULL])
async def test_a_full_disk_is_503_and_worth_another_try(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = LastSeen()
    monkeypatch.setattr(errors, "database_full", seen)
    answer = await answer_to(fault)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
    assert answer.headers["retry-after"] == errors.RETRY_AFTER_SECONDS
    assert seen.within(60) == (fault is DISK_FULL), "health says when it was the database's disk"


async def test_any_other_error_of_the_system_is_a_fault_of_ours() -> None:
    answer = await answer_to(OSError(errno.EBADF, "Bad file descriptor"))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "INTERNAL_ERROR"
