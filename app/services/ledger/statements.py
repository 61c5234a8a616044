"""What creating an order and a transition do to payments and refunds, as common table expressions for their statements.

Those of a transition (`Machine.money`) read `moved`, the row that it has moved. Of an order these go together, in this order: `ORDER_PAYMENT`,
`ORDER_REFUND`, `REFUND_FACT`; of a return: `RETURN_PAYMENT`, `RETURN_REFUND`, `REFUND_FACT`.
"""

from app.core.enums import RefundReason

NEW_PAYMENT = """payment AS (
    INSERT INTO payments (order_id, method, token, amount, currency, created_at)
    SELECT g.id, g.payment_method, g.payment_token, g.total_amount, g.currency, g.created_at FROM given g
)"""
"""The PENDING payment of each new order in `given`, over the order's total.

Reads `given`: id, payment_method, payment_token (the storefront's reference at the provider), total_amount, currency,
created_at. Guards: uq_payments_order_id, ck_payments_amount, guard_payment_begins.
"""

# PAID: what the order costs counts as captured. It takes no money. PAID → CANCELLED: all that was captured is reserved
# for a refund, which is due from this very statement on. The payment row is as old as the order, so it is never outside
# the statement's snapshot, and the UPDATE ends with its newest version; it begins with the snapshot's and checks
# the constraints on that too, so nothing is set that would contradict a version from before the payment.
ORDER_PAYMENT = """money AS (
    UPDATE payments p SET
        state = CASE WHEN m.status = 'PAID' THEN 'CAPTURED' ELSE p.state END,
        captured_amount = CASE WHEN m.status = 'PAID' THEN coalesce(p.accepted_amount, p.amount) ELSE p.captured_amount END,
        captured_at = CASE WHEN m.status = 'PAID' THEN m.updated_at ELSE p.captured_at END,
        gateway_payment_id = CASE WHEN m.status = 'PAID' AND m.payment_transaction_id IS NOT NULL
            THEN m.payment_transaction_id ELSE p.gateway_payment_id END,
        refund_reserved_amount = CASE WHEN m.status = 'CANCELLED' THEN p.captured_amount - p.refunded_elsewhere_amount
            ELSE p.refund_reserved_amount END
    FROM moved m
    WHERE p.order_id = m.id AND (m.status = 'PAID' OR (m.status = 'CANCELLED' AND m.from_state = 'PAID'))
    RETURNING p.id, p.captured_amount, p.captured_amount - p.refunded_elsewhere_amount AS due_back, p.currency, m.id AS order_id, m.status, m.trigger, m.updated_at
)"""
"""An order becomes PAID: its payment is captured. A PAID one is cancelled: what is left is reserved for a refund.

Returns `money`: id, captured_amount, due_back, currency, order_id, status, trigger, updated_at.
Guards: ck_payments_captured_amount, ck_payments_captured_at, ck_payments_refund_cap, uq_payments_gateway_payment_id,
guard_captured_payment, guard_capture_caused.
"""

ORDER_REFUND = f"""refund AS (
    INSERT INTO refunds (payment_id, order_id, reason, amount, currency, created_at, updated_at)
    SELECT id, order_id, '{RefundReason.ORDER_CANCELLED}', due_back, currency, updated_at, updated_at
    FROM money WHERE status = 'CANCELLED' AND due_back > 0
    RETURNING id, amount, currency, order_id, created_at
)"""  # noqa: S608 - constants of this code base
"""The refund of an order that was cancelled after it was paid; reads `money` of `ORDER_PAYMENT`.

Returns `refund`: id, amount, currency, order_id, created_at.
Guards: uq_refunds_whole_order, ck_refunds_amount, guard_beginning, guard_refund_caused, guard_refund_reserved.
"""

# The UPDATE of the payment reads its newest version, so two reservations never overlook each other.
RETURN_PAYMENT = """money AS (
    UPDATE payments p SET refund_reserved_amount = p.refund_reserved_amount + m.refund_amount
    FROM moved m
    WHERE p.order_id = m.order_id AND m.status = 'COMPLETED' AND m.refund_amount > 0
    RETURNING p.id, m.order_id, m.id AS return_id, m.refund_amount, p.currency, m.updated_at
)"""
"""A return is completed: its amount is reserved.

Returns `money`: id, order_id, return_id, refund_amount, currency, updated_at.
Guards: ck_payments_refund_cap.
"""

RETURN_REFUND = f"""refund AS (
    INSERT INTO refunds (payment_id, order_id, return_id, reason, amount, currency, created_at, updated_at)
    SELECT id, order_id, return_id, '{RefundReason.RETURN_COMPLETED}', refund_amount, currency, updated_at, updated_at
    FROM money
    RETURNING id, amount, currency, order_id, created_at
)"""  # noqa: S608 - constants of this code base
"""The refund of a completed return; reads `money` of `RETURN_PAYMENT`.

Returns `refund`: id, amount, currency, order_id, created_at.
Guards: uq_refunds_return_id, ck_refunds_return_id, guard_beginning, guard_refund_caused, guard_refund_reserved.
"""

REFUND_FACT = """refund_fact AS (
    INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)
    SELECT 'REFUND', id, 1, 'refund.created',
        jsonb_build_object('order_id', order_id, 'amount', amount::text, 'currency', currency), created_at
    FROM refund
)"""
"""The event of each row of `refund`."""
