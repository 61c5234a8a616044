"""The OpenAPI 3.1 document: FastAPI's, made to say all that is true of this API (REQ-005).

FastAPI knows parameters, bodies and answers. Added here, from the code that decides them: the credentials a
route wants, the errors that every route of its kind can answer, and both state machines.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from app import __version__
from app.api.http import conditional, fields, idempotency
from app.api.http.responses import JSON, error_examples, refuses
from app.api.http.routing import ApiRoute
from app.api.v1.state_machines import machines
from app.schemas.common import ErrorResponse

DESCRIPTION = """
The system of record for orders and returns of high-value artisanal goods: no invalid transition, nothing lost,
nothing done twice.

**Credentials** go into `X-API-Key`, or into `Authorization: Bearer` as a signed token. What a customer may not
see is answered 404.

**Every error** has one shape, `{"error": {"code", "message", "details", "request_id"}}`; branch on `code`.

**Rate limit**: a caller may make so many requests in any 60 seconds (100 unless configured otherwise); `RateLimit`
says how many are left and for how long, 429 comes with `Retry-After`.

**Lists** are `{"data": [...], "pagination": {...}}`; follow `next_cursor`. Unknown fields and unknown query
parameters are refused. Amounts are numbers with at most two decimals, times RFC 3339 in UTC.

**Texts** may be printed on documents and in mails. They are refused where they have a control character, a private-use
character (U+E000 to U+F8FF, planes 15 and 16) or a noncharacter (U+FDD0 to U+FDEF, the last two of each plane), or
nothing that is seen. The patterns of their schemas say so up to U+FFFF. An unassigned code point is no fault.

**Sent twice** is done once: with an `Idempotency-Key`, a repeated POST or PATCH is answered as the first one was.
**Changed meanwhile** is noticed: `ETag` is the version, and with `If-Match` another one is not changed (412).
**Only what is needed**: `fields=id,status` leaves the rest of an answer out.

`x-state-machines` below holds both state machines; so does `GET /api/v1/state-machines`.
"""

SECURITY_SCHEMES = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
}
_EVERYWHERE = ("VALIDATION_ERROR", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE")
_WITH_CREDENTIALS = ("UNAUTHENTICATED", "RATE_LIMITED")
_WITH_BODY = ("PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
_WITH_KEY = ("IDEMPOTENCY_KEY_IN_USE", "IDEMPOTENCY_KEY_REUSED")


def document_of(application: FastAPI) -> dict[str, Any]:
    """Return the document of `application`."""
    document = get_openapi(
        title="ArtiCurated",
        version=__version__,
        summary="Orders and returns",
        description=DESCRIPTION.strip(),
        routes=application.routes,
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "/"}],
    )
    components = document["components"]
    components["securitySchemes"] = SECURITY_SCHEMES
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    error = ErrorResponse.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= error.pop("$defs")
    components["schemas"]["ErrorResponse"] = error
    components["examples"] = error_examples()
    for route in application.routes:
        if isinstance(route, ApiRoute) and route.include_in_schema:
            for method in route.methods or ():
                operation = document["paths"][route.path_format][method.lower()]
                _complete(operation, route)
                _offer(operation, route, components["schemas"])
    components["schemas"] = dict(sorted(components["schemas"].items()))
    document["x-state-machines"] = machines()
    return document


def _complete(operation: dict[str, Any], route: ApiRoute) -> None:
    operation["operationId"] = operation_id(route)
    codes = [*_EVERYWHERE]
    if not route.is_open:
        codes += _WITH_CREDENTIALS
        operation["security"] = [{scheme: []} for scheme in SECURITY_SCHEMES]
    if "requestBody" in operation:
        codes += _WITH_BODY
        _leave_out_null(operation["requestBody"])
    if route.takes_key:
        codes += _WITH_KEY
    responses = operation["responses"]
    declared = {str(status) for status in route.responses}
    for status, response in refuses(*codes).items():
        name = str(status)
        responses[name] = _both(responses[name], response) if name in declared else response
    operation["responses"] = dict(sorted(responses.items()))


def _both(declared: dict[str, Any], general: dict[str, Any]) -> dict[str, Any]:
    """Return a route's own response with the errors that every route answers with the same status."""
    content = declared.get("content", {}).get(JSON, {})
    if "examples" not in content:
        return declared
    examples = {**content["examples"], **general["content"][JSON]["examples"]}
    return {**general, "description": " · ".join(examples), "content": {JSON: {**content, "examples": examples}}}


def _offer(operation: dict[str, Any], route: ApiRoute, schemas: dict[str, Any]) -> None:
    """Add what callers may ask for besides: one effect per key, some fields only, an answer only if it is news."""
    parameters: list[dict[str, Any]] = []
    headers: dict[str, Any] = {}
    successes = [response for status, response in operation["responses"].items() if status.startswith("2")]
    if route.takes_key:
        parameters.append(idempotency.PARAMETER)
        headers[idempotency.REPLAYED] = idempotency.REPLAYED_HEADER
    representation = route.representation
    if representation is not None:
        parameters.append(fields.parameter(representation))
        for success in successes:
            content = success["content"][JSON]
            content["schema"] = fields.or_thinned(content["schema"], schemas)
        if "version" in representation.names and not representation.is_list:
            headers["ETag"] = conditional.ETAG_HEADER
            if "GET" in (route.methods or ()):
                parameters.append(conditional.IF_NONE_MATCH)
                operation["responses"]["304"] = conditional.NOT_MODIFIED
    for success in successes if headers else ():
        success["headers"] = {**success.get("headers", {}), **headers}
    if parameters:
        operation["parameters"] = [*operation.get("parameters", ()), *parameters]
    operation["responses"] = dict(sorted(operation["responses"].items()))


def _leave_out_null(body: dict[str, Any]) -> None:
    """A body that may be left out may still not be `null`, which is what FastAPI makes of it."""
    for content in body["content"].values():
        options = [option for option in content["schema"].get("anyOf", []) if option != {"type": "null"}]
        if len(options) == 1:
            content["schema"] = options[0]


def operation_id(route: APIRoute) -> str:
    """Return the id of an operation: its noun, then what is done, e.g. `orders_list` of `list_orders` in `orders`.

    Clients generated from the document name their methods after it: an id never changes once it is published.
    """
    noun = route.endpoint.__module__.rpartition(".")[2]
    return f"{noun}_{route.name.removesuffix(f'_{noun}')}"
