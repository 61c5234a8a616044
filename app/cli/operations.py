"""The verbs of `articurated` for people who operate it: audit, jobs, refunds, documents, diagnosis.

They talk to the database of the configuration; without one, to the system that `articurated up` runs.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar
from uuid import UUID

import typer

if TYPE_CHECKING:
    from app.core.actor import Actor
    from app.database import Database
    from app.services.jobs.resolution import Resolution
    from app.services.operations.dead_letters import DeadLetterView
    from app.services.payments.refund_reconciliation import Reconciliation

T = TypeVar("T")

audit = typer.Typer(help="The audit trail: proof and export.", no_args_is_help=True)
jobs = typer.Typer(help="Background jobs and their dead letters.", no_args_is_help=True)
refunds = typer.Typer(help="Refunds, and their comparison with the gateway's ledger.", no_args_is_help=True)

_LONGEST_NAME = 100

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]


class MachineName(StrEnum):
    """The state machines."""

    ORDER = "order"
    RETURN = "return"


class PictureFormat(StrEnum):
    """How a state machine is drawn."""

    MERMAID = "mermaid"
    SVG = "svg"


def connect_to_running_system(*, needed: bool = True) -> None:
    """Point the settings at the embedded system that runs, unless the configuration names a database itself.

    Raises:
        EmbeddedError: there is neither, and it is needed.
    """
    from app.config import get_settings
    from app.local.data_folder import default_data_dir, running_connection
    from app.local.process import EmbeddedError

    if "database_url" not in get_settings().model_fields_set:
        found = running_connection(default_data_dir())
        if needed and not found:
            raise EmbeddedError(
                f"no system runs over {default_data_dir()}, and DATABASE_URL names no database."
                " Start one with `./dev run`, or set DATABASE_URL."
            )
        os.environ.update(found)
        get_settings.cache_clear()


@asynccontextmanager
async def _database(*, as_owner: bool) -> AsyncIterator["Database"]:
    from app.config import get_settings
    from app.database import Database

    database = Database(get_settings(), "articurated-cli", pool_size=2, as_owner=as_owner)
    try:
        yield database
    finally:
        await database.close()


def with_database(work: Callable[["Database"], Awaitable[T]], *, as_owner: bool = False) -> T:
    """Return what `work` gives of the configured database, or of the system that runs.

    Args:
        as_owner: connect with DATABASE_ADMIN_URL: the application's role may not do it.
    """

    async def run() -> T:
        async with _database(as_owner=as_owner) as database:
            return await work(database)

    connect_to_running_system()
    return asyncio.run(run())


By = Annotated[
    str | None,
    typer.Option("--by", help="Who decides, for the record; default: the name of the system account."),
]


def operator(by: str | None = None) -> "Actor":
    """Who acts here: someone with the server's own credentials, so the system, through the CLI, and who says so.

    Args:
        by: a name that was given; else that of the account that runs this process.

    Raises:
        BadParameter: the name is empty, too long or not printable.
    """
    from app.core.actor import Actor
    from app.core.enums import ActorType, Trigger

    name = _account() if by is None else by.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise typer.BadParameter(f"a name of 1 to {_LONGEST_NAME} printable characters", param_hint="--by")
    return Actor(id=None, type=ActorType.SYSTEM, trigger=Trigger.CLI, operator=name)


def _account() -> str:
    """Return the name of the account; a number where it has none, as in many containers."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def open_private(path: Path) -> BinaryIO:
    """Open a file for writing, emptied, that its owner alone can read, also where one with another mode is there."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.fchmod(handle, 0o600)
    return os.fdopen(handle, "wb")


def print_json(value: Any) -> None:
    """Print one JSON document."""
    import orjson

    options = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=options))
    sys.stdout.flush()


def print_table(rows: Sequence[Mapping[str, Any]], columns: list[str]) -> None:
    """Print aligned columns, nothing cut short: ids are there to be copied, errors to be read."""
    lines = [columns] + [["" if row[column] is None else str(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[position]) for line in lines) for position in range(len(columns))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _progress() -> Callable[[int], None] | None:
    """Return what shows the number of rows on a terminal, in place; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    shown = 0

    def show(rows: int) -> None:
        nonlocal shown
        if rows - shown >= 10_000:
            shown = rows
            typer.echo(f"\r{rows:,} rows", nl=False, err=True)

    return show


