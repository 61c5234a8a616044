"""The round through all parts, at once; a part that hangs costs ten seconds and no other part's finding."""

import asyncio
from collections.abc import Awaitable, Callable

from app.config import Settings
from app.doctor import databases, services
from app.doctor.findings import Finding, broken

TIMEOUT_SECONDS = 10.0

Look = Callable[[Settings], Awaitable[list[Finding]]]

LOOKS: tuple[tuple[str, Look, str], ...] = (
    ("settings", services.configuration, "correct the variable that is named"),
    ("database", databases.schema, "look at the server and at DATABASE_URL; then `articurated migrate`"),
    ("session", databases.session, "the database cannot be asked"),
    ("clock", databases.clock, "the database cannot be asked"),
    ("server", databases.server, "the database cannot be asked"),
    ("replica", databases.replica, "look at the server and at DATABASE_REPLICA_URL; until then the primary answers"),
    ("work", databases.work, "the database cannot be asked"),
    ("redis", services.redis, "look at the server and at REDIS_URL"),
    ("processes", services.processes, "signs of life are kept in Redis, which cannot be asked"),
    ("gateway", services.gateway, "look at PAYMENT_GATEWAY_URL and the provider's status page"),
    ("mail", services.mail, "look at SMTP_HOST, SMTP_PORT, SMTP_TLS and the login"),
    ("storage", services.storage, "look at STORAGE_TYPE and what belongs to it: folder, bucket, credentials"),
    ("disk", services.disk, "look at STORAGE_PATH"),
    ("backup", services.backup, "look at BACKUP_PATH"),
    ("renderer", services.renderer, "look at INVOICE_RENDERER and templates/invoices"),
)


async def examine(settings: Settings) -> list[Finding]:
    """Look at every part; never raises for a part that does not work."""
    found = await asyncio.gather(*(_findings(part, look, advice, settings) for part, look, advice in LOOKS))
    return [finding for findings in found for finding in findings]


async def _findings(part: str, look: Look, advice: str, settings: Settings) -> list[Finding]:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await look(settings)
    except TimeoutError:
        return [broken(part, f"no answer within {TIMEOUT_SECONDS:.0f} s", advice)]
    except Exception as fault:  # noqa: BLE001 - any fault of the part is the finding
        # Of a database error its first line; the rest is the statement, which does not help here.
        reason = str(getattr(fault, "orig", None) or fault).strip().splitlines() or [type(fault).__name__]
        return [broken(part, reason[0], advice)]
