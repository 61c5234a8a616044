"""One effect for a request, however often it is sent: `Idempotency-Key`.

The answer is stored in the transaction that has the effect, so there is never one without the other, even
when the process is killed: a caller who never saw the answer sends the request again and gets that very answer.

    lock (principal, key)   for the length of the transaction; held by another: the first try is still running
    look it up              the same request: the stored answer · another one: refused · nothing: go on
    do the work             every service joins the transaction (`Database.unit_of_work`); it waits on nothing else
    store the answer, commit, and only then answer

The lock is an advisory one that no request waits for: twenty copies of a request at once take one connection for the
length of the work, and nineteen for one short statement. An upload is looked up once more before that, without the
lock (`stored`), so that a repeated photo is not read and cleaned again.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Row, bindparam, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.database import Database
from app.models.idempotency_key import IdempotencyKey
from app.utils.exceptions import (
    IdempotencyKeyInUseError,
    IdempotencyKeyReusedError,
    InvalidInputError,
    RecordTamperedError,
)

KEPT_FOR = timedelta(hours=24)
"""How long an answer is replayed, by the database's clock."""

# Nothing was done, and the same request may succeed later: the caller corrects it, or waits, and keeps the key.
_NOTHING_DONE = frozenset({401, 413, 415, 429})
_MENDED = frozenset({InvalidInputError.code, RecordTamperedError.code})

_KEYS = IdempotencyKey.__table__.c
_IS_THIS = (_KEYS.principal_id == bindparam("principal_id")) & (_KEYS.key == bindparam("key"))
_LOCK = select(func.pg_try_advisory_xact_lock(bindparam("number", type_=BigInteger)))
_FIND = select(
    _KEYS.fingerprint,
    _KEYS.status,
    _KEYS.headers,
    _KEYS.body,
    (_KEYS.created_at <= func.now() - KEPT_FOR).label("is_over"),
).where(_IS_THIS)
_FORGET = delete(IdempotencyKey).where(_IS_THIS)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it goes out: status, headers of its own, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_final(status: int, code: str | None = None) -> bool:
    """Return whether an answer with this status, and error code if it is an error, is kept under its key."""
    return status < 500 and status not in _NOTHING_DONE and code not in _MENDED


class IdempotencyService:
    """Keys and the answers under them, each caller's own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stored(self, principal_id: UUID, key: str, fingerprint: bytes) -> KeptAnswer | None:
        """Return the answer that is stored under a key, None where there is none. Takes no lock and changes nothing.

        None does not mean that the request is new: a copy of it may be at work. Only `once` decides that.

        Args:
            fingerprint: SHA-256 of all that makes the request the same one.

        Raises:
            IdempotencyKeyReusedError: the key belongs to another request.
        """
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_FIND, {"principal_id": principal_id, "key": key})).first()
        return None if row is None or row.is_over else _answer_of(row, fingerprint)

    async def once(
        self, principal_id: UUID, key: str, fingerprint: bytes, work: Callable[[], Awaitable[KeptAnswer]]
    ) -> tuple[KeptAnswer, bool]:
        """Return the answer of `work`, and whether it is one that was stored before.

        Args:
            fingerprint: SHA-256 of all that makes the request the same one.
            work: what to do if this is the first time. What it raises undoes what it did, and stores nothing.

        Raises:
            IdempotencyKeyInUseError: the first request with this key is still at work.
            IdempotencyKeyReusedError: the key belongs to another request.
        """
        async with self._database.unit_of_work() as connection:
            if not await _locked(connection, principal_id, key):
                raise IdempotencyKeyInUseError
            stored = await _find(connection, principal_id, key, fingerprint)
            if stored is not None:
                return stored, True
            made = await work()
            await connection.execute(
                insert(IdempotencyKey).values(
                    principal_id=principal_id,
                    key=key,
                    fingerprint=fingerprint,
                    status=made.status,
                    headers=dict(made.headers),
                    body=made.body,
                )
            )
        return made, False


async def _locked(connection: AsyncConnection, principal_id: UUID, key: str) -> bool:
    # A statement of its own: the look-up after it must see what the lock's last holder committed.
    digest = hashlib.sha256(principal_id.bytes + key.encode()).digest()
    number = int.from_bytes(digest[:8], signed=True)
    return bool((await connection.execute(_LOCK, {"number": number})).scalar_one())


async def _find(connection: AsyncConnection, principal_id: UUID, key: str, fingerprint: bytes) -> KeptAnswer | None:
    this = {"principal_id": principal_id, "key": key}
    row = (await connection.execute(_FIND, this)).first()
    if row is None:
        return None
    if row.is_over:
        await connection.execute(_FORGET, this)
        return None
    return _answer_of(row, fingerprint)


def _answer_of(row: Row[Any], fingerprint: bytes) -> KeptAnswer:
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReusedError
    return KeptAnswer(row.status, row.headers, row.body)
