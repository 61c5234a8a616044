"""The `articurated` command: one thin function per verb.

Bodies import what they need when they run: a command that lists its verbs must not load a web framework.
"""

import importlib
import sys
from typing import Annotated

import typer

from app.cli import backup as cli_backup
from app.cli import cases as cli_cases
from app.cli import keys as cli_keys
from app.cli import notifications as cli_notifications
from app.cli import operations as cli_operations
from app.cli import payments as cli_payments
from app.cli import replication as cli_replication
from app.cli.options import AllowDevelopmentSecrets, ApiWorkers, allow_secrets

cli = typer.Typer(
    name="articurated",
    help="Orders and returns of high-value artisanal goods: the system of record.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cli.command()
def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: ApiWorkers = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="Listening socket that the parent opened.")] = None,
    spare: Annotated[bool, typer.Option("--spare", hidden=True, help="Wait for SIGUSR1 before serving.")] = False,
    *,
    allow_development_secrets: AllowDevelopmentSecrets = False,
) -> None:
    """Serve the HTTP API."""
    from app.api.http.protocol import BoundedHttpProtocol
    from app.api_server import room_for_connections, serve, serve_inherited
    from app.config import KEEP_ALIVE_SECONDS, get_settings
    from app.config_rules import refuse_public_address
    from app.utils.memory import api_processes

    allow_secrets(development=allow_development_secrets)
    settings = get_settings()  # A wrong configuration is reported once, here, and not by every worker.
    refuse_public_address(settings, host)
    connections = room_for_connections(settings.http_connections_maximum)
    if connections < settings.http_connections_maximum:
        typer.echo(f"This system lets a process hold {connections} connections (ulimit -n).", err=True)
    options = {
        "app": "app.main:app",
        "host": host,
        "port": port,
        "loop": "uvloop",
        "http": BoundedHttpProtocol,
        "ws": "none",
        "limit_concurrency": connections,
        "access_log": False,
        "server_header": False,
        # By default the server would take the address that any process of this machine claims.
        "proxy_headers": bool(settings.proxies),
        "forwarded_allow_ips": settings.proxies,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": 8,
        "log_level": "warning",
    }
    if fd is None:
        serve(options, workers or api_processes())
    else:
        serve_inherited(options, fd, spare=spare)


@cli.command()
def migrate(
    down: Annotated[
        str | None, typer.Option(metavar="REV", help="Downgrade to this revision; `base` undoes all migrations.")
    ] = None,
) -> None:
    """Bring the database schema up to date."""
    from alembic.command import downgrade, upgrade
    from alembic.config import Config

    from app.config import ROOT

    configuration = Config(ROOT / "alembic.ini")
    configuration.set_main_option("script_location", str(ROOT / "alembic").replace("%", "%%"))
    if down:
        downgrade(configuration, down)
    else:
        upgrade(configuration, "head")


@cli.command()
def worker(
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Jobs done at a time.")] = 2,
    queues: Annotated[
        str, typer.Option(help="Queues of jobs to take from, separated by commas; the ticks of beat are always taken.")
    ] = "invoices,refunds,notifications",
) -> None:
    """Do background jobs: a Celery worker."""
    from app.tasks.processes import run_worker

    run_worker(concurrency, queues.split(","))


@cli.command()
def beat() -> None:
    """Tick: make due what time alone makes due."""
    from app.tasks.processes import run_beat

    run_beat()


@cli.command()
def relay() -> None:
    """Wake workers for due jobs, and again for those that were abandoned."""
    from app.tasks.processes import run_relay

    run_relay()


cli_keys.register(cli)
cli_operations.register(cli)
cli_backup.register(cli)
cli_notifications.register(cli)
cli_cases.register(cli)
cli_payments.register(cli)
cli_replication.register(cli)


DEVELOPMENT_VERBS = ("up", "demo", "seed", "gateway", "mail")
"""What `devtools` adds. The production image has none of it."""


def add_development_verbs(cli: typer.Typer) -> None:
    """Add the verbs of `devtools` where it is there; where it is not, each of them says so and ends with 2."""
    try:
        devtools = importlib.import_module("devtools.cli")
    except ModuleNotFoundError as fault:
        if fault.name not in {"devtools", "devtools.cli"}:
            raise
    else:
        devtools.register(cli)
        return
    for verb in DEVELOPMENT_VERBS:
        cli.command(
            verb,
            hidden=True,
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )(_without_devtools)


def _without_devtools(context: typer.Context) -> None:
    typer.echo(
        f"articurated: `{context.info_name}` is for development and needs the folder devtools of a checkout,"
        " which is not here.",
        err=True,
    )
    raise typer.Exit(2)


add_development_verbs(cli)


def main() -> None:
    """Run the command; a fault that the user can correct is one message and exit code 1 or 2."""
    try:
        cli(prog_name="articurated")
    except Exception as fault:
        code = _exit_code(fault)
        if code is None:
            raise
        typer.echo(f"articurated: {_sentence(fault)}", err=True)
        sys.exit(code)


def _sentence(fault: Exception) -> str:
    """Say what is wrong: of a database error its first line, of a refusal the facts too."""
    if original := getattr(fault, "orig", None):
        return str(original).strip().splitlines()[0]
    facts = getattr(fault, "details", None)
    if isinstance(facts, list):
        return " ".join([str(fault), *(f"{fact['field']} {fact['message']}." for fact in facts)])
    return str(fault)


def _exit_code(fault: Exception) -> int | None:
    """2 for a configuration that cannot be used, 1 for a part that cannot run, None for a fault of ours.

    Only modules that are loaded can have raised their errors: nothing is imported to find out.
    """
    for module, name, code in (
        ("app.config", "SettingsError", 2),
        ("devtools.mock_gateway.settings", "GatewaySettingsError", 2),
        ("app.local.process", "EmbeddedError", 1),
        ("app.backup.errors", "BackupError", 1),
        ("app.services.operations.schema_check", "SchemaMismatchError", 1),
        ("app.services.operations.replication", "ReplicationError", 1),
        ("app.utils.exceptions", "AppError", 1),
        ("app.services.payments.gateway.port", "GatewayError", 1),
        ("sqlalchemy.exc", "OperationalError", 1),
    ):
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(fault, getattr(loaded, name)):
            return code
    return None


if __name__ == "__main__":
    main()
