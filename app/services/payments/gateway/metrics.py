"""Counts and times the calls to the payment gateway by operation and by what they mean for the money (NFR-006)."""

import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from app.core import monitoring
from app.services.payments.gateway.port import (
    GatewayCircuitOpen,
    GatewayDeclined,
    GatewayError,
    GatewayOutcomeUnknown,
    GatewayRejected,
    GatewayUnavailable,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")

OUTCOMES: dict[type[GatewayError], str] = {
    GatewayDeclined: "declined",
    GatewayRejected: "rejected",
    GatewayCircuitOpen: "circuit_open",
    GatewayUnavailable: "unavailable",
    GatewayOutcomeUnknown: "unknown",
}
"""How a failed call ended, as the metric calls it; a call that did not fail `succeeded`."""


def metered(
    operation: str,
) -> Callable[[Callable[_P, Awaitable[_T]]], Callable[_P, Coroutine[Any, Any, _T]]]:
    """Return the decorator that counts each call of an adapter's method as `operation`."""

    def decorate(method: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
        @wraps(method)
        async def counted(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            started = time.perf_counter()
            try:
                result = await method(*args, **kwargs)
            except GatewayError as fault:
                monitoring.gateway_called(operation, OUTCOMES[type(fault)], time.perf_counter() - started)
                raise
            monitoring.gateway_called(operation, "succeeded", time.perf_counter() - started)
            return result

        return counted

    return decorate
