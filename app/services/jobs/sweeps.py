"""What time alone makes due, and what should have been due and is not (REQ-002, REQ-004).

Each method does what is due and can be called at any time, by several at once: what it makes due has a key that
the database takes once.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from sqlalchemy import Row, TextClause, exists, select, text, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core import error_tracking
from app.core.enums import RefundReason, ReturnStatus
from app.database import Database
from app.models.order import Order
from app.models.payment import Payment, Refund
from app.models.return_request import ReturnRequest
from app.services.access.idempotency import KEPT_FOR
from app.services.jobs import service as job_service
from app.services.jobs.due_time import due_time, hold_overdue
from app.services.jobs.service import JobKind
from app.services.ledger import refunds as refund_ledger
from app.utils.clock import Clock, utc_now
from app.utils.shop_time import ShopTime

logger = structlog.get_logger(__name__)

RECONCILED_PERIOD = timedelta(days=3)
"""How far back `reconcile` looks. It runs hourly, so each fact is looked at some seventy times."""

# Each finds work that a transition makes due in its own statement, so none of them should ever find anything.
_ORDERS_WITHOUT_INVOICE = text("""
    SELECT h.entity_id AS id FROM state_history h
    WHERE h.new_state = 'SHIPPED' AND h.entity_type = 'ORDER' AND h.created_at > :since
        AND NOT EXISTS (SELECT FROM jobs j WHERE j.entity_id = h.entity_id AND j.kind = 'invoice.issue')
        AND NOT EXISTS (SELECT FROM invoices i WHERE i.order_id = h.entity_id AND i.kind = 'INVOICE')
    LIMIT :limit
""")
_RETURNS_WITHOUT_REFUND = text("""
    SELECT r.id, r.order_id, r.refund_amount AS amount FROM state_history h
    JOIN return_requests r ON r.id = h.entity_id AND r.refund_amount > 0
    JOIN payments p ON p.order_id = r.order_id AND p.state = 'CAPTURED'
    WHERE h.new_state = 'COMPLETED' AND h.entity_type = 'RETURN' AND h.created_at > :since
        AND NOT EXISTS (SELECT FROM refunds f WHERE f.return_id = r.id)
    LIMIT :limit
""")
_CANCELLED_WITHOUT_REFUND = text("""
    SELECT h.entity_id AS id, h.entity_id AS order_id, p.captured_amount - p.refunded_elsewhere_amount AS amount FROM state_history h
    JOIN payments p ON p.order_id = h.entity_id AND p.state = 'CAPTURED'
        AND p.captured_amount > p.refunded_elsewhere_amount
    WHERE h.new_state = 'CANCELLED' AND h.entity_type = 'ORDER' AND h.created_at > :since
        AND NOT EXISTS (SELECT FROM refunds f WHERE f.order_id = h.entity_id AND f.return_id IS NULL)
    LIMIT :limit
""")
_REFUNDS_WITHOUT_JOB = text("""
    SELECT f.id FROM refunds f
    WHERE f.state IN ('PENDING', 'PROCESSING', 'UNKNOWN') AND f.released_at IS NULL AND f.created_at > :since
        AND NOT EXISTS (SELECT FROM jobs j WHERE j.entity_id = f.id AND j.kind = 'refund.process')
    LIMIT :limit
""")
_REFUNDS_WITHOUT_CREDIT_NOTE = text("""
    SELECT f.id FROM refunds f
    WHERE f.state = 'SUCCEEDED' AND f.created_at > :since
        AND NOT EXISTS (SELECT FROM jobs j WHERE j.entity_id = f.id AND j.kind = 'credit_note.issue')
        AND NOT EXISTS (SELECT FROM invoices i WHERE i.refund_id = f.id)
    LIMIT :limit
""")

_FORGET_KEYS = text("""
    DELETE FROM idempotency_keys WHERE (principal_id, key) IN (
        SELECT principal_id, key FROM idempotency_keys WHERE created_at <= now() - CAST(:kept_for AS interval)
        ORDER BY created_at LIMIT :limit)
    RETURNING key
