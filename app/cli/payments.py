"""The verbs of `articurated` about money in."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import operations as cli_operations
from app.cli.operations import Json

if TYPE_CHECKING:
    from app.database import Database
    from app.services.payments.reconciliation import PaymentReconciliation

payments = typer.Typer(help="Payments, and their comparison with the gateway's ledger.", no_args_is_help=True)


@payments.command("reconcile")
def payments_reconcile(
    repair: Annotated[
        bool,
        typer.Option(help="Book what the gateway captured or refunded, release what it reserves for cancelled orders."),
    ] = False,
    json: Json = False,
) -> None:
    """Compare our payments with the gateway's ledger; exit 1 when they differ."""
    from dataclasses import asdict

    from app.config import get_settings
    from app.services.orders.service import OrderService
    from app.services.payments.gateway.http import HttpPaymentGateway
    from app.services.payments.reconciliation import PaymentReconciler
    from app.services.payments.unpaid import UnpaidOrders

    async def compare(database: "Database") -> "PaymentReconciliation":
        async with HttpPaymentGateway.from_settings(get_settings()) as gateway:
            unpaid_orders = UnpaidOrders(database, OrderService(database), gateway)
            reconciler = PaymentReconciler(database, gateway, unpaid_orders)
            return await reconciler.reconcile(cli_operations.operator(), repair=repair)

    report = cli_operations.with_database(compare)
    if json:
        cli_operations.print_json(asdict(report))
    else:
        typer.echo(
            f"{report.ours} payments here, {report.theirs} at the gateway, {len(report.differences)} differences"
            + (f", {report.decided} decided" if report.decided else "")
        )
        for difference in report.differences:
            typer.echo(
                f"  {difference.kind}  order {difference.order_number or difference.reference}"
                f"  payment {difference.gateway_payment_id}"
                f"  ours {difference.our_amount}  theirs {difference.their_amount}"
            )
        if repair:
            typer.echo(f"{report.repaired} repaired, {report.asked} cases: `articurated cases list`")
    if len(report.differences) > report.repaired:
        raise typer.Exit(1)


def register(cli: typer.Typer) -> None:
    """Add these verbs to the command."""
    cli.add_typer(payments, name="payments")
