"""The read replica: asked while it is there, works and is fast enough, and passed over otherwise (NFR-002)."""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

if TYPE_CHECKING:
    from psycopg import AsyncConnection as DriverConnection

T = TypeVar("T")

PAUSE_SECONDS = 5.0
"""How long a replica that is away is left alone; then one request finds out whether it is back."""

CONNECT_SECONDS = 2
POOL_SECONDS = 1.0
"""How long a read waits for one of the connections to the replica before it goes to the primary."""

ANSWER_SECONDS = 5.0
"""How long the replica has for connecting, and then for all of one read: far more than a list takes.

A server whose processes are stopped has a kernel that acknowledges what it is sent, so nothing below notices."""

SERVER_GONE = frozenset({"25006", "57P01", "57P02", "57P03"})
"""The server takes no writes (read_only_sql_transaction), was shut down, crashed, or is starting up."""

_RECOVERY_CONFLICT = "40001"
_MIGRATION_MISSING = frozenset({"42P01", "42703"})
"""A table or a column is not there (undefined_table, undefined_column): the migration is still to be replayed."""
_SHORT_OR_BROKEN = frozenset({"53", "58"})
"""The classes of a server that is short of memory, disk or connections, and of one that cannot read its files."""

logger = structlog.get_logger(__name__)


class ReplicaPassedError(Exception):
    """The replica did not answer this read; the primary may."""


class Replica:
    """A server to read from, and what is known of its state.

    Attributes:
        engine: its connections; each statement commits by itself.
        is_away: whether it did not answer when it was asked last.
    """

    def __init__(self, url: URL, pool_size: int, connect_args: Mapping[str, object]) -> None:
        """Connect to nothing; the first use does.

        Args:
            url: names the driver too.
            pool_size: connections at most.
            connect_args: the defaults of a session.
        """
        self.engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            connect_args={**connect_args, "connect_timeout": CONNECT_SECONDS},
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
        )
        self.is_away = False
        self._rests_until = float("-inf")

    async def ask(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what `work` reads here.

        Raises:
            ReplicaPassedError: it rests, is away, busy or too slow, or failed for a reason that the primary need not
                have.
            DBAPIError: the statement's own fault.
        """
        if not self._is_due():
            raise ReplicaPassedError
        try:
            found = await self._ask(work)
        except PoolTimeoutError:
            # Busy is not away: if it were not asked any more, all of its load would drop on the primary.
            logger.info("replica.skipped")
            raise ReplicaPassedError from None
        except TimeoutError as fault:
            self._went(fault)
            raise ReplicaPassedError from None
        except DBAPIError as fault:
            if _is_away(fault):
                self._went(fault)
            elif _is_its_own(fault):
                logger.warning("replica.failed", error=type(fault.orig).__name__)
            else:
                raise
            raise ReplicaPassedError from None
        self._answered()
        return found

    async def _ask(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(ANSWER_SECONDS):
                connection = await stack.enter_async_context(self.engine.connect())
                driver: Any = (await connection.get_raw_connection()).driver_connection
            stack.callback(asyncio.get_running_loop().call_later(ANSWER_SECONDS, _hang_up, driver).cancel)
            return await work(connection)

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._rests_until:
            return False
        if self.is_away:
            # One request finds out whether it is back; the others do not wait for that.
            self._rests_until = now + PAUSE_SECONDS
        return True

    def _went(self, fault: Exception) -> None:
        self._rests_until = time.monotonic() + PAUSE_SECONDS
        if not self.is_away:
            self.is_away = True
            logger.warning("replica.lost", error=type(getattr(fault, "orig", None) or fault).__name__)

    def _answered(self) -> None:
        if self.is_away:
            self.is_away = False
            self._rests_until = float("-inf")
            logger.info("replica.recovered")


def _is_away(fault: DBAPIError) -> bool:
    """Whether it cannot be asked, or broke off to keep up: no fault of the statement, nor of its slowness."""
    if fault.connection_invalidated:
        return True
    # What fails before the server can answer, connecting above all, has no code.
    codes = {None, _RECOVERY_CONFLICT, *SERVER_GONE}
    return isinstance(fault, OperationalError) and getattr(fault.orig, "sqlstate", None) in codes


def _is_its_own(fault: DBAPIError) -> bool:
    """Whether the primary may well do what failed on a replica that is there."""
    code = getattr(fault.orig, "sqlstate", None) or ""
    return code in _MIGRATION_MISSING or code[:2] in _SHORT_OR_BROKEN


def _hang_up(connection: "DriverConnection[Any]") -> None:
    """Break the line, so that the code waiting for the server's answer finds the connection lost.

    To cancel the waiting task would not do: psycopg then waits for the server to confirm.
    """
    if not connection.closed:
        with socket.socket(fileno=os.dup(connection.fileno())) as line, suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
