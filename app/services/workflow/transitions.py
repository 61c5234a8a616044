"""A transition is one statement: lock, check, update, audit row, event, job rows; one round trip.

Through the ORM the same work takes six statements and ten times the client CPU (docs/adr). The statement
is written over a *set* of requests, one being the usual case; bulk commands and the seed send many. It is
its own transaction on an autocommit connection, and part of a larger one inside `Database.transaction()`.

How the common table expressions follow each other:

    requested   the requests, one row each, from a single JSON parameter
    locked      the rows they are about, locked in key order (no deadlock between two sets)
    judged      each with the verdict of the transition table, read *after* the lock was got
    chained     the legal ones with the hash of their audit row: sha256(previous hash || canonical text)
    moved       UPDATE of state, version, timestamps, fields, and the head of the chain
    history     INSERT of the audit row                    events  INSERT of the fact
    refused     INSERT of the attempt that was not legal    work    INSERT of the jobs now due
    …           the money that the machine moves (`Machine.money`)

Under READ COMMITTED a row that waited for its lock is read again as the winner left it, so of any number
of racers one moves and the rest are judged against the new state. The UPDATE itself begins with the row of
its snapshot and checks the constraints on that before it finds the newer one, so what it carries over
comes from `locked`. Nothing outside `moved` may read the
entity's table: the rest of the statement sees the snapshot from before the wait.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import String, TextClause, bindparam, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.core import monitoring
from app.core.actor import SYSTEM_JOB, Actor
from app.core.enums import EntityType, JobState, Role
from app.core.precondition import Precondition
from app.database import Database, after_commit, hint_jobs
from app.prepared import RECORD, Prepared
from app.services.access import permissions
from app.services.access.visibility import visible_sql
from app.services.events import tampered
from app.services.jobs.service import JobKind, queue_of
from app.services.workflow.audit import CHAIN_START_SQL, canonical_sql
from app.services.workflow.coalescing import Coalescer
from app.services.workflow.state_machine import TRANSITIONS, StateMachine
from app.services.workflow.views import TransitionOptionsView, TransitionOptionView
from app.utils.exceptions import InvalidStateTransitionError, NotFoundError, VersionConflictError

__all__ = [
    "REFUND_WORK",
    "SYSTEM_JOB",
    "Effect",
    "Machine",
    "Outcome",
    "Statement",
    "TransitionRequest",
    "TransitionResult",
    "Transitions",
    "apply",
    "encode",
    "moved_row",
    "options",
]


class Outcome(StrEnum):
    """What became of a request."""

    MOVED = "MOVED"
    REFUSED = "REFUSED"
    UNEXPECTED = "UNEXPECTED"
    STALE = "STALE"
    NOT_FOUND = "NOT_FOUND"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRequest:
    """A wish to bring one entity into `new_state`.

    Attributes:
        at: when, by the caller's clock; the audit row never runs backwards within an entity.
        changes: columns to set with the state; only those that `Machine.columns` names.
        metadata: facts for the audit row (reason, notes, related ids). JSON. `on_behalf_of`, the customer's id, is
            added where a caller of role `service` takes a step that is the customer's.
        expected_state: move only from this state; another one gives UNEXPECTED and no rejection row.
        expected_versions: move only one of these versions; another one gives STALE, even where the table allows the
            move, and no rejection row.
    """

    entity_id: UUID
    new_state: str
    actor: Actor
    at: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    expected_state: str | None = None
    expected_versions: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class TransitionResult:
    """The answer to one request: the outcome, state and version before, and the new row when it moved."""

    outcome: Outcome
    previous_state: str | None
    previous_version: int | None
    row: RECORD


@dataclass(frozen=True, slots=True)
class Effect:
    """A job that a transition makes due: on arriving in `to`, coming from `origin` when that is given."""

    to: str
    kind: JobKind
    origin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What one machine adds to the statement.

    Attributes:
        table: the entity's table; it has status, version, audit_seq, audit_hash, updated_at, customer_id.
        stamps: state → column that records when it was reached.
        columns: column → SQL type, of those that a request may set.
        effects: the jobs that follow, as a table.
        money: further expressions, `name AS (…)`, which may read `moved`; part of the same statement. Jobs
            that they insert take `{job_state}` as their state.
        answer: columns of the new row that the caller wants back, over `moved` as `m`.
    """

    entity_type: EntityType
    table: str
    stamps: Mapping[str, str]
    columns: Mapping[str, str]
    effects: Sequence[Effect]
    money: str = ""
    answer: str = ""

    def statement(self, job_state: JobState = JobState.PENDING) -> "Statement":
        """Return the statement; its one parameter `requests` is a JSON array.

        Args:
            job_state: of the jobs that follow; sample data has them DISMISSED, so that no worker does them.
        """
        sql = _STATEMENT.format(**self._parts()).replace("{job_state}", job_state)
        return Statement(
            entity_type=self.entity_type,
            clause=_clause(sql.replace(_WAITING, "")),
            waiting=Prepared(_clause(sql.replace(_WAITING, ""))),
            passing=Prepared(_clause(sql.replace(_WAITING, " SKIP LOCKED"))),
        )

    def _parts(self) -> dict[str, str]:
        legal = ", ".join(f"('{source}', '{target}')" for source, target in StateMachine.edges(self.entity_type))
        stamped = [
            f"{column} = CASE WHEN c.to_state = '{state}' THEN c.effective_at ELSE c.{column} END"
            for state, column in self.stamps.items()
        ]
        changed = [
            f"{column} = CASE WHEN c.changes ? '{column}' THEN (c.changes ->> '{column}')::{sql_type} "
            f"ELSE c.{column} END"
            for column, sql_type in self.columns.items()
        ]
        effects = ", ".join(
            f"('{effect.to}', {_literal(effect.origin)}, '{effect.kind}', '{queue_of(effect.kind)}')"
            for effect in self.effects
        )
        return {
            "entity_type": self.entity_type,
            "table": self.table,
            "visible": visible_sql("e", "r.sees_only"),
            "legal": legal,
            "service": Role.SERVICE,
            "customers_steps": ", ".join(f"'{state}'" for state in permissions.customers_steps(self.entity_type)),
            "carried": "".join(f", e.{column}" for column in (*self.stamps.values(), *self.columns)),
            "assignments": ",\n        ".join(stamped + changed),
            "effects": effects,
            "chain_start": CHAIN_START_SQL,
            "canonical": canonical_sql(
                entity_type=f"'{self.entity_type}'",
                entity_id="j.id",
                seq="j.seq",
                previous_state="j.status",
                new_state="j.to_state",
                actor_id="j.actor_id",
                actor_type="j.actor_type",
                trigger="j.trigger",
                ip_address="j.ip_address",
                created_at="j.effective_at",
                metadata="j.metadata",
            ),
            "event_prefix": self.entity_type.lower(),
            "waiting": _WAITING,
            "money": f",\n{self.money}" if self.money else "",
            "answer": f",\n    {self.answer}" if self.answer else "",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The statement of one machine; made once, it is prepared once a connection.

    Attributes:
        clause: for a transaction of SQLAlchemy.
        waiting: waits for a row that another transaction has locked.
        passing: passes over such a row, with the outcome NOT_FOUND.
    """

    entity_type: EntityType
    clause: TextClause
    waiting: Prepared
    passing: Prepared


_WAITING = "/* waiting */"


def _clause(sql: str) -> TextClause:
    return text(sql).bindparams(bindparam("requests", type_=String))


def _literal(value: str | None) -> str:
    return "NULL" if value is None else f"'{value}'"


REFUND_WORK = f"""refund_work AS (
    INSERT INTO jobs (kind, queue, entity_id, dedupe_key, state)
    SELECT '{JobKind.PROCESS_REFUND}', '{queue_of(JobKind.PROCESS_REFUND)}', id, '{JobKind.PROCESS_REFUND}:' || id,
        '{{job_state}}'
    FROM refund
)"""  # noqa: S608 - constants of this code base
"""For `Machine.money`: the job of each row that an expression `refund` inserted."""

# Only constants of this code base are formatted in; every value of a request travels in the parameter.
_STATEMENT = """
WITH requested AS (
    SELECT * FROM jsonb_to_recordset(CAST(:requests AS jsonb)) AS r(
        n int, id uuid, to_state text, expected_state text, expected_versions int[], sees_only uuid, at timestamptz,
        actor_id uuid, actor_type text, actor_role text, trigger text, ip_address text, stated jsonb, changes jsonb)
),
locked AS (
    SELECT r.*,
        CASE WHEN r.actor_role = '{service}' AND r.to_state IN ({customers_steps})
            THEN r.stated || jsonb_build_object('on_behalf_of', e.customer_id) ELSE r.stated END AS metadata,
        e.status, e.version, e.audit_seq, e.audit_hash, e.updated_at{carried}
    FROM {table} e JOIN requested r ON r.id = e.id
    WHERE {visible}
    ORDER BY e.id
    FOR NO KEY UPDATE OF e{waiting}
),
legal(from_state, to_state) AS (VALUES {legal}),
judged AS (
    SELECT l.*, g.from_state IS NOT NULL AS is_legal,
        l.expected_state IS NULL OR l.expected_state = l.status AS is_expected,
        l.expected_versions IS NULL OR l.version = ANY (l.expected_versions) AS is_current,
        l.audit_seq + 1 AS seq,
        coalesce(l.audit_hash, {chain_start}) AS prev_hash,
        greatest(l.at, l.updated_at) AS effective_at
    FROM locked l LEFT JOIN legal g ON g.from_state = l.status AND g.to_state = l.to_state
),
chained AS (
    SELECT j.*, sha256(j.prev_hash || convert_to({canonical}, 'UTF8')) AS hash
    FROM judged j WHERE j.is_legal AND j.is_expected AND j.is_current
),
moved AS (
    UPDATE {table} e SET
        status = c.to_state,
        version = e.version + 1,
        updated_at = c.effective_at,
        audit_seq = c.seq,
        audit_hash = c.hash,
        {assignments}
    FROM chained c WHERE e.id = c.id
    RETURNING c.n, c.status AS from_state, c.actor_id, c.actor_type, c.trigger, c.ip_address,
        c.metadata AS audit_metadata, c.prev_hash, e.*
),
history AS (
    INSERT INTO state_history (entity_type, entity_id, seq, previous_state, new_state, actor_id, actor_type,
        trigger, metadata, ip_address, created_at, prev_hash, hash)
    SELECT '{entity_type}', m.id, m.audit_seq, m.from_state, m.status, m.actor_id, m.actor_type,
        m.trigger, m.audit_metadata, m.ip_address, m.updated_at, m.prev_hash, m.audit_hash
    FROM moved m
),
facts AS (
    INSERT INTO events (entity_type, entity_id, seq, type, data, created_at)
    SELECT '{entity_type}', m.id, m.version, '{event_prefix}.' || lower(m.status),
        jsonb_build_object('from', m.from_state, 'to', m.status, 'trigger', m.trigger), m.updated_at
    FROM moved m
),
refused AS (
    INSERT INTO transition_rejections (entity_type, entity_id, current_state, requested_state, actor_id,
        actor_type, trigger, metadata, ip_address, created_at)
    SELECT '{entity_type}', j.id, j.status, j.to_state, j.actor_id, j.actor_type, j.trigger, j.metadata,
        j.ip_address, j.at
    FROM judged j WHERE NOT j.is_legal AND j.is_expected AND j.is_current
),
effects(to_state, origin, kind, queue) AS (VALUES {effects}),
work AS (
    INSERT INTO jobs (kind, queue, entity_id, dedupe_key, state)
    SELECT f.kind, f.queue, m.id, f.kind || ':' || m.id || ':' || m.version, '{{job_state}}'
    FROM moved m JOIN effects f ON f.to_state = m.status AND coalesce(f.origin, m.from_state) = m.from_state
    ON CONFLICT (dedupe_key) DO NOTHING
){money}
SELECT
    CASE WHEN m.n IS NOT NULL THEN 'MOVED' WHEN j.n IS NULL THEN 'NOT_FOUND'
        WHEN NOT j.is_current THEN 'STALE' WHEN NOT j.is_expected THEN 'UNEXPECTED' ELSE 'REFUSED' END AS outcome,
    j.status AS previous_state, j.version AS previous_version{answer}
FROM requested r LEFT JOIN judged j ON j.n = r.n LEFT JOIN moved m ON m.n = r.n
ORDER BY r.n
"""

_COUNTS = {Outcome.MOVED: monitoring.transition_made, Outcome.REFUSED: monitoring.transition_refused}


async def apply(
    executor: AsyncConnection | AsyncSession, statement: Statement, requests: Sequence[TransitionRequest]
) -> list[TransitionResult]:
    """Carry out the requests in one statement and return their results in the same order.

    Args:
        executor: an autocommit connection, or the session of a transaction the caller commits.
        statement: of the machine, `Machine.statement()`, made once.
        requests: at most one per entity; each is judged by itself, a refused one does not hold up the rest.

    Raises:
        ValueError: two requests for one entity: which comes first would be left to chance.
        RecordTamperedError: the history or the events of one of them have a row that is ahead of it.
    """
    try:
        answer = await executor.execute(statement.clause, {"requests": encode(requests)})
    except IntegrityError as refusal:
        if (fault := tampered(refusal)) is not None:
            raise fault from refusal
        raise
    results = [_result(row._asdict()) for row in answer]
    if any(result.outcome is Outcome.MOVED for result in results):
        hint_jobs(executor)
    _count(statement.entity_type, requests, results, partial(after_commit, executor))
    return results


def _count(
    entity_type: EntityType,
    requests: Sequence[TransitionRequest],
    results: Sequence[TransitionResult],
    after_commit: Callable[[Callable[[], None]], None],
) -> None:
    for request, result in zip(requests, results, strict=True):
        if count := _COUNTS.get(result.outcome):
            after_commit(partial(count, entity_type, str(result.previous_state), request.new_state))


def _result(row: RECORD) -> TransitionResult:
    outcome, state, version = Outcome(row.pop("outcome")), row.pop("previous_state"), row.pop("previous_version")
    return TransitionResult(outcome, state, version, row)


class Transitions:
    """The transitions that callers of the API ask for: each is judged by itself; those that wait are sent together."""

    def __init__(self, database: Database, statement: Statement) -> None:
        """Keep what the requests are sent with.

        Args:
            statement: of the machine, `Machine.statement()`, made once.
        """
        self._database = database
        self._statement = statement
        self._coalescer = Coalescer(database, self._passing, self._waiting, entity_of=lambda request: request.entity_id)

    async def apply(self, request: TransitionRequest) -> TransitionResult:
        """Carry out one request and return its result.

        Raises:
            RecordTamperedError: the history or the events of the entity have a row that is ahead of it.
        """
        try:
            return await self._coalescer.submit(request)
        except IntegrityError as refusal:
            if (fault := tampered(refusal)) is not None:
                raise fault from refusal
            raise

    async def _passing(self, requests: Sequence[TransitionRequest]) -> list[TransitionResult | None]:
        results = await self._run(self._statement.passing, requests)
        return [None if result.outcome is Outcome.NOT_FOUND else result for result in results]

    async def _waiting(self, request: TransitionRequest) -> TransitionResult:
        [result] = await self._run(self._statement.waiting, [request])
        return result

    async def _run(self, statement: Prepared, requests: Sequence[TransitionRequest]) -> list[TransitionResult]:
        results = [_result(row) for row in await self._database.rows(statement, requests=encode(requests))]
        hint = self._database.job_hint
        if hint is not None and any(result.outcome is Outcome.MOVED for result in results):
            self._database.after_commit(hint.give)
        _count(self._statement.entity_type, requests, results, self._database.after_commit)
        return results


def encode(requests: Sequence[TransitionRequest]) -> str:
    """Return the statement's parameter for `requests`.

    Raises:
        ValueError: two requests for one entity.
    """
    if len({request.entity_id for request in requests}) != len(requests):
        raise ValueError("a set of transitions names each entity once")
    return orjson.dumps(
        [
            {
                "n": n,
                "id": request.entity_id,
                "to_state": request.new_state,
                "expected_state": request.expected_state,
                "expected_versions": request.expected_versions,
                "sees_only": request.actor.sees_only,
                "at": request.at,
                "actor_id": request.actor.id,
                "actor_type": request.actor.type,
                "actor_role": request.actor.role,
                "trigger": request.actor.trigger,
                "ip_address": request.actor.ip_address,
                "stated": request.metadata,
                "changes": request.changes,
            }
            for n, request in enumerate(requests)
        ],
        default=str,
    ).decode()


def moved_row(
    entity_type: EntityType,
    new_state: str,
    result: TransitionResult,
    not_found: Callable[[], NotFoundError],
    expected: Precondition | None = None,
) -> RECORD:
    """Return the new row of an entity that moved.

    Args:
        expected: what the caller had wanted to hold.

    Raises:
        NotFoundError: what `not_found` returns, where there was none for this actor.
        VersionConflictError: it is not, or no longer, of a version that the caller expected.
        InvalidStateTransitionError: the table does not allow it.
    """
    if result.outcome is Outcome.MOVED:
        return result.row
    if result.previous_state is None or result.previous_version is None:
        raise not_found()
    if result.outcome is Outcome.STALE:
        raise VersionConflictError(result.previous_version, expected.given if expected is not None else "")
    allowed = StateMachine.allowed(entity_type, result.previous_state)
    raise InvalidStateTransitionError(result.previous_state, new_state, allowed)


def options(entity_type: EntityType, current: str, actor: Actor) -> TransitionOptionsView:
    """Return every state as a thinkable next one: whether this actor may go there now, and if not, why."""
    allowed = StateMachine.allowed(entity_type, current)
    choices: list[TransitionOptionView] = []
    for state in TRANSITIONS[entity_type]:
        blocked = None
        if state not in allowed:
            blocked = f"{current} is final" if not allowed else f"not reachable from {current}"
        elif not permissions.may_enter(actor, entity_type, state):
            blocked = f"the role {actor.role} may not do this"
        choices.append({"to": state, "allowed": blocked is None, "blocked_because": blocked})
    return {"current_state": current, "transitions": choices}
