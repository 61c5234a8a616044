"""Revoked bearer tokens: ended by their `jti`, in the database, dead everywhere within five seconds (NFR-004).

What is not revoked is remembered for five seconds in the process, as keys are, so that a busy caller costs no query.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from app.config import MAXIMUM_TOKEN_AGE_MINUTES
from app.core.security import TOKEN_ID_LENGTH
from app.database import Database
from app.models.revoked_token import RevokedToken
from app.utils.exceptions import InvalidInputError

REMEMBERED_SECONDS = 5.0
_REMEMBERED_MAXIMUM = 10_000
# The longest that any token can hold, and a day for clocks that differ.
_KEPT_FOR = timedelta(minutes=MAXIMUM_TOKEN_AGE_MINUTES) + timedelta(days=1)


class TokenService:
    """Which tokens were revoked."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._good_until: dict[str, float] = {}

    async def revoke(self, token_id: str) -> datetime:
        """End every token of this `jti`, of ours and of a provider; revoking it again changes nothing.

        Returns:
            When it was revoked first.

        Raises:
            InvalidInputError: no `jti` that a token could have.
        """
        if not (0 < len(token_id) <= TOKEN_ID_LENGTH and token_id.isprintable()):
            raise InvalidInputError(("jti", f"must have 1 to {TOKEN_ID_LENGTH} printable characters"))
        statement = insert(RevokedToken).values(token_id=token_id, expires_at=func.now() + _KEPT_FOR)
        async with self._database.autocommit() as connection:
            await connection.execute(statement.on_conflict_do_nothing())
            known = select(RevokedToken.created_at).where(RevokedToken.token_id == token_id)
            revoked_at: datetime = (await connection.execute(known)).scalar_one()
        self._good_until.pop(token_id, None)
        return revoked_at

    async def is_revoked(self, token_id: str) -> bool:
        """Return whether a token was revoked; the answer is at most five seconds old."""
        # Taken before the query: a revocation that it did not see is at most this old.
        asked_at = self._monotonic()
        if self._good_until.get(token_id, 0.0) > asked_at:
            return False
        async with self._database.autocommit() as connection:
            known = select(RevokedToken.token_id).where(RevokedToken.token_id == token_id)
            if (await connection.execute(known)).first() is not None:
                self._good_until.pop(token_id, None)
                return True
        if len(self._good_until) >= _REMEMBERED_MAXIMUM:
            self._good_until.clear()
        self._good_until[token_id] = asked_at + REMEMBERED_SECONDS
        return False

    async def forget_expired(self, limit: int) -> int:
        """Delete up to `limit` revocations of tokens that could not hold any more; return how many."""
        over = select(RevokedToken.token_id).where(RevokedToken.expires_at <= func.now()).limit(limit)
        statement = delete(RevokedToken).where(RevokedToken.token_id.in_(over)).returning(RevokedToken.token_id)
        async with self._database.autocommit() as connection:
            return len((await connection.execute(statement)).all())
