"""Direct calls of endpoints, without FastAPI's dependency resolution, for requests that validate.

FastAPI resolves the parameters of a request through a tree of dependencies, with three stacks for cleaning up after them.
That is half of the CPU time of a light route. An endpoint of ours takes path parameters, one model of the query, one
model of the body, the request and the context, and nothing that has to be cleaned up. `direct_handler` reads just those,
through the same models. A request that does not validate goes to FastAPI, which gives the usual errors. The OpenAPI
document is made from the same signatures (docs/adr/0014).
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import Scope

from app.dependencies import context_of, request_context

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Reader = Callable[[Request], Awaitable[Any]]


def direct_handler(dependant: Dependant, by_fastapi: Handler) -> Handler | None:
    """Return a handler that gives an endpoint its parameters; None if the endpoint takes others than are known here.

    Args:
        dependant: FastAPI's description of the endpoint.
        by_fastapi: its own handler, for requests with a fault.
    """
    readers = _readers(dependant)
    if readers is None:
        return None
    endpoint: Callable[..., Awaitable[Response]] = dependant.call  # type: ignore[assignment]

    async def handle(request: Request) -> Response:
        try:
            values = {name: await read(request) for name, read in readers.items()}
        except (ValidationError, _NoBodyError):
            return await _through_fastapi(by_fastapi, request)
        return await endpoint(**values)

    return handle


class _NoBodyError(Exception):
    """There is no body to read a model from."""


def _readers(dependant: Dependant) -> Mapping[str, Reader] | None:
    others = (
        dependant.header_params,
        dependant.cookie_params,
        dependant.response_param_name,
        dependant.background_tasks_param_name,
        dependant.security_scopes_param_name,
        dependant.http_connection_param_name,
        dependant.websocket_param_name,
    )
    if any(others) or len(dependant.query_params) > 1 or len(dependant.body_params) > 1:
        return None
    readers: dict[str, Reader] = {}
    for field in dependant.path_params:
        declared: Any = Annotated[field.field_info.annotation, field.field_info]
        readers[field.name] = _path_reader(field.alias, TypeAdapter(declared))
    for field, reader in [
        *((field, _query_reader) for field in dependant.query_params),
        *((field, _body_reader) for field in dependant.body_params),
    ]:
        model = field.field_info.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None
        readers[field.name] = reader(model)
    for inner in dependant.dependencies:
        if inner.call is not request_context or inner.name is None:
            return None
        readers[inner.name] = _context
    if dependant.request_param_name is not None:
        readers[dependant.request_param_name] = _itself
    return readers


async def _context(request: Request) -> Any:
    return context_of(request)


async def _itself(request: Request) -> Any:
    return request


def _path_reader(alias: str, adapter: TypeAdapter[Any]) -> Reader:
    async def read(request: Request) -> Any:
        return adapter.validate_python(request.scope["path_params"][alias])

    return read


def list_names(model: type[BaseModel]) -> set[str]:
    """Return the names in a query that may be given repeatedly: those of the lists of its model."""
    return {
        field.alias or name
        for name, field in model.model_fields.items()
        if getattr(field.annotation, "__origin__", None) is list
    }


def _query_reader(model: type[BaseModel]) -> Reader:
    lists = list_names(model)

    async def read(request: Request) -> Any:
        given: dict[str, Any] = {}
        if request.scope["query_string"]:
            for name, value in request.query_params.multi_items():
                if name in lists:
                    given.setdefault(name, []).append(value)
                else:
                    given[name] = value
        return model.model_validate(given)

    return read


def _body_reader(model: type[BaseModel]) -> Reader:
    async def read(request: Request) -> Any:
        if not await request.body():
            raise _NoBodyError
        return model.model_validate(await request.json())

    return read


async def _through_fastapi(by_fastapi: Handler, request: Request) -> Response:
    async with ExitStacks(request.scope):
        return await by_fastapi(request)


class ExitStacks(AsyncExitStack):
    """The stacks that FastAPI expects to find in the scope of a request."""

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        for name in ("fastapi_middleware_astack", "fastapi_inner_astack", "fastapi_function_astack"):
            scope.setdefault(name, self)
