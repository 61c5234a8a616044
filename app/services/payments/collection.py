"""Finding the money of an order at the gateway, or letting the gateway know of it, so that it can be paid back.

No card is charged here. A payment that the storefront took under the order's id is adopted, one that it only
reserved is captured; where the gateway has none, the money came another way (the person who marked the order PAID
said so), and it is reported there as received elsewhere. The order id is the payment's reference at the
gateway, which refuses a second payment for it: two that do this at once leave one payment.
"""

from decimal import Decimal
from uuid import UUID

from sqlalchemy import Row, select

from app.core.enums import WebhookOutcome
from app.database import Database
from app.models.payment import Payment
from app.services.ledger import payments as payment_ledger
from app.services.payments import money_in
from app.services.payments.gateway.port import GatewayPayment, GatewayRejected, PaymentGateway, PaymentRequest
from app.utils.clock import Clock


class PaymentDiffersError(Exception):
    """The gateway has money under the order's id, but not what the order costs: a person has to look at it."""

    retryable = False


async def collected(database: Database, gateway: PaymentGateway, payment_id: UUID, clock: Clock) -> str:
    """Return the gateway's id of a payment that counts as captured, letting it know of the money if need be.

    Raises:
        GatewayError: the gateway did not do it, or its answer is not known; ask again later.
        PaymentDiffersError: what the storefront charged or reserved is another amount or currency.
    """
    async with database.autocommit() as connection:
        statement = select(*Payment.__table__.c).where(Payment.id == payment_id)
        payment = (await connection.execute(statement)).one()
    if payment.gateway_payment_id is not None:
        return str(payment.gateway_payment_id)
    found = await _at_gateway(gateway, payment)
    async with database.transaction() as session:
        known = await payment_ledger.record_collected(session, payment_id, found.id, found.refunded_amount, clock())
        if known is not None and found.refunded_amount:
            await money_in.ask_a_person(
                session, WebhookOutcome.REFUNDED_ELSEWHERE, found, known, clock(), found_by="collection"
            )
    return found.id


async def _at_gateway(gateway: PaymentGateway, payment: Row[tuple[object, ...]]) -> GatewayPayment:
    try:
        known = await gateway.find_payment(payment.order_id)
    except GatewayRejected as refusal:
        # A gateway without look-up still refuses a second payment under the same reference.
        if refusal.code != "lookup_unsupported":
            raise
        known = None
    if known is not None and known.status == "captured":
        return _fitting(known, known.captured_amount, payment)
    if known is not None and known.status == "authorized":
        return await gateway.capture(_fitting(known, known.amount, payment).id)
    return await gateway.capture_payment(
        PaymentRequest(
            payment_id=payment.order_id,
            amount=payment.amount,
            currency=payment.currency,
            payment_token=None,
            payment_method=payment.method,
        )
    )


def _fitting(known: GatewayPayment, amount: Decimal, payment: Row[tuple[object, ...]]) -> GatewayPayment:
    """Return what the gateway knows, if it is what the order costs.

    Raises:
        PaymentDiffersError: it is not.
    """
    expected = payment.amount if payment.accepted_amount is None else payment.accepted_amount
    if (amount, known.currency) != (expected, payment.currency):
        ours, theirs = f"{expected} {payment.currency}", f"{amount} {known.currency}"
        raise PaymentDiffersError(f"gateway payment {known.id} is {known.status} with {theirs}, not {ours}")
    return known
