"""A circuit breaker for the payment gateway: stop asking one that keeps failing (NFR-003).

Closed: calls pass; `threshold` failures in a row open it. Open: calls are refused at once for
`open_seconds`. Then one call is let through as a probe; its success closes the circuit, its failure opens it
again, and until it is decided the others are refused. A failure is an unknown outcome or an unavailable
gateway: an answer, be it a decline, shows that the gateway lives. A cancelled call shows nothing.

One breaker serves one adapter on one event loop; processes do not share it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.core import monitoring
from app.services.payments.gateway.port import GatewayCircuitOpen, GatewayOutcomeUnknown, GatewayUnavailable

_PROBE_WAIT_SECONDS = 1.0


class CircuitBreaker:
    """Counts failures and refuses calls while open."""

    def __init__(
        self,
        *,
        threshold: int = 5,
        open_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a closed breaker.

        Args:
            threshold: failures in a row that open it.
            open_seconds: how long it stays open before a probe.
            clock: monotonic seconds.
        """
        self._threshold = threshold
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open, also while it waits for the verdict of a probe."""
        return self._opened_at is not None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Make the call inside this block, or be refused.

        Raises:
            GatewayCircuitOpen: refused; `retry_after` says when to come back.
        """
        probe = self._admit()
        try:
            yield
        except (GatewayOutcomeUnknown, GatewayUnavailable):
            self._failed(probe=probe)
            raise
        except BaseException:
            if probe:
                self._probing = False
            raise
        self._succeeded(probe=probe)

    def _admit(self) -> bool:
        """Let a call through; return whether it is the probe."""
        if self._opened_at is None:
            return False
        left = self._opened_at + self._open_seconds - self._clock()
        if left > 0:
            raise GatewayCircuitOpen(left)
        if self._probing:
            raise GatewayCircuitOpen(_PROBE_WAIT_SECONDS)
        self._probing = True
        return True

    def _failed(self, *, probe: bool) -> None:
        if probe:
            self._probing = False
            self._opened_at = self._clock()
            return
        self._failures += 1
        if self._opened_at is None and self._failures >= self._threshold:
            self._opened_at = self._clock()
            monitoring.gateway_breaker(is_open=True)

    def _succeeded(self, *, probe: bool) -> None:
        """Close after a probe; a call that began before the circuit opened says nothing about now."""
        if probe:
            self._probing = False
            self._opened_at = None
            monitoring.gateway_breaker(is_open=False)
        if self._opened_at is None:
            self._failures = 0
