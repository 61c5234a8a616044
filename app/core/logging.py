"""Structured logs: one JSON object a line on stderr, from every library (NFR-006).

Loggers of libraries go through the same formatter. What users send never becomes part of a log's text:
events are fixed words with fields, and the JSON encoder escapes what a field holds.
"""

import asyncio
import atexit
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from select import PIPE_BUF
from threading import get_ident
from typing import Any, Required, TextIO, TypedDict, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from app.config import Settings
from app.core.monitoring import log_lines_dropped
from app.utils.redaction import without_addresses

# Their messages quote the values that were sent, people's names and addresses among them.
_QUOTING_PACKAGES = ("sqlalchemy", "psycopg", "pydantic", "pydantic_core", "jwt")


# Python's own errors whose messages repeat the value that was wrong: "invalid literal for int(): 'Ada Lovelace'".
_QUOTING_TYPES = (ValueError, LookupError)
_MESSAGE_LENGTH = 1000
_ENTITY_PATH = re.compile(
    r"/api/v1/(order|return|refund)s/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?:/|$)"
)


def entity_of_path(path: str) -> dict[str, str]:
    """Return what a path of the API is about, for the log: `{"order_id": "018f…"}`, or nothing."""
    found = _ENTITY_PATH.match(path)
    return {f"{found[1]}_id": found[2].lower()} if found else {}


class ExceptionFacts(TypedDict, total=False):
    """An exception as a log line has it.

    Attributes:
        type: module and name of its class; always there.
        stack: file, line and function of each frame, outermost first; always there.
        message: where it cannot quote data.
        sqlstate, constraint: of an error of the database.
        cause: the exception that it was raised from, or while handling.
    """

    type: Required[str]
    sqlstate: str
    constraint: str
    message: str
    stack: list[str]
    cause: "ExceptionFacts"


def describe_exception(fault: BaseException, depth: int = 4) -> ExceptionFacts:
    """Return an exception for a log: its type, where it was raised, what caused it, and its message.

    The message is left out where it may quote data, and mail addresses are taken out of every other; of a database
    error the SQLSTATE and the constraint are given instead. `depth` is how many causes are followed.
    """
    described: ExceptionFacts = {"type": f"{type(fault).__module__}.{type(fault).__qualname__}"}
    package = type(fault).__module__.partition(".")[0]
    if package in _QUOTING_PACKAGES:
        original = getattr(fault, "orig", fault)
        if sqlstate := getattr(original, "sqlstate", None):
            described["sqlstate"] = sqlstate
        if constraint := getattr(getattr(original, "diag", None), "constraint_name", None):
            described["constraint"] = constraint
    elif package == "app" or not isinstance(fault, _QUOTING_TYPES):
        described["message"] = without_addresses(str(fault), _MESSAGE_LENGTH)
    frames = traceback.extract_tb(fault.__traceback__)[-25:]
    described["stack"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    cause = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    if cause is not None and depth > 0:
        described["cause"] = describe_exception(cause, depth - 1)
    return described


def _exception_of(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    given = exc_info if isinstance(exc_info, tuple) else sys.exc_info()
    fault = given[1] if exc_info else None
    return fault if isinstance(fault, BaseException) else None


def _render_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    fault = _exception_of(event.pop("exc_info", None))
    if fault is not None:
        event["exception"] = describe_exception(fault)
    return event


def _to_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    ordered = {"at": event.pop("at"), "level": event.pop("level"), "event": event.pop("event"), **event}
    return orjson.dumps(ordered, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS).decode()


def _renderer(settings: Settings) -> list[Processor]:
    if settings.log_format == "console":
        plain = structlog.dev.plain_traceback  # the rich one prints local variables: customers' data
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [_render_exception, _to_json]


class LossyStream:
    """A text stream that drops what it cannot write: no request and no job fails for its log line (NFR-003).

    What was dropped is counted; once the log can be written again, a line says how many were lost.

    A process that serves many requests at once gathers the lines of one turn of its loop (`gather`): a system call for
    each took a twentieth of the time of a light request.

    Args:
        stream: where to write; its file descriptor is used when it has one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._dropped = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._gathered: list[bytes] = []
        try:
            self._descriptor = stream.fileno()
        except OSError:  # What a stream in memory raises.
            self._descriptor = -1

    def gather(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Write the lines of one turn of a loop together, at its end; each at once when there is none.

        Args:
            loop: the running loop, whose thread calls.
        """
        self.write_gathered()
        self._loop, self._thread = loop, get_ident()
        if loop is not None:
            atexit.register(self.write_gathered)
        else:
            atexit.unregister(self.write_gathered)

    def write(self, text: str) -> int:
        """Write, or drop and count."""
        line = text.encode(errors="backslashreplace")
        if self._loop is None or get_ident() != self._thread:
            self._write(line)
            return len(text)
        if not self._gathered:
            self._loop.call_soon(self.write_gathered)
        self._gathered.append(line)
        return len(text)

    def write_gathered(self) -> None:
        """Write the lines that wait for the end of the turn.

        Not more at once than a pipe takes in one piece: the lines of processes that share it stay whole.
        """
        lines, self._gathered = self._gathered, []
        together = b""
        for line in lines:
            if together and len(together) + len(line) > PIPE_BUF:
                self._write(together)
                together = b""
            together += line
        if together:
            self._write(together)

    def _write(self, left: bytes) -> None:
        # Not through the stream, where it has a descriptor: an unbuffered one ignores that only a part was written.
        try:
            if self._dropped:
                # The full disk may have taken a part of a line: the line break ends it.
                self._put(f"\n{_dropped_line(self._dropped)}\n".encode())
                self._dropped = 0
            while left:
                left = left[self._put(left) :]
        except OSError:
            # A line that was written in part is lost too: its end is in what is left.
            lost = max(left.count(b"\n"), 1)
            self._dropped += lost
            log_lines_dropped(lost)

    def flush(self) -> None:
        """Do nothing: loggers call it after each line, and no line waits longer than a turn of the loop."""

    def isatty(self) -> bool:
        """Return whether a person may be looking."""
        return self._stream.isatty()

    def _put(self, data: bytes) -> int:
        if self._descriptor < 0:
            self._stream.write(data.decode())
            return len(data)
        return os.write(self._descriptor, data)


def _dropped_line(lines: int) -> str:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return orjson.dumps({"at": at, "level": "warning", "event": "log.lines_dropped", "lines": lines}).decode()


def configure_logging(settings: Settings, stream: TextIO | None = None) -> LossyStream:
    """Send every log of this process, ours and the libraries', to stderr in the configured form; return where it goes.

    Args:
        settings: level and form.
        stream: where to write instead, for tests.
    """
    output = LossyStream(stream or sys.stderr)
    level = logging.getLevelNamesMapping()[settings.log_level]
    stamps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    structlog.configure(
        processors=[*stamps, *_renderer(settings)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", output)),
        cache_logger_on_first_use=stream is None,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *stamps],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(settings)],
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # It logs the address of every call that it makes.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # The access log is our own, with the request's id and caller.
    logging.getLogger("uvicorn.access").disabled = True
    return output
