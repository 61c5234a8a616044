"""Orders."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response

from app.api.deps import Context
from app.api.http.conditional import IF_MATCH, if_match
from app.api.http.file_transfer import FileTransfer
from app.api.http.responses import answer, refuses, resource
from app.api.http.routing import ApiRoute
from app.composition import Services
from app.core.enums import EntityType, OrderStatus
from app.request_state import state_of
from app.schemas.common import PageQuery
from app.schemas.operations import InvoiceRecord
from app.schemas.order import (
    CorrectionList,
    OrderCancel,
    OrderCorrect,
    OrderCreate,
    OrderList,
    OrderQuery,
    OrderResponse,
    OrderStateUpdate,
)
from app.schemas.refund import OrderRefundList
from app.schemas.state_history import HistoryList, TransitionOptions
from app.utils.exceptions import InvalidInputError
from app.utils.media_types import PDF

PREFIX = "/api/v1/orders"


class OrderRoute(ApiRoute):
    """Before an unpaid order is cancelled, the payment provider is asked: outside of any transaction."""

    @asynccontextmanager
    async def around(self, request: Request) -> AsyncIterator[None]:
        """Settle what the provider holds for the order, if the request is to cancel it.

        Raises:
            ServiceUnavailableError: the provider cannot be asked.
        """
        if await _cancels(request):
            services: Services = request.app.state.services
            await services.unpaid_orders.before_cancel(_order_id(request), state_of(request.scope).caller)
        yield


async def _cancels(request: Request) -> bool:
    path = request.scope["path"]
    if path.endswith("/cancel"):
        return True
    if not path.endswith("/state") or not await request.body():
        return False
    document = await request.json()
    return isinstance(document, dict) and document.get("new_state") == OrderStatus.CANCELLED


def _order_id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["order_id"])
    except ValueError:
        raise InvalidInputError(("order_id", "must be a UUID")) from None


router = APIRouter(prefix=PREFIX, tags=["Orders"], route_class=OrderRoute)

_MOVES = refuses(
    "FORBIDDEN",
    "ORDER_NOT_FOUND",
    "INVALID_STATE_TRANSITION",
    "RECORD_TAMPERED",
    "VERSION_CONFLICT",
    "SERVICE_UNAVAILABLE",
)


@router.patch(
    "/{order_id}/state",
    response_model=OrderResponse,
    responses=_MOVES,
    summary="Bring an order into another state",
    openapi_extra={"x-state-machine": EntityType.ORDER, "parameters": [IF_MATCH]},
)
async def change_state(order_id: UUID, update: OrderStateUpdate, request: Request, context: Context) -> Response:
    """Only what `x-state-machines` lists is possible; the order comes back as it then is.

    A refused attempt changes nothing and is kept where an auditor finds it (`GET /audit?rejected=true`).
    """
    return resource(await context.services.orders.transition(order_id, update, context.actor, if_match(request)))


router.add_api_route(
    "/{order_id}/state", change_state, methods=["POST"], response_model=OrderResponse, include_in_schema=False
)


@router.get("/{order_id}", response_model=OrderResponse, responses=refuses("ORDER_NOT_FOUND"), summary="Read an order")
async def read(order_id: UUID, context: Context) -> Response:
    """Give the order with its lines. Customers see their own."""
    return resource(await context.services.orders.get(order_id, context.actor))


@router.patch(
    "/{order_id}",
    response_model=OrderResponse,
    responses=refuses("FORBIDDEN", "ORDER_NOT_FOUND", "CORRECTION_NOT_ALLOWED", "VERSION_CONFLICT"),
    summary="Correct an order",
    openapi_extra={"parameters": [IF_MATCH]},
)
async def correct(order_id: UUID, data: OrderCorrect, request: Request, context: Context) -> Response:
    """Correct addresses until the order is SHIPPED, carrier and tracking number while it is, e-mail and phone always.

    The old values are kept: `GET /orders/{id}/corrections`.
    """
    return resource(await context.services.corrections.correct(order_id, data, context.actor, if_match(request)))


@router.get(
    "/{order_id}/corrections",
    response_model=CorrectionList,
    responses=refuses("ORDER_NOT_FOUND"),
    summary="List an order's corrections",
)
async def list_corrections(order_id: UUID, page: Annotated[PageQuery, Query()], context: Context) -> Response:
    """Give every correction with old and new values, oldest first."""
    return answer(await context.services.corrections.list(order_id, page, context.actor))


@router.post(
    "",
    response_model=OrderResponse,
    status_code=201,
    responses=refuses("FORBIDDEN"),
    summary="Create an order",
)
async def create(data: OrderCreate, context: Context) -> Response:
    """Take an order in PENDING_PAYMENT; all totals are computed here."""
    order = await context.services.orders.create(data, context.actor)
    return resource(order, 201, {"Location": f"{PREFIX}/{order['id']}"})


@router.get("", response_model=OrderList, summary="List orders")
async def list_orders(query: Annotated[OrderQuery, Query()], context: Context) -> Response:
    """Newest first, without lines. Customers see their own."""
    return answer(await context.services.orders.list(query, context.actor))


@router.post(
    "/{order_id}/cancel",
    response_model=OrderResponse,
    responses=_MOVES,
    summary="Cancel an order",
    openapi_extra={"parameters": [IF_MATCH]},
)
async def cancel(
    order_id: UUID, request: Request, context: Context, data: Annotated[OrderCancel | None, Body()] = None
) -> Response:
    """Possible until the warehouse takes it up. What was paid is refunded in full. The body may be left out.

    For an unpaid order the payment provider is asked first: what it has captured is booked and refunded, what it has
    reserved is released. When it cannot be reached the answer is 503, and nothing was changed.
    """
    orders = context.services.orders
    return resource(await orders.cancel(order_id, data or OrderCancel(), context.actor, if_match(request)))


@router.get(
    "/{order_id}/history",
    response_model=HistoryList,
    responses=refuses("ORDER_NOT_FOUND"),
    summary="Read an order's history",
)
async def history(order_id: UUID, page: Annotated[PageQuery, Query()], context: Context) -> Response:
    """Give every transition of the order, oldest first."""
    return answer(await context.services.orders.history(order_id, page, context.actor))


@router.get(
    "/{order_id}/transitions",
    response_model=TransitionOptions,
    responses=refuses("ORDER_NOT_FOUND"),
    summary="What can be done with an order now",
)
async def transitions(order_id: UUID, context: Context) -> Response:
    """Say for each state whether this caller could bring the order there now, and if not, why."""
    return answer(await context.services.orders.transitions(order_id, context.actor))


@router.get(
    "/{order_id}/refunds",
    response_model=OrderRefundList,
    responses=refuses("ORDER_NOT_FOUND"),
    summary="List an order's refunds",
)
async def refunds(order_id: UUID, page: Annotated[PageQuery, Query()], context: Context) -> Response:
    """Newest first: how much, why, and how far each has come. Customers see those of their own orders."""
    return answer(await context.services.refunds.of_order(order_id, page, context.actor))


@router.get(
    "/{order_id}/invoice",
    response_model=InvoiceRecord,
    responses={
        **refuses("ORDER_NOT_FOUND", "NOT_FOUND", "SERVICE_UNAVAILABLE"),
        200: {
            "description": "The document, or with `Accept: application/json` its record",
            "content": {"application/pdf": {"schema": {"type": "string", "contentMediaType": "application/pdf"}}},
        },
    },
    summary="Get an order's invoice",
)
async def invoice(order_id: UUID, request: Request, context: Context) -> Response:
    """Give the PDF, as it was issued when the order was shipped; before that there is none."""
    invoices = context.services.invoices
    if prefers_json(request.headers.get("accept", "")):
        return answer(await invoices.record(order_id, context.actor), headers={"Vary": "Accept"})
    issued = await invoices.issued(order_id, context.actor)
    headers = {"Content-Disposition": f'inline; filename="{issued.number}.pdf"', "Vary": "Accept"}
    return FileTransfer(lambda: invoices.open(issued), headers, PDF.name)


def prefers_json(accept: str) -> bool:
    """Return whether an Accept header asks for JSON and not for the PDF."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return "application/json" in kinds and "application/pdf" not in kinds
