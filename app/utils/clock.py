"""The clock, injected where time decides something."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


def uuid7(at: datetime) -> UUID:
    """Return a new UUIDv7 (RFC 9562, section 5.7) whose time part is `at`, to the millisecond.

    The libraries for it take the time from the operating system; ours comes from the injected clock.
    """
    milliseconds = int(at.timestamp() * 1000) & (1 << 48) - 1
    random = secrets.randbits(74)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | random >> 62 << 64 | 0b10 << 62 | random & (1 << 62) - 1)
