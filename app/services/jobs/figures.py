"""The state of the work at this moment, from indexes that hold little else than what is unfinished.

Read for each scrape of `/metrics` and each look at `/health`, so it must stay cheap however many jobs are done.
"""

from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

INVOICE_SECONDS = 300
REFUND_SECONDS = 7200
PICKUP_SECONDS = 30
"""What is promised (REQ-004): an invoice after shipping, a refund after it became due, a job after it became due."""

RECENT_SECONDS = 60
"""A dependency that failed a job within this time counts as in trouble, even where a single check finds it well."""


@dataclass(frozen=True, slots=True)
class JobFigures:
    """The jobs that are not done, and whether any can be.

    Attributes:
        waiting: (queue, state) → how many.
        oldest_due_seconds: queue → for how long the first of them has been due.
        open_cases: how many cases a person must decide.
        dead_letters: how many were given up and wait for a person.
        retrying: queue → how many wait for another try after a failure.
        failed_lately: name of an error → how many jobs wait that it struck within the last minute.
        overdue: review, invoice, refund, pickup → how many cases are past what is promised.
        is_read_only: whether the server that was asked takes no writes.
    """

    waiting: dict[tuple[str, str], int]
    oldest_due_seconds: dict[str, float]
    dead_letters: int
    retrying: dict[str, int] = field(default_factory=dict)
    failed_lately: dict[str, int] = field(default_factory=dict)
    overdue: dict[str, int] = field(default_factory=dict)
    is_read_only: bool = False
    open_cases: int = 0


# Each state is in the statement itself, or the planner could not know that the state's own partial index answers
# it, however many jobs are done. A job for later has a negative age; a running one is not waiting any more.
_WAITING = text("""
    SELECT queue, state, cases, age FROM (
        SELECT queue, 'PENDING' AS state, count(*) AS cases, extract(epoch FROM now() - min(run_at))::float8 AS age
        FROM jobs WHERE state = 'PENDING' GROUP BY queue
        UNION ALL
        SELECT queue, 'PUBLISHED', count(*), extract(epoch FROM now() - min(run_at))::float8
        FROM jobs WHERE state = 'PUBLISHED' GROUP BY queue
        UNION ALL
        SELECT queue, 'RUNNING', count(*), NULL FROM jobs WHERE state = 'RUNNING' GROUP BY queue
    ) AS unfinished
""")
_AGAIN = text(f"""
    SELECT queue, split_part(last_error, ':', 1) AS error, count(*) AS cases,
        count(*) FILTER (WHERE started_at > now() - interval '{RECENT_SECONDS} seconds') AS lately
    FROM jobs WHERE state = 'PENDING' AND last_error IS NOT NULL GROUP BY 1, 2
""")  # noqa: S608 - a number of this module
_OVERDUE = text(f"""
    SELECT
        current_setting('transaction_read_only') = 'on' AS is_read_only,
        (SELECT count(*) FROM dead_letters WHERE resolution IS NULL) AS dead,
        (SELECT count(*) FROM cases WHERE state = 'OPEN') AS open_cases,
        (SELECT count(*) FROM return_requests
            WHERE status = 'REQUESTED' AND created_at < now() - make_interval(hours => :review_hours)) AS review,
        (SELECT count(*) FROM jobs WHERE state = 'PENDING' AND kind = 'invoice.issue'
                AND created_at < now() - interval '{INVOICE_SECONDS} seconds')
            + (SELECT count(*) FROM jobs WHERE state = 'PUBLISHED' AND kind = 'invoice.issue'
                AND created_at < now() - interval '{INVOICE_SECONDS} seconds')
            + (SELECT count(*) FROM jobs WHERE state = 'RUNNING' AND kind = 'invoice.issue'
                AND created_at < now() - interval '{INVOICE_SECONDS} seconds')
            + (SELECT count(*) FROM dead_letters WHERE resolution IS NULL AND kind = 'invoice.issue') AS invoice,
        (SELECT count(*) FROM refunds WHERE state IN ('PENDING', 'PROCESSING', 'UNKNOWN', 'FAILED')
            AND released_at IS NULL AND created_at < now() - interval '{REFUND_SECONDS} seconds'
            AND NOT EXISTS (SELECT FROM payments p WHERE p.id = refunds.payment_id AND p.refunds_held_by IS NOT NULL)
            ) AS refund,
        (SELECT count(*) FROM jobs
            WHERE state = 'PENDING' AND run_at < now() - interval '{PICKUP_SECONDS} seconds')
            + (SELECT count(*) FROM jobs
                WHERE state = 'PUBLISHED' AND run_at < now() - interval '{PICKUP_SECONDS} seconds') AS pickup
""")  # noqa: S608 - numbers of this module


async def job_figures(connection: AsyncConnection, review_hours: int) -> JobFigures:
    """Return the state of the work; `review_hours` is what is promised for the review of a return."""
    waiting: dict[tuple[str, str], int] = {}
    oldest: dict[str, float] = {}
    for queue, state, cases, age in await connection.execute(_WAITING):
        waiting[queue, state] = cases
        if age is not None:
            oldest[queue] = max(oldest.get(queue, 0.0), age, 0.0)
    retrying: dict[str, int] = {}
    lately: dict[str, int] = {}
    for queue, error, cases, recent in await connection.execute(_AGAIN):
        retrying[queue] = retrying.get(queue, 0) + cases
        if recent:
            lately[error] = lately.get(error, 0) + recent
    counts = (await connection.execute(_OVERDUE, {"review_hours": review_hours})).one()._asdict()
    is_read_only = counts.pop("is_read_only")
    open_cases = counts.pop("open_cases")
    return JobFigures(waiting, oldest, counts.pop("dead"), retrying, lately, counts, is_read_only, open_cases)
