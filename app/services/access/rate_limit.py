"""How often a caller may call: a sliding window in Redis, and one of this process for when Redis is away (NFR-004).

Exact: no caller gets more than its limit in any 60 seconds, however many API processes serve it. Each request that
passes leaves its time behind in a list; the next one passes when fewer than the limit are younger than 60 seconds.
One that is refused leaves nothing.

What this process let pass it remembers itself too. That refuses most of a flood without asking Redis, and takes over
when Redis fails: each process then counts what it serves, so a caller gets up to the limit from each, never more.

Callers are counted by principal id. Failed authentication is counted by address, IPv6 by its /64, which is what one
customer of a provider has.
"""

import ipaddress
from array import array
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from uuid import UUID

import structlog

from app.services.access.rate_limit_store import WINDOW_MS, WINDOW_SECONDS, SharedWindows
from app.utils.clock import Clock, utc_now

CALLER = "default"
ADDRESS = "failed-authentication"
_IPV6_BITS = 64
_MAXIMUM_WINDOWS = 10_000
"""How many counts a process remembers: beyond, those unused for longest go. Redis still has them."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request passes, and what its answer says of the limit.

    Attributes:
        policy: which count it was.
        allowed: whether it passes.
        limit: requests in a window.
        remaining: how many more would pass now.
        reset_seconds: until the oldest counted one is forgotten, so that there is room for another.
    """

    policy: str
    allowed: bool
    limit: int
    remaining: int
    reset_seconds: int

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10)."""
        return [
            (b"ratelimit-policy", b'"%b";q=%d;w=%d' % (self.policy.encode(), self.limit, WINDOW_SECONDS)),
            (b"ratelimit", b'"%b";r=%d;t=%d' % (self.policy.encode(), self.remaining, self.reset_seconds)),
        ]


@dataclass(slots=True)
class _Window:
    """What this process knows of one count: when its requests passed, oldest first, and until when none can.

    In milliseconds since 1970, as in Redis: the two must not differ by a rounding.
    """

    passed: "array[int]" = field(default_factory=lambda: array("q"))
    full_until: int = 0

    def forget(self, now: int) -> None:
        """Drop what no longer counts; all of it when the clock was set back."""
        if self.passed and self.passed[-1] > now + WINDOW_MS:
            del self.passed[:]
        del self.passed[: bisect_right(self.passed, now - WINDOW_MS)]


class RateLimiter:
    """Counts callers and failed authentications. Belongs to one event loop."""

    def __init__(self, limit: int, shared: SharedWindows, clock: Clock = utc_now) -> None:
        """Start with no count.

        Args:
            limit: requests in a window, at least 1.
            shared: the counts of all processes.
            clock: wall time; that of all API processes should agree to the second.
        """
        self._limit = limit
        self._shared = shared
        self._clock = clock
        # Used last, last: what was not used for a while is at the front.
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    async def count_caller(self, principal_id: UUID) -> Verdict:
        """Count a request of a caller who is known."""
        return await self._count(CALLER, str(principal_id))

    async def count_failure(self, address: str | None) -> Verdict:
        """Count a failed authentication from an address."""
        return await self._count(ADDRESS, _network_of(address))

    def has_failed_too_often(self, address: str | None) -> bool:
        """Return whether failures from an address are refused, as far as this process knows; it does not ask Redis."""
        whom = _network_of(address)
        window = self._windows.get(f"{ADDRESS}:{whom}")
        return window is not None and self._refusal(ADDRESS, whom, window, self._now()) is not None

    async def close(self) -> None:
        """Close the connection to Redis."""
        await self._shared.close()

    async def _count(self, policy: str, whom: str) -> Verdict:
        now = self._now()
        key = f"{policy}:{whom}"
        window = self._window(key)
        refusal = self._refusal(policy, whom, window, now)
        if refusal is not None:
            return refusal
        # Before Redis is asked: of many requests at once, each must see the others.
        window.passed.append(now)
        shared = await self._shared.count(key, self._limit, now)
        if shared is None:
            used, oldest = len(window.passed), window.passed[0]
        elif shared.passed:
            used, oldest = shared.used, shared.oldest
        else:
            window.passed.remove(now)
            return self._filled(policy, whom, window, shared.oldest, now)
        return Verdict(policy, True, self._limit, self._limit - used, _seconds(oldest + WINDOW_MS - now))

    def _now(self) -> int:
        return int(self._clock().timestamp() * 1000)

    def _window(self, key: str) -> _Window:
        windows = self._windows
        window = windows.get(key)
        if window is not None:
            windows.move_to_end(key)
            return window
        if len(windows) >= _MAXIMUM_WINDOWS:
            windows.popitem(last=False)
        window = windows[key] = _Window()
        return window

    def _refusal(self, policy: str, whom: str, window: _Window, now: int) -> Verdict | None:
        """Return the refusal that needs no question: the window is full as far as this process knows."""
        if 0 < window.full_until - now <= WINDOW_MS:
            return Verdict(policy, False, self._limit, 0, _seconds(window.full_until - now))
        window.forget(now)
        if len(window.passed) < self._limit:
            return None
        return self._filled(policy, whom, window, window.passed[0], now)

    def _filled(self, policy: str, whom: str, window: _Window, oldest: int, now: int) -> Verdict:
        """Remember that no caller passes until the oldest is forgotten; logged once, however many come in between."""
        window.full_until = oldest + WINDOW_MS
        logger.warning("rate_limit.reached", policy=policy, whom=whom)
        return Verdict(policy, False, self._limit, 0, _seconds(window.full_until - now))


def _seconds(milliseconds: int) -> int:
    return min(max(-(-milliseconds // 1000), 1), WINDOW_SECONDS)


@lru_cache(maxsize=4096)
def _network_of(address: str | None) -> str:
    if address is None:
        return "unknown"
    given = ipaddress.ip_address(address)
    if isinstance(given, ipaddress.IPv4Address):
        return str(given)
    if given.ipv4_mapped is not None:
        return str(given.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(given) >> _IPV6_BITS << _IPV6_BITS)}/{_IPV6_BITS}"
