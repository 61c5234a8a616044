"""Is REDIS_URL a server that Celery can work with? Asked by every process that uses it before it starts."""

from app.config import SettingsError

IS_CLUSTER = "is a node of a cluster, and Celery's transport cannot follow its redirections"
_SECONDS = 1.0


def refuse_cluster(redis_url: str) -> None:
    """Refuse a node of a Redis or Valkey cluster; one that is away is not judged, it may come back as it was.

    Args:
        redis_url: of the broker.

    Raises:
        SettingsError: it is one. Keys of one queue lie on different nodes there, so jobs would never arrive.
    """
    # Imported here: a process that lists the verbs of the command needs none of it.
    import redis  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    try:
        with redis.Redis.from_url(
            redis_url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, retry=Retry(NoBackoff(), 0)
        ) as client:
            facts = client.info("cluster")
    except (redis.RedisError, OSError):
        return
    if facts.get("cluster_enabled"):
        raise SettingsError(
            f"Configuration refused:\n  REDIS_URL {IS_CLUSTER}."
            " Give it a server that is no cluster; a primary with replicas and a failover is fine."
        )
