"""The verbs of `articurated` about who may call: API keys and bearer tokens (contract section 7)."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer

from app.cli_operations import Json, connect_to_running_system, print_json, print_table, with_database
from app.core.enums import Role

T = TypeVar("T")

keys = typer.Typer(help="API keys of callers; made and ended as the owner: DATABASE_ADMIN_URL.", no_args_is_help=True)

_INSUFFICIENT_PRIVILEGE = "42501"

ExpiresIn = Annotated[int | None, typer.Option(min=1, max=3650, help="Days after which the key ends.")]


@keys.command("create")
def keys_create(
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    name: Annotated[str, typer.Option(help="Whose key it is; shown in lists.")],
    customer_id: Annotated[UUID | None, typer.Option(help="The customer, for the role customer.")] = None,
    expires_in: ExpiresIn = None,
    json: Json = False,
) -> None:
    """Make a key; it is shown this once."""
    from app.services.key_service import KeyService

    lifetime = _days(expires_in)
    _print_key(_as_owner(lambda database: KeyService(database).create(role, name, customer_id, lifetime)), json)


@keys.command("rotate")
def keys_rotate(
    key_id: UUID,
    overlap: Annotated[int, typer.Option(min=0, max=24 * 90, help="Hours for which the old key still holds.")] = 24,
    expires_in: ExpiresIn = None,
    json: Json = False,
) -> None:
    """Make a successor of a key, for the same caller; the old one ends after the overlap, with 0 at once.

    Without --expires-in the successor lives as long as the old key was made for.
    """
    from app.services.key_service import KeyService

    lifetime = _days(expires_in)
    _print_key(
        _as_owner(lambda database: KeyService(database).rotate(key_id, timedelta(hours=overlap), lifetime)), json
    )


@keys.command("list")
def keys_list(json: Json = False) -> None:
    """List all keys, without the keys themselves."""
    from app.services.key_service import KeyService

    rows = with_database(lambda database: KeyService(database).list())
    if json:
        print_json(rows)
        return
    columns = ["id", "prefix", "name", "role", "customer_id", "created_at", "last_used_at", "expires_at", "revoked_at"]
    print_table(rows, columns)


@keys.command("revoke")
def keys_revoke(key_id: UUID) -> None:
    """End a key; within 5 seconds nothing accepts it any more."""
    from app.services.key_service import KeyService

    _as_owner(lambda database: KeyService(database).revoke(key_id))
    typer.echo(f"revoked {key_id}")


def token(
    role: Annotated[Role, typer.Option(help="What the bearer may do.")],
    subject: Annotated[UUID | None, typer.Option(help="Principal id; a new one without.")] = None,
    customer_id: Annotated[UUID | None, typer.Option(help="The customer, for the role customer.")] = None,
    minutes: Annotated[int, typer.Option(min=1, max=60 * 24 * 30, help="How long it is valid.")] = 60,
) -> None:
    """Print a signed bearer token."""
    from app.config import get_settings
    from app.core.security import Principal, issue_token
    from app.utils.clock import utc_now, uuid7

    connect_to_running_system(needed=False)
    now = utc_now()
    try:
        principal = Principal(subject or uuid7(now), role, customer_id)
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from None
    typer.echo(issue_token(get_settings(), principal, timedelta(minutes=minutes), now))


def _as_owner(work: Callable[[Any], Awaitable[T]]) -> T:
    """Return what `work` gives of the database; the application's role may neither make nor end a key."""
    from sqlalchemy.exc import ProgrammingError

    try:
        return with_database(work, as_owner=True)
    except ProgrammingError as fault:
        if getattr(fault.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
    typer.echo(
        "articurated: this login may not make or end keys: set DATABASE_ADMIN_URL to the owner's connection.", err=True
    )
    raise typer.Exit(1)


def _days(number: int | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)


def _print_key(made: dict[str, Any], json: bool) -> None:
    if json:
        print_json(made)
        return
    ends = f"\nends {made['expires_at']:%Y-%m-%d %H:%M} UTC" if made["expires_at"] else ""
    typer.echo(f"id   {made['id']}\nkey  {made['key']}{ends}\nKeep it now: it cannot be shown again.")


def register(cli: typer.Typer) -> None:
    """Add these verbs to the command."""
    cli.add_typer(keys, name="keys")
    cli.command()(token)
