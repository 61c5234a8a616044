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
from app.core.enums import SWEEPS, WORKER_QUEUES, Queue
from app.core.logging import configure_logging

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

_EVERY_MINUTE = 60.0
_HOURLY = 3600.0
_FOUR_TIMES_A_DAY = 21600.0
"""Of what would do once a day: a beat whose schedule is lost at a restart begins to count again."""


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


def _beat_entry(name: str, seconds: float) -> BeatEntry:
    return {"task": f"app.tasks.scheduled_tasks.{name}", "schedule": seconds}


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
            "app.tasks.scheduled_tasks.*": {"queue": SWEEPS},
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
        "beat_schedule": {
            "cancel-unpaid-orders": _beat_entry("cancel_unpaid_orders", _EVERY_MINUTE),
            "expire-unreviewed-returns": _beat_entry("expire_unreviewed_returns", _EVERY_MINUTE),
            "remind-reviewers": _beat_entry("remind_reviewers", _EVERY_MINUTE),
            "daily-summary": _beat_entry("send_daily_summary", _EVERY_MINUTE),
            "forget-idempotency-keys": _beat_entry("forget_idempotency_keys", _EVERY_MINUTE),
            "remove-orphaned-attachments": _beat_entry("remove_orphaned_attachments", _HOURLY),
            "reconcile": _beat_entry("reconcile", _HOURLY),
            "reconcile-payments": _beat_entry("reconcile_payments", _FOUR_TIMES_A_DAY),
        },
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
