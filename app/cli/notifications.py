"""The `articurated` commands about messages: previews of mails, and the log with their delivery."""

from typing import Annotated, Any
from uuid import UUID

import typer

from app.cli import operations as cli_operations
from app.cli.operations import By, Json

notifications = typer.Typer(help="Messages and their delivery.", no_args_is_help=True)


@notifications.command("list")
def notifications_list(
    order: Annotated[UUID | None, typer.Option(help="Only messages about this order.")] = None,
    state: Annotated[str | None, typer.Option(help="PENDING, SENT, REJECTED, FAILED or SUPPRESSED.")] = None,
    channel: Annotated[str | None, typer.Option(help="EMAIL, SMS or CHAT.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 50,
    json: Json = False,
) -> None:
    """List messages, newest first, and whether they arrived."""
    from pydantic import ValidationError

    from app.schemas.notification import NotificationQuery
    from app.services.notifications.log import NotificationLog

    wanted: dict[str, Any] = {"order_id": order, "limit": limit}
    wanted |= {"state": [state.upper()] if state else [], "channel": [channel.upper()] if channel else []}
    try:
        query = NotificationQuery(**wanted)
    except ValidationError as fault:
        raise typer.BadParameter(str(fault.errors()[0]["msg"])) from None
    page = cli_operations.with_database(
        lambda database: NotificationLog(database).list(query, cli_operations.operator())
    )
    if json:
        cli_operations.print_json(page["data"])
    else:
        columns = [
            "id",
            "created_at",
            "channel",
            "template",
            "recipient",
            "state",
            "attempts",
            "order_id",
            "last_error",
        ]
        cli_operations.print_table(page["data"], columns)


@notifications.command("resend")
def notifications_resend(
    notification_id: Annotated[
        UUID, typer.Argument(metavar="ID", help="The message, as `notifications list` shows it.")
    ],
    to: Annotated[
        str | None, typer.Option(help="A corrected address or number, for this message only; default: the first one.")
    ] = None,
    by: By = None,
) -> None:
    """Send a message again, to the same recipient or to a corrected one."""
    from app.config import get_settings
    from app.services.notifications.resend import MessageResend

    actor = cli_operations.operator(by)
    again = cli_operations.with_database(
        lambda database: MessageResend(database, get_settings()).resend(notification_id, to, actor)
    )
    typer.echo(f"due: {again['template']} to {again['recipient']} as {again['id']}")
    if to is not None and again["order_id"] is not None:
        field = "customer_email" if again["channel"] == "EMAIL" else "customer_phone"
        typer.echo(
            f"this message only; later ones go to the order's address: PATCH /api/v1/orders/{again['order_id']}"
            f" with {field} and reason"
        )


def register(cli: typer.Typer) -> None:
    """Add these verbs to the command."""
    cli.add_typer(notifications, name="notifications")
