"""The processes behind `articurated worker`, `beat` and `relay`: each runs until it is stopped."""

import asyncio
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from app.config import Settings, SettingsError, get_settings
from app.config_rules import is_reachable
from app.core.enums import SWEEPS, Queue
from app.database import Database
from app.services.operations.redis_check import refuse_cluster
from app.services.operations.schema_check import verify_schema


def run_worker(concurrency: int = 2, queues: Sequence[str] = tuple(Queue)) -> None:
    """Run a Celery worker until SIGTERM.

    On SIGTERM it takes no more messages, lets running jobs end for up to 20 seconds, and then gives their messages
    back: a supervisor should wait for 25 before it kills. SIGKILL loses nothing either, it only costs the lease.

    Args:
        concurrency: child processes, each doing one job at a time.
        queues: the queues of jobs to take from; it takes the ticks of beat too, always.

    Raises:
        SettingsError: the configuration cannot be used, or production would use a substitute for development,
            or REDIS_URL leads to a cluster.
        SchemaMismatchError: the database is not the one that this code was written for, or is away.
    """
    # Read by Celery when it is imported, so before the import below: SIGTERM ends with the soft shutdown.
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
    settings = get_settings()
    with _shared_counts(settings):
        from app.tasks.celery_app import celery_app  # noqa: PLC0415 - see above

        asyncio.run(_verify(settings))
        celery_app.worker_main(
            [
                "--quiet",
                "worker",
                f"--concurrency={concurrency}",
                f"--queues={','.join(dict.fromkeys((*queues, SWEEPS)))}",
                f"--hostname=worker-{os.getpid()}@%h",
                f"--loglevel={settings.log_level}",
                # Workers have nothing to say to each other, and asking costs a second at each start.
                "--without-gossip",
                "--without-mingle",
            ]
        )


@contextmanager
def _shared_counts(settings: Settings) -> Iterator[None]:
    """Give the processes of a worker that shows metrics a folder to add up their counts in, unless they have one.

    Before anything is imported that counts: that is when the way of counting is chosen.
    """
    if not settings.prometheus_port or os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="articurated-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


async def _verify(settings: Settings) -> None:
    from app.services.operations.probes import refuse_stand_ins  # noqa: PLC0415 - it counts: see _shared_counts

    await refuse_stand_ins(settings)
    refuse_cluster(settings.redis_url)
    database = Database(settings, "articurated-worker", pool_size=1)
    try:
        await verify_schema(database, restricted=settings.environment == "production")
    finally:
        await database.close()


def run_beat() -> None:
    """Run Celery beat until SIGTERM; its schedule is kept in the file that BEAT_SCHEDULE_FILE names.

    Two of them do no harm: what a tick makes due is due once.

    Raises:
        SettingsError: the configuration cannot be used, or REDIS_URL leads to a cluster.
    """
    from app.core import error_tracking, exposition  # noqa: PLC0415 - the CLI imports this module for its names
    from app.tasks.celery_app import celery_app  # noqa: PLC0415 - the relay and the rest of the CLI need no beat

    settings = get_settings()
    refuse_cluster(settings.redis_url)
    error_tracking.configure(settings, "beat")
    exposition.serve(settings)
    schedule = os.environ.get("BEAT_SCHEDULE_FILE", "celerybeat-schedule")
    celery_app.start(["--quiet", "beat", f"--schedule={schedule}", f"--loglevel={settings.log_level}"])


def run_flower(address: str, port: int) -> None:
    """Serve Flower until SIGTERM or SIGINT.

    Args:
        address: to listen on.
        port: likewise.

    Raises:
        SettingsError: the configuration cannot be used; `FLOWER_BASIC_AUTH` is no login, or missing in production or
            where other machines reach the address.
    """
    settings = get_settings()
    login = settings.flower_basic_auth.get_secret_value()
    if login and not all(login.partition(":")):
        raise SettingsError("FLOWER_BASIC_AUTH must be name:password")
    is_open = is_reachable(settings, address) and not settings.allow_development_secrets
    if not login and (is_open or settings.environment == "production"):
        where = "production" if settings.environment == "production" else f"{address}, which other machines reach,"
        raise SettingsError(f"Flower shows the work without a login: {where} needs FLOWER_BASIC_AUTH=name:password")
    if importlib.util.find_spec("flower") is None:
        raise SettingsError("Flower is not installed: it is the extra `flower`, which `./dev setup` brings")
    from app.tasks.celery_app import celery_app  # noqa: PLC0415 - the rest of the CLI needs no Celery

    # In the environment and not among the arguments, which everyone on the machine can read.
    if login:
        os.environ["FLOWER_BASIC_AUTH"] = login
    else:
        os.environ.pop("FLOWER_BASIC_AUTH", None)
    celery_app.start(["--quiet", "flower", f"--address={address}", f"--port={port}"])


def run_relay() -> None:
    """Run the relay until SIGTERM or SIGINT.

    Raises:
        SettingsError: the configuration cannot be used, or REDIS_URL leads to a cluster.
    """
    from app.core import error_tracking, exposition  # noqa: PLC0415 - the CLI imports this module for its names
    from app.core.logging import configure_logging  # noqa: PLC0415 - likewise
    from app.database import sync_engine  # noqa: PLC0415 - likewise
    from app.tasks import heartbeat  # noqa: PLC0415 - likewise
    from app.tasks.relay import CeleryBroker, Relay  # noqa: PLC0415 - likewise

    settings = get_settings()
    configure_logging(settings)
    refuse_cluster(settings.redis_url)
    error_tracking.configure(settings, "relay")
    exposition.serve(settings)
    engine = sync_engine(settings, "articurated-relay", pool_size=2)
    relay = Relay(engine, CeleryBroker(), settings, heartbeat.ready, partial(heartbeat.process, "relay"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: relay.stop())
    relay.run()
    engine.dispose()
    sys.exit(0)
