"""`articurated replication`: what the database needs before and after a logical replication (NFR-003)."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypedDict, TypeVar

import typer

from app.cli.operations import Json, connect_to_running_system, print_json

if TYPE_CHECKING:
    from app.config import Settings
    from app.database import Database
    from app.services.workflow.views import VerificationView

T = TypeVar("T")

replication = typer.Typer(
    help="Logical replication to another server: for an upgrade of PostgreSQL.", no_args_is_help=True
)


class FinishReport(TypedDict):
    """What `finish` prints.

    Attributes:
        guards, sequences, rows: as in `Finished`.
        audit: of the whole audit trail.
        differing: what is not as on the publisher, and what does not hold; empty where all is well.
    """

    guards: int
    sequences: dict[str, int]
    rows: dict[str, int]
    audit: "VerificationView"
    differing: list[str]


class Side(StrEnum):
    """Of a logical replication."""

    PUBLISHER = "publisher"
    SUBSCRIBER = "subscriber"


Publisher = Annotated[
    str | None,
    typer.Option(
        envvar="REPLICATION_PUBLISHER_URL", help="Owner's connection to the database that this one is copied from."
    ),
]


@replication.command("prepare")
def prepare(
    on: Annotated[Side, typer.Option("--on", help="The server that DATABASE_ADMIN_URL connects to.")],
    json: Json = False,
) -> None:
    """Make the publication, or let the guards of an empty database pass what a subscription applies."""
    from app.services.operations import replication as replication_service

    settings = _owner_settings()

    if on is Side.PUBLISHER:
        publication = replication_service.PUBLICATION
        tables = asyncio.run(_as_owner(settings, replication_service.prepare_publisher))
        if json:
            print_json({"publication": publication, "tables": tables})
        else:
            typer.echo(f"Publication {publication} has {len(tables)} tables.")
        return
    guards = asyncio.run(_as_owner(settings, replication_service.prepare_subscriber))
    if json:
        print_json({"guards": guards})
    else:
        typer.echo(
            f"{guards} guards let a subscription pass. Production refuses to start on this database until"
            " `articurated replication finish`."
        )


@replication.command("finish")
def finish(publisher: Publisher = None, json: Json = False) -> None:
    """Set sequences, restore the guards and verify everything; exit 1 if anything differs."""
    settings = _owner_settings()
    report = asyncio.run(_finish(settings, publisher))
    faults = report["differing"]
    if json:
        print_json(report)
    else:
        rows = sum(report["rows"].values())
        compared = "compared with the publisher" if publisher else "not compared: REPLICATION_PUBLISHER_URL is not set"
        typer.echo(f"{report['guards']} guards are restored. {rows} rows, {compared}.")
        typer.echo("Sequences: " + ", ".join(f"{name} {last}" for name, last in report["sequences"].items()))
        trail = report["audit"]
        if trail["ok"]:
            typer.echo(f"The audit trail holds: {trail['rows']} rows of {trail['entities']} entities.")
        for fault in faults:
            typer.echo(f"differs: {fault}", err=True)
    if faults:
        raise typer.Exit(1)


@replication.command("compare")
def compare(publisher: Publisher = None, json: Json = False) -> None:
    """Compare rows, their content and sequences with the database this one was copied from; exit 1 if they differ."""
    from app.config import SettingsError
    from app.services.operations import replication as replication_service

    settings = _owner_settings()
    if publisher is None:
        raise SettingsError("REPLICATION_PUBLISHER_URL is not set: name the database to compare with")

    async def work() -> tuple[dict[str, int], list[str]]:
        from app.database import Database

        there = settings.model_copy(update={"database_admin_url": publisher})
        databases = [
            Database(each, "articurated-replication", pool_size=1, as_owner=True) for each in (settings, there)
        ]
        try:
            contents = [await replication_service.content(database) for database in databases]
        finally:
            for database in databases:
                await database.close()
        return {table: count for table, (count, _) in contents[0].rows.items()}, replication_service.differences(
            *contents
        )

    rows, differing = asyncio.run(work())
    if json:
        print_json({"rows": rows, "differing": differing})
    else:
        typer.echo("\n".join(f"differs: {fault}" for fault in differing) or "Both hold the same.")
        typer.echo(f"{sum(rows.values())} rows in {len(rows)} tables")
    if differing:
        raise typer.Exit(1)


async def _as_owner(settings: "Settings", work: Callable[["Database"], Awaitable[T]]) -> T:
    from app.database import Database

    owner = Database(settings, "articurated-replication", pool_size=1, as_owner=True)
    try:
        return await work(owner)
    finally:
        await owner.close()


async def _finish(settings: "Settings", publisher_url: str | None) -> FinishReport:
    from app.database import Database
    from app.services.operations import replication as replication_service
    from app.services.operations.schema_check import guard_differences
    from app.services.workflow.audit import AuditService

    owner = Database(settings, "articurated-replication", pool_size=1, as_owner=True)
    application = Database(settings, "articurated-replication", pool_size=1)
    publisher = None
    if publisher_url:
        there = settings.model_copy(update={"database_admin_url": publisher_url})
        publisher = Database(there, "articurated-replication", pool_size=1, as_owner=True)
    try:
        done = await replication_service.finish(owner, publisher)
        differing = [*done.differing, *await guard_differences(application)]
        trail = await AuditService(application).verify()
    finally:
        for database in (owner, application, *([publisher] if publisher else [])):
            await database.close()
    fault = trail["fault"]
    if fault is not None:
        differing.append(f"audit trail of {fault['entity_type']} {fault['entity_id']}: {fault['fault']}")
    return {
        "guards": done.guards,
        "sequences": dict(done.sequences),
        "rows": dict(done.rows),
        "audit": trail,
        "differing": differing,
    }


def _owner_settings() -> "Settings":
    """Return the settings, which must name the owner.

    Raises:
        SettingsError: DATABASE_ADMIN_URL is not set.
    """
    from app.config import SettingsError, get_settings

    connect_to_running_system()
    settings = get_settings()
    if settings.database_admin_url is None:
        raise SettingsError("DATABASE_ADMIN_URL is not set: only the owner of the tables may change their guards")
    return settings


def register(cli: typer.Typer) -> None:
    """Add these verbs to the command."""
    cli.add_typer(replication, name="replication")
