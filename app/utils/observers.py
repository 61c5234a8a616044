"""Who listens to what the utils do. Utils know nothing of metrics; `app.core.monitoring` puts itself here."""

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Method = Callable[_P, Awaitable[_T]]


def _nobody(_operation: str, _outcome: str, _seconds: float) -> None:
    """Hear nothing."""


storage_used: Callable[[str, str, float], None] = _nobody
"""Called for each operation on the document storage: its name, how it ended (ok, exists, missing, failed), seconds."""


def observed_storage(
    operation: str, outcomes: Mapping[type[Exception], str]
) -> Callable[[_Method[_P, _T]], Callable[_P, Coroutine[Any, Any, _T]]]:
    """Return the decorator that reports each call to `storage_used` of a storage's method.

    Args:
        operation: name of the method, for the metric.
        outcomes: exception → how the call ended; one that is not listed says nothing of the storage, and is not reported.
    """

    def decorate(method: _Method[_P, _T]) -> Callable[_P, Coroutine[Any, Any, _T]]:
        @wraps(method)
        async def observed(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            started = time.perf_counter()
            try:
                result = await method(*args, **kwargs)
            except tuple(outcomes) as fault:
                outcome = next(told for kind, told in outcomes.items() if isinstance(fault, kind))
                storage_used(operation, outcome, time.perf_counter() - started)
                raise
            storage_used(operation, "ok", time.perf_counter() - started)
            return result

        return observed

    return decorate
