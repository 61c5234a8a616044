"""What is known of a request is in one typed object, and in no other key of its ASGI scope."""

import ast
from collections.abc import Iterator

import httpx2
import pytest
from fastapi import FastAPI, Request

from app.api.http.middleware import HttpMiddleware
from app.config import ROOT
from app.core.actor import Actor
from app.core.enums import ActorType, Trigger
from app.request_state import RequestState, begin, state_of
from app.utils.budget import Budget
from app.utils.exceptions import UnauthenticatedError

OF_ASGI = {"type", "method", "path", "headers", "query_string", "scheme", "server", "client"}
OF_STARLETTE = {"app", "route", "path_params"}
HOLDER = "app/request_state.py"


def is_scope(node: ast.expr) -> bool:
    """Return whether an expression is an ASGI scope, by its name."""
    return (isinstance(node, ast.Name) and node.id == "scope") or (
        isinstance(node, ast.Attribute) and node.attr in {"scope", "state"}
    )


def scope_keys(source: str) -> Iterator[str]:
    """Yield each key of a scope, read or written, that is none of the standard ones; and each use of `request.state`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Subscript(value=value, slice=key) if is_scope(value):
                pass
            case ast.Call(func=ast.Attribute(value=value, attr="get" | "setdefault" | "pop"), args=[key, *_]) if (
                is_scope(value)
            ):
                pass
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="request"), attr="state")):
                yield ast.unparse(node)
                continue
            case _:
                continue
        if not (isinstance(key, ast.Constant) and key.value in OF_ASGI | OF_STARLETTE):
            yield ast.unparse(node)


def test_no_other_module_keeps_anything_in_the_scope() -> None:
    found = {
        (str(file.relative_to(ROOT)), use)
        for file in (ROOT / "app").rglob("*.py")
        for use in scope_keys(file.read_text(encoding="utf-8"))
    }
    # FastAPI looks for its stacks there, by names of its own.
    assert found == {(HOLDER, "scope[_KEY]"), ("app/api/http/direct.py", "scope.setdefault(name, self)")}


@pytest.mark.parametrize(
    "source",
    [
        "scope[ACTOR] = actor",
        "actor = request.scope['articurated.actor']",
        "verdict = scope.get(RATE_LIMIT)",
        "share = scope.setdefault('articurated.share', Share())",
        "request.state.actor = actor",
        "request.scope['state']['actor'] = actor",
    ],
)
def test_the_check_finds_each_way_to_keep_something_beside_it(source: str) -> None:
    assert list(scope_keys(source))


def test_a_misspelt_field_is_an_error() -> None:
    state = RequestState("id")
    with pytest.raises(AttributeError):
        state.aktor = None  # type: ignore[attr-defined]


def test_a_request_that_was_not_admitted_has_no_caller() -> None:
    state = begin({}, "id")
    for field in ("caller", "principal_id"):
        with pytest.raises(UnauthenticatedError):
            getattr(state, field)
    state.actor = Actor(id=None, type=ActorType.SYSTEM, trigger=Trigger.API_CALL)
    assert state.caller is state.actor
    with pytest.raises(UnauthenticatedError):
        _ = state.principal_id


def test_a_scope_that_did_not_come_through_the_middleware_has_no_state() -> None:
    with pytest.raises(KeyError):
        state_of({"type": "http"})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_middleware_gives_each_request_a_state_and_takes_back_what_it_held(method: str) -> None:
    budget, seen = Budget(10), []
    application = FastAPI()

    @application.get("/")
    async def held(request: Request) -> None:
        state = state_of(request.scope)
        state.hold(budget, 7)
        seen.append((state, budget.left))

    guarded = HttpMiddleware(application, production=False)
    transport = httpx2.ASGITransport(app=guarded)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = [await client.request(method, "/", headers={"X-Request-ID": name * 8}) for name in "ab"]
    assert [answer.headers["x-request-id"] for answer in answers] == ["a" * 8, "b" * 8]
    assert [(state.request_id, left) for state, left in seen] == [("a" * 8, 3), ("b" * 8, 3)]
    assert budget.left == 10
