"""The `articurated` command: one thin function per verb.

Bodies import what they need when they run: a command that lists its verbs must not load a web framework.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from app.cli import backup as cli_backup
from app.cli import cases as cli_cases
from app.cli import keys as cli_keys
from app.cli import notifications as cli_notifications
from app.cli import operations as cli_operations
from app.cli import payments as cli_payments
from app.cli import replication as cli_replication

cli = typer.Typer(
    name="articurated",
    help="Orders and returns of high-value artisanal goods: the system of record.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of everything that lasts.", show_default=".articurated in the checkout"),
]
_NO_MOCK = "ENVIRONMENT is production, where the mock gateway does not run: it moves no money."
AllowDevelopmentSecrets = Annotated[
    bool,
    typer.Option(
        "--allow-development-secrets", help="Listen where other machines reach it, under secrets that anyone can read."
    ),
]

ApiWorkers = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Processes that answer HTTP.", show_default="2, or 1 where memory is short"),
]


@cli.command()
def up(
    *,
    json: Annotated[bool, typer.Option("--json", help="Say nothing but one JSON line when ready.")] = False,
    port: Annotated[int | None, typer.Option(min=0, max=65535, show_default="8000", help="0 takes a free one.")] = None,
    data_dir: DataDir = None,
    api_workers: ApiWorkers = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that do jobs.")] = 2,
) -> None:
    """Run the whole system; Ctrl-C ends it."""
    from app.local.data_folder import default_data_dir
    from devtools.embedded.run import run_stack
    from devtools.embedded.stack import StackInfo, StackOptions

    def announce(info: StackInfo) -> None:
        if json:
            from json import dumps

            typer.echo(dumps(info.to_json()))

    options = StackOptions(data_dir or default_data_dir(), port, api_workers, workers, json)
    run_stack(options, announce)


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
    from app.api_server import serve, serve_inherited
    from app.config import KEEP_ALIVE_SECONDS, get_settings
    from app.config_rules import refuse_public_address
    from app.utils.memory import api_processes

    _allow(allow_development_secrets)
    settings = get_settings()  # A wrong configuration is reported once, here, and not by every worker.
    refuse_public_address(settings, host)
    options = {
        "app": "app.main:app",
        "host": host,
        "port": port,
        "loop": "uvloop",
        "http": BoundedHttpProtocol,
        "ws": "none",
        "limit_concurrency": settings.http_connections_maximum,
        "access_log": False,
        "server_header": False,
        # Left alone, the server would believe any process of this machine: a caller's address is not the caller's to say.
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
def gateway(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8002,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of its ledger.", show_default="gateway in the data folder")
    ] = None,
    webhook_url: Annotated[str | None, typer.Option(help="Where its events go; none are sent without.")] = None,
    *,
    allow_development_secrets: AllowDevelopmentSecrets = False,
) -> None:
    """Serve the mock payment gateway, for development."""
    import os

    import uvicorn

    from app.config import KEEP_ALIVE_SECONDS, SettingsError, get_settings
    from app.config_rules import refuse_public_address
    from app.local.data_folder import default_data_dir
    from devtools.mock_gateway.main import create_app
    from devtools.mock_gateway.settings import GatewaySettings

    _allow(allow_development_secrets)
    if os.environ.get("ENVIRONMENT") == "production":
        raise SettingsError(_NO_MOCK)
    settings = get_settings()
    if settings.environment == "production":
        raise SettingsError(_NO_MOCK)
    refuse_public_address(settings, host, "PAYMENT_GATEWAY_API_KEY", "PAYMENT_WEBHOOK_SECRET")
    environ = {
        "PAYMENT_GATEWAY_API_KEY": settings.payment_gateway_api_key.get_secret_value(),
        "PAYMENT_WEBHOOK_SECRET": settings.payment_webhook_secret.get_secret_value(),
        **os.environ,
        "GATEWAY_DATA_DIR": str((data_dir or default_data_dir() / "gateway").absolute()),
    }
    if webhook_url:
        environ["PAYMENT_WEBHOOK_URL"] = webhook_url
    application = create_app(GatewaySettings.from_env(environ))
    uvicorn.run(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=3,
        log_level="warning",
    )


def _allow(development_secrets: bool) -> None:
    """Set ALLOW_DEVELOPMENT_SECRETS for this process and its children when the option is given."""
    import os

    from app.config import get_settings

    if development_secrets:
        os.environ["ALLOW_DEVELOPMENT_SECRETS"] = "true"
        get_settings.cache_clear()


@cli.command()
def migrate(
    down: Annotated[
        str | None, typer.Option(metavar="REV", help="Go back to this revision; `base` undoes all.")
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
        str, typer.Option(help="Queues of jobs to take from, separated by commas; beat's ticks it always takes.")
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


@cli.command()
def demo(
    keep: Annotated[
        bool | None, typer.Option(help="Leave the system up at the end.", show_default="in a terminal")
    ] = None,
    data_dir: DataDir = None,
    api: Annotated[
        str | None, typer.Option(metavar="URL", help="Of a system that runs already: none is started then.")
    ] = None,
    mail: Annotated[
        str | None, typer.Option(metavar="URL", help="Mailbox of that system, to look at its mails too.")
    ] = None,
) -> None:
    """Watch a real order and a real return go through the whole system."""
    from rich.console import Console
    from rich.markup import escape

    from app.config import get_settings
    from app.local.data_folder import default_data_dir, free_data_dir
    from devtools.demo import Demo, DemoError, system_at
    from devtools.embedded.run import running_stack
    from devtools.embedded.stack import StackInfo, StackOptions

    console = Console(highlight=False, soft_wrap=True)

    def play(info: StackInfo) -> None:
        try:
            Demo(info, get_settings(), console).run()
        except DemoError as fault:
            console.print(f"[bold red]✗[/] {fault}", markup=True)
            raise typer.Exit(1) from None

    if api:
        # Where its gateway and storage are is known here only of an embedded system.
        cli_operations.connect_to_running_system(needed=False)
        play(system_at(api, mail, data_dir or default_data_dir(), get_settings()))
        return
    # The story is told faster than a caller may call.
    environment = {"RATE_LIMIT_PER_MINUTE": "10000"}
    options = StackOptions(data_dir or free_data_dir(default_data_dir()), port=0, environment=environment)
    console.print("[bold]ArtiCurated[/] starts: PostgreSQL, Valkey, API, relay, worker, beat, gateway, mail catcher")
    with ExitStack() as stack:
        with console.status("starting"):
            running = stack.enter_context(running_stack(options))
        play(running.info)
        if keep or (keep is None and sys.stdin.isatty() and sys.stdout.isatty()):
            console.print("\nThe system is still up: look around. [bold]Ctrl-C[/] ends it.")
            with suppress(KeyboardInterrupt):
                signal.pause()
        else:
            where = "" if options.data_dir == default_data_dir() else f" --data-dir {escape(str(options.data_dir))!r}"
            console.print(
                f"\n[dim]The system ends now and keeps its data: `./dev run{where}` brings all of it back.[/]"
            )


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Keep the services' lines below a warning off the terminal while a progress bar is on it."""
    import logging

    import structlog

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        yield
    finally:
        structlog.configure(**before)