""")

Repair = Callable[[AsyncSession, Row[*tuple[Any, ...]]], Awaitable[bool]]


class SweepService:
    """Reminders, the daily summary, the end of stored answers, and the search for missing work."""

    def __init__(self, database: Database, settings: Settings, clock: Clock = utc_now) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock

    async def remind_reviewers(self, limit: int) -> int:
        """Make a reminder due, once, for up to `limit` returns whose review is overdue; return for how many."""
        async with self._database.transaction() as session:
            now = await due_time(session, self._clock())
            overdue_since = now - timedelta(hours=self._settings.return_review_sla_hours)
            not_reminded = ReturnRequest.review_reminded_at.is_(None)
            return_ids = await hold_overdue(
                session, ReturnRequest, ReturnStatus.REQUESTED, overdue_since, limit, not_reminded
            )
            kind = JobKind.NOTIFY_RETURN_REVIEW_OVERDUE
            for return_id in return_ids:
                await job_service.add(session, kind, return_id, f"{kind}:{return_id}")
            await session.execute(
                update(ReturnRequest).where(ReturnRequest.id.in_(return_ids)).values(review_reminded_at=now)
            )
        return len(return_ids)

    async def summarise_yesterday(self) -> bool:
        """Make the summary of the shop's last full day due once its hour has come; return whether this call did.

        Asked each minute, so that an outage at that hour delays the summary and does not lose it. A shop that had no
        order before today has nothing to be sent.
        """
        async with self._database.transaction() as session:
            shop_time = ShopTime.from_settings(self._settings)
            now = shop_time.local(await due_time(session, self._clock()))
            if now.hour < self._settings.daily_summary_hour:
                return False
            today = shop_time.day(now)
            day = (today - timedelta(days=1)).isoformat()
            kind = JobKind.NOTIFY_DAILY_SUMMARY
            if not (
                await session.execute(select(exists().where(Order.created_at < shop_time.start_of(today))))
            ).scalar_one():
                return False
            return await job_service.add(session, kind, summary_id(day), f"{kind}:{day}", {"day": day})

    async def forget_idempotency_keys(self, limit: int) -> int:
        """Delete up to `limit` answers whose time is over, by the database's clock; return how many."""
        async with self._database.autocommit() as connection:
            keys = (await connection.execute(_FORGET_KEYS, {"kept_for": KEPT_FOR, "limit": limit})).scalars().all()
        return len(keys)

    async def reconcile(self, limit: int) -> int:
        """Make due what a transition should have made due and did not; return how many such cases there were.

        Every case is logged as an error: the statement that moves an entity also writes its work, so one without the
        other means that somebody wrote to the database past it. One that the database refuses to correct needs a person;
        the others do not wait for it.
        """
        searches: list[tuple[str, TextClause, Repair]] = [
            ("shipped order without invoice", _ORDERS_WITHOUT_INVOICE, self._issue_invoice),
            ("completed return without refund", _RETURNS_WITHOUT_REFUND, self._refund_return),
            ("cancelled paid order without refund", _CANCELLED_WITHOUT_REFUND, self._refund_order),
            ("refund without job", _REFUNDS_WITHOUT_JOB, self._process_refund),
            ("refund without credit note", _REFUNDS_WITHOUT_CREDIT_NOTE, self._issue_credit_note),
        ]
        found = 0
        for case, search, repair in searches:
            parameters = {"since": self._clock() - RECONCILED_PERIOD, "limit": limit}
            async with self._database.autocommit() as connection:
                rows = (await connection.execute(search, parameters)).all()
            for row in rows:
                try:
                    async with self._database.transaction() as session:
                        repaired = await repair(session, row)
                except (IntegrityError, DataError) as refusal:
                    found += 1
                    error_tracking.report(refusal)
                    logger.critical("missing_work.refused", case=case, entity_id=str(row.id), exc_info=refusal)
                    continue
                if repaired:
                    found += 1
                    logger.error("missing_work.made_due", case=case, entity_id=str(row.id))
        return found

    @staticmethod
    async def _issue_invoice(session: AsyncSession, row: Row[*tuple[Any, ...]]) -> bool:
        return await job_service.add(
            session, JobKind.ISSUE_INVOICE, row.id, f"{JobKind.ISSUE_INVOICE}:{row.id}:reconciled"
        )

    @staticmethod
    async def _process_refund(session: AsyncSession, row: Row[*tuple[Any, ...]]) -> bool:
        return await job_service.add(session, JobKind.PROCESS_REFUND, row.id, f"{JobKind.PROCESS_REFUND}:{row.id}")

    @staticmethod
    async def _issue_credit_note(session: AsyncSession, row: Row[*tuple[Any, ...]]) -> bool:
        return await job_service.add(
            session, JobKind.ISSUE_CREDIT_NOTE, row.id, f"{JobKind.ISSUE_CREDIT_NOTE}:{row.id}"
        )

    async def _refund_return(self, session: AsyncSession, row: Row[*tuple[Any, ...]]) -> bool:
        return await self._create_refund(session, row, RefundReason.RETURN_COMPLETED, row.id)

    async def _refund_order(self, session: AsyncSession, row: Row[*tuple[Any, ...]]) -> bool:
        return await self._create_refund(session, row, RefundReason.ORDER_CANCELLED, None)

    async def _create_refund(
        self, session: AsyncSession, row: Row[*tuple[Any, ...]], reason: RefundReason, return_id: UUID | None
    ) -> bool:
        """Reserve the amount and create the refund, unless another sweep did while we waited for the payment's lock.

        The payment's CHECK holds here as everywhere: if the cap is reached, the database refuses, and nothing is paid.
        """
        statement = select(Payment).where(Payment.order_id == row.order_id).with_for_update()
        payment = (await session.execute(statement)).scalar_one()
        known = select(
            exists().where(Refund.order_id == row.order_id, Refund.return_id.is_not_distinct_from(return_id))
        )
        if (await session.execute(known)).scalar_one():
            return False
        refund = await refund_ledger.reserve_refund(session, payment, row.amount, reason, self._clock(), return_id)
        return await job_service.add(
            session, JobKind.PROCESS_REFUND, refund.id, f"{JobKind.PROCESS_REFUND}:{refund.id}"
        )


def summary_id(day: str) -> UUID:
    """Return the id under which the summary of a day (ISO 8601) goes; a day is no row of any table."""
    return uuid5(NAMESPACE_URL, f"urn:articurated:daily-summary:{day}")
