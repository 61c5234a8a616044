"""`articurated backup` and `articurated restore`: for people who operate it, and for timers (NFR-003)."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from app.cli import operations as cli_operations
from app.cli.operations import Json, print_json, print_table

if TYPE_CHECKING:
    from app.backup.repository import Manifest, Repository
    from app.backup.source import Progress, Source

backup = typer.Typer(
    help="Backups of database and documents; without a command, make one.", invoke_without_command=True
)
From = Annotated[
    Path | None,
    typer.Option(
        "--repository", help="Folder of the backups.", show_default="BACKUP_PATH, or backups in the data folder"
    ),
]


class BackupFacts(TypedDict):
    """What is shown of a backup; see `Manifest` for its members."""

    id: str
    started_at: str
    finished_at: str
    postgres: str
    parent: str | None
    label: str | None
    bytes: int
    documents: int
    missing_documents: tuple[str, ...]


@backup.callback()
def make_backup(
    context: typer.Context,
    repository: From = None,
    full: Annotated[bool, typer.Option("--full", help="Copy everything, not only what changed.")] = False,
    json: Json = False,
) -> None:
    """Make a base backup, and bring log and documents up to it."""
    if context.invoked_subcommand is not None:
        return
    from app.backup.create import back_up

    made = back_up(_source(), _repository(repository), _progress(json), is_full=full)
    facts = _facts(made)
    if json:
        print_json(facts)
        return
    kind = f"what changed since {made.parent}" if made.parent else made.label or "everything"
    typer.echo(f"backup {made.id} of {kind}: {made.bytes / 2**20:.1f} MB, {made.documents} documents in the repository")
    for key in made.missing_documents:
        typer.echo(f"missing in the storage: {key}", err=True)


@backup.command("list")
def list_backups(repository: From = None, json: Json = False) -> None:
    """List base backups and restore points, oldest first, and how current the log is."""
    kept = _repository(repository)
    kept.require()
    backups = [_facts(each) for each in kept.backups()]
    points = [{"name": point.name, "at": point.at} for point in kept.points().values()]
    if json:
        print_json({"backups": backups, "points": points, **kept.status(), "encrypted": kept.is_encrypted})
        return
    print_table(backups, ["id", "finished_at", "postgres", "parent", "label", "bytes", "documents"])
    for point in points:
        typer.echo(f"restore point {point['name']}  {point['at']}")
    typer.echo(f"log up to {kept.status().get('last_log_at', '(none)')}")
    if (seconds := kept.status().get("rpo_seconds")) is not None:
        typer.echo(f"measured at the last turn: {seconds} s would have been lost with the server (RPO)")


@backup.command("verify")
def verify_backups(
    repository: From = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not decrypt and decompress.")] = False,
    json: Json = False,
) -> None:
    """Compare every file with its SHA-256 and look for gaps in the log; exit 1 when something is wrong."""
    from app.backup.pgbackrest import chosen
    from app.backup.verify import verify
    from app.config import get_settings

    faults = verify(_repository(repository), _progress(json), deep=not quick, engine=chosen(get_settings()))
    if json:
        print_json({"ok": not faults, "faults": faults})
    else:
        typer.echo("\n".join(faults) if faults else "The backups are whole.")
    if faults:
        raise typer.Exit(1)


@backup.command("point")
def make_point(
    name: Annotated[str, typer.Argument(help="Its name: letters, digits, '.', '_' and '-'.")],
    repository: From = None,
    json: Json = False,
) -> None:
    """Make a named restore point, and bring log and documents up to it."""
    from dataclasses import asdict

    from app.backup.create import mark

    point = mark(_source(), _repository(repository), name)
    if json:
        print_json(asdict(point))
    else:
        typer.echo(f"restore point {point.name} at {point.lsn}, {point.at}")


@backup.command("collect")
def collect_now(repository: From = None, json: Json = False) -> None:
    """Bring log and documents up to this moment."""
    from dataclasses import asdict

    from app.backup.create import collect

    found = collect(_source(), _repository(repository))
    if json:
        print_json(asdict(found))
    else:
        typer.echo(f"{found.segments} segments of the log and {found.documents} documents added")


@backup.command("prune")
def prune_backups(repository: From = None, json: Json = False) -> None:
    """Remove base backups older than BACKUP_KEEP_DAYS, but for the newest two, and the log that only they need."""
    from app.backup.create import prune
    from app.backup.pgbackrest import chosen
    from app.config import get_settings

    settings = get_settings()
    removed = prune(_repository(repository), timedelta(days=settings.backup_keep_days), chosen(settings))
    if json:
        print_json({"removed": removed})
    else:
        typer.echo("\n".join(f"removed {name}" for name in removed) or "nothing to remove")


@backup.command("run")
def run_schedule(
    repository: From = None,
    first_after: Annotated[int, typer.Option(min=0, help="Seconds until the first base backup.")] = 0,
) -> None:
    """Back up until stopped: log and documents twice a minute, a base backup every BACKUP_EVERY_HOURS."""
    from app.backup.schedule import Schedule
    from app.config import get_settings
    from app.core.logging import configure_logging

    source, settings = _source(), get_settings()
    configure_logging(settings)
    kept = _repository(repository)
    Schedule(
        source,
        kept.root,
        _key(),
        every=timedelta(hours=settings.backup_every_hours),
        keep=timedelta(days=settings.backup_keep_days),
        first_after=timedelta(seconds=first_after),
    ).run()


@backup.command("archive-wal")
def archive_wal(
    path: Annotated[Path, typer.Argument(help="The segment: %p of PostgreSQL's archive_command.")],
    repository: From = None,
) -> None:
    """Keep one segment of the log; for PostgreSQL's archive_command, where the log is not fetched."""
    from app.backup.log import archive

    archive(_repository(repository), path)


