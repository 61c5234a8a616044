"""Faults of ours, reported to Sentry where `SENTRY_DSN` is set (NFR-006).

Nothing is imported, kept or sent without it. With it, only what `report` is given leaves this process: no integration
listens in, so no request, header, body, query or local variable can come along, and what is sent is put together here
from a short list of members. The message of an exception is sent only when one of our own classes made it; others may
quote a value, so of those only the type and the place are sent.
"""

from typing import TYPE_CHECKING, Any, TypedDict, cast

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app import __version__
from app.config import Settings
from app.core import monitoring
from app.utils.json_values import JsonObject
from app.utils.redaction import without_addresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentry_sdk.types import Event, Hint

FLUSH_SECONDS = 2.0
TAGS = ("request_id", "order_id", "return_id", "refund_id", "job_id", "job_kind", "method", "route")
"""What a report is found by: ids and fixed words, bound where the log lines have them too."""

_SENT = ("event_id", "timestamp", "level", "platform", "release", "environment", "server_name", "sdk", "tags")
_MESSAGE_LENGTH = 1000
_MECHANISM = ("type", "handled", "exception_id", "parent_id", "source", "is_exception_group")
_OURS = "app."

_report: "Callable[[BaseException, dict[str, str]], None] | None" = None


class ScrubbedFrames(TypedDict):
    """The stack of an exception, as Sentry has it: frames without local variables, outermost first."""

    frames: list[JsonObject]


class ScrubbedException(TypedDict):
    """An exception as it is sent.

    Attributes:
        value: its message, empty where one of our own classes did not make it.
        mechanism: how it was caught.
    """

    type: str | None
    module: str | None
    value: str
    mechanism: JsonObject
    stacktrace: ScrubbedFrames


def configure(settings: Settings, process: str, **options: Any) -> None:
    """Report this process's faults from now on, if `SENTRY_DSN` is set.

    Args:
        settings: address and environment.
        process: api, worker, relay or beat.
        options: of the Sentry client, for tests.
    """
    dsn = settings.sentry_dsn.get_secret_value()
    if not dsn:
        return
    # Imported here: most installations have no such address, and none should pay for it.
    import sentry_sdk  # noqa: PLC0415
    from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.dedupe import DedupeIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration  # noqa: PLC0415

    sentry_sdk.init(
        dsn=dsn,
        release=f"articurated@{__version__}",
        environment=settings.environment,
        server_name=process,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            AtexitIntegration(callback=lambda _pending, _timeout: None),
            DedupeIntegration(),
            ExcepthookIntegration(),
        ],
        # `send_default_pii` is False unless set, and to set it, even to that, is deprecated.
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        traces_sample_rate=None,
        auto_session_tracking=False,
        shutdown_timeout=FLUSH_SECONDS,
        before_send=scrubbed,
        **options,
    )

    def send(fault: BaseException, tags: dict[str, str]) -> None:
        with sentry_sdk.new_scope() as scope:
            for name, value in tags.items():
                scope.set_tag(name, value)
            scope.set_tag("process", process)
            scope.capture_exception(fault)

    global _report  # noqa: PLW0603 - one client a process, as Sentry has it too
    _report = send


def report(fault: BaseException, **facts: str) -> None:
    """Count a fault of ours, and report it where that is configured, under the ids that are bound to the log.

    Args:
        fault: the exception.
        facts: more tags, of `TAGS`.
    """
    monitoring.fault_met()
    if _report is not None:
        known = {**structlog.contextvars.get_contextvars(), **facts}
        _report(fault, {name: str(known[name]) for name in TAGS if known.get(name) is not None})


def flush() -> None:
    """Wait, for a moment, until what was reported has been sent."""
    if _report is not None:
        import sentry_sdk  # noqa: PLC0415 - it is there: `configure` brought it

        sentry_sdk.flush(FLUSH_SECONDS)


def is_outage(fault: BaseException) -> bool:
    """Return whether an error means a part that is away or a refusal, which is expected, and not a fault of ours."""
    if isinstance(fault, DBAPIError):
        return isinstance(fault, OperationalError | InterfaceError) or fault.connection_invalidated
    # TimeoutError: ours, asyncio's (the same), and that of a pool without a free connection.
    if isinstance(fault, OSError | PoolTimeoutError):
        return True
    return hasattr(fault, "retryable") or hasattr(fault, "consumes_retry")


def scrubbed(event: "Event", _hint: "Hint | None") -> "Event":
    """Return an event with nothing in it but where a fault happened, of what type, and under which ids."""
    kept = {name: value for name, value in event.items() if name in _SENT}
    raised = (event.get("exception") or {}).get("values") or []
    kept["exception"] = {"values": [_exception(each) for each in raised]}
    return cast("Event", kept)


def _exception(raised: JsonObject) -> ScrubbedException:
    module = str(raised.get("module") or "")
    message = str(raised.get("value") or "") if module.startswith(_OURS) else ""
    frames: list[JsonObject] = [
        {name: value for name, value in frame.items() if name != "vars"}
        for frame in (raised.get("stacktrace") or {}).get("frames") or []
    ]
    return {
        "type": raised.get("type"),
        "module": raised.get("module"),
        "value": without_addresses(message, _MESSAGE_LENGTH),
        "mechanism": {name: value for name, value in (raised.get("mechanism") or {}).items() if name in _MECHANISM},
        "stacktrace": {"frames": frames},
    }