DOCUMENTS_UP_TO = 1000
"""Sample orders that get documents without being asked for: a minute's work or two."""


@cli.command()
def seed(
    orders: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    seed: Annotated[int | None, typer.Option(help="The same number gives the same data.")] = None,
    documents: Annotated[
        bool | None,
        typer.Option(help=f"Issue invoices and credit notes, without mail; by default up to {DOCUMENTS_UP_TO} orders."),
    ] = None,
) -> None:
    """Add sample orders and returns in every state, with their documents."""
    import asyncio

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from app.config import get_settings
    from devtools import sample_documents
    from devtools.seed import seed as add_samples

    cli_operations.connect_to_running_system()
    wanted = orders <= DOCUMENTS_UP_TO if documents is None else documents
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    issued = 0
    with Progress(*columns) as progress:
        task = progress.add_task("orders", total=orders)
        add_samples(
            get_settings(),
            orders,
            seed_value=seed,
            documents=wanted,
            on_progress=lambda done: progress.advance(task, done),
        )
        if wanted:
            drawn = progress.add_task("documents", total=None)
            issuing = sample_documents.issue(
                get_settings(), on_progress=lambda done, total: progress.update(drawn, completed=done, total=total)
            )
            with _without_log_lines():
                issued = asyncio.run(issuing)
    if wanted:
        typer.echo(f"{orders} orders added, {issued} documents issued")
    else:
        typer.echo(f"{orders} orders added, without invoices and credit notes (--documents issues them)")


cli_keys.register(cli)
cli_operations.register(cli)
cli_backup.register(cli)
cli_notifications.register(cli)
cli_cases.register(cli)
cli_payments.register(cli)
cli_replication.register(cli)


def main() -> None:
    """Run the command; a fault that is the user's to mend is one message and exit code 1 or 2."""
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
