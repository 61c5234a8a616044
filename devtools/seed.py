"""Sample data: a boutique's year of orders and returns, in every state, of any size.

Nothing is faked past the rules. Orders are inserted as new and walked through the same statement that the
API uses, a thousand at a time, with the times of their steps in the past; so the audit chains, the events
and the guards hold for sample data as for any other. Its jobs are DISMISSED: no customer of the sample gets
mail, and no gateway was ever asked for its refunds. The jobs of its documents are made due when documents are wanted
(`devtools.sample_documents`).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID, uuid5

import orjson
from sqlalchemy import Connection, insert, text

from app.config import Settings
from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import ActorType, EntityType, JobState, OrderStatus, RefundState, ReturnStatus, Role, Trigger
from app.database import sync_engine
from app.models.return_request import ReturnRequest
from app.services.jobs.service import JobKind, queue_of
from app.services.orders import service as order_service
from app.services.orders.draft import CENT
from app.services.payments.refund_reconciliation import SAMPLE_REFUND_PREFIX
from app.services.payments.settlement import SETTLED_EFFECTS
from app.services.returns import service as return_service
from app.services.workflow import transitions
from app.services.workflow.transitions import Statement, TransitionRequest
from app.utils.clock import utc_now, uuid7
from app.utils.search_terms import order_terms
from app.utils.shop_time import ShopTime
from devtools.sample_catalogue import ADDRESSES, CARRIERS, FIRST_NAMES, LAST_NAMES, PRODUCTS, RETURN_REASONS

BATCH = 1000
WITHOUT_MAIL = '{"mail": false}'
"""The payload of a job that issues a document without mailing it."""
LEFT_TO_WORKERS_AFTER = "1 hour"
"""When workers issue the documents of samples whose seeding was stopped."""
STAFF = UUID("0190a5f2-0000-7000-8000-0000000000aa")

PATHS: dict[OrderStatus, tuple[OrderStatus, ...]] = {
    OrderStatus.PENDING_PAYMENT: (),
    OrderStatus.PAID: (OrderStatus.PAID,),
    OrderStatus.PROCESSING_IN_WAREHOUSE: (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE),
    OrderStatus.SHIPPED: (OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED),
    OrderStatus.DELIVERED: (
        OrderStatus.PAID,
        OrderStatus.PROCESSING_IN_WAREHOUSE,
        OrderStatus.SHIPPED,
        OrderStatus.DELIVERED,
    ),
    OrderStatus.CANCELLED: (OrderStatus.CANCELLED,),
}
SHARES = {
    OrderStatus.PENDING_PAYMENT: 5,
    OrderStatus.PAID: 6,
    OrderStatus.PROCESSING_IN_WAREHOUSE: 6,
    OrderStatus.SHIPPED: 11,
    OrderStatus.DELIVERED: 62,
    OrderStatus.CANCELLED: 10,
}
RETURN_PATHS: dict[ReturnStatus, tuple[ReturnStatus, ...]] = {
    ReturnStatus.REQUESTED: (),
    ReturnStatus.REJECTED: (ReturnStatus.REJECTED,),
    ReturnStatus.APPROVED: (ReturnStatus.APPROVED,),
    ReturnStatus.IN_TRANSIT: (ReturnStatus.APPROVED, ReturnStatus.IN_TRANSIT),
    ReturnStatus.RECEIVED: (ReturnStatus.APPROVED, ReturnStatus.IN_TRANSIT, ReturnStatus.RECEIVED),
    ReturnStatus.COMPLETED: (
        ReturnStatus.APPROVED,
        ReturnStatus.IN_TRANSIT,
        ReturnStatus.RECEIVED,
        ReturnStatus.COMPLETED,
    ),
}
RETURN_SHARES = {
    ReturnStatus.REQUESTED: 8,
    ReturnStatus.REJECTED: 12,
    ReturnStatus.APPROVED: 6,
    ReturnStatus.IN_TRANSIT: 8,
    ReturnStatus.RECEIVED: 6,
    ReturnStatus.COMPLETED: 60,
}
RETURNED_SHARE = 0.1


@dataclass
class Walk:
    """One entity and the steps it still has to take, in order."""

    entity_id: UUID
    steps: list[tuple[str, datetime, dict[str, Any]]] = field(default_factory=list)


def seed(
    settings: Settings,
    count: int,
    *,
    seed_value: int | None = None,
    documents: bool = False,
    on_progress: Callable[[int], None],
) -> None:
    """Add `count` sample orders, with returns for some of the delivered ones.

    Args:
        settings: names the database; refused in production.
        seed_value: makes the data the same at every run, but for the time of day; None for other data each time.
        documents: make the jobs of invoices and credit notes due, which `sample_documents.issue` then does. Without,
            they are DISMISSED like the others.
        on_progress: called with the number of orders done since the last call.

    Raises:
        ValueError: in production, or a count that is not positive.
    """
    if settings.environment == "production":
        raise ValueError("sample data does not go into production")
    if count < 1:
        raise ValueError("count must be at least 1")
    dice = random.Random(seed_value)  # noqa: S311 - sample data
    engine = sync_engine(settings.model_copy(update={"database_statement_timeout_seconds": 600}), "articurated-seed")
    machine = replace(order_service.MACHINE, answer="")
    if documents:
        machine = replace(machine, effects=[e for e in machine.effects if e.kind is not JobKind.ISSUE_INVOICE])
    order_statement = machine.statement(JobState.DISMISSED)
    return_statement = replace(return_service.MACHINE, answer="").statement(JobState.DISMISSED)
    shop_time = ShopTime.from_settings(settings)
    try:
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            with engine.begin() as connection:
                order_ids = _seed_batch(connection, dice, size, order_statement, return_statement, shop_time)
                _settle_refunds(connection, order_ids, documents=documents)
                if documents:
                    connection.execute(_INVOICES_DUE, {"ids": order_ids})
            on_progress(size)
    finally:
        engine.dispose()


def _seed_batch(
    connection: Connection,
    dice: random.Random,
    size: int,
    order_statement: Statement,
    return_statement: Statement,
    shop_time: ShopTime,
) -> list[UUID]:
    # A plan kept from when the tables were empty would read them whole once they are not.
    connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
    now = utc_now()
    batch = [Sample.roll(dice, now) for _ in range(size)]
    _insert_orders(connection, batch, shop_time)
    _walk(connection, order_statement, [sample.walk for sample in batch])
    returned = [sample for sample in batch if sample.returned]
    if returned:
        returns = [_return_of(sample, dice, now) for sample in returned]
        _number_returns(connection, [row for row, _ in returns], shop_time)
        connection.execute(insert(ReturnRequest), [row for row, _ in returns])
        _created_events(connection, "RETURN", "return.created", [(row["id"], row["created_at"]) for row, _ in returns])
        _walk(connection, return_statement, [walk for _, walk in returns])
    return [sample.order["id"] for sample in batch]


def _number_returns(connection: Connection, returns: list[dict[str, Any]], shop_time: ShopTime) -> None:
    numbers = connection.execute(
        text("SELECT nextval('return_number_seq') FROM generate_series(1, :n)"), {"n": len(returns)}
    ).scalars()
    for row, number in zip(returns, numbers, strict=True):
        row["return_number"] = f"RET-{shop_time.day(row['created_at']).year}-{number:06d}"


@dataclass
class Sample:
    """An order that is not inserted so far: its row as it begins, its lines, and the steps that it takes.

    Attributes:
        token: of its payment.
        returned: whether its customer asks for a return.
    """

    order: dict[str, Any]
    lines: list[dict[str, Any]]
    token: str
    walk: Walk
    returned: bool
    delivered_at: datetime | None

    @classmethod
    def roll(cls, dice: random.Random, now: datetime) -> "Sample":
        """Make one of a random age and state."""
        target = dice.choices(list(SHARES), weights=list(SHARES.values()))[0]
        path = (
            (OrderStatus.PAID, OrderStatus.CANCELLED)
            if target is OrderStatus.CANCELLED and dice.random() < 0.4
            else PATHS[target]
        )
        created = now - _age(dice, target)
        order_id = uuid7(created)
        lines = _lines(dice, order_id)
        order = _order(dice, order_id, created, lines)
        walk = Walk(order_id, list(_order_steps(dice, path, created, now)))
        delivered_at = walk.steps[-1][1] if target is OrderStatus.DELIVERED else None
        returned = delivered_at is not None and dice.random() < RETURNED_SHARE
        return cls(order, lines, dice.choice(("tok_visa", "tok_mastercard", "tok_amex")), walk, returned, delivered_at)


def _age(dice: random.Random, target: OrderStatus) -> timedelta:
    """How long ago an order was made: what is still open is recent, or the time limits would apply to it."""
    if target is OrderStatus.PENDING_PAYMENT:
        return timedelta(hours=dice.uniform(0.1, 20))
    if target in {OrderStatus.PAID, OrderStatus.PROCESSING_IN_WAREHOUSE, OrderStatus.SHIPPED}:
        return timedelta(days=dice.uniform(0.5, 9))
    return timedelta(days=12 + 353 * dice.random() ** 1.5)


def _order_steps(
    dice: random.Random, path: Sequence[OrderStatus], created: datetime, now: datetime
) -> Iterator[tuple[str, datetime, dict[str, Any]]]:
    at = created
    for state in path:
        at = min(at + timedelta(hours=dice.uniform(0.1, 40)), now)
        changes: dict[str, Any] = {}
        if state is OrderStatus.SHIPPED:
            changes = {"carrier": dice.choice(CARRIERS), "tracking_number": f"{dice.randrange(16**12):012X}"}
        elif state is OrderStatus.CANCELLED:
            changes = {"cancellation_reason": dice.choice(("changed my mind", "ordered twice", "not paid in time"))}
        yield state, at, changes


def _lines(dice: random.Random, order_id: UUID) -> list[dict[str, Any]]:
    chosen = dice.sample(PRODUCTS, k=dice.choices((1, 2, 3, 4), weights=(5, 3, 2, 1))[0])
    lines = []
    for position, product in enumerate(chosen, start=1):
        quantity = dice.choices((1, 2, 3), weights=(8, 2, 1))[0]
        subtotal = product.price * quantity
        lines.append(
            {
                "id": uuid5(order_id, str(position)),
                "order_id": order_id,
                "position": position,
                "product_id": product.sku.lower(),
                "product_name": product.name,
                "sku": product.sku,
                "quantity": quantity,
                "unit_price": product.price,
                "tax_rate": product.tax_rate,
                "tax_amount": (subtotal * product.tax_rate).quantize(CENT, ROUND_HALF_UP),
                "subtotal": subtotal,
            }
        )
    return lines


def _order(dice: random.Random, order_id: UUID, created: datetime, lines: list[dict[str, Any]]) -> dict[str, Any]:
    first, last = dice.choice(FIRST_NAMES), dice.choice(LAST_NAMES)
    customer = dice.randrange(50_000)
    street, city, postal_code, country = dice.choice(ADDRESSES)
    subtotal = sum((line["subtotal"] for line in lines), Decimal(0))
    tax = sum((line["tax_amount"] for line in lines), Decimal(0))
    shipping = Decimal(dice.choice(("0.00", "9.90", "14.50", "24.00")))
    address = {
        "name": f"{first} {last}",
        "street": f"{dice.randrange(1, 120)} {street}",
        "city": city,
        "postal_code": postal_code,
        "country": country,
    }
    return {
        "id": order_id,
        "customer_id": uuid5(STAFF, str(customer)),
        "customer_email": f"{first}.{last}{customer}@example.com".lower()
        .replace(" ", "")
        .encode("ascii", "ignore")
        .decode(),
        "customer_name": f"{first} {last}",
        "currency": "EUR" if country in {"FR", "DE", "IT"} else "USD",
        "subtotal_amount": subtotal,
        "tax_amount": tax,
        "shipping_amount": shipping,
        "total_amount": subtotal + tax + shipping,
        "payment_method": dice.choice(("credit_card", "credit_card", "bank_transfer")),
        "shipping_address": orjson.dumps(address).decode(),
        "billing_address": orjson.dumps(address).decode(),
        "created_at": created,
        "updated_at": created,
    }


ORDER_COLUMNS = (
    "id, order_number, customer_id, customer_email, customer_name, currency, subtotal_amount, tax_amount,"
    " shipping_amount, total_amount, payment_method, shipping_address, billing_address, created_at, updated_at"
)
LINE_COLUMNS = (
    "id, order_id, position, product_id, product_name, sku, quantity, unit_price, tax_rate, tax_amount, subtotal"
)


def _insert_orders(connection: Connection, batch: list[Sample], shop_time: ShopTime) -> None:
    numbers = connection.execute(
        text("SELECT nextval('order_number_seq') FROM generate_series(1, :n)"), {"n": len(batch)}
    ).scalars()
    for sample, number in zip(batch, numbers, strict=True):
        sample.order["order_number"] = f"ORD-{shop_time.day(sample.order['created_at']).year}-{number:06d}"
    _copy(connection, "orders", ORDER_COLUMNS, [sample.order for sample in batch])
    _copy(connection, "order_line_items", LINE_COLUMNS, [line for sample in batch for line in sample.lines])
    _copy(
        connection,
        "payments",
        "order_id, method, token, amount, currency, created_at",
        [
            {
                "order_id": sample.order["id"],
                "method": sample.order["payment_method"],
                "token": sample.token,
                "amount": sample.order["total_amount"],
                "currency": sample.order["currency"],
                "created_at": sample.order["created_at"],
            }
            for sample in batch
        ],
    )
    connection.execute(
        _ADD_TERMS, [{"order_id": sample.order["id"], "terms": search_terms_of(sample.order)} for sample in batch]
    )
    _created_events(
        connection, "ORDER", "order.created", [(sample.order["id"], sample.order["created_at"]) for sample in batch]
    )


_ADD_TERMS = text(
    "INSERT INTO order_search (order_id, source, terms)"
    " VALUES (:order_id, 'order', array_to_tsvector(CAST(:terms AS text[])))"
)


def search_terms_of(order: dict[str, Any]) -> list[str]:
    """Return the terms that the order of a sample is found by."""
    addresses = [orjson.loads(order[f"{kind}_address"]) for kind in ("shipping", "billing")]
    return order_terms(
        order_number=order["order_number"],
        email=order["customer_email"],
        addresses=addresses,
        names=(order["customer_name"],),
    )


def _created_events(
    connection: Connection, entity_type: str, event_type: str, rows: list[tuple[UUID, datetime]]
) -> None:
    _copy(
        connection,
        "events",
        "entity_type, entity_id, seq, type, created_at",
        [
            {"entity_type": entity_type, "entity_id": entity_id, "seq": 1, "type": event_type, "created_at": at}
            for entity_id, at in rows
        ],
    )


def _copy(connection: Connection, table: str, columns: str, rows: list[dict[str, Any]]) -> None:
    names = [name.strip() for name in columns.split(",")]
    cursor = connection.connection.cursor()
    with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([row[name] for name in names])
    cursor.close()


def _walk(connection: Connection, statement: Statement, walks: list[Walk]) -> None:
    """Take everyone's first step, then everyone's second, and so on: each a set for one statement."""
    for depth in range(max((len(walk.steps) for walk in walks), default=0)):
        requests = [_request(walk.entity_id, *walk.steps[depth]) for walk in walks if len(walk.steps) > depth]
        outcomes = connection.execute(statement.clause, {"requests": transitions.encode(requests)}).scalars().all()
        if set(outcomes) != {transitions.Outcome.MOVED}:
            raise AssertionError("a sample took a step that the tables refuse")


def _request(entity_id: UUID, state: str, at: datetime, changes: dict[str, Any]) -> TransitionRequest:
    by_system = state == OrderStatus.CANCELLED and changes.get("cancellation_reason") == "not paid in time"
    staff = Actor(id=STAFF, type=ActorType.USER, trigger=Trigger.API_CALL, role=Role.MANAGER, ip_address="192.0.2.10")
    return TransitionRequest(
        entity_id=entity_id, new_state=state, actor=SYSTEM_JOB if by_system else staff, at=at, changes=changes
    )


def _return_of(sample: Sample, dice: random.Random, now: datetime) -> tuple[dict[str, Any], Walk]:
    target = dice.choices(list(RETURN_SHARES), weights=list(RETURN_SHARES.values()))[0]
    delivered = sample.delivered_at or now
    requested = min(delivered + timedelta(days=dice.uniform(1, 25)), now)
    if target is ReturnStatus.REQUESTED:
        requested = max(delivered, now - timedelta(hours=dice.uniform(0.5, 20)))
    line = dice.choice(sample.lines)
    worth = line["subtotal"] + line["tax_amount"]
    return_id = uuid7(requested)
    row = {
        "id": return_id,
        "order_id": sample.order["id"],
        "customer_id": sample.order["customer_id"],
        "reason": dice.choice(RETURN_REASONS),
        "items": [{"line_item_id": str(line["id"]), "quantity": line["quantity"], "amount": str(worth)}],
        "items_amount": worth,
        "refund_amount": worth,
        "currency": sample.order["currency"],
        "requested_by": sample.order["customer_id"],
        "created_at": requested,
        "updated_at": requested,
    }
    at, steps = requested, []
    for state in RETURN_PATHS[target]:
        at = min(at + timedelta(hours=dice.uniform(1, 60)), now)
        changes: dict[str, Any] = {}
        if state is ReturnStatus.APPROVED:
            changes = {"manager_notes": "approved on the photos", "reviewed_by": str(STAFF)}
        elif state is ReturnStatus.REJECTED:
            changes = {
                "manager_notes": "signs of use",
                "rejection_reason": dice.choice(("POLICY_VIOLATION", "DAMAGE_NOT_COVERED", "OTHER")),
                "reviewed_by": str(STAFF),
            }
        steps.append((str(state), at, changes))
    return row, Walk(return_id, steps)


_INVOICES_DUE = text(
    "INSERT INTO jobs (kind, queue, entity_id, dedupe_key, payload, run_at)"  # noqa: S608 - constants of this code base
    f" SELECT '{JobKind.ISSUE_INVOICE}', '{queue_of(JobKind.ISSUE_INVOICE)}', entity_id,"
    f" '{JobKind.ISSUE_INVOICE}:' || entity_id || ':' || seq, '{WITHOUT_MAIL}',"
    f" now() + interval '{LEFT_TO_WORKERS_AFTER}'"
    f" FROM events WHERE entity_type = '{EntityType.ORDER}' AND entity_id = ANY(:ids) AND type = 'order.shipped'"
)


def _settle_refunds(connection: Connection, order_ids: list[UUID], *, documents: bool) -> None:
    """Mark the refunds of the batch as paid, with their events, as if a gateway had long since done it."""
    effects = ", ".join(
        f"('{kind}', '{queue_of(kind)}', '{WITHOUT_MAIL}'::jsonb, '{JobState.PENDING}',"
        f" now() + interval '{LEFT_TO_WORKERS_AFTER}')"
        if documents and kind is JobKind.ISSUE_CREDIT_NOTE
        else f"('{kind}', '{queue_of(kind)}', '{{}}'::jsonb, '{JobState.DISMISSED}', now())"
        for kind in SETTLED_EFFECTS
    )
    connection.execute(
        text(
            f"""
            WITH settled AS (
                UPDATE refunds SET state = '{RefundState.SUCCEEDED}', version = version + 1,
                    gateway_refund_id = '{SAMPLE_REFUND_PREFIX}' || id, succeeded_at = updated_at
                WHERE order_id = ANY(:ids) AND state = '{RefundState.PENDING}'
                RETURNING id, version, order_id, return_id, amount, currency, gateway_refund_id, succeeded_at
            ),
            done AS (
                INSERT INTO jobs (kind, queue, entity_id, dedupe_key, payload, state, run_at)
                SELECT kind, queue, s.id, kind || ':' || s.id, payload, job_state, run_at FROM settled s,
                (VALUES {effects}) AS k(kind, queue, payload, job_state, run_at)
            ),
            noted AS (
                UPDATE return_requests r SET refund_transaction_id = s.gateway_refund_id, version = r.version + 1
                FROM settled s WHERE r.id = s.return_id
                RETURNING r.id, r.version, s.succeeded_at, jsonb_build_object('refund_transaction_id',
                    s.gateway_refund_id) AS facts
            )
            INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)
            SELECT '{EntityType.REFUND}', id, version, 'refund.succeeded', jsonb_build_object('order_id', order_id,
                'amount', amount::text, 'currency', currency), succeeded_at FROM settled
            UNION ALL SELECT '{EntityType.RETURN}', id, version, 'return.refunded', facts, succeeded_at FROM noted
            """  # noqa: S608 - constants of this code base
        ),
        {"ids": order_ids},
    )
