"""Cases: what a person must decide. Opened by the system, closed once, by a manager, with a note.

A case is opened in the transaction of what it is about, together with its event and the job that mails operations:
none exists without the others, even if a process is killed. `dedupe_key` makes opening idempotent.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.actor import Actor
from app.core.enums import CaseEntity, CaseKind, CaseState, EntityType
from app.database import Database
from app.models.case import Case
from app.models.order import Order
from app.schemas.case import CaseQuery
from app.services import events
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.cases.kinds import MEANINGS
from app.services.cases.views import CaseView, case_view
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind
from app.services.paging import Page
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.exceptions import InvalidInputError, InvalidStateTransitionError, NotFoundError

Decision = Callable[[AsyncSession, Case, Actor, datetime], Awaitable[None]]
"""Carries out a way out, in the transaction that closes the case; raises InvalidInputError when it cannot be."""

Decisions = Mapping[tuple[CaseKind, str], Decision]
"""By kind of case and action; the empty action is a close without one."""

Reopening = Callable[[AsyncSession, Case, datetime], Awaitable[Case | None]]
"""Returns an open case in place of a closed one, if the question is still open; None when it is not."""

Reopenings = Mapping[tuple[CaseKind, str], Reopening]

_CASE = Case.__table__.c
_SHOWN = (*_CASE, Order.__table__.c.order_number)


async def open_case(
    session: AsyncSession,
    kind: CaseKind,
    *,
    entity_type: CaseEntity | EntityType,
    entity_id: UUID,
    order_id: UUID | None = None,
    evidence: Mapping[str, Any],
    dedupe_key: str,
    at: datetime | None = None,
) -> bool:
    """Open a case in the caller's transaction; return False when `dedupe_key` opened one before.

    Args:
        order_id: the order that it concerns, if it is known.
        evidence: the facts as they are now, JSON: ids, codes, amounts, texts of other systems.
        dedupe_key: the same for the same question, at most 200 characters, e.g. `amount_mismatch:pay_5e90d17ab3`.
        at: when the question arose; now when absent.
    """
    opened = await opened_case(
        session,
        kind,
        entity_type=entity_type,
        entity_id=entity_id,
        order_id=order_id,
        evidence=evidence,
        dedupe_key=dedupe_key,
        at=at,
    )
    return opened is not None


async def opened_case(
    session: AsyncSession,
    kind: CaseKind,
    *,
    entity_type: CaseEntity | EntityType,
    entity_id: UUID,
    order_id: UUID | None = None,
    evidence: Mapping[str, Any],
    dedupe_key: str,
    at: datetime | None = None,
    alerts: bool = True,
) -> UUID | None:
    """Open a case as `open_case` does; return its id, or None when `dedupe_key` opened one before.

    Args:
        alerts: whether operations get a mail; False for a case that is decided in the same transaction.
    """
    now = at or utc_now()
    case_id = uuid7(now)
    inserted = await session.execute(
        pg_insert(Case)
        .values(
            id=case_id,
            kind=kind,
            entity_type=CaseEntity(entity_type),
            entity_id=entity_id,
            order_id=order_id,
            dedupe_key=dedupe_key,
            evidence=orjson.loads(orjson.dumps(dict(evidence), default=str)),
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=[Case.dedupe_key])
        .returning(Case.id)
    )
    if inserted.first() is None:
        return None
    facts = {
        "kind": str(kind),
        "entity_type": str(entity_type),
        "entity_id": str(entity_id),
        "order_id": str(order_id) if order_id else None,
    }
    await events.append(session, EntityType.CASE, case_id, 1, "case.opened", now, facts)
    if alerts:
        await job_service.add(session, JobKind.NOTIFY_CASE, case_id, f"{JobKind.NOTIFY_CASE}:{case_id}")
    return case_id


async def supersede(session: AsyncSession, dedupe_key: str, note: str, actor: Actor, at: datetime) -> None:
    """Close a case that is open still, because another one takes its place."""
    case = (
        await session.execute(select(Case).where(Case.dedupe_key == dedupe_key).with_for_update())
    ).scalar_one_or_none()
    if case is not None and case.state == CaseState.OPEN:
        await _close(session, case, actor, note, "SUPERSEDED", at)


async def _close(session: AsyncSession, case: Case, actor: Actor, note: str, action: str | None, at: datetime) -> None:
    """Write the decision of a locked, open case, with its event."""
    now = max(at, case.created_at)
    case.state = CaseState.CLOSED
    case.version += 1
    case.closed_at = now
    case.closed_by = actor.id
    case.close_note = note
    case.action = action
    await session.flush()
    facts = {
        "actor_id": str(actor.id) if actor.id else None,
        "trigger": str(actor.trigger),
        **({"operator": actor.operator} if actor.operator else {}),
        # The note is people's text and stays with the case: an event holds ids and codes.
        "action": action,
    }
    await events.append(session, EntityType.CASE, case.id, case.version, "case.closed", now, facts)


def gateway_event_id(webhook_id: str) -> UUID:
    """Return the entity id of a case about a gateway event, whose own id is text."""
    return uuid5(NAMESPACE_URL, f"urn:articurated:gateway-event:{webhook_id}")


class CaseService:
    """Cases in the hands of a person."""

    def __init__(
        self,
        database: Database,
        clock: Clock = utc_now,
        decisions: Decisions | None = None,
        reopenings: Reopenings | None = None,
    ) -> None:
        """Take what carries out a way out, and what may be decided later: the services of money do not know this one."""
        self._database = database
        self._clock = clock
        self._decisions = decisions or {}
        self._reopenings = reopenings or {}

    async def list(self, query: CaseQuery, actor: Actor) -> Page[CaseView]:
        """Return a page of cases, newest first.

        Raises:
            ForbiddenError: the role may not.
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_CASES)
        filters = pages.given(
            (query.order_id, _CASE.order_id.__eq__),
            (query.entity_type, _CASE.entity_type.__eq__),
            (query.entity_id, _CASE.entity_id.__eq__),
        )
        is_of_one = query.order_id is not None or query.entity_id is not None
        is_any = is_of_one or not (query.kind or query.entity_type or query.state)
        # The indexes begin with the kind or the type of the entity, and the state.
        states = [query.state] if query.state is not None else [] if is_any else list(CaseState)
        types = [] if is_any or query.kind or query.entity_type else list(CaseEntity)
        one_of: list[pages.OneOf] = [(_CASE.kind, query.kind), (_CASE.entity_type, types), (_CASE.state, states)]
        async with self._database.autocommit() as connection:
            return await pages.fetch_page(
                connection,
                _cases().where(*filters),
                (_CASE.created_at, _CASE.id),
                query,
                case_view,
                newest_first=True,
                one_of=[(column, values) for column, values in one_of if values],
            )

    async def get(self, case_id: UUID, actor: Actor) -> CaseView:
        """Return a case.

        Raises:
            ForbiddenError: the role may not.
            NotFoundError: there is none.
        """
        permissions.require(actor, Action.READ_CASES)
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_cases().where(_CASE.id == case_id))).first()
        if row is None:
            raise _not_found(case_id)
        return case_view(row)

    async def close(self, case_id: UUID, actor: Actor, note: str, action: str | None = None) -> CaseView:
        """Record how a person has decided a case, and carry the decision out where the system can; return the case.

        A closed dispute that still holds refunds may be released later: that decision is a case of its own, which is
        returned.

        Args:
            action: the way out that is taken, one of the kind's. Without one the decision is recorded, and people
                carry it out.

        Raises:
            ForbiddenError: the role may not.
            NotFoundError: there is none.
            InvalidStateTransitionError: it is closed.
            InvalidInputError: the action is no way out of it, or cannot be carried out as things are.
        """
        permissions.require(actor, Action.CLOSE_CASES)
        async with self._database.transaction() as session:
            order_id = (await session.execute(select(_CASE.order_id).where(_CASE.id == case_id))).scalar_one_or_none()
            if order_id is not None:
                # Order, payment, case: as a webhook takes them that opens or supersedes one.
                await session.execute(select(Order.id).where(Order.id == order_id).with_for_update(key_share=True))
            case = await session.get(Case, case_id, with_for_update=True)
            if case is None:
                raise _not_found(case_id)
            kind = CaseKind(case.kind)
            now = self._clock()
            if case.state != CaseState.OPEN:
                case = await self._reopened(session, case, action, now)
            if action is not None and action not in {way.action for way in MEANINGS[kind].ways_out}:
                raise InvalidInputError(("action", f"is no way out of a case of the kind {kind}"))
            await _close(session, case, actor, note, action, now)
            decision = self._decisions.get((kind, action or ""))
            if decision is not None:
                await decision(session, case, actor, now)
            return case_view((await session.execute(_cases().where(_CASE.id == case.id))).one())

    async def _reopened(self, session: AsyncSession, case: Case, action: str | None, now: datetime) -> Case:
        """Return the case in which a closed one is decided once more, where that is provided for.

        Raises:
            InvalidStateTransitionError: it is not.
        """
        reopening = self._reopenings.get((CaseKind(case.kind), action or ""))
        reopened = await reopening(session, case, now) if reopening is not None else None
        if reopened is None:
            raise InvalidStateTransitionError(case.state, CaseState.CLOSED, [])
        return reopened


def _cases() -> Select[Any]:
    return select(*_SHOWN).outerjoin(Order, Order.id == _CASE.order_id)


def _not_found(case_id: UUID) -> NotFoundError:
    return NotFoundError(f"Case {case_id} was not found.", {"case_id": str(case_id)})
