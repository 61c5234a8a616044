"""Servers that the configuration names: is anyone there? Asked once, before anything is started.

Without Redis the parts would start and wait for it for ever; a wrong address has to be reported at once.
"""

from urllib.parse import urlsplit

import psycopg
import redis

from app.config import Settings
from app.local.process import EmbeddedError

CONNECT_SECONDS = 5


def require_given_servers(settings: Settings) -> None:
    """Connect to the servers that the environment names, and leave.

    Raises:
        EmbeddedError: one of them cannot be used; the message names the variable, and no password.
    """
    if "database_url" in settings.model_fields_set:
        _require_database("DATABASE_URL", settings.database_url)
        if settings.database_admin_url:
            _require_database("DATABASE_ADMIN_URL", settings.database_admin_url)
    if "redis_url" in settings.model_fields_set:
        _require_redis(settings.redis_url)


def _require_database(variable: str, url: str) -> None:
    try:
        psycopg.connect(url, connect_timeout=CONNECT_SECONDS).close()
    except psycopg.Error as fault:
        raise EmbeddedError(_sentence(variable, "PostgreSQL", url, fault)) from None


def _require_redis(url: str) -> None:
    try:
        with redis.Redis.from_url(
            url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS, retry=None
        ) as client:
            facts = client.info("cluster")
    except (redis.RedisError, ValueError) as fault:
        raise EmbeddedError(_sentence("REDIS_URL", "Redis", url, fault)) from None
    if facts.get("cluster_enabled"):
        reason = ValueError("it is a node of a cluster, and Celery's transport cannot follow its redirections")
        raise EmbeddedError(_sentence("REDIS_URL", "Redis", url, reason))


def _sentence(variable: str, server: str, url: str, fault: Exception) -> str:
    """Say what does not work; of the address only where it leads, of the fault its first line."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2] or parts.path
    reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0].removeprefix("connection failed: ")
    return (
        f"{server} at {place}, named by {variable}, cannot be used: {reason}. "
        f"Start it, correct {variable}, or unset it for an embedded server."
    )
