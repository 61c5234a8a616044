"""How the ledger's rows are written in answers and events."""

import json
import sqlite3
from typing import Any

from devtools.mock_gateway.money import to_text


def payment_wire(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row of `payments` as it goes over the wire."""
    currency = row["currency"]
    return {
        "object": "payment",
        "id": row["id"],
        "reference": row["reference"],
        "status": row["status"],
        "source": row["source"],
        "amount": to_text(row["amount"], currency),
        "amount_captured": to_text(row["captured"], currency),
        "amount_refunded": to_text(row["refunded"], currency),
        "currency": currency,
        "payment_method": row["method"],
        "failure_code": row["failure_code"],
        "metadata": json.loads(row["metadata"]),
        "created": row["created"],
    }


def refund_wire(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row of `refunds` as it goes over the wire."""
    return {
        "object": "refund",
        "id": row["id"],
        "payment": row["payment"],
        "reference": row["reference"],
        "status": row["status"],
        "amount": to_text(row["amount"], row["currency"]),
        "currency": row["currency"],
        "reason": row["reason"],
        "failure_code": row["failure_code"],
        "created": row["created"],
    }


def transaction_wire(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row of `transactions` as it goes over the wire."""
    return {
        "object": "transaction",
        "id": row["id"],
        "type": row["type"],
        "payment": row["payment"],
        "refund": row["refund"],
        "reference": row["reference"],
        "amount": to_text(row["amount"], row["currency"]),
        "currency": row["currency"],
        "created": row["created"],
    }
