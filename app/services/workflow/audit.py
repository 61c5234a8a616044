"""The audit trail's canonical form, its search, and the proof that it was not altered (REQ-003).

Each entity has a chain of its own: `hash = sha256(prev_hash || canonical)`, starting from 32 zero bytes,
where `canonical` is the row as UTF-8 text, one field a line in the order of `CANONICAL_FIELDS`. No field
can hold a line feed (identifiers, timestamps, and JSON, which escapes it), so two different rows never
share a text. The head (`audit_seq`, `audit_hash`) is on the entity's own row, under its row lock: a
chain costs no extra round trip, and cutting off its tail is found too.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, case, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from app.core.actor import Actor
from app.core.enums import EntityType, OrderStatus, ReturnStatus
from app.database import Database
from app.models.order import Order
from app.models.return_request import ReturnRequest
from app.models.state_history import StateHistory, TransitionRejection
from app.schemas.common import PageQuery
from app.schemas.state_history import AuditQuery
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.paging import Page
from app.services.workflow.state_machine import INITIAL_STATES, StateMachine
from app.services.workflow.views import (
    FaultView,
    RecordView,
    RejectionView,
    ReportView,
    VerificationView,
    record_view,
    rejection_view,
)
from app.utils.clock import Clock, utc_now

CHAIN_START = bytes(32)
CHAIN_START_SQL = "decode(repeat('00', 32), 'hex')"

CANONICAL_VERSION = "v1"
# The backslashes keep SQLAlchemy from reading a parameter into the colons.
_TIMESTAMP = 'YYYY-MM-DD"T"HH24\\:MI\\:SS.US"Z"'


def canonical_sql(
    *,
    entity_type: str,
    entity_id: str,
    seq: str,
    previous_state: str,
    new_state: str,
    actor_id: str,
    actor_type: str,
    trigger: str,
    ip_address: str,
    created_at: str,
    metadata: str,
) -> str:
    """Return the SQL expression of a row's canonical text; the arguments are SQL expressions of its fields."""
    fields = [
        f"'{CANONICAL_VERSION}'",
        entity_type,
        f"{entity_id}::text",
        f"{seq}::text",
        previous_state,
        new_state,
        f"coalesce({actor_id}::text, '')",
        actor_type,
        trigger,
        f"coalesce({ip_address}, '')",
        f"to_char({created_at} AT TIME ZONE 'UTC', '{_TIMESTAMP}')",
        f"{metadata}::text",
    ]
    return "concat_ws(E'\\n', " + ", ".join(fields) + ")"


_TABLES = {EntityType.ORDER: "orders", EntityType.RETURN: "return_requests"}

_ROW_TEXT = canonical_sql(
    entity_type="h.entity_type",
    entity_id="h.entity_id",
    seq="h.seq",
    previous_state="h.previous_state",
    new_state="h.new_state",
    actor_id="h.actor_id",
    actor_type="h.actor_type",
    trigger="h.trigger",
    ip_address="h.ip_address",
    created_at="h.created_at",
    metadata="h.metadata",
)

# Every chain beside the head that its entity claims, entity by entity in the order of the unique index; a full
# join, so that rows without an entity and entities without their rows are both seen.
_CHAINS = """
SELECT coalesce(h.entity_id, e.id) AS entity_id, h.seq, h.previous_state, h.new_state, h.prev_hash, h.hash,
    {row_text} AS canonical, e.id IS NOT NULL AS entity_exists, e.status, e.audit_seq, e.audit_hash
FROM (SELECT * FROM state_history WHERE entity_type = '{entity_type}') h
FULL JOIN {table} e ON e.id = h.entity_id
ORDER BY coalesce(h.entity_id, e.id), h.seq
"""


