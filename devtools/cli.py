"""The verbs of `articurated` that only a checkout has: the whole system at once, the mock gateway, demo, samples."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from app.cli import operations as cli_operations
from app.cli.options import AllowDevelopmentSecrets, ApiWorkers, allow_secrets

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of everything that lasts.", show_default=".articurated in the checkout"),
]
_NO_MOCK = "ENVIRONMENT is production, where the mock gateway does not run: it moves no money."


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

    allow_secrets(development=allow_development_secrets)
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
    # The demo calls faster than the rate limit allows.
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


def mail_preview(
    output: Annotated[Path, typer.Option(help="Folder to write to; made if need be.")] = Path("mail-preview"),
) -> None:
    """Write every mail, SMS and chat message to a folder, filled with samples; nothing is sent."""
    from devtools.mail_preview import write_previews

    index = write_previews(output)
    typer.echo(f"{index.absolute()}")


def register(cli: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (up, gateway, demo, seed):
        cli.command()(verb)
    mail = typer.Typer(help="The mails that the system sends.", no_args_is_help=True)
    mail.command("preview")(mail_preview)
    cli.add_typer(mail, name="mail")
