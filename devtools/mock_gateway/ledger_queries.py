"""Reads of the ledger: look-ups by reference, the transaction list, balances, everything at once."""

from typing import Any

from devtools.mock_gateway.errors import invalid
from devtools.mock_gateway.money import to_text
from devtools.mock_gateway.store import Store
from devtools.mock_gateway.wire import payment_wire, refund_wire, transaction_wire

_KINDS = {"authorization": "authorized", "capture": "captured", "void": "voided", "refund": "refunded"}


class LedgerQueries:
    """Read side of the ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def payments(self, reference: str) -> list[dict[str, Any]]:
        """Return every payment with this reference, failed attempts too, oldest first."""
        rows = self._store.rows("SELECT * FROM payments WHERE reference = ? ORDER BY rowid", reference)
        return [payment_wire(row) for row in rows]

    def refunds(self, reference: str) -> list[dict[str, Any]]:
        """Return every refund with this reference, failed attempts too, oldest first."""
        rows = self._store.rows("SELECT * FROM refunds WHERE reference = ? ORDER BY rowid", reference)
        return [refund_wire(row) for row in rows]

    def latest(self, limit: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the newest payments and refunds, newest first."""
        payments = self._store.rows("SELECT * FROM payments ORDER BY rowid DESC LIMIT ?", limit)
        refunds = self._store.rows("SELECT * FROM refunds ORDER BY rowid DESC LIMIT ?", limit)
        return [payment_wire(row) for row in payments], [refund_wire(row) for row in refunds]

    def transactions(self, after: str | None, limit: int, kind: str | None) -> dict[str, Any]:
        """Return one page of the movements in the order in which they happened.

        Args:
            after: id of the last transaction already seen; None starts at the first.
            limit: at most so many.
            kind: only authorization, capture, void or refund.

        Raises:
            RefusalError: 400 `cursor_invalid`.
        """
        seq = 0
        if after is not None:
            seen = self._store.row("SELECT seq FROM transactions WHERE id = ?", after)
            if seen is None:
                raise invalid("cursor_invalid", "`after` is not the id of a transaction.")
            seq = seen["seq"]
        rows = self._store.rows(
            "SELECT * FROM transactions WHERE seq > ? AND (? IS NULL OR type = ?) ORDER BY seq LIMIT ?",
            seq,
            kind,
            kind,
            limit + 1,
        )
        page = [transaction_wire(row) for row in rows[:limit]]
        more = len(rows) > limit
        return {
            "object": "list",
            "data": page,
            "has_more": more,
            "next_cursor": page[-1]["id"] if more else None,
        }

    def balance(self) -> dict[str, dict[str, str]]:
        """Return the sums of all movements per currency; `net` is captured minus refunded."""
        totals: dict[str, dict[str, int]] = {}
        for row in self._store.rows(
            "SELECT currency, type, SUM(amount) AS total FROM transactions GROUP BY currency, type"
        ):
            sums = totals.setdefault(row["currency"], dict.fromkeys(_KINDS.values(), 0))
            sums[_KINDS[row["type"]]] = row["total"]
        return {
            currency: {
                **{name: to_text(total, currency) for name, total in sums.items()},
                "net": to_text(sums["captured"] - sums["refunded"], currency),
            }
            for currency, sums in sorted(totals.items())
        }

    def everything(self) -> dict[str, Any]:
        """Return the whole ledger for tests: movements, and sums and counts for each reference.

        A reference is ours: a payment id for authorizations, captures and voids, a refund id for refunds.
        """
        movements = [transaction_wire(row) for row in self._store.rows("SELECT * FROM transactions ORDER BY seq")]
        references: dict[str, dict[str, Any]] = {}
        for row in self._store.rows(
            "SELECT reference, currency, type, SUM(amount) AS total, COUNT(*) AS count"
            " FROM transactions GROUP BY reference, currency, type"
        ):
            nothing = to_text(0, row["currency"])
            entry = references.setdefault(
                row["reference"],
                {
                    "currency": row["currency"],
                    **dict.fromkeys(_KINDS.values(), nothing),
                    "counts": dict.fromkeys(_KINDS, 0),
                },
            )
            entry[_KINDS[row["type"]]] = to_text(row["total"], row["currency"])
            entry["counts"][row["type"]] = row["count"]
        payments = self._store.rows("SELECT * FROM payments ORDER BY rowid")
        refunds = self._store.rows("SELECT * FROM refunds ORDER BY rowid")
        return {
            "movements": movements,
            "references": references,
            "totals": self.balance(),
            "payments": [payment_wire(row) for row in payments],
            "refunds": [refund_wire(row) for row in refunds],
        }
