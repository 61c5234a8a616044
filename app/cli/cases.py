"""The verbs of `articurated` about cases: what a person must decide."""

from typing import Annotated, Any
from uuid import UUID

import typer

from app.cli import operations as cli_operations
from app.cli.operations import By, Json

cases = typer.Typer(help="Cases: what a person must decide.", no_args_is_help=True)


@cases.command("list")
def cases_list(
    state: Annotated[str, typer.Option(help="OPEN, CLOSED or ALL.")] = "OPEN",
    kind: Annotated[str | None, typer.Option(help="Only cases of this kind, e.g. AMOUNT_MISMATCH.")] = None,
    order: Annotated[UUID | None, typer.Option(help="Only cases about this order.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 50,
    json: Json = False,
) -> None:
    """List cases, newest first; without an option those that are open."""
    from pydantic import ValidationError

    from app.schemas.case import CaseQuery
    from app.services.cases.service import CaseService

    wanted: dict[str, Any] = {"order_id": order, "limit": limit, "kind": [kind.upper()] if kind else []}
    wanted |= {} if state.upper() == "ALL" else {"state": state.upper()}
    try:
        query = CaseQuery(**wanted)
    except ValidationError as fault:
        raise typer.BadParameter(str(fault.errors()[0]["msg"])) from None
    page = cli_operations.with_database(lambda database: CaseService(database).list(query, cli_operations.operator()))
    if json:
        cli_operations.print_json(page["data"])
    else:
        columns = ["id", "created_at", "kind", "order_number", "entity_type", "entity_id", "state"]
        cli_operations.print_table(page["data"], columns)


@cases.command("show")
def cases_show(case_id: UUID) -> None:
    """Show a case with its evidence and the ways out, as JSON."""
    from app.services.cases.service import CaseService

    cli_operations.print_json(
        cli_operations.with_database(lambda database: CaseService(database).get(case_id, cli_operations.operator()))
    )


@cases.command("close")
def cases_close(
    case_id: UUID,
    note: Annotated[str, typer.Option(help="What was decided, for the record.")],
    action: Annotated[str | None, typer.Option(help="The resolution, one of those that `show` lists.")] = None,
    by: By = None,
) -> None:
    """Close a case with a note, and carry out the way out that is named.

    A dispute that was closed and still holds refunds is released later with `--action RELEASE`.
    """
    from pydantic import ValidationError

    from app.schemas.case import CaseClose
    from app.services.cases.service import CaseService
    from app.services.orders import service as order_service
    from app.services.payments import decisions as payment_decisions

    try:
        decision = CaseClose(note=note, action=action.upper() if action else None)
    except ValidationError as fault:
        raise typer.BadParameter(str(fault.errors()[0]["msg"])) from None

    def service(database: Any) -> CaseService:
        return CaseService(
            database,
            decisions=payment_decisions.decisions(order_service.STATEMENT),
            reopenings=payment_decisions.reopenings(),
        )

    actor = cli_operations.operator(by)
    case = cli_operations.with_database(
        lambda database: service(database).close(case_id, actor, decision.note, decision.action)
    )
    again = "" if case["id"] == case_id else f", as case {case['id']}"
    typer.echo(f"closed: {case['kind']} of {case['order_number'] or case['entity_id']}{again}")


def register(cli: typer.Typer) -> None:
    """Add these verbs to the command."""
    cli.add_typer(cases, name="cases")