class AuditService:
    """Search and verification, for those who may read the whole trail."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def search(self, query: AuditQuery, actor: Actor) -> Page[RecordView | RejectionView]:
        """Return a page of transitions, or of refused attempts, oldest first.

        Raises:
            ForbiddenError: the role may not.
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.SEARCH_AUDIT)
        table = (TransitionRejection if query.rejected else StateHistory).__table__.c
        filters, states = _narrowed_to(query, table)
        statement = select(*table, _number_of(table)).where(*filters)
        view: Callable[[Mapping[Any, Any]], RecordView | RejectionView] = (
            rejection_view if query.rejected else record_view
        )
        return await self._database.reading(
            lambda connection: pages.fetch_page(
                connection,
                statement,
                (table.created_at, table.id),
                query,
                lambda row: view(row._mapping),
                newest_first=False,
                one_of=states,
            )
        )

    async def verify(self, on_progress: Callable[[int], None] | None = None) -> VerificationView:
        """Walk every chain and replay every transition; return an `AuditVerification`.

        Args:
            on_progress: called now and then with the number of rows found sound.
        """
        async with self._snapshot() as connection:
            # The snapshot is taken by the first query, so what it shows is at least as new as this.
            at = self._clock()
            report = await connection.run_sync(verify_chains, on_progress)
        return {**report.as_dict(), "verified_at": at}

    async def export(self) -> AsyncIterator[RecordView]:
        """Yield the whole trail, oldest first, as of one moment."""
        table = StateHistory.__table__.c
        async with self._snapshot() as connection:
            # A reader of it may pause: it holds no lock that others wait for.
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            rows = await connection.stream(select(*table, _number_of(table)).order_by(table.created_at, table.id))
            async for row in rows:
                yield record_view(row._mapping)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection that sees one moment: what commits meanwhile would look like a fault."""
        async with self._database.transaction() as session:
            connection = await session.connection()
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            # Reading all of it takes as long as it takes.
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
            yield connection


async def history_of(
    connection: AsyncConnection, entity_type: EntityType, entity_id: UUID, page: PageQuery, actor: Actor
) -> Page[RecordView]:
    """Return a page of one entity's transitions, oldest first.

    For customers, the identity and IP address of others are omitted, and with them every hash from that row on: each
    depends on the row before it, so the address could be found by trying.
    """
    table = StateHistory.__table__.c
    own = (table.entity_type == entity_type, table.entity_id == entity_id)
    statement = select(*table, _number_of(table)).where(*own)
    if actor.sees_only is not None:
        others = select(func.min(table.seq)).where(*own, table.actor_id.is_distinct_from(actor.id))
        statement = statement.add_columns(others.scalar_subquery().label(_FIRST_HIDDEN))
    return await pages.fetch_page(
        connection,
        statement,
        (table.seq,),
        page,
        lambda row: _as_seen_by(actor, row._mapping),
        newest_first=False,
    )


_FIRST_HIDDEN = "first_hidden_seq"

_STATES: dict[str, tuple[str, ...]] = {EntityType.ORDER: tuple(OrderStatus), EntityType.RETURN: tuple(ReturnStatus)}
"""What can be entered or asked for. Orders and returns have no state in common."""


def _narrowed_to(
    query: AuditQuery, table: ReadOnlyColumnCollection[str, Any]
) -> tuple[list[ColumnElement[bool]], list[pages.OneOf]]:
    """Return the filters of a search so that an index gives its rows in their order.

    The index of an entity begins with its type. The other two begin with the state, and with actor and state: a search
    by type, or by actor, reads each state that there can be by itself.
    """
    filters = pages.given(
        (query.from_, table.created_at.__ge__),
        (query.to, table.created_at.__lt__),
        (query.actor, table.actor_id.__eq__),
    )
    state = table.requested_state if query.rejected else table.new_state
    if query.entity_id is not None:
        types = [query.entity] if query.entity is not None else list(_STATES)
        own = pages.given((query.entity_id, table.entity_id.__eq__), (query.state, state.__eq__))
        return [*filters, *own, table.entity_type.in_(types)], []
    if query.entity is None and query.state is not None:
        return [*filters, state == query.state], []
    if query.entity is None and query.actor is None:
        return filters, []
    states = [one for type_ in _STATES if query.entity in {None, type_} for one in _STATES[type_]]
    if query.state is None:
        return filters, [(state, states)]
    return [*filters, state.in_([query.state] if query.state in states else [])], []


def _number_of(table: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[str | None]:
    """Return the number by which people know the order or return of a row, as the column `entity_number`."""
    order = select(Order.order_number).where(Order.id == table.entity_id).scalar_subquery()
    returned = select(ReturnRequest.return_number).where(ReturnRequest.id == table.entity_id).scalar_subquery()
    return case((table.entity_type == EntityType.ORDER, order), else_=returned).label("entity_number")


def _as_seen_by(actor: Actor, row: Mapping[Any, Any]) -> RecordView:
    record = record_view(row)
    if actor.sees_only is None:
        return record
    if record["actor_id"] != actor.id:
        record["actor_id"] = record["ip_address"] = None
    if row[_FIRST_HIDDEN] is not None and record["seq"] >= row[_FIRST_HIDDEN]:
        record["hash"] = record["prev_hash"] = None
    return record


@dataclass(frozen=True, slots=True)
class Fault:
    """The first row that does not hold; `seq` is None when it is the entity's own row."""

    entity_type: EntityType
    entity_id: UUID
    seq: int | None
    fault: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification saw; `fault` is None when the whole trail holds."""

    entities: int
    rows: int
    fault: Fault | None

    def as_dict(self) -> ReportView:
        """Return it as the API shows it."""
        fault: FaultView | None = None
        if self.fault is not None:
            fault = {
                "entity_type": self.fault.entity_type,
                "entity_id": self.fault.entity_id,
                "seq": self.fault.seq,
                "fault": self.fault.fault,
            }
        return {"ok": fault is None, "entities": self.entities, "rows": self.rows, "fault": fault}


def verify_chains(connection: Connection, on_progress: Callable[[int], None] | None = None) -> Report:
    """Walk every chain of the database, hashes computed here and not by the database; stop at the first fault.

    Args:
        connection: in a read-only snapshot (REPEATABLE READ).
        on_progress: called after each entity with the number of rows found sound.
    """
    entities = rows = 0
    for entity_type, table in _TABLES.items():
        statement = text(_CHAINS.format(row_text=_ROW_TEXT, entity_type=entity_type, table=table))
        with connection.execution_options(yield_per=1000).execute(statement) as result:
            for entity_id, chain in groupby(result, key=lambda row: row.entity_id):
                entities += 1
                for fault in _faults(entity_type, chain):
                    if fault is None:
                        rows += 1
                        continue
                    return Report(entities, rows, Fault(entity_type, entity_id, *fault))
                if on_progress is not None:
                    on_progress(rows)
    return Report(entities, rows, None)


def _faults(entity_type: EntityType, chain: Iterator[Row[Any]]) -> Iterator[tuple[int | None, str] | None]:
    """Yield None for each sound row of one entity's chain, or (seq, what is wrong), which ends the walk."""
    legal = set(StateMachine.edges(entity_type))
    walked = _Walked(state=str(INITIAL_STATES[entity_type]), hash=CHAIN_START, seq=0)
    row = None
    for row in chain:
        if row.seq is None:
            break
        fault = _row_fault(row, walked, legal)
        if fault is None:
            walked = _Walked(state=row.new_state, hash=bytes(row.hash), seq=row.seq)
        yield fault
    if row is not None and row.entity_exists and (fault := _head_fault(row, walked)) is not None:
        yield fault


