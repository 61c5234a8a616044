"""What the reader of a page has that the running system has not: servers, a bucket, a provider, a checkout to change.

A page names hosts, passwords and the like that are its reader's own. A scene sets up real ones and says what to type
for each name.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from uuid import uuid4

import psycopg
from sqlalchemy import make_url

from app.config import ROOT
from app.local.data_folder import running_connection
from app.local.process import choose_port
from devtools.embedded.stack import StackInfo
from tests import databases, identity_provider
from tests.databases import TestServers
from tests.e2e.docs_shown import blocks
from tests.replication import pair
from tests.unit.test_storage_s3 import bucket_server

ISSUER = "https://login.example/realms/shop"


@dataclass(frozen=True)
class Place:
    """Where a page is followed.

    Attributes:
        info: the running system.
        folder: in which the reader types.
    """

    servers: TestServers
    info: StackInfo
    folder: Path


@dataclass(frozen=True)
class Scene:
    """How a page is followed.

    Attributes:
        before: shell that the reader has behind them.
        instead: name on the page → what is typed in its place.
    """

    before: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def empty_database(place: Place) -> Iterator[Scene]:
    """Give a database that nothing was migrated in."""
    servers, name = place.servers, f"{place.servers.template}_{uuid4().hex[:8]}"
    databases.create_database(servers, name, None)
    owner, app = (databases.url_of(url, name) for url in (servers.owner_url, servers.app_url))
    try:
        yield Scene(f"export DATABASE_ADMIN_URL='{owner}' DATABASE_URL='{app}'")
    finally:
        databases.drop_database(servers, name)


@contextmanager
def own_servers(place: Place) -> Iterator[Scene]:
    """Do what the page has a superuser do; roles and databases belong to a whole server, so under names of their own."""
    shop = f"shop_{uuid4().hex[:8]}"
    at = make_url(place.servers.superuser_url)
    instead = {
        "sslmode=verify-full": "sslmode=prefer",
        "db.example:5432": f"{at.host}:{at.port}",
        "rediss://:REDIS_PASSWORD@redis.example:6379/0": place.servers.redis_url,
        "shop_": f"{shop}_",
        "/shop?": f"/{shop}?",
        " shop ": f" {shop} ",
        "'SIGNING_SECRET'": uuid4().hex,
        "'WEBHOOK_SECRET'": uuid4().hex,
    }
    [script] = blocks(ROOT / "docs" / "how-to" / "deploy-on-servers.md", "sql")
    with psycopg.connect(place.servers.superuser_url, autocommit=True) as superuser:
        try:
            for statement in filter(str.strip, replaced(script, instead).split(";")):
                superuser.execute(statement.encode())
            yield Scene(instead=instead)
        finally:
            superuser.execute(f"DROP DATABASE IF EXISTS {shop} WITH (FORCE)".encode())
            superuser.execute(f"DROP ROLE IF EXISTS {shop}_app, {shop}_role, {shop}_owner".encode())


@contextmanager
def own_replica(place: Place) -> Iterator[Scene]:
    """Serve a database and its standby, beside the other parts of the running system."""
    with pair(place.folder / "replicated") as servers:
        connection = running_connection(Path(place.info.data_dir)) | {"DATABASE_URL": servers.primary_url}
        before = "\n".join(f"export {name}={quote(value)}" for name, value in connection.items())
        shop = "postgresql://shop_app:APP_PASSWORD@"
        instead = {
            f"{shop}replica.example:5432/shop?sslmode=verify-full": servers.standby_url,
            f"{shop}db1.example:5432,db2.example:5432/shop?sslmode=verify-full&target_session_attrs=read-write": (
                servers.url_of_both
            ),
        }
        yield Scene(before, instead)


@contextmanager
def own_bucket(_: Place) -> Iterator[Scene]:
    """Serve a bucket."""
    with bucket_server() as bucket:
        yield Scene(f"export AWS_ENDPOINT_URL={bucket.url}")
        assert any(path.startswith("/shop-documents/") for _, path, _ in bucket.requests)


@contextmanager
def own_provider(place: Place) -> Iterator[Scene]:
    """Serve the keys of a provider, and let the API that the page starts go on behind the reader's back."""
    api, log = f"http://127.0.0.1:{choose_port()}", place.folder / "api.log"
    served = f'"{sys.executable}" -P -m app api --port {api.rpartition(":")[2]} >{log} 2>&1 & SERVING=$!'
    answers = f"curl -sS -o {log} --retry 120 --retry-delay 1 --retry-connrefused {api}/api/v1/health/live"
    token = identity_provider.token(iss=ISSUER, aud="articurated")
    connection = f"export DATABASE_URL='{place.info.database_url}' REDIS_URL='{place.info.redis_url}'"
    with identity_provider.key_server(identity_provider.key_set(identity_provider.jwk("ES256"))) as provider:
        instead = {
            f"{ISSUER}/protocol/openid-connect/certs": provider.url,
            "articurated api": f"{served}\n{answers}",
            "https://api.example": api,
        }
        yield Scene(f"{connection} TOKEN={token}\ntrap 'kill $SERVING' EXIT", instead)


@contextmanager
def checkout(place: Place) -> Iterator[Scene]:
    """Give what a change of the tables is made in."""
    shutil.copytree(ROOT / "alembic", place.folder / "alembic")
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, place.folder)
    yield Scene(instead={".venv/bin/alembic": f'"{sys.executable}" -m alembic'})
    assert (place.folder / "alembic" / "versions" / "0042_orders_remember_their_parcel.py").exists()


def replaced(text: str, instead: Mapping[str, str]) -> str:
    """Return a text with names replaced, in their order."""
    for name, own in instead.items():
        text = text.replace(name, own)
    return text


@contextmanager
def own_backups(place: Place) -> Iterator[Scene]:
    """Give folders for backups and for what is restored; the embedded database is the one that is backed up."""
    folder = place.folder / f"backups-{uuid4().hex[:8]}"
    folder.mkdir()
    names = {"/srv/backups/articurated": str(folder / "repository"), "/srv/restored": str(folder / "restored")}
    yield Scene(instead=names)


SCENES: Mapping[str, Callable[[Place], AbstractContextManager[Scene]]] = {
    "how-to/migrate-and-upgrade.md": empty_database,
    "how-to/back-up-and-restore.md": own_backups,
    "how-to/deploy-on-servers.md": own_servers,
    "how-to/replicate-the-database.md": own_replica,
    "how-to/connect-storage.md": own_bucket,
    "how-to/connect-an-identity-provider.md": own_provider,
    "../CONTRIBUTING.md": checkout,
}
"""Page, as seen from docs/ → what its reader has."""
