"""The gateway's interface for merchants: payments, refunds, transactions, balance."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from devtools.mock_gateway.errors import RefusalError, invalid
from devtools.mock_gateway.gateway import CurrentGateway, Gateway
from devtools.mock_gateway.ledger import PaymentOrder, RefundOrder
from devtools.mock_gateway.request_handler import Command, fingerprint

router = APIRouter(prefix="/v1")

Reference = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:-]+$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Amount = Annotated[str, Field(max_length=20)]
Text = Annotated[str, Field(max_length=500)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PaymentBody(_Body):
    """A payment. `payment_token` null reports one that was received elsewhere."""

    reference: Reference
    amount: Amount
    currency: Currency
    payment_token: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    payment_method: Annotated[str, Field(max_length=100)] | None = None
    capture: bool = False
    metadata: Annotated[dict[str, Text], Field(max_length=50)] = {}


class CaptureBody(_Body):
    """How much to capture; everything when absent."""

    amount: Amount | None = None


class VoidBody(_Body):
    """Nothing to say."""


class RefundBody(_Body):
    """Money back for a captured payment."""

    payment: Annotated[str, Field(min_length=1, max_length=64)]
    reference: Reference
    amount: Amount
    currency: Currency
    reason: Text | None = None


def _asked(request: Request, body: BaseModel) -> str:
    return fingerprint(request.method, request.url.path, body.model_dump_json())


def _references_of(gateway: Gateway, payment_id: str) -> tuple[str, ...]:
    """Return our reference of a payment, for faults that are ordered for one reference only."""
    try:
        return (gateway.ledger.payment_object(payment_id)["reference"],)
    except RefusalError:
        return ()  # an unknown payment is refused where it is carried out


@router.post("/payments")
async def authorize(
    request: Request, body: PaymentBody, gateway: CurrentGateway, key: IdempotencyKey = None
) -> Response:
    """Authorise a payment, capture it too, or report one that was received elsewhere."""
    order = PaymentOrder(
        reference=body.reference,
        amount=body.amount,
        currency=body.currency,
        token=body.payment_token,
        method=body.payment_method,
        capture=body.capture,
        metadata=body.metadata,
    )
    captures = body.capture or body.payment_token is None
    return await gateway.handler.perform(
        Command(
            operations=("authorize", "capture") if captures else ("authorize",),
            references=(body.reference,),
            fingerprint=_asked(request, body),
            key=key,
            work=lambda plan, decline: gateway.ledger.authorize(order, plan, decline),
        )
    )


@router.post("/payments/{payment_id}/capture")
async def capture(
    request: Request,
    payment_id: str,
    gateway: CurrentGateway,
    body: CaptureBody | None = None,
    key: IdempotencyKey = None,
) -> Response:
    """Capture an authorised payment."""
    wanted = body or CaptureBody()
    return await gateway.handler.perform(
        Command(
            operations=("capture",),
            references=_references_of(gateway, payment_id),
            fingerprint=_asked(request, wanted),
            key=key,
            work=lambda plan, decline: gateway.ledger.capture(payment_id, wanted.amount, plan, decline),
        )
    )


@router.post("/payments/{payment_id}/void")
async def void(
    request: Request,
    payment_id: str,
    gateway: CurrentGateway,
    body: VoidBody | None = None,
    key: IdempotencyKey = None,
) -> Response:
    """Release an authorised payment."""
    return await gateway.handler.perform(
        Command(
            operations=(),
            references=_references_of(gateway, payment_id),
            fingerprint=_asked(request, body or VoidBody()),
            key=key,
            work=lambda plan, _decline: gateway.ledger.void(payment_id, plan),
        )
    )


@router.get("/payments/{payment_id}")
async def get_payment(payment_id: str, gateway: CurrentGateway) -> Response:
    """Return a payment by the gateway's id."""
    references = _references_of(gateway, payment_id)
    return await gateway.handler.read(references, lambda: gateway.ledger.payment_object(payment_id))


@router.get("/payments")
async def find_payments(reference: Annotated[Reference, Query()], gateway: CurrentGateway) -> Response:
    """Return the payments with one of our references: at most one that did not fail."""
    return await gateway.handler.read((reference,), lambda: _found(gateway, gateway.queries.payments(reference)))


@router.post("/refunds")
async def refund(request: Request, body: RefundBody, gateway: CurrentGateway, key: IdempotencyKey = None) -> Response:
    """Pay money back."""
    order = RefundOrder(
        payment=body.payment,
        reference=body.reference,
        amount=body.amount,
        currency=body.currency,
        reason=body.reason,
    )
    return await gateway.handler.perform(
        Command(
            operations=("refund",),
            references=(body.reference, *_references_of(gateway, body.payment)),
            fingerprint=_asked(request, body),
            key=key,
            work=lambda plan, decline: gateway.ledger.refund(order, plan, decline),
        )
    )


@router.get("/refunds/{refund_id}")
async def get_refund(refund_id: str, gateway: CurrentGateway) -> Response:
    """Return a refund by the gateway's id."""
    return await gateway.handler.read((), lambda: gateway.ledger.refund_object(refund_id))


@router.get("/refunds")
async def find_refunds(reference: Annotated[Reference, Query()], gateway: CurrentGateway) -> Response:
    """Return every refund with one of our references."""
    return await gateway.handler.read((reference,), lambda: _found(gateway, gateway.queries.refunds(reference)))


@router.get("/transactions")
async def transactions(
    gateway: CurrentGateway,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    kind: Annotated[Literal["authorization", "capture", "void", "refund"] | None, Query(alias="type")] = None,
) -> Response:
    """Return one page of all movements, in the order in which they happened."""
    return await gateway.handler.read((), lambda: gateway.queries.transactions(after, limit, kind))


@router.get("/balance")
async def balance(gateway: CurrentGateway) -> Response:
    """Return the sums per currency."""
    return await gateway.handler.read((), lambda: {"object": "balance", "balances": gateway.queries.balance()})


def _found(gateway: Gateway, items: list[dict[str, Any]]) -> dict[str, Any]:
    if not gateway.handler.profile()["lookup"]:
        raise invalid("lookup_unsupported", "This gateway cannot look up by reference.")
    return {"object": "list", "data": items, "has_more": False}