class _Walked(NamedTuple):
    """How far a chain has been found sound."""

    state: str
    hash: bytes
    seq: int


def _row_fault(row: Row[Any], walked: _Walked, legal: set[tuple[str, str]]) -> tuple[int | None, str] | None:
    if not row.entity_exists:
        return row.seq, "the entity of this row is gone"
    if row.seq != walked.seq + 1:
        return walked.seq + 1, f"row {walked.seq + 1} is missing"
    if bytes(row.prev_hash) != walked.hash:
        return row.seq, "the row does not continue from the hash before it"
    if hashlib.sha256(walked.hash + row.canonical.encode()).digest() != bytes(row.hash):
        return row.seq, "the row was altered: its content does not give its hash"
    if row.previous_state != walked.state or (row.previous_state, row.new_state) not in legal:
        return row.seq, f"{row.previous_state} to {row.new_state} is no legal step from {walked.state}"
    return None


def _head_fault(row: Row[Any], walked: _Walked) -> tuple[int | None, str] | None:
    """Compare the entity's own row, which any row of its chain carries, with where the chain led."""
    if row.audit_seq != walked.seq:
        return row.audit_seq, f"the chain ends at row {walked.seq}, its head says {row.audit_seq}"
    if (bytes(row.audit_hash) if row.audit_hash is not None else CHAIN_START) != walked.hash:
        return None, "the head of the chain does not match its last row"
    if row.status != walked.state:
        return None, f"the state is {row.status}, its history leads to {walked.state}"
    return None
