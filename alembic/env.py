"""Runs migrations as the owner of the schema: DATABASE_ADMIN_URL, or DATABASE_URL when that is absent."""

from sqlalchemy import Connection, create_engine, pool, text

from alembic import context
from app.config import get_settings
from app.database import driver_url
from app.models import Base

# One number for all processes that migrate this application: a second one waits for the first.
MIGRATION_LOCK = 4_274_110_201


def run(connection: Connection) -> None:
    """Bring the schema to the wanted revision in one transaction, so that a failed step leaves no half."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        context.run_migrations()


def main() -> None:
    """Use the connection a caller passed in (tests do), or open one.

    Migrations grant to `attributes["database_role"]`.
    """
    settings = get_settings()
    context.config.attributes.setdefault("database_role", settings.database_role)
    given = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    url = context.config.attributes.get("url") or settings.database_admin_url or settings.database_url
    engine = create_engine(driver_url(url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        run(connection)
        connection.commit()
    engine.dispose()


main()
