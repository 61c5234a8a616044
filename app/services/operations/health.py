"""How the service is: every part it depends on, all looked at within two seconds (NFR-003).

Only the database is needed to answer requests. Without any other part, work waits in PostgreSQL and nothing is lost,
so that is `degraded`, and no reason for a load balancer to take the API away.

A part that only workers use is judged by two signs: a look of our own, shared by all who ask (`health_probes`), and the
jobs that it failed within the last minute, which a gateway that greets and then fails cannot hide.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app import __version__
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import WORKER_QUEUES
from app.database import Database
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.jobs.figures import PICKUP_SECONDS, JobFigures, job_figures
from app.services.operations import guard_manifest
from app.services.operations.backup_watch import (
    BackupLogTooOldError,
    BackupTimes,
    BackupTooOldError,
    repository_of,
    require_current,
    times_of,
)
from app.services.operations.guard_watch import GuardsDifferError, GuardWatch, SessionDiffersError
from app.services.operations.probes import SharedLook, StandInError, gateway_look, smtp_look, storage_look
from app.services.operations.replica_watch import ReplicaBehindError, ReplicaWatch
from app.utils.disk import DiskSpace, database_full, disk_space
from app.utils.exceptions import UnauthenticatedError

if TYPE_CHECKING:
    from redis.asyncio import Redis

ALIVE_PREFIX = "articurated:alive:"
"""Workers, relays and beats keep a key `articurated:alive:<part>:<name>` in Redis, with a time to live; a worker's
value is the queues that it takes from, separated by commas."""

LOOK_KEY = "articurated:look"
"""Written by each look at Redis: one whose disk is full answers reads and refuses this."""

CHECK_SECONDS = 1.5
DATABASE_FULL_SECONDS = 10.0
"""How long a write that PostgreSQL refused for want of room shows; while the disk is full, the next one follows soon."""

HINTS = {
    "database": "PostgreSQL does not answer in time; requests get 503 until it does. Look at the server, then"
    " `articurated doctor`.",
    "read-only": "PostgreSQL takes no writes: those get 503, and jobs wait. Is it a standby, or its disk full? After a"
    " failover DATABASE_URL must lead to the new primary.",
    "database-full": "PostgreSQL's disk is full: writes get 503, reads go on. Free space there, or enlarge it.",
    "disk": "The disks that data is kept on cannot be asked ({fault}): is a network share away?",
    "disk-full": "The disk at {mount} is full: writes fail until there is room. Free space there, or enlarge it.",
    "disk-low": "The disk at {mount} has {megabytes} MB left. Free space there, or enlarge it, before writes fail.",
    "redis-full": "Redis takes no writes ({fault}): is its disk full? Requests are served; jobs wait in PostgreSQL.",
    "guards": "Guards of the database are off, missing or changed: {guards}. Until then wrong writes may succeed."
    " Find out who changed them, then `articurated doctor`.",
    "session": "Connections to the database differ from what they are opened with: {guards}. Does a connection pooler"
    " drop their options? `articurated doctor` says more.",
    "guards-unknown": "The guards of the database cannot be looked at ({fault}).",
    "redis-cluster": "REDIS_URL leads to a node of a cluster, which Celery cannot follow: jobs wait. Give it a server that"
    " is none.",
    "replica": "The read replica does not answer ({fault}). Lists and figures come from the primary until it does.",
    "behind": "The read replica is more than 30 s behind, and so are lists and figures. Look at its replication, or unset"
    " DATABASE_REPLICA_URL.",
    "redis": "Redis does not answer in time. Requests are served; jobs wait in PostgreSQL and go on by themselves.",
    "unknown": "Unknown while Redis is away: signs of life are kept there.",
    "unwritten": "Unknown while Redis takes no writes: signs of life are kept there.",
    "worker": "No worker is alive: start `articurated worker`. Jobs wait until then.",
    "queues": "No worker takes from: {queues}. Their jobs wait; start a worker with --queues.",
    "relay": "No relay is alive: start `articurated relay`. Due jobs wait until then.",
    "beat": "No beat is alive: start `articurated beat`. Reminders and expiries wait and are caught up with.",
    "jobs": "The oldest job has been due for {seconds:.0f} s: are workers enough, and not stuck? See the worker's log.",
    "backup": "The last base backup is overdue: see backup.log, or the timer that runs `articurated backup`.",
    "backup-log": "The database's log was last backed up more than 5 min ago, so as much may be lost with the server: see"
    " backup.log, or start `articurated backup run`.",
    "backup-away": "The folder of the backups cannot be read ({fault}): is its disk away?",
    "smtp": "The mail server does not answer ({fault}). Mails wait and are tried again; then `articurated jobs list`.",
    "storage": "The document storage does not work ({fault}): disk full, rights, credentials? Documents wait.",
    "gateway": "The payment gateway does not answer ({fault}). Captures and refunds wait and are tried again.",
    "stand-in": "A stand-in for development answers, which production refuses: a mock gateway moves no money, a mail"
    " catcher delivers nothing. Set PAYMENT_GATEWAY_URL or SMTP_HOST.",
    "failing": "It answers, but {cases} jobs failed on it within the last minute and wait for another try:"
    " `articurated jobs list --state PENDING`.",
}
_STRUCK_BY = {
    "smtp": ("MailUnavailable",),
    "storage": ("StorageError",),
    "gateway": ("GatewayUnavailable", "GatewayOutcomeUnknown", "GatewayCircuitOpen"),
}
"""The errors, as `jobs.last_error` begins with them, by which a part makes jobs fail."""

logger = structlog.get_logger(__name__)


class Check(TypedDict):
    """The state of one part; a figure that does not belong to the part, or is not known, is left out."""

    status: str
    hint: NotRequired[str]
    latency_ms: NotRequired[float]
    workers: NotRequired[int]
    processes: NotRequired[int]
    oldest_due_seconds: NotRequired[float]
    dead_letters: NotRequired[int]
    open_cases: NotRequired[int]


class HealthView(TypedDict):
    """The state of the service and of every part that is looked at, by its name."""

    status: str
    version: str
    checks: dict[str, Check]


class HealthService:
    """Looks at the database, Redis, the other processes, the work, and what the work needs."""

    def __init__(self, database: Database, settings: Settings, check_seconds: float = CHECK_SECONDS) -> None:
        self._database = database
        self._settings = settings
        self._check_seconds = check_seconds
        self._redis: Redis | None = None
        self._folders = _folders(settings)
        self._disks: list[DiskSpace] = []
        self._backup_times: BackupTimes | None = None
        self._has_backups = False
        looks = {
            "disk": self._measure_disks,
            "smtp": smtp_look(settings),
            "storage": storage_look(settings),
            "gateway": gateway_look(settings),
        }
        self._guards = GuardWatch(database, restricted=settings.environment == "production")
        looks["guards"] = self._guards.look
        if database.replica is not None:
            looks["replica"] = ReplicaWatch(database).look
        looks["backup"] = self._look_at_backups
        self._looks = {part: SharedLook(look, limit_seconds=min(check_seconds, 1.3)) for part, look in looks.items()}

    async def check(self) -> HealthView:
        """Return the answer of `GET /health`; it takes two seconds at most, even where a part hangs."""
        (figures, latency), alive, faults = await asyncio.gather(
            self._ask_database(),
            self._check_redis(),
            asyncio.gather(*(look.fault() for look in self._looks.values())),
        )
        checks: dict[str, Check] = {"database": _database(figures, latency), **alive, "jobs": _jobs(figures)}
        for part, fault in zip(self._looks, faults, strict=True):
            if part == "replica":
                checks[part] = _replica(fault, figures)
            elif part == "backup":
                if self._has_backups:
                    checks[part] = _backup(fault)
            elif part == "guards":
                checks[part] = self._guards_check(fault, figures)
            else:
                checks[part] = self._disk(fault) if part == "disk" else _used_part(part, fault, figures)
        if checks["database"]["status"] == "down":
            status = "down"
        else:
            status = "ok" if all(check["status"] == "ok" for check in checks.values()) else "degraded"
        return {"status": status, "version": __version__, "checks": checks}

    async def _look_at_backups(self) -> None:
        def look() -> None:
            folder = repository_of(self._settings)
            self._has_backups = folder is not None
            if folder is not None:
                self._backup_times = times_of(folder)
                require_current(self._backup_times, self._settings)

        await asyncio.to_thread(look)

    async def backup_times(self) -> BackupTimes | None:
        """Return how current the backups were when they were last seen; None where none are known."""
        await self._looks["backup"].fault()
        return self._backup_times

    async def _measure_disks(self) -> None:
        self._disks = await asyncio.to_thread(lambda: [disk_space(folder) for folder in self._folders])

    def _disk(self, fault: str | None) -> Check:
        """Judge the disk with the least room of those that this machine keeps data on."""
        if fault is not None:
            return _not_well("disk", fault=fault)
        worst = min(self._disks, key=lambda disk: (not disk.is_full, not disk.is_low, disk.free_bytes))
        if worst.is_full:
            return _not_well("disk-full", mount=worst.mount)
        if worst.is_low:
            return _not_well("disk-low", "degraded", mount=worst.mount, megabytes=worst.free_bytes // 2**20)
        return {"status": "ok"}

    async def scrape(self, actor: Actor | None) -> tuple[JobFigures | None, BackupTimes | None]:
        """Return what `/metrics` shows beside the counts of processes: the state of the work, and of the backups.

        Args:
            actor: who asks. Outside of production anyone may, so it can be None there.

        Returns:
            None for the work while the database does not answer in time, and for backups where none are known.

        Raises:
            UnauthenticatedError: in production, without an actor.
            ForbiddenError: in production, the role may not.
        """
        if self._settings.environment == "production":
            if actor is None:
                raise UnauthenticatedError
            permissions.require(actor, Action.READ_STATS)
        return await self.figures(), await self.backup_times()

    async def figures(self) -> JobFigures | None:
        """Return the state of the work, or None when the database does not answer in time."""
        try:
            async with asyncio.timeout(self._check_seconds), self._database.autocommit() as connection:
                return await job_figures(connection, self._settings.return_review_sla_hours)
        except (SQLAlchemyError, TimeoutError, OSError) as fault:
            logger.warning("health.database_failed", error=type(fault).__name__)
            return None

    async def close(self) -> None:
        """Close the connection to Redis, and give up looks under way."""
        for look in self._looks.values():
            await look.close()
        if self._redis is not None:
            await self._redis.aclose()

    def _guards_check(self, fault: str | None, figures: JobFigures | None) -> Check:
        if figures is None:
            return _not_well("database")
        if fault == GuardsDifferError.__name__:
            return _not_well("guards", "degraded", guards=guard_manifest.summary(self._guards.differing))
        if fault == SessionDiffersError.__name__:
            return _not_well("session", "degraded", guards=guard_manifest.summary(self._guards.differing))
        return {"status": "ok"} if fault is None else _not_well("guards-unknown", "degraded", fault=fault)

    async def _ask_database(self) -> tuple[JobFigures | None, float]:
        started = time.perf_counter()
        return await self.figures(), _milliseconds_since(started)

    async def _check_redis(self) -> dict[str, Check]:
        # Imported here: a third of a second that a process which is never asked does not need.
        from redis.exceptions import (  # noqa: PLC0415
            AskError,
            ClusterCrossSlotError,
            ClusterDownError,
            RedisError,
            ResponseError,
        )

        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._check_seconds):
                await self._client().set(LOOK_KEY, "", ex=1)
                alive = await signs_of_life(self._client())
        except ResponseError as fault:
            logger.warning("health.redis_writes_refused", error=str(fault)[:200])
            word = str(fault).partition(" ")[0]
            reason = word if word.isupper() else type(fault).__name__
            parts = {part: _not_well("unwritten", "degraded") for part in ("worker", "relay", "beat")}
            hint = (
                "redis-cluster"
                if isinstance(fault, AskError | ClusterCrossSlotError | ClusterDownError)
                else "redis-full"
            )
            return {"redis": _not_well(hint, "degraded", fault=reason), **parts}
        except (RedisError, TimeoutError, OSError) as fault:
            logger.warning("health.redis_failed", error=type(fault).__name__)
            return {"redis": _not_well("redis"), **{part: _not_well("unknown") for part in ("worker", "relay", "beat")}}
        return {
            "redis": {"status": "ok", "latency_ms": _milliseconds_since(started)},
            "worker": _workers(alive["worker"]),
            "relay": _alive("relay", len(alive["relay"])),
            "beat": _alive("beat", len(alive["beat"])),
        }

    def _client(self) -> "Redis":
        from redis.asyncio import Redis  # noqa: PLC0415

        if self._redis is None:
            self._redis = Redis.from_url(
                self._settings.redis_url,
                socket_connect_timeout=self._check_seconds,
                socket_timeout=self._check_seconds,
                decode_responses=True,
            )
        return self._redis


async def signs_of_life(client: "Redis") -> dict[str, list[str]]:
    """Return part → the value of each key that a process of that part keeps; the client decodes what it reads."""
    found: dict[str, list[str]] = {"worker": [], "relay": [], "beat": []}
    keys = [key async for key in client.scan_iter(match=f"{ALIVE_PREFIX}*", count=1000)]
    for key, value in zip(keys, await client.mget(keys) if keys else [], strict=True):
        part = key.removeprefix(ALIVE_PREFIX).partition(":")[0]
        if part in found and value is not None:
            found[part].append(str(value))
    return found


def _folders(settings: Settings) -> list[Path]:
    """Return the folders of this machine that data is written to: documents, and the data folder of `./dev run`."""
    folders = [Path(tempfile.gettempdir())]
    if settings.storage_type == "local":
        folders.append(settings.storage_path)
    if data_dir := os.environ.get("ARTICURATED_DATA_DIR"):
        folders.append(Path(data_dir))
    return folders


def _not_well(part: str, status: str = "down", **facts: Any) -> Check:
    return {"status": status, "hint": HINTS[part].format(**facts)}


def _database(figures: JobFigures | None, latency_ms: float) -> Check:
    if figures is None:
        return _not_well("database")
    if figures.is_read_only:
        return {**_not_well("read-only", "degraded"), "latency_ms": latency_ms}
    if database_full.within(DATABASE_FULL_SECONDS):
        return {**_not_well("database-full", "degraded"), "latency_ms": latency_ms}
    return {"status": "ok", "latency_ms": latency_ms}


def _jobs(figures: JobFigures | None) -> Check:
    if figures is None:
        return _not_well("database")
    oldest = max(figures.oldest_due_seconds.values(), default=0.0)
    is_late = oldest > PICKUP_SECONDS
    check: Check = _not_well("jobs", "degraded", seconds=oldest) if is_late else {"status": "ok"}
    check["oldest_due_seconds"] = round(oldest, 3)
    check["dead_letters"] = figures.dead_letters
    check["open_cases"] = figures.open_cases
    return check


def _alive(part: str, count: int) -> Check:
    return {"status": "ok", "processes": count} if count else {**_not_well(part), "processes": 0}


def _workers(queues_of_each: list[str]) -> Check:
    taken = {queue for queues in queues_of_each for queue in queues.split(",")}
    missing = [queue for queue in WORKER_QUEUES if queue not in taken]
    if not queues_of_each:
        check = _not_well("worker")
    elif missing:
        check = _not_well("queues", "degraded", queues=", ".join(missing))
    else:
        check = {"status": "ok"}
    check["workers"] = len(queues_of_each)
    return check


def _replica(fault: str | None, figures: JobFigures | None) -> Check:
    """Judge the replica, which is measured against the primary; requests are served without it, so it is never down."""
    if fault is None:
        return {"status": "ok"}
    if figures is None:
        return _not_well("database", "degraded")
    return _not_well("behind" if fault == ReplicaBehindError.__name__ else "replica", "degraded", fault=fault)


def _backup(fault: str | None) -> Check:
    """Judge the backups; requests are served without them, so they are never down."""
    if fault is None:
        return {"status": "ok"}
    if fault == BackupTooOldError.__name__:
        return _not_well("backup", "degraded")
    if fault == BackupLogTooOldError.__name__:
        return _not_well("backup-log", "degraded")
    return _not_well("backup-away", "degraded", fault=fault)


def _used_part(part: str, fault: str | None, figures: JobFigures | None) -> Check:
    """Judge a part that workers use: by our look at it, and by the jobs that failed on it just now."""
    if fault == StandInError.__name__:
        return _not_well("stand-in")
    if fault is not None:
        return _not_well(part, fault=fault)
    failing = sum(figures.failed_lately.get(error, 0) for error in _STRUCK_BY[part]) if figures else 0
    if failing:
        return _not_well("failing", "degraded", cases=failing)
    return {"status": "ok"}


def _milliseconds_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