# --- audit -----------------------------------------------------------------------------------------------------


@audit.command("verify")
def audit_verify(
    json: Json = False,
    record: Annotated[
        UUID | None, typer.Option(hidden=True, help="Verify as part of this run, which the API started.")
    ] = None,
) -> None:
    """Walk every chain and replay every transition; exit 1 at the first row that does not hold."""
    from app.services.workflow import verification as verification_service
    from app.services.workflow.audit import AuditService

    if record is not None:
        # The API started it and serves requests on the same cores.
        os.nice(10)
        report = with_database(lambda database: verification_service.record(database, record))
    else:
        report = with_database(lambda database: AuditService(database).verify(_progress()))
    if json:
        print_json(report)
    elif report["ok"]:
        typer.echo(f"The audit trail holds: {report['rows']} rows of {report['entities']} entities.")
    elif (fault := report["fault"]) is not None:
        where = f"{fault['entity_type']} {fault['entity_id']}" + (f" row {fault['seq']}" if fault["seq"] else "")
        typer.echo(f"The audit trail does NOT hold.\n{where}: {fault['fault']}")
    if not report["ok"]:
        raise typer.Exit(1)


@audit.command("export")
def audit_export(
    output: Annotated[
        Path | None, typer.Option(help="File to write, readable only by its owner; default: standard output.")
    ] = None,
) -> None:
    """Write the whole trail as JSON Lines, oldest first, with the hashes that prove it."""
    import orjson

    from app.services.workflow.audit import AuditService

    async def write(database: "Database") -> int:
        written = 0
        stream = open_private(output) if output else sys.stdout.buffer
        try:
            async for record in AuditService(database).export():
                stream.write(orjson.dumps(record, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE))
                written += 1
            stream.flush()
        finally:
            if output:
                stream.close()
        return written

    written = with_database(write)
    typer.echo(f"{written} rows", err=True)


# --- jobs ------------------------------------------------------------------------------------------------------


