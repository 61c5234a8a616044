"""Disputed payments: their refunds are held until a manager decides.

A dispute that opens places a hold on the payment (`payments.refunds_held_by` names its case), in the transaction that
keeps the event. The database refuses to send a refund of such a payment, and refuses to lift the hold while the case is
open, or without a decision to release. A dispute that ends at the bank opens a case in place of the first one: the
manager decides with the bank's result, and the hold continues until then.

The hold names an open dispute of the order as long as there is one. So the last decision counts: with RELEASE the
refunds go on, and after KEEP a manager may release them later (`reopened`).
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import Actor
from app.core.enums import CaseEntity, CaseKind, CaseState, JobState, WebhookOutcome
from app.models.case import Case
from app.models.job import Job
from app.models.payment import Payment, Refund
from app.services.cases import service as case_service
from app.services.jobs.service import JobKind
from app.services.ledger import payments as payment_ledger
from app.services.payments import money_in
from app.services.payments.gateway.port import GatewayDispute

_ENDINGS = ("dispute.closed", "dispute.won", "dispute.lost", "dispute.resolved")


async def order_of(session: AsyncSession, dispute: GatewayDispute) -> UUID | None:
    """Return the order whose payment is disputed: by the provider's id of the payment, else by our reference."""
    matches = [Payment.gateway_payment_id == dispute.payment_id] if dispute.payment_id is not None else []
    matches += [Payment.order_id == dispute.reference] if dispute.reference is not None else []
    if not matches:
        return None
    by_id = Payment.gateway_payment_id.is_not_distinct_from(dispute.payment_id)
    found = select(Payment.order_id).where(or_(*matches)).order_by(by_id.desc()).limit(1)
    return (await session.execute(found)).scalar_one_or_none()


async def receive(
    session: AsyncSession,
    event_type: str,
    event_id: str,
    dispute: GatewayDispute,
    payment: Payment | None,
    actor: Actor,
    at: datetime,
) -> WebhookOutcome:
    """Act on an event about a dispute; return the outcome: DISPUTE, DISPUTE_CLOSED, or DISPUTE_KNOWN for no news.

    Args:
        payment: from `ledger.payments.locked_payment`; None when it cannot be matched, which a person then has to do.
    """
    opening_key = money_in.case_key(CaseKind.DISPUTE, dispute.id)
    key, outcome = opening_key, WebhookOutcome.DISPUTE
    if event_type.endswith(_ENDINGS):
        key, outcome = money_in.case_key(CaseKind.DISPUTE, f"closed:{dispute.id}"), WebhookOutcome.DISPUTE_CLOSED
        if payment is not None and payment.refunds_held_by is None and await _is_known(session, opening_key):
            # A manager has let the refunds go on; how the bank decides changes nothing for them.
            return WebhookOutcome.DISPUTE_KNOWN
    elif await _is_known(session, money_in.case_key(CaseKind.DISPUTE, f"closed:{dispute.id}")):
        return WebhookOutcome.DISPUTE_KNOWN  # Reported late: the end of this dispute came first.
    evidence = {
        "dispute_id": dispute.id,
        "event_id": event_id,
        "event_type": event_type,
        "gateway_payment_id": dispute.payment_id,
        "disputed_amount": dispute.amount,
        "disputed_currency": dispute.currency,
        "reason": dispute.reason,
        "status": dispute.status,
    }
    case_id = await case_service.opened_case(
        session,
        CaseKind.DISPUTE,
        entity_type=CaseEntity.PAYMENT if payment is not None else CaseEntity.GATEWAY_EVENT,
        entity_id=payment.id if payment is not None else case_service.gateway_event_id(event_id),
        order_id=payment.order_id if payment is not None else None,
        evidence={name: value for name, value in evidence.items() if value is not None},
        dedupe_key=key,
        at=at,
    )
    if case_id is None:
        return WebhookOutcome.DISPUTE_KNOWN
    if outcome == WebhookOutcome.DISPUTE_CLOSED:
        note = f"The dispute has ended at the bank ({dispute.status or event_type}); another case takes over."
        await case_service.supersede(session, opening_key, note, actor, at)
    if payment is not None:
        await _hold(session, payment, case_id)
    return outcome


