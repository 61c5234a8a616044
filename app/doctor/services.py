"""Everything but the database: settings, Redis, the other processes, and what the work needs."""

import asyncio
import shutil
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import httpx2
from redis.asyncio import Redis

from app.config import Settings
from app.config_rules import refused_in_production
from app.core.enums import WORKER_QUEUES
from app.doctor.findings import Finding, broken, doubtful, fine
from app.services.operations.backup_watch import (
    BackupLogTooOldError,
    BackupTooOldError,
    repository_of,
    require_current,
    times_of,
)
from app.services.operations.health import signs_of_life
from app.services.operations.redis_check import IS_CLUSTER
from app.services.payments.gateway.port import MOCK_HEADER
from app.utils.clock import utc_now
from app.utils.documents import DocumentLine, DocumentView, Party, seller_party
from app.utils.email_sender import EmailSender
from app.utils.invoice_generator import renderer_for
from app.utils.shop_time import ShopTime
from app.utils.storage import storage_for

OLDEST_REDIS = 7
LOW_DISK_BYTES = 1024**3
FULL_DISK_BYTES = 100 * 1024**2


async def configuration(settings: Settings) -> list[Finding]:
    """The environment's settings; the start has already refused those that production must not have."""
    if settings.environment == "production":
        return [fine("settings", "production, with secrets of its own and nothing secret in clear text")]
    refused = [fault.split()[0] for fault in refused_in_production(settings)]
    if not refused:
        return [fine("settings", f"{settings.environment}; production would start with them")]
    names = ", ".join(dict.fromkeys(refused))
    return [fine("settings", f"{settings.environment}; production would refuse {names}")]


async def redis(settings: Settings) -> list[Finding]:
    """Version, persistence, and that it throws no message away."""
    client = Redis.from_url(settings.redis_url, decode_responses=True)
    try:
        facts = await client.info()
    finally:
        await client.aclose()
    if facts.get("cluster_enabled"):
        return [
            broken("redis", IS_CLUSTER, "give REDIS_URL a server that is no cluster: primary and replicas are fine")
        ]
    version, policy = str(facts["redis_version"]), facts.get("maxmemory_policy", "noeviction")
    if int(version.partition(".")[0]) < OLDEST_REDIS:
        return [broken("redis", f"version {version} is too old", "7 or newer is needed, or Valkey")]
    if policy != "noeviction":
        advice = "set maxmemory-policy noeviction: any other may drop wake-ups"
        return [broken("redis", f"version {version}, maxmemory-policy {policy}", advice)]
    if not facts.get("aof_enabled"):
        advice = "set appendonly yes: without, a restart costs a minute until the wake-ups are sent again"
        return [doubtful("redis", f"version {version}, drops nothing, keeps nothing over a restart", advice)]
    return [fine("redis", f"version {version}, drops nothing, keeps its content over a restart")]


async def processes(settings: Settings) -> list[Finding]:
    """Who has given a sign of life within the last 30 seconds, and whether each queue has somebody."""
    client = Redis.from_url(settings.redis_url, decode_responses=True)
    try:
        alive = await signs_of_life(client)
    finally:
        await client.aclose()
    found = [_workers(alive["worker"])]
    for part in ("relay", "beat"):
        if count := len(alive[part]):
            found.append(fine(part, f"{count} alive"))
        else:
            says = "none has given a sign of life in the last 30 seconds"
            found.append(broken(part, says, f"start `articurated {part}`"))
    return found


def _workers(queues_of_each: list[str]) -> Finding:
    per_queue = dict.fromkeys(WORKER_QUEUES, 0)
    for queues in queues_of_each:
        for queue in set(queues.split(",")) & set(per_queue):
            per_queue[queue] += 1
    missing = [queue for queue, count in per_queue.items() if not count]
    if not queues_of_each:
        return broken("worker", "none has given a sign of life in the last 30 seconds", "start `articurated worker`")
    if missing:
        says = f"{len(queues_of_each)} alive, none takes from {', '.join(missing)}"
        return broken("worker", says, f"start `articurated worker --queues {','.join(missing)}`")
    each = ", ".join(f"{queue} {count}" for queue, count in per_queue.items())
    return fine("worker", f"{len(queues_of_each)} alive; per queue: {each}")