@jobs.command("list")
def jobs_list(
    state: Annotated[str, typer.Option(help="PENDING, PUBLISHED, RUNNING, SUCCEEDED, DEAD or DISMISSED.")] = "DEAD",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """List jobs in one state, newest first; without an option those that wait for a person."""
    from app.core.enums import JobState
    from app.services.jobs import queries as job_queries

    try:
        wanted = JobState(state.upper())
    except ValueError:
        raise typer.BadParameter(f"{state} is no state of a job") from None
    rows = with_database(lambda database: job_queries.list_jobs(database, wanted, limit))
    if json:
        print_json(rows)
    else:
        print_table(rows, ["id", "kind", "order_number", "entity_id", "failures", "claims", "run_at", "last_error"])


@jobs.command("show")
def jobs_show(job_id: Annotated[UUID, typer.Argument(help="The job, or its dead letter.")]) -> None:
    """Show everything about one job, as JSON."""
    from app.services.jobs import queries as job_queries

    print_json(with_database(lambda database: job_queries.show_job(database, job_id)))


@jobs.command("retry")
def jobs_retry(
    job_id: Annotated[UUID, typer.Argument(help="The job, or its dead letter.")],
    note: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    by: By = None,
) -> None:
    """Make a dead job due again, with all its retries."""
    _resolve("RETRIED", job_id, note, by)


@jobs.command("dismiss")
def jobs_dismiss(
    job_id: Annotated[UUID, typer.Argument(help="The job, or its dead letter.")],
    note: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    by: By = None,
) -> None:
    """Dismiss a dead letter: its job is never run again."""
    _resolve("DISMISSED", job_id, note, by)


def _resolve(resolution: "Resolution", job_id: UUID, note: str | None, by: str | None) -> None:
    from app.services.operations.dead_letters import DeadLetterService

    async def resolve(database: "Database") -> "DeadLetterView":
        service = DeadLetterService(database)
        letter_id = await service.open_letter(job_id)
        decide = service.retry if resolution == "RETRIED" else service.dismiss
        return await decide(letter_id, actor, note)

    actor = operator(by)
    letter = with_database(resolve)
    typer.echo(f"{resolution.lower()}: {letter['kind']} of {letter['order_number'] or letter['entity_id']}")


# --- refunds ---------------------------------------------------------------------------------------------------


@refunds.command("list")
def refunds_list(
    state: Annotated[str | None, typer.Option(help="PENDING, PROCESSING, SUCCEEDED, FAILED or UNKNOWN.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 50,
    json: Json = False,
) -> None:
    """List refunds, newest first."""
    from pydantic import ValidationError

    from app.schemas.refund import RefundQuery
    from app.services.payments.refunds import RefundService

    try:
        query = RefundQuery(state=[state.upper()] if state else [], limit=limit)
    except ValidationError:
        raise typer.BadParameter(f"{state} is no state of a refund") from None
    page = with_database(lambda database: RefundService(database).list(query, operator()))
    rows = [{**refund, "amount": float(refund["amount"])} for refund in page["data"]]
    if json:
        print_json(rows)
    else:
        print_table(rows, ["id", "order_id", "state", "amount", "currency", "gateway_refund_id", "last_error"])


@refunds.command("reconcile")
def refunds_reconcile(
    repair: Annotated[
        bool, typer.Option(help="Record refunds that the gateway paid and this system has not recorded.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare our refunds with the gateway's ledger; exit 1 when they differ."""
    from dataclasses import asdict

    from app.config import get_settings
    from app.services.payments.gateway.http import HttpPaymentGateway
    from app.services.payments.refunds import RefundService

    async def compare(database: "Database") -> "Reconciliation":
        settings = get_settings()
        async with HttpPaymentGateway.from_settings(settings) as gateway:
            is_production = settings.environment == "production"
            return await RefundService(database).reconcile(gateway, repair=repair, without_samples=not is_production)

    report = with_database(compare)
    if json:
        print_json(asdict(report))
    else:
        typer.echo(
            f"{report.ours} refunds here, {report.theirs} at the gateway, {len(report.differences)} differences"
            + (f", {report.decided} decided" if report.decided else "")
        )
        if report.samples:
            typer.echo(f"{report.samples} sample refunds left out: no gateway was asked for them")
        for difference in report.differences:
            typer.echo(
                f"  {difference.kind}  order {difference.order_number}  payment {difference.gateway_payment_id}"
                f"  refund {difference.reference}  ours {difference.our_amount}  theirs {difference.their_amount}"
            )
        if report.repaired:
            typer.echo(f"{report.repaired} recorded as paid")
    if len(report.differences) > report.repaired:
        raise typer.Exit(1)


# --- documents and diagnosis -----------------------------------------------------------------------------------


def openapi(
    output: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
) -> None:
    """Print the OpenAPI document as YAML: what `API-SPECIFICATION.yml` holds."""
    from app.main import openapi_yaml

    document = openapi_yaml()
    if output:
        output.write_text(document, encoding="utf-8")
    else:
        typer.echo(document, nl=False)


def diagram(
    machine: Annotated[MachineName, typer.Argument()] = MachineName.ORDER,
    picture: Annotated[PictureFormat, typer.Option("--format")] = PictureFormat.MERMAID,
    output: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
) -> None:
    """Draw a state machine from the table that the system runs on."""
    from app.core.enums import EntityType
    from app.services.workflow import diagrams

    draw = diagrams.mermaid if picture is PictureFormat.MERMAID else diagrams.svg
    drawn = draw(EntityType[machine.name])
    if output:
        output.write_text(drawn, encoding="utf-8")
    else:
        typer.echo(drawn, nl=False)


def doctor(json: Json = False) -> None:
    """Look at every part that the configuration names and say what is wrong; exit 1 if anything is."""
    from app.config import get_settings
    from app.doctor import Level, examine

    connect_to_running_system(needed=False)
    findings = asyncio.run(examine(get_settings()))
    if json:
        print_json([finding.as_json() for finding in findings])
    else:
        colours = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}
        for finding in findings:
            typer.echo(typer.style(finding.line[0], fg=colours[finding.level]) + finding.line[1:])
    if any(finding.level is Level.FAILURE for finding in findings):
        raise typer.Exit(1)


def flower(
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5555,
) -> None:
    """Show queues and workers in the browser: Flower (an optional extra)."""
    from app.tasks.processes import run_flower

    connect_to_running_system(needed=False)
    run_flower(address, port)


def register(cli: typer.Typer) -> None:
    """Add these verbs to the command."""
    for name, group in (("audit", audit), ("jobs", jobs), ("refunds", refunds)):
        cli.add_typer(group, name=name)
    for command in (openapi, diagram, doctor, flower):
        cli.command()(command)
