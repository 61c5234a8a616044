"""What a process counts for Prometheus (NFR-006); `exposition` shows it.

Where several processes are to be read as one, `PROMETHEUS_MULTIPROC_DIR` names the folder in which they add up
their counts; it has to be set before this module is imported.

A label takes its values from a short fixed list, or from the routes and job kinds of this code: never from a
request, so callers cannot make up time series, and no metric names a person.
"""

from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.core import counts_file
from app.utils import observers

counts_file.install()
REGISTRY = CollectorRegistry()
REQUESTS = Counter(
    "articurated_http_requests_total", "Requests answered.", ["method", "route", "status"], registry=REGISTRY
)
LATENCY = Histogram(
    "articurated_http_request_duration_seconds",
    "Time from the request's arrival to the end of its answer.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)
TRANSITIONS = Counter(
    "articurated_transitions_total", "Transitions made.", ["entity", "from_state", "to_state"], registry=REGISTRY
)
REJECTIONS = Counter(
    "articurated_transition_rejections_total",
    "Transitions refused by the table.",
    ["entity", "from_state", "to_state"],
    registry=REGISTRY,
)
RATE_LIMITED = Counter("articurated_rate_limited_total", "Requests refused with 429.", registry=REGISTRY)
UNAUTHENTICATED = Counter("articurated_unauthenticated_total", "Requests refused with 401.", registry=REGISTRY)
REPLAYS = Counter(
    "articurated_idempotent_replays_total", "Requests answered again from their idempotency key.", registry=REGISTRY
)
JOBS = Counter(
    "articurated_jobs_total",
    "Jobs that came to an end of a try.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
JOB_SECONDS = Histogram(
    "articurated_job_duration_seconds",
    "Time a try of a job took.",
    ["kind"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
JOB_PICKUP = Histogram(
    "articurated_job_pickup_seconds",
    "Time from when a job was due to when a worker took it; 30 s are promised.",
    ["queue"],
    buckets=(0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 600),
    registry=REGISTRY,
)
JOB_COMPLETION = Histogram(
    "articurated_job_completion_seconds",
    "Time from when a job was made to its success; 5 min are promised for an invoice, 2 h for a refund.",
    ["kind"],
    buckets=(1, 5, 30, 60, 300, 900, 3600, 7200, 86400),
    registry=REGISTRY,
)
RELAYED = Counter(
    "articurated_relay_messages_total",
    "Messages that the relay sent, by the state in which it found the job; PENDING is the usual one.",
    ["queue", "state"],
    registry=REGISTRY,
)
RELAY_INTERRUPTIONS = Counter(
    "articurated_relay_interruptions_total", "Turns of the relay that an outage ended.", registry=REGISTRY
)
BEAT_TICKS = Counter("articurated_beat_ticks_total", "Looks of beat at its schedule.", registry=REGISTRY)
SWEPT = Counter("articurated_sweeps_total", "Cases that a tick of the clock took on.", ["sweep"], registry=REGISTRY)
GATEWAY_CALLS = Counter(
    "articurated_gateway_calls_total", "Calls to the payment gateway.", ["operation", "outcome"], registry=REGISTRY
)
GATEWAY_SECONDS = Histogram(
    "articurated_gateway_call_duration_seconds",
    "Time a call to the payment gateway took.",
    ["operation"],
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
GATEWAY_BREAKER = Gauge(
    "articurated_gateway_breaker_open",
    "1 while a process leaves the failing gateway in peace.",
    multiprocess_mode="livemax",
    registry=REGISTRY,
)
NOTIFICATIONS = Counter(
    "articurated_notifications_total",
    "Tries to send a message; unavailable ones are tried again.",
    ["channel", "outcome"],
    registry=REGISTRY,
)
STORAGE_CALLS = Counter(
    "articurated_storage_operations_total",
    "Operations on the document storage.",
    ["operation", "outcome"],
    registry=REGISTRY,
)
STORAGE_SECONDS = Histogram(
    "articurated_storage_operation_duration_seconds",
    "Time an operation on the document storage took.",
    ["operation"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
ERRORS_REPORTED = Counter(
    "articurated_faults_total",
    "Internal errors: answers 500, jobs that became dead letters or raised an unexpected error.",
    registry=REGISTRY,
)
LOG_LINES_DROPPED = Counter(
    "articurated_log_lines_dropped_total", "Log lines that could not be written.", registry=REGISTRY
)
UNKNOWN_ROUTE = "(none)"
"""Label of requests that no route took: a label from the path would let anyone make up time series."""

_requests: dict[tuple[str, str, int], Counter] = {}
_latencies: dict[tuple[str, str], Histogram] = {}


def request_answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answered request; `route` is the template of its path."""
    key = (method, route, status)
    counter = _requests.get(key)
    if counter is None:
        counter = _requests[key] = REQUESTS.labels(method, route, str(status))
        _latencies[key[:2]] = LATENCY.labels(method, route)
    counter.inc()
    _latencies[key[:2]].observe(seconds)
    if status == HTTPStatus.UNAUTHORIZED:
        UNAUTHENTICATED.inc()
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        RATE_LIMITED.inc()


def replayed() -> None:
    """Count a request that was answered from its idempotency key."""
    REPLAYS.inc()


def transition_made(entity: str, from_state: str, to_state: str) -> None:
    """Count a transition."""
    TRANSITIONS.labels(entity, from_state, to_state).inc()


def transition_refused(entity: str, from_state: str, to_state: str) -> None:
    """Count an attempt that the table refused."""
    REJECTIONS.labels(entity, from_state, to_state).inc()


def job_picked_up(queue: str, waited_seconds: float) -> None:
    """Note how long a job that is now begun had been due."""
    JOB_PICKUP.labels(queue).observe(max(waited_seconds, 0.0))


def job_tried(kind: str, outcome: str, seconds: float) -> None:
    """Count a try of a job that ended as `outcome`, e.g. succeeded, postponed, dead_lettered, lease_lost."""
    JOBS.labels(kind, outcome).inc()
    JOB_SECONDS.labels(kind).observe(seconds)


def job_completed(kind: str, seconds_since_made: float) -> None:
    """Note how long it took from a job's making to its success."""
    JOB_COMPLETION.labels(kind).observe(max(seconds_since_made, 0.0))


def relayed(queue: str, state: str, messages: int) -> None:
    """Count messages that the relay sent for jobs which it found in `state`."""
    RELAYED.labels(queue, state).inc(messages)


def relay_interrupted() -> None:
    """Count a turn of the relay that an outage ended."""
    RELAY_INTERRUPTIONS.inc()


def beat_ticked() -> None:
    """Count a look of beat at its schedule."""
    BEAT_TICKS.inc()


def swept(sweep: str, cases: int) -> None:
    """Count the cases that a sweep took on."""
    SWEPT.labels(sweep).inc(cases)


def gateway_called(operation: str, outcome: str, seconds: float) -> None:
    """Count a call to the payment gateway: which of the port's operations, and how it ended."""
    GATEWAY_CALLS.labels(operation, outcome).inc()
    GATEWAY_SECONDS.labels(operation).observe(seconds)


def gateway_breaker(*, is_open: bool) -> None:
    """Show the state of this process's circuit breaker."""
    GATEWAY_BREAKER.set(int(is_open))


def notification_tried(channel: str, outcome: str) -> None:
    """Count a try to send a message: by email, sms, …; sent, rejected (permanent) or unavailable (temporary)."""
    NOTIFICATIONS.labels(channel, outcome).inc()


def storage_used(operation: str, outcome: str, seconds: float) -> None:
    """Count an operation on the document storage: its name, and ok, exists, missing or failed."""
    STORAGE_CALLS.labels(operation, outcome).inc()
    STORAGE_SECONDS.labels(operation).observe(seconds)


def log_lines_dropped(lines: int) -> None:
    """Count log lines that could not be written."""
    LOG_LINES_DROPPED.inc(lines)


def fault_met() -> None:
    """Count a fault of ours."""
    ERRORS_REPORTED.inc()


observers.storage_used = storage_used