async def match(session: AsyncSession, payment: Payment, actor: Actor, at: datetime) -> None:
    """Hold the refunds of a locked payment that was disputed before its id at the provider was booked.

    The dispute then named a payment that was not known, so its case has no order. A case of the order takes its place.
    """
    if payment.gateway_payment_id is None:
        return
    named = Case.evidence["gateway_payment_id"].astext == payment.gateway_payment_id
    found = select(Case).where(
        Case.kind == CaseKind.DISPUTE, Case.state == CaseState.OPEN, Case.order_id.is_(None), named
    )
    unmatched = (await session.execute(found.order_by(Case.id).with_for_update())).scalars().all()
    for case in unmatched:
        successor = await case_service.opened_case(
            session,
            CaseKind.DISPUTE,
            entity_type=CaseEntity.PAYMENT,
            entity_id=payment.id,
            order_id=payment.order_id,
            evidence={**case.evidence, "follows": str(case.id)},
            dedupe_key=money_in.case_key(CaseKind.DISPUTE, f"matched:{case.id}"),
            at=at,
        )
        note = "The disputed payment is known now; a case of its order takes over."
        await case_service.supersede(session, case.dedupe_key, note, actor, at)
        await _hold(session, payment, successor)


async def keep(session: AsyncSession, case: Case, _: Actor, __: datetime) -> None:
    """Carry out KEEP: another open dispute of the order takes the hold over, else the closed case goes on holding."""
    payment = await _held_payment(session, case)
    if payment is not None:
        await payment_ledger.record_hold(session, payment, await _open_dispute(session, payment) or case.id)


async def reopened(session: AsyncSession, case: Case, at: datetime) -> Case | None:
    """Return an open case that takes the place of a closed one which still holds refunds; None when it holds none.

    The decision to release is recorded on it: a closed case is never changed. It asks nothing new, so it sends no alert.
    """
    payment = await _held_payment(session, case)
    if payment is None:
        return None
    follower = await case_service.opened_case(
        session,
        CaseKind.DISPUTE,
        entity_type=CaseEntity(case.entity_type),
        entity_id=case.entity_id,
        order_id=case.order_id,
        evidence={**case.evidence, "follows": str(case.id)},
        dedupe_key=money_in.case_key(CaseKind.DISPUTE, f"again:{case.id}"),
        at=at,
        alerts=False,
    )
    await payment_ledger.record_hold(session, payment, follower)
    return await session.get(Case, follower, with_for_update=True)


async def release(session: AsyncSession, case: Case, _: Actor, __: datetime) -> None:
    """Carry out RELEASE: lift the hold of a closed case, unless another open dispute holds the order's refunds."""
    payment = await _held_payment(session, case)
    if payment is None:
        return
    await payment_ledger.record_hold(session, payment, await _open_dispute(session, payment))
    if payment.refunds_held_by is None:
        # Their jobs wait for the hold to end; now they are due.
        refunds = select(Refund.id).where(Refund.payment_id == payment.id)
        await session.execute(
            update(Job)
            .where(Job.kind == JobKind.PROCESS_REFUND, Job.entity_id.in_(refunds), Job.state == JobState.PENDING)
            .values(run_at=func.least(Job.run_at, func.now()))
        )


async def _held_payment(session: AsyncSession, case: Case) -> Payment | None:
    """Return the locked payment whose refunds this case holds; None where it holds none."""
    payment = await payment_ledger.locked_payment(session, case.order_id) if case.order_id is not None else None
    return payment if payment is not None and payment.refunds_held_by == case.id else None


async def _open_dispute(session: AsyncSession, payment: Payment) -> UUID | None:
    """Return the oldest open dispute of the payment's order."""
    found = (
        select(Case.id)
        .where(Case.order_id == payment.order_id, Case.kind == CaseKind.DISPUTE, Case.state == CaseState.OPEN)
        .order_by(Case.created_at, Case.id)
        .limit(1)
    )
    return (await session.execute(found)).scalar_one_or_none()


async def _is_known(session: AsyncSession, dedupe_key: str) -> bool:
    return (await session.execute(select(Case.id).where(Case.dedupe_key == dedupe_key))).first() is not None


async def _hold(session: AsyncSession, payment: Payment, case_id: UUID | None) -> None:
    """Have a new case hold the refunds, unless an open one does."""
    if payment.refunds_held_by is not None:
        state = select(Case.state).where(Case.id == payment.refunds_held_by)
        if (await session.execute(state)).scalar_one() == CaseState.OPEN:
            return
    await payment_ledger.record_hold(session, payment, case_id)
