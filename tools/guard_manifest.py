"""`python -m tools.guard_manifest`: write `alembic/guards.json` from a database that was just migrated.

Run it after a migration was added or changed; a test compares the file with what the migrations make.
"""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from alembic.config import Config
from sqlalchemy import make_url

from alembic import command
from app.config import ROOT, Settings
from app.database import Database
from app.services.operations.guard_manifest import PATH, as_json, read_guards, read_rights
from devtools.embedded.servers import ensure_servers


def main() -> None:
    """Migrate an empty database on a server of its own, and write down its guards."""
    for variable in ("DATABASE_URL", "DATABASE_ADMIN_URL", "REDIS_URL"):
        os.environ.pop(variable, None)
    with (
        tempfile.TemporaryDirectory(prefix="articurated-guards-") as folder,
        ensure_servers(Path(folder), durable=False) as servers,
    ):
        settings = Settings(_env_file=None, environment="testing", database_url=servers.app_url)
        config = Config(str(ROOT / "alembic.ini"))
        config.attributes.update(
            url=servers.owner_url,
            application_login=make_url(servers.app_url).username,
            database_role=settings.database_role,
        )
        command.upgrade(config, "head")
        made = asyncio.run(_manifest(settings))
    if not PATH.exists() or PATH.read_text(encoding="utf-8") != made:
        PATH.write_text(made, encoding="utf-8")
        sys.stdout.write(f"{PATH}\n")


async def _manifest(settings: Settings) -> str:
    database = Database(settings, "articurated-guards", pool_size=1)
    try:
        async with database.transaction() as session:
            return as_json(await read_guards(session), await read_rights(session, settings.database_role))
    finally:
        await database.close()


if __name__ == "__main__":
    main()
