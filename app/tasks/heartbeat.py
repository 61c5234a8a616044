"""Heartbeats: a key in Redis per worker, relay and beat, and a file for the supervisor of the process."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import redis
import structlog

from app.config import Settings, get_settings

logger = structlog.get_logger(__name__)

KEY_PREFIX = "articurated:alive:"
"""Followed by the part and the process's name; `app.services` health reads these. A worker's value is its queues."""

TTL_SECONDS = 30
INTERVAL_SECONDS = 5.0
_SOCKET_TIMEOUT_SECONDS = 0.5


class Heartbeat:
    """Keeps a process's key in Redis alive.

    Called from the process's own loop, so one that hangs, or that has lost what it works with, stops showing it. An
    outage of Redis is logged once at its start and once at its end.

    Args:
        part: worker, relay or beat.
    """

    def __init__(self, settings: Settings, part: str) -> None:
        self._part = part
        self._client = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=_SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=_SOCKET_TIMEOUT_SECONDS,
            retry=None,
        )
        self._next = 0.0
        self._failing = False

    def show(self, name: str, value: str = "") -> bool:
        """Renew the key of `name` when it is time; return whether Redis has it."""
        now = time.monotonic()
        if now < self._next:
            return not self._failing
        self._next = now + INTERVAL_SECONDS
        _renew_ready_file()
        try:
            self._client.set(f"{KEY_PREFIX}{self._part}:{name}", value, ex=TTL_SECONDS)
        except redis.RedisError as fault:
            if not self._failing:
                logger.warning("heartbeat.failed", part=self._part, error=type(fault).__name__)
            self._failing = True
            return False
        if self._failing:
            logger.info("heartbeat.recovered", part=self._part)
        self._failing = False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


_heartbeats: dict[tuple[int, str], Heartbeat] = {}


def _of_this_process(part: str) -> Heartbeat:
    key = (os.getpid(), part)
    if (heartbeat := _heartbeats.get(key)) is None:
        heartbeat = _heartbeats[key] = Heartbeat(get_settings(), part)
    return heartbeat


def worker(node: str, queues: Sequence[str]) -> None:
    """Renew this worker's key in Redis, with the queues that it takes from; at most once each `INTERVAL_SECONDS`."""
    _of_this_process("worker").show(node, ",".join(queues))


def process(part: str) -> None:
    """Renew the key of this relay or beat; at most once each `INTERVAL_SECONDS`."""
    _of_this_process(part).show(f"{os.uname().nodename}:{os.getpid()}")


def ready() -> None:
    """Touch the file that READY_FILE names, if it does: this process does its work from now on."""
    if name := os.environ.get("READY_FILE"):
        Path(name).touch()


def _renew_ready_file() -> None:
    """Make that file young again, when it is there: a container's health check looks at its age."""
    if name := os.environ.get("READY_FILE"):
        with suppress(OSError):
            os.utime(name)
