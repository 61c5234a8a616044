"""Requests under an `Idempotency-Key`, in short words."""

from typing import Any

import httpx2
import psycopg

ORDERS = "/api/v1/orders"
KEY, REPLAYED = "Idempotency-Key", "Idempotency-Replayed"


def state_of(order: dict[str, Any]) -> str:
    return f"{ORDERS}/{order['id']}/state"


def count(connection: psycopg.Connection, table: str) -> int:
    """Return how many rows a table has."""
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def outcome(response: httpx2.Response) -> tuple[int, str | None]:
    """Return the status, and the code of an error."""
    return response.status_code, response.json().get("error", {}).get("code")
