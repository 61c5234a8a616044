"""Metrics as Prometheus text: over the API, and on a port of their own for processes that serve no HTTP (NFR-006).

What the database knows better than any process (how many jobs wait) is read from it at scrape time by the caller and
rendered beside the counts. A Celery worker is several processes: they add up their counts in the folder that
`PROMETHEUS_MULTIPROC_DIR` names, and the parent shows the sum.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from socket import socket

import structlog
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.config import Settings
from app.core.monitoring import REGISTRY

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

logger = structlog.get_logger(__name__)


class _Gauges(Collector):
    """Values that were read a moment ago, in the shape that the exposition wants."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


def job_gauges(
    waiting: Mapping[tuple[str, str], int],
    oldest_due_seconds: Mapping[str, float],
    dead_letters: int,
    retrying: Mapping[str, int] | None = None,
    overdue: Mapping[str, int] | None = None,
    open_cases: int = 0,
) -> list[Metric]:
    """Return the gauges of the work.

    Args:
        waiting: (queue, state) → how many jobs, of the states that are not final.
        oldest_due_seconds: queue → age of the job that has been due for longest.
        dead_letters: how many wait for a person.
        retrying: queue → how many jobs wait for another try after a failure.
        open_cases: how many cases a person must decide.
        overdue: promise → how many cases are past it at this moment.
    """
    jobs = GaugeMetricFamily("articurated_jobs_waiting", "Unfinished jobs.", labels=["queue", "state"])
    for (queue, state), count in waiting.items():
        jobs.add_metric([queue, state], count)
    oldest = GaugeMetricFamily(
        "articurated_jobs_oldest_due_seconds", "Age of the job that has been due for longest.", labels=["queue"]
    )
    for queue, seconds in oldest_due_seconds.items():
        oldest.add_metric([queue], seconds)
    dead = GaugeMetricFamily("articurated_dead_letters", "Failed jobs that wait for a person.", value=dead_letters)
    again = GaugeMetricFamily(
        "articurated_jobs_retrying", "Jobs that wait for another try after a failure.", labels=["queue"]
    )
    for queue, count in (retrying or {}).items():
        again.add_metric([queue], count)
    late = GaugeMetricFamily("articurated_sla_overdue", "Cases that are past their promised time now.", labels=["sla"])
    for promise, count in (overdue or {}).items():
        late.add_metric([promise], count)
    cases = GaugeMetricFamily("articurated_cases_open", "Cases that a person must decide.", value=open_cases)
    return [jobs, oldest, dead, again, late, cases]


def backup_gauges(ages: tuple[float, float] | None, interval: float) -> list[Metric]:
    """Return the gauges of the backups, without values where none are known.

    Args:
        ages: seconds since the newest base backup, and since the moment up to which the log is kept.
        interval: seconds between two base backups.
    """
    backup = GaugeMetricFamily("articurated_backup_age_seconds", "Age of the newest base backup.", labels=[])
    log = GaugeMetricFamily(
        "articurated_backup_log_age_seconds",
        "Time since the moment up to which backups hold the database's log: so much is lost with the server.",
        labels=[],
    )
    due = GaugeMetricFamily("articurated_backup_interval_seconds", "BACKUP_EVERY_HOURS in seconds.", labels=[])
    if ages is not None:
        for family, value in ((backup, ages[0]), (log, ages[1]), (due, interval)):
            family.add_metric([], value)
    return [backup, log, due]


def of_api(gauges: Iterable[Metric] | None, others: Iterable[Metric] = ()) -> bytes:
    """Return all metrics as Prometheus text.

    Args:
        gauges: of the database; None when it could not be asked.
        others: gauges that need no database.
    """
    up = GaugeMetricFamily("articurated_database_up", "1 when the database answered this scrape.")
    up.add_metric([], 0 if gauges is None else 1)
    registry = _processes()
    registry.register(_Gauges([up, *(gauges or []), *others]))
    return generate_latest(registry)


def _processes() -> CollectorRegistry:
    """Return what this process has counted, or all of those that share a folder."""
    registry = CollectorRegistry()
    if folder := os.environ.get(FOLDER):
        registry.register(_SharedCounts(Path(folder)))
    else:
        registry.register(REGISTRY)
        ProcessCollector(registry=registry)
    return registry


class _SharedCounts(Collector):
    """The counts of all processes that use a folder, and the gauges of those that are alive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """Read the folder."""
        for file in self._folder.glob("gauge_live*_*.db"):
            with suppress(ValueError, PermissionError, FileNotFoundError):
                try:
                    os.kill(int(file.stem.rpartition("_")[2]), 0)
                except ProcessLookupError:
                    file.unlink()
        metrics: Iterable[Metric] = self._shared.collect()  # type: ignore[no-untyped-call]
        return metrics


_listening: list[socket] = []


def serve(settings: Settings) -> None:
    """Show this process's metrics on `PROMETHEUS_PORT`, if that is set, from a thread of its own.

    A port that cannot be had costs the metrics, never the process: the work goes on, and the log says so. Several
    processes that share a folder may be given one port: the one that has it shows the sum.
    """
    if not settings.prometheus_port:
        return
    where = {"host": settings.prometheus_host, "port": settings.prometheus_port}
    try:
        server, _ = start_http_server(settings.prometheus_port, settings.prometheus_host, _processes())
    except OSError as fault:
        logger.warning("metrics.not_shown", error=fault.strerror, **where)
        return
    _listening.append(server.socket)
    logger.info("metrics.shown", **where)


def leave_to_parent() -> None:
    """Let go of the port in a child process: the parent's thread answers there, and did not come with the fork."""
    while _listening:
        _listening.pop().close()
