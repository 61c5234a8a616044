"""API keys: made, listed, rotated, revoked, and recognised.

A recognised key is remembered for five seconds in the process, so that a busy caller costs no query; a
revoked one is dead everywhere five seconds later at the latest, an expired one at once.

Rotating makes a successor of the same principal: the audit trail, the rate limit and idempotency keys
know the caller by the principal id, and must not see two callers where there is one with a new key.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import extract, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from app.core.enums import Role
from app.core.security import KEY_SHAPE, Principal, key_digest, new_key
from app.database import Database
from app.models.api_key import ApiKey
from app.services.access.views import KeyView, NewKeyView, key_view, new_key_view
from app.utils.exceptions import InvalidInputError, NotFoundError

REMEMBERED_SECONDS = 5.0
_REMEMBERED_MAXIMUM = 10_000
_LAST_USED_GRAIN = timedelta(minutes=1)
OVERLAP = timedelta(hours=24)
_NEVER = datetime.max.replace(tzinfo=UTC)
_SHOWN = NewKeyView.__annotations__.keys() - {"key"}


class KeyService:
    """What can be done with API keys."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._remembered: dict[bytes, tuple[float, Principal]] = {}
        self._turn = asyncio.Lock()

    async def create(
        self, role: Role, name: str, customer_id: UUID | None = None, lifetime: timedelta | None = None
    ) -> NewKeyView:
        """Make a key and return it with its record; the key itself can never be had again.

        Args:
            role: what it may do.
            name: whose it is.
            customer_id: the customer, for that role.
            lifetime: how long it is valid; without limit when absent.

        Raises:
            InvalidInputError: a customer without a customer id, the other way round, or an unusable name.
        """
        if (role is Role.CUSTOMER) != (customer_id is not None):
            raise InvalidInputError(("customer_id", "belongs to the role customer, and only there"))
        if not name.strip() or len(name) > 100 or not name.isprintable():
            raise InvalidInputError(("name", "must have 1 to 100 printable characters"))
        key, statement = _insertion(name=name, role=role, customer_id=customer_id, lifetime=lifetime)
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).one()
        return new_key_view(key, row)

    async def rotate(self, key_id: UUID, overlap: timedelta = OVERLAP, lifetime: timedelta | None = None) -> NewKeyView:
        """Make a successor of a key: same principal, role, name and customer. Return it as `create` does.

        Args:
            key_id: the key to be succeeded.
            overlap: how long it still holds beside its successor; zero ends it at once.
            lifetime: of the successor; when absent, that of its predecessor.

        Raises:
            NotFoundError: there is no such key.
            InvalidInputError: it opens nothing any more, or was rotated before.
        """
        async with self._database.transaction() as session:
            old = (await session.execute(select(ApiKey).where(ApiKey.id == key_id).with_for_update())).scalar()
            if old is None:
                raise NotFoundError(f"Key {key_id} was not found.", {"key_id": str(key_id)})
            now = (await session.execute(select(func.now()))).scalar_one()
            if old.successor_id is not None:
                raise InvalidInputError(("key_id", f"was rotated before; its successor is {old.successor_id}"))
            if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
                raise InvalidInputError(("key_id", "opens nothing any more; create a new key"))
            if lifetime is None and old.expires_at is not None:
                lifetime = old.expires_at - old.created_at
            key, statement = _insertion(
                name=old.name,
                role=Role(old.role),
                customer_id=old.customer_id,
                lifetime=lifetime,
                principal_id=old.principal_id or old.id,
            )
            row = (await session.execute(statement)).one()
            old.successor_id = row.id
            old.expires_at = min(now + overlap, old.expires_at or _NEVER)
            digest = old.sha256
        self._remembered.pop(bytes(digest), None)
        return new_key_view(key, row)

    async def list(self) -> list[KeyView]:
        """Return the record of every key, oldest first; never a key, nor its hash."""
        columns = [column for column in ApiKey.__table__.c if column.name != "sha256"]
        async with self._database.autocommit() as connection:
            rows = await connection.execute(select(*columns).order_by(ApiKey.created_at, ApiKey.id))
            return [key_view(row) for row in rows]

    async def revoke(self, key_id: UUID) -> None:
        """Revoke a key permanently; revoking it again changes nothing.

        Raises:
            NotFoundError: there is no such key.
        """
        statement = (
            update(ApiKey)
            .where(ApiKey.id == key_id)
            .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.now()))
            .returning(ApiKey.sha256)
        )
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            raise NotFoundError(f"Key {key_id} was not found.", {"key_id": str(key_id)})
        self._remembered.pop(bytes(row.sha256), None)

    async def authenticate(self, key: str, *, in_turn: bool = False) -> Principal | None:
        """Return the principal of `key`, or None when it is not one of ours, was revoked or is over.

        The row is found by its hash, in which nothing of the key can be guessed bit by bit.

        Args:
            key: what a caller sent.
            in_turn: look it up alone, after the others that came in turn: for an address that has sent many wrong ones.
        """
        if KEY_SHAPE.fullmatch(key) is None:
            return None
        digest = key_digest(key)
        # Taken before the query: a revocation that it did not see is at most this old.
        asked_at = self._monotonic()
        known = self._remembered.get(digest)
        if known is not None and known[0] > asked_at:
            return known[1]
        async with self._turn if in_turn else nullcontext():
            found = await self._look_up(digest)
        if found is None:
            self._remembered.pop(digest, None)
            return None
        seconds_left, principal = found
        if len(self._remembered) >= _REMEMBERED_MAXIMUM:
            self._remembered.clear()
        self._remembered[digest] = (asked_at + min(REMEMBERED_SECONDS, seconds_left), principal)
        return principal

    async def _look_up(self, digest: bytes) -> tuple[float, Principal] | None:
        """Return how many seconds the key still has, and its principal."""
        unnoted = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - _LAST_USED_GRAIN)
        statement = select(
            ApiKey.id,
            func.coalesce(ApiKey.principal_id, ApiKey.id).label("principal_id"),
            ApiKey.role,
            ApiKey.customer_id,
            extract("epoch", ApiKey.expires_at - func.now()).label("seconds_left"),
            unnoted.label("unnoted"),
        ).where(
            ApiKey.sha256 == digest,
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        )
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).first()
            if row is None:
                return None
            if row.unnoted:
                await connection.execute(
                    update(ApiKey).where(ApiKey.id == row.id, unnoted).values(last_used_at=func.now())
                )
        principal = Principal(id=row.principal_id, role=Role(row.role), customer_id=row.customer_id)
        return float("inf") if row.seconds_left is None else float(row.seconds_left), principal


def _insertion(
    *,
    name: str,
    role: Role,
    customer_id: UUID | None,
    lifetime: timedelta | None,
    principal_id: UUID | None = None,
) -> tuple[str, ReturningInsert[Any]]:
    """Return a new key and the statement that records it."""
    key, prefix = new_key()
    statement = insert(ApiKey).values(
        name=name,
        role=role,
        customer_id=customer_id,
        prefix=prefix,
        sha256=key_digest(key),
        principal_id=principal_id,
        expires_at=None if lifetime is None else func.now() + lifetime,
    )
    columns = [column for column in ApiKey.__table__.c if column.name in _SHOWN]
    return key, statement.returning(*columns)
