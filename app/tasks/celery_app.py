"""The Celery application: queues, routes, limits and the beat schedule (REQ-004).

Redis carries wake-ups and nothing else, so every setting here may lose or double a message without harm to anyone;
what they are chosen for is to lose few, to notice soon, and never to give up.
"""

import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypedDict, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

from celery import Celery, signals
from kombu.entity import Queue as CeleryQueue

from app.config import get_settings
from app.core.enums import WORKER_QUEUES, Queue
from app.core.logging import configure_logging
from app.tasks.schedule import SCHEDULE

_P = ParamSpec("_P")
_T = TypeVar("_T")

TIME_LIMIT_SECONDS = 30
"""After this Celery kills the process. A job ends itself earlier: `runner.JOB_TIME_LIMIT`."""

TASKS = {
    Queue.INVOICES: "app.tasks.invoice_tasks.generate_invoice",
    Queue.REFUNDS: "app.tasks.refund_tasks.process_refund",
    Queue.NOTIFICATIONS: "app.tasks.notification_tasks.send_notification",
}
"""The task that carries out the jobs of a queue; its one argument is the job id.

The names are in messages: during an upgrade, processes of two releases send them to each other. They name no module of today.
"""


def broker_url(redis_url: str) -> str:
    """Return the broker address as kombu spells it: a Unix socket is `redis+socket://` there."""
    if not redis_url.startswith("unix://"):
        return redis_url
    parts = urlsplit(redis_url)
    credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{credentials}{parts.path}?{urlencode({'virtual_host': database})}"


class BeatEntry(TypedDict):
    """A line of the beat schedule: a task, and its interval in seconds."""

    task: str
    schedule: float


def beat_schedule() -> dict[str, BeatEntry]:
    """Return the schedule of beat: the name of each tick → its task and interval."""
    return {
        sweep.name.replace("_", "-"): {"task": sweep.task, "schedule": sweep.interval.total_seconds()}
        for sweep in SCHEDULE
    }


def configuration() -> dict[str, Any]:
    """Return the Celery settings for the configured broker, as measured under kills and restarts."""
    return {
        "broker_url": broker_url(get_settings().redis_url),
        # The default gives up after 100 tries; a worker is to outlive any outage of Redis.
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "visibility_timeout": 300,
            # A sweep each 15 s instead of each 100: a killed worker's message comes back soon after its timeout.
            "unacked_restore_interval": 15,
            "unacked_restore_throttle": 1,
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        },
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_time_limit": TIME_LIMIT_SECONDS,
        "worker_soft_shutdown_timeout": 20,
        # What Redis answers with an error while its disk is full, or while it loads: the worker waits instead of ending.
        "broker_channel_error_retry": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "task_create_missing_queues": False,
        # Objects, not a mapping, which Celery takes as well: Flower reads their names.
        "task_queues": [CeleryQueue(queue, routing_key=queue) for queue in WORKER_QUEUES],  # type: ignore[no-untyped-call]
        "task_default_queue": Queue.NOTIFICATIONS.value,
        "task_default_routing_key": Queue.NOTIFICATIONS.value,
        "task_routes": {
            **{name: {"queue": queue.value} for queue, name in TASKS.items()},
            **{sweep.task: {"queue": sweep.queue} for sweep in SCHEDULE},
        },
        # Flower lives on these; arguments are job ids, so events say nothing about anyone.
        "worker_send_task_events": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
        "timezone": "UTC",
        "beat_scheduler": "app.tasks.beat:Scheduler",
        # It shows itself as often as it looks; the default, 300 s, would make it look dead.
        "beat_max_loop_interval": 5,
        "beat_schedule": beat_schedule(),
    }


celery_app = Celery(
    "articurated",
    include=[
        "app.tasks.job_tasks",
        "app.tasks.scheduled_tasks",
        "app.tasks.worker_process",
    ],
)
celery_app.add_defaults(configuration)


def task(name: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Return the decorator that makes a function the task `name`; called, it is still that function."""
    decorator: Callable[[Callable[_P, _T]], Callable[_P, _T]] = celery_app.task(name=name)
    return decorator


def _setup_logging(**_: Any) -> None:
    """Take the place of Celery's own logging: the same structured lines from every process.

    Its two lines a message would say again what the runner's own say better.
    """
    configure_logging(get_settings())
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


signals.setup_logging.connect(_setup_logging)