def restore(
    to: Annotated[str, typer.Option(help="`latest`, a restore point, or a time with its zone.")] = "latest",
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="New folder to restore into.", show_default=".articurated in the checkout"),
    ] = None,
    repository: From = None,
    json: Json = False,
) -> None:
    """Restore database and documents into a new data folder; what is there is never overwritten."""
    from app.backup.restore import restore
    from app.backup.target import Target
    from app.config import get_settings
    from app.local.data_folder import default_data_dir

    kept = _repository(repository)
    target = Target.parse(to, kept)
    report = restore(kept, target, data_dir or default_data_dir(), get_settings(), _progress(json))
    if json:
        print_json(report.as_json())
    else:
        typer.echo(f"Restored {to} from backup {report.backup} and {report.log_segments} segments of the log.")
        typer.echo(f"The audit trail holds: {report.audit_rows} rows. {report.documents} documents are there.")
        for key in report.missing_documents:
            typer.echo(f"missing: {key}", err=True)
        typer.echo(f"It took {report.seconds} s. Start it with: articurated up --data-dir {report.data_dir}")
    if report.missing_documents:
        raise typer.Exit(1)


def register(cli: typer.Typer) -> None:
    """Add these verbs to the command."""
    cli.add_typer(backup, name="backup")
    cli.command()(restore)


def _key() -> bytes | None:
    from app.config import get_settings

    return get_settings().backup_encryption_key.get_secret_value().encode() or None


def _repository(chosen: Path | None) -> "Repository":
    from app.backup.repository import Repository
    from app.config import get_settings
    from app.local.data_folder import default_data_dir

    return Repository(chosen or get_settings().backup_path or default_data_dir() / "backups", _key())


def _source() -> "Source":
    """Return the database of the configuration, or of the system that runs over the data folder.

    Raises:
        BackupError: no login that may replicate is known.
    """
    from sqlalchemy import make_url

    from app.backup.errors import BackupError
    from app.backup.source import Source
    from app.config import get_settings
    from app.local.data_folder import default_data_dir
    from app.local.postgres import APP_ROLE, SUPERUSER, EmbeddedPostgres

    cli_operations.connect_to_running_system()
    settings, data_dir = get_settings(), default_data_dir()
    embedded = EmbeddedPostgres(data_dir)
    login = embedded.known_login(APP_ROLE)
    if login is not None and make_url(login).password == make_url(settings.database_url).password:
        url = embedded.known_login(SUPERUSER)
        extra = {"secrets.json": embedded.home / "secrets.json"}
    else:
        url, extra = settings.backup_database_url or settings.database_admin_url, {}
    if url is None:
        raise BackupError("BACKUP_DATABASE_URL is not set: name a login that may replicate")
    return Source(url, settings, extra)


def _progress(json: bool) -> "Progress":
    """Return what says on standard error how far it is; nothing with `--json`."""
    return (lambda _line: None) if json else (lambda line: typer.echo(f"  {line} …", err=True))


def _facts(made: "Manifest") -> BackupFacts:
    return {
        "id": made.id,
        "started_at": made.started_at,
        "finished_at": made.finished_at,
        "postgres": made.postgres,
        "parent": made.parent,
        "label": made.label,
        "bytes": made.bytes,
        "documents": made.documents,
        "missing_documents": made.missing_documents,
    }
