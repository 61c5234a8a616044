"""The routes of this API: who calls is settled first, then the query, then the body, each strictly.

FastAPI reads a body before it asks who sent it, ignores query parameters it does not know, and takes the
last of two that share a name. `ApiRoute` does what has to come first, calls the endpoint with its parameters
(`app.api.http.direct`) or lets FastAPI do that, and gives of the answer what the caller wants: once per
`Idempotency-Key`, only the `fields` named, 304 for what is known.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl

import orjson
from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from starlette.types import Receive, Scope, Send

from app.api.http import conditional, fields, idempotency
from app.api.http.direct import ExitStacks, direct_handler, list_names
from app.api.http.fields import Representation
from app.api.http.json_body import StrictRequest, require_json
from app.api.http.responses import Answer
from app.dependencies import admit
from app.schemas.common import has_control_characters
from app.utils.exceptions import InvalidInputError
from app.utils.strict_json import printable

T = TypeVar("T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
READING = frozenset({"GET", "HEAD"})
_NOTHING = nullcontext()


class ApiRoute(APIRoute):
    """A route for callers with credentials."""

    is_open: ClassVar[bool] = False
    takes_any_query: ClassVar[bool] = False
    # Whether to look for a stored answer before `around`, where that is costly. One statement more; `once` decides.
    replays_early: ClassVar[bool] = False

    @property
    def takes_body(self) -> bool:
        """Whether `read` is to read a body before anything is done."""
        return self.body_field is not None

    @property
    def takes_key(self) -> bool:
        """Whether an `Idempotency-Key` means something here: something is changed, and it is known by whom."""
        return not self.is_open and not {"POST", "PATCH"}.isdisjoint(self.methods or ())

    @property
    def representation(self) -> Representation | None:
        """What `fields` can choose from, where it can."""
        return None if self.is_open else fields.representation_of(self.response_model)

    async def read(self, request: Request) -> Request:
        """Return the request with its body read and found to be JSON of no more than `max_body_bytes`.

        Override it, with `takes_body` and `essence`, on a route whose body is something else.

        Raises:
            AppError: 413, 415 or 422.
        """
        strict = StrictRequest(request, request.app.state.services.settings.max_body_bytes)
        # A wrong type is refused before anything is read. An empty body has no type; whether one is
        # needed is FastAPI's to say.
        if "content-type" in request.headers or await strict.body():
            require_json(request)
        if await strict.body():
            await strict.json()
        return strict

    async def essence(self, request: Request) -> bytes:
        """Return what the body of a request from `read` says, the same however it was written down.

        Two requests under one `Idempotency-Key` have to agree in it. Asked for only where there is a key.
        """
        body = await request.body()
        return orjson.dumps(await request.json(), option=orjson.OPT_SORT_KEYS) if body else b""

    def around(self, request: Request) -> AbstractAsyncContextManager[object]:  # noqa: ARG002 - for those that override it
        """Return what is to surround the work on a request from `read`: for what waits on more than the database.

        Under an `Idempotency-Key` the work is one transaction, on a connection that others want too.
        """
        return _NOTHING

    def release(self, request: Request) -> None:
        """Free what `read` holds for a request, such as a temporary file. Called once the answer is made, or refused."""

    def get_route_handler(self) -> Handler:
        """Return FastAPI's handler between the strict reading of what comes in and the shaping of what goes out."""
        is_open, takes_body, takes_key = self.is_open, self.takes_body, self.takes_key
        representation, takes_any_query = self.representation, self.takes_any_query
        by_fastapi = super().get_route_handler()
        direct = direct_handler(self.dependant, by_fastapi)
        handle = direct or by_fastapi
        single, repeatable = query_names(self.dependant)
        if representation is not None:
            single |= {fields.FIELDS}

        async def strictly(request: Request) -> Response:
            scope = request.scope
            services = request.app.state.services
            if not is_open:
                await retried_read(lambda: admit(scope, services))
            query_string = scope["query_string"]
            chosen = None
            if query_string and not takes_any_query:
                query = check_query(scope, single, repeatable)
                if representation is not None:
                    chosen = fields.take_fields(scope, query, representation)
            key = idempotency.key_of(scope) if takes_key else None
            if takes_body:
                request = await self.read(request)

            async def work() -> Response:
                if scope["method"] in READING:
                    return shaped(scope, await retried_read(lambda: handle(request)), chosen)
                return shaped(scope, await handle(request), chosen)

            try:
                return await self._once(request, key, query_string, work)
            finally:
                if takes_body:
                    self.release(request)

        self._direct = strictly if direct is not None else None
        return strictly

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, without FastAPI's layers around an endpoint where nothing needs them."""
        if self._direct is None or scope["method"] not in (self.methods or ()):
            async with ExitStacks(scope):
                await super().handle(scope, receive, send)
            return
        response = await self._direct(Request(scope, receive))
        await response(scope, receive, send)

    async def _once(
        self, request: Request, key: str | None, query_string: bytes, work: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Do the work, once for a key.

        Args:
            query_string: as it came; that of the scope has lost `fields`, with which it is another request.
        """
        scope = request.scope
        surrounding = self.around if self.takes_body else _no_surroundings
        if key is None:
            async with surrounding(request):
                return await work()
        service = request.app.state.services.idempotency
        essence = await self.essence(request) if self.takes_body else b""
        fingerprint = idempotency.fingerprint_of(scope, query_string, essence)
        if self.replays_early:
            replay = await idempotency.stored_answer(service, scope, key, fingerprint)
            if replay is not None:
                return replay
        async with surrounding(request):
            return await idempotency.answer_once(service, scope, key, fingerprint, work)


def _no_surroundings(_: Request) -> AbstractAsyncContextManager[object]:
    return _NOTHING


async def retried_read(read: Callable[[], Awaitable[T]]) -> T:
    """Return what `read` returns; call it again when its database connection turns out to be closed.

    The pool replaces a connection that was closed while idle. One that is lost under a statement shows only here, and
    its failure invalidates those that are as old: the second call gets a new one. A write is never repeated: it may
    have been committed.
    """
    try:
        return await read()
    except DBAPIError as fault:
        if not fault.connection_invalidated:
            raise
    return await read()


class OpenRoute(ApiRoute):
    """A route for anyone: it shows nothing of anybody's, or proves its caller in its own way."""

    is_open = True


class WebhookRoute(OpenRoute):
    """A route for what is signed: the signature decides, and a query string in the configured address is passed over."""

    takes_any_query = True


def shaped(scope: Scope, response: Response, chosen: Representation | None) -> Response:
    """Return an answer as the caller wants it: with the chosen fields only, or 304 if it is known."""
    if chosen is not None:
        response = fields.thinned(response, chosen)
    return conditional.unless_known(scope, response) if isinstance(response, Answer) else response


def query_names(dependant: Dependant) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the query parameters that a route takes once, and of those it takes repeatedly."""
    single: set[str] = set()
    repeatable: set[str] = set()
    for parameter in dependant.query_params:
        annotation = parameter.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            lists = list_names(annotation)
            repeatable |= lists
            single |= {field.alias or name for name, field in annotation.model_fields.items()} - lists
        else:
            single.add(parameter.alias)
    for inner in dependant.dependencies:
        inner_single, inner_repeatable = query_names(inner)
        single |= inner_single
        repeatable |= inner_repeatable
    return frozenset(single), frozenset(repeatable)


def check_query(scope: Scope, single: frozenset[str], repeatable: frozenset[str]) -> list[tuple[str, str]]:
    """Return the names and values in a query string; refuse what it must not have.

    Raises:
        InvalidInputError: bytes that are no UTF-8, control characters, a parameter that the route does not
            know, or one given twice that it takes once.
    """
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200
        )
    except ValueError:
        raise InvalidInputError(("query", "is not a valid query string")) from None
    seen: set[str] = set()
    for name, value in pairs:
        if has_control_characters(value) or has_control_characters(name):
            raise InvalidInputError((printable(name), "must not contain control characters"))
        if name not in single and name not in repeatable:
            raise InvalidInputError((printable(name), "is not a parameter of this request"))
        if name in seen and name in single:
            raise InvalidInputError((name, "is given twice"))
        seen.add(name)
    return pairs
