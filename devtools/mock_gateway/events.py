"""The outbox: events written in the transaction of the movement they report, delivered later."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from devtools.mock_gateway.clock import Clock, new_id, rfc3339
from devtools.mock_gateway.errors import invalid
from devtools.mock_gateway.store import Store

EventType = Literal[
    "payment.authorized",
    "payment.captured",
    "payment.failed",
    "payment.voided",
    "refund.succeeded",
    "refund.failed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPlan:
    """How the events of one movement are delivered; by default once, at once, correctly signed."""

    copies: int = 1
    dropped: bool = False
    delay_seconds: float = 0.0
    bad_signature: bool = False


@dataclass(frozen=True, slots=True)
class DueEvent:
    """An event to deliver now; `body` is sent byte for byte the same at every attempt."""

    id: str
    body: str
    attempts: int
    copies: int
    bad_signature: bool


class Outbox:
    """Events and the record of their deliveries."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def add(self, event_type: EventType, subject: Mapping[str, Any], plan: DeliveryPlan) -> str:
        """Write an event about a payment or refund and return its id. Inside a transaction."""
        now = self._clock()
        event_id = new_id("evt")
        body = {
            "id": event_id,
            "type": event_type,
            "created": rfc3339(now),
            "data": {"object": dict(subject)},
        }
        self._store.write(
            "INSERT INTO events (id, type, body, state, due, copies, bad_signature, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            event_id,
            event_type,
            json.dumps(body),
            "dropped" if plan.dropped else "pending",
            now.timestamp() + plan.delay_seconds,
            plan.copies,
            plan.bad_signature,
            rfc3339(now),
        )
        return event_id

    def due(self, limit: int) -> list[DueEvent]:
        """Return pending events whose time has come, oldest first."""
        rows = self._store.rows(
            "SELECT * FROM events WHERE state = 'pending' AND due <= ? ORDER BY due, seq LIMIT ?",
            self._clock().timestamp(),
            limit,
        )
        return [
            DueEvent(row["id"], row["body"], row["attempts"], row["copies"], bool(row["bad_signature"])) for row in rows
        ]

    def seconds_until_due(self) -> float | None:
        """Return the wait until the next pending event, None when there is none."""
        row = self._store.row("SELECT MIN(due) AS due FROM events WHERE state = 'pending'")
        if row is None or row["due"] is None:
            return None
        return max(0.0, float(row["due"]) - self._clock().timestamp())

    def record(self, event_id: str, status: int | None, error: str | None, retry_in: float | None) -> None:
        """Record one delivery: done when `retry_in` is None, else tried again after so many seconds."""
        now = self._clock()
        with self._store.transaction():
            known = self._store.write(
                "UPDATE events SET attempts = attempts + 1, state = ?, due = ? WHERE id = ?",
                "delivered" if retry_in is None else "pending",
                now.timestamp() + (retry_in or 0.0),
                event_id,
            )
            if known:  # the ledger may have been reset while the receiver was answering
                self._store.write(
                    "INSERT INTO deliveries (event, at, status, error) VALUES (?, ?, ?, ?)",
                    event_id,
                    rfc3339(now),
                    status,
                    error,
                )

    def resend(self, event_id: str) -> None:
        """Make an event due again, once and correctly signed, delivered before or not.

        Raises:
            RefusalError: 404 when there is none.
        """
        changed = self._store.write(
            "UPDATE events SET state = 'pending', due = ?, attempts = 0, copies = 1, bad_signature = 0 WHERE id = ?",
            self._clock().timestamp(),
            event_id,
        )
        if not changed:
            raise invalid("resource_missing", f"No event {event_id}.", status=404)

    def listing(self) -> list[dict[str, Any]]:
        """Return every event with its deliveries, oldest first."""
        deliveries: dict[str, list[dict[str, Any]]] = {}
        for row in self._store.rows("SELECT event, at, status, error FROM deliveries ORDER BY seq"):
            deliveries.setdefault(row["event"], []).append(
                {"at": row["at"], "status": row["status"], "error": row["error"]}
            )
        return [
            {**json.loads(row["body"]), "state": row["state"], "deliveries": deliveries.get(row["id"], [])}
            for row in self._store.rows("SELECT id, body, state FROM events ORDER BY seq")
        ]
