"""PostgreSQL and Valkey alone, for the test suite and tools that need no more."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from app.local.postgres import EmbeddedPostgres
from devtools.embedded.broker import EmbeddedValkey


class Servers(NamedTuple):
    """Connections to the running servers, with their passwords."""

    owner_url: str
    app_url: str
    superuser_url: str
    redis_url: str


@contextmanager
def ensure_servers(data_dir: Path, *, durable: bool = True) -> Iterator[Servers]:
    """Run both servers over `data_dir` on free ports while the context lasts.

    Args:
        data_dir: data folder; made when absent, kept afterwards.
        durable: false starts with an empty PostgreSQL that never waits for the disk: for tests.

    Raises:
        EmbeddedError: one did not start.
    """
    postgres = EmbeddedPostgres(data_dir, durable=durable)
    valkey = EmbeddedValkey(data_dir, durable=durable)
    with ExitStack() as cleanup:
        cleanup.callback(postgres.stop)
        postgres.start()
        cleanup.callback(valkey.stop)
        valkey.start()
        yield Servers(postgres.owner_url, postgres.app_url, postgres.superuser_url, valkey.url)
