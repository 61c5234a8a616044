"""Sample data obeys every rule that real data does."""

from typing import Any

import psycopg
import pytest

from app.config import Settings
from app.core.enums import OrderStatus, ReturnStatus
from app.database import Database
from app.seed import seed
from app.services.audit_service import AuditService


async def test_samples_in_every_state_hold_together(
    settings: Settings, database: Database, owner_connection: psycopg.Connection
) -> None:
    done: list[int] = []
    seed(settings, 1500, seed_value=7, on_progress=done.append)
    assert done == [1000, 500]

    def ask(sql: str) -> list[Any]:
        return owner_connection.execute(sql.encode()).fetchall()

    orders: dict[Any, Any] = dict(ask("SELECT status, count(*) FROM orders GROUP BY 1"))
    assert set(orders) == set(OrderStatus)
    assert sum(orders.values()) == 1500
    assert {state for (state,) in ask("SELECT DISTINCT status FROM return_requests")} == set(ReturnStatus)
    assert ask("SELECT DISTINCT state FROM jobs") == [("DISMISSED",)]
    assert ask("SELECT count(*) FROM transition_rejections") == [(0,)]
    assert ask(
        "SELECT count(*) FROM orders o WHERE total_amount <> shipping_amount + (SELECT sum(subtotal + tax_amount)"
        " FROM order_line_items l WHERE l.order_id = o.id)"
    ) == [(0,)]
    assert ask(
        "SELECT count(*) FROM orders o WHERE version <> (SELECT count(*) FROM events e WHERE e.entity_id = o.id)"
    ) == [(0,)]
    assert ask("SELECT DISTINCT state FROM refunds") == [("SUCCEEDED",)]
    report = await AuditService(database).verify()
    assert report["ok"], report
    assert report["rows"] > 3000


def test_the_same_seed_gives_the_same_orders(
    settings: Settings, clean_database: None, owner_connection: psycopg.Connection
) -> None:
    query = b"SELECT string_agg(status || total_amount || customer_email, ',' ORDER BY substr(order_number, 10)) FROM orders"
    drawn = []
    for _ in range(2):
        seed(settings, 40, seed_value=3, on_progress=lambda _: None)
        drawn.append(owner_connection.execute(query).fetchone()[0])  # type: ignore[index]
    first, both = drawn[0].split(","), drawn[1].split(",")
    assert both[:40] == first
    assert both[40:] == first


def test_not_in_production_and_not_nothing(settings: Settings) -> None:
    with pytest.raises(ValueError, match="production"):
        seed(settings.model_copy(update={"environment": "production"}), 1, on_progress=lambda _: None)
    with pytest.raises(ValueError, match="at least 1"):
        seed(settings, 0, on_progress=lambda _: None)