async def gateway(settings: Settings) -> list[Finding]:
    """Ask the gateway for its last transaction, with our key."""
    async with httpx2.AsyncClient(timeout=settings.payment_gateway_timeout_seconds, trust_env=False) as client:
        url = f"{settings.payment_gateway_url.rstrip('/')}/v1/transactions?limit=1"
        key = settings.payment_gateway_api_key.get_secret_value()
        answer = await client.get(url, headers={"Authorization": f"Bearer {key}"})
    if MOCK_HEADER in answer.headers and settings.environment == "production":
        return [
            broken("gateway", "is a mock gateway, which moves no money", "set PAYMENT_GATEWAY_URL to your provider")
        ]
    if answer.status_code in {401, 403}:
        return [broken("gateway", f"refuses our key ({answer.status_code})", "look at PAYMENT_GATEWAY_API_KEY")]
    if not answer.is_success:
        return [broken("gateway", f"answers {answer.status_code}", "look at PAYMENT_GATEWAY_URL")]
    what = "the mock gateway, for development: " if MOCK_HEADER in answer.headers else ""
    return [fine("gateway", f"{what}reachable, and accepts our key")]


async def mail(settings: Settings) -> list[Finding]:
    """Open a session with the mail server and log in."""
    await EmailSender(settings).check()
    return [fine("mail", f"{settings.smtp_host}:{settings.smtp_port} lets us in")]


async def storage(settings: Settings) -> list[Finding]:
    """Write, read and delete a file."""
    kept = storage_for(settings)
    key = f"doctor/{uuid4()}"
    await kept.put_new(key, b"?", "text/plain")
    try:
        if await kept.get(key) != b"?":
            return [broken("storage", "gives back other bytes than were put in", "look at the storage itself")]
    finally:
        await kept.delete(key)
    return [fine("storage", f"{settings.storage_type}: keeps, gives back, and deletes")]


async def disk(settings: Settings) -> list[Finding]:
    """The room that is left for documents, where they are kept here."""
    if settings.storage_type != "local":
        return []
    free = shutil.disk_usage(_existing(settings.storage_path)).free
    says = f"{free / 1024**3:.1f} GiB left for documents"
    if free < FULL_DISK_BYTES:
        return [broken("disk", says, "make room: invoices cannot be stored")]
    return [doubtful("disk", says, "make room soon") if free < LOW_DISK_BYTES else fine("disk", says)]


async def backup(settings: Settings) -> list[Finding]:
    """Whether backups go on, where any are known of."""
    folder = repository_of(settings)
    if folder is None:
        return []
    try:
        times = await asyncio.to_thread(times_of, folder)
        require_current(times, settings)
    except BackupTooOldError:
        return [
            broken("backup", "a base backup is overdue", "run `articurated backup`, and find out why none was made")
        ]
    except BackupLogTooOldError:
        advice = "start `articurated backup run`, or find out why it fails"
        return [broken("backup", "the log of the database was not backed up for 5 minutes", advice)]
    return [fine("backup", f"base backup of {times.backup:%F %T} and log up to {times.log:%F %T} UTC in {folder}")]


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


async def renderer(settings: Settings) -> list[Finding]:
    """Draw an invoice with nothing on it, with the fonts that are there."""
    drawn = await asyncio.to_thread(lambda: renderer_for(settings).render(_specimen(settings)))
    if not drawn.startswith(b"%PDF-"):
        return [broken("renderer", "draws something that is no PDF", "look at INVOICE_RENDERER")]
    return [fine("renderer", f"{settings.invoice_renderer} draws an invoice, {len(drawn) // 1024} KiB with its fonts")]


def _specimen(settings: Settings) -> DocumentView:
    today = ShopTime.from_settings(settings).day(utc_now())
    line = DocumentLine(
        description="Œuvre à l’essai, Ärmel, Zażółć",
        quantity=1,
        unit_price=Decimal("1.00"),
        tax_rate=Decimal("0.2000"),
        tax_amount=Decimal("0.20"),
        subtotal=Decimal("1.00"),
    )
    return DocumentView(
        kind="INVOICE",
        number="SPECIMEN",
        issued_on=today,
        order_number="SPECIMEN",
        order_date=today,
        seller=seller_party(settings),
        bill_to=Party(name="Specimen"),
        currency="EUR",
        lines=(line,),
        subtotal=line.subtotal,
        tax_total=line.tax_amount,
        shipping=Decimal("0.00"),
        total=line.subtotal + line.tax_amount,
    )
