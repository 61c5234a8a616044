"""Faults to order: what a real gateway does on its bad days, on demand.

Modes, by the moment they strike. A fault is used up (`times`) only when it strikes.

Before anything happened; nothing is stored under the idempotency key, stored answers are not replayed:
    unavailable     503
    error_before    500
    timeout_before  the connection is held for `delay_seconds`, then dropped
While executing, with the idempotency key taken (a second request with that key gets 409):
    delay           `delay_seconds` pass, then it is carried out, even if the caller has gone away
    decline         402, no money moved; stored
After the money has moved and the ledger is committed:
    error_after     500, stored as the answer of this key
    timeout_after   the connection is held, then dropped; the true answer is stored
    reset_after     the connection is reset at once; the true answer is stored
On the events of the movement:
    duplicate_webhook  each event is delivered twice, with the same id
    drop_webhook       the events are never delivered, unless resent
    delay_webhook      the events are delivered after `delay_seconds`
    bad_signature      every delivery is signed with another secret, until resent
For reads (`lookup`), error_after, timeout_after and reset_after do the same without the money.

Operations: `authorize` (POST /v1/payments), `capture` (also POST /v1/payments with `capture` or without a
token), `refund`, `lookup` (reads of payments, refunds and transactions), `any` (those and void).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from devtools.mock_gateway.store import Store

Operation = Literal["authorize", "capture", "refund", "lookup", "any"]
Mode = Literal[
    "decline",
    "error_before",
    "error_after",
    "timeout_before",
    "timeout_after",
    "reset_after",
    "delay",
    "duplicate_webhook",
    "drop_webhook",
    "delay_webhook",
    "bad_signature",
    "unavailable",
]

BEFORE: tuple[Mode, ...] = ("unavailable", "error_before", "timeout_before")
DELAY: tuple[Mode, ...] = ("delay",)
DURING: tuple[Mode, ...] = ("decline", "error_after", "timeout_after", "reset_after")
READING: tuple[Mode, ...] = (*BEFORE, "error_after", "timeout_after", "reset_after")
WEBHOOK: tuple[Mode, ...] = ("duplicate_webhook", "drop_webhook", "delay_webhook", "bad_signature")

_ACTIVE = "SELECT * FROM faults WHERE remaining IS NULL OR remaining > 0 ORDER BY id"
_DEFAULT_DELAY = {"timeout_before": 30.0, "timeout_after": 30.0, "delay": 1.0, "delay_webhook": 5.0}


class FaultOrder(BaseModel):
    """Body of POST /control/faults. `times` null means until cleared."""

    model_config = ConfigDict(extra="forbid", strict=True)

    operation: Operation
    mode: Mode
    times: Annotated[int, Field(ge=1, le=1_000_000)] | None = 1
    delay_seconds: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] | None = None
    reference: Annotated[str, Field(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _strikes_somewhere(self) -> Self:
        if self.operation == "lookup" and self.mode in ("decline", *WEBHOOK):
            raise ValueError(f"{self.mode} cannot strike a lookup")
        return self


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that strikes now."""

    mode: Mode
    delay_seconds: float


class Faults:
    """The ordered faults, kept in the store so that they outlive a restart."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, order: FaultOrder) -> dict[str, Any]:
        """Record a fault and return its description."""
        delay = order.delay_seconds
        self._store.write(
            "INSERT INTO faults (operation, mode, remaining, delay_seconds, reference) VALUES (?, ?, ?, ?, ?)",
            order.operation,
            order.mode,
            order.times,
            delay if delay is not None else _DEFAULT_DELAY.get(order.mode, 0.0),
            order.reference,
        )
        return self.active()[-1]

    def active(self) -> list[dict[str, Any]]:
        """Return the faults that can still strike, oldest first."""
        return [dict(row) for row in self._store.rows(_ACTIVE)]

    def clear(self) -> int:
        """Forget all faults; return how many there were."""
        return self._store.write("DELETE FROM faults")

    def take(self, modes: Iterable[Mode], operations: Iterable[str], references: Iterable[str]) -> Fault | None:
        """Use up the oldest fault of these modes that fits, if there is one.

        Args:
            modes: the modes that can strike at this moment.
            operations: what the request does; `any` is understood.
            references: our references that the request is about; a fault for another one stays.
        """
        fitting = {*operations, "any"}
        about = {None, *references}
        moment = set(modes)
        for row in self._store.rows(_ACTIVE):
            if row["mode"] in moment and row["operation"] in fitting and row["reference"] in about:
                self._store.write(
                    "UPDATE faults SET remaining = remaining - 1, hits = hits + 1 WHERE id = ?", row["id"]
                )
                return Fault(row["mode"], row["delay_seconds"])
        return None
