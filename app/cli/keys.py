"""The verbs of `articurated` about who may call: API keys and bearer tokens."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID

import typer

from app.cli.operations import Json, connect_to_running_system, print_json, print_table, with_database
from app.core.enums import Role

if TYPE_CHECKING:
    from app.database import Database
    from app.services.access.views import NewKeyView

T = TypeVar("T")

keys = typer.Typer(
    help="API keys of callers. Creating and revoking needs the owner's connection, DATABASE_ADMIN_URL.",
    no_args_is_help=True,
)
token = typer.Typer(help="Print a signed bearer token, or revoke one.")

_INSUFFICIENT_PRIVILEGE = "42501"

ExpiresIn = Annotated[int | None, typer.Option(min=1, max=3650, help="Days after which the key expires.")]


@keys.command("create")
def keys_create(
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    name: Annotated[str, typer.Option(help="Whose key it is; shown in lists.")],
    customer_id: Annotated[UUID | None, typer.Option(help="The customer, for the role customer.")] = None,
    expires_in: ExpiresIn = None,
    json: Json = False,
) -> None:
    """Make a key; it is shown this once."""
    from app.services.access.keys import KeyService

    lifetime = _days(expires_in)
    _print_key(_as_owner(lambda database: KeyService(database).create(role, name, customer_id, lifetime)), json)


@keys.command("rotate")
def keys_rotate(
    key_id: UUID,
    overlap: Annotated[int, typer.Option(min=0, max=24 * 90, help="Hours for which the old key remains valid.")] = 24,
    expires_in: ExpiresIn = None,
    json: Json = False,
) -> None:
    """Make a successor of a key, for the same caller; the old one ends after the overlap, with 0 at once.

    Without --expires-in the successor lives as long as the old key was made for.
    """
    from app.services.access.keys import KeyService

    lifetime = _days(expires_in)
    _print_key(
        _as_owner(lambda database: KeyService(database).rotate(key_id, timedelta(hours=overlap), lifetime)), json
    )


@keys.command("list")
def keys_list(json: Json = False) -> None:
    """List all keys, without the keys themselves."""
    from app.services.access.keys import KeyService

    rows = with_database(lambda database: KeyService(database).list())
    if json:
        print_json(rows)
        return
    columns = ["id", "prefix", "name", "role", "customer_id", "created_at", "last_used_at", "expires_at", "revoked_at"]
    print_table(rows, columns)


@keys.command("revoke")
def keys_revoke(key_id: UUID) -> None:
    """End a key; within 5 seconds nothing accepts it any more."""
    from app.services.access.keys import KeyService

    _as_owner(lambda database: KeyService(database).revoke(key_id))
    typer.echo(f"revoked {key_id}")


@token.callback(invoke_without_command=True)
def token_issue(
    context: typer.Context,
    role: Annotated[Role | None, typer.Option(help="What the bearer may do.")] = None,
    subject: Annotated[UUID | None, typer.Option(help="Principal id; by default a new one.")] = None,
    customer_id: Annotated[UUID | None, typer.Option(help="The customer, for the role customer.")] = None,
    minutes: Annotated[int, typer.Option(min=1, help="How long it is valid; at most TOKEN_MAX_AGE_MINUTES.")] = 60,
    json: Json = False,
) -> None:
    """Print a signed bearer token, and its jti on standard error; `token revoke JTI` ends it."""
    from app.config import get_settings
    from app.core.security import Principal, issue_token
    from app.utils.clock import utc_now, uuid7

    if context.invoked_subcommand is not None:
        return
    if role is None:
        raise typer.BadParameter("a token needs one", param_hint="--role")
    connect_to_running_system(needed=False)
    settings, now = get_settings(), utc_now()
    if minutes > settings.token_max_age_minutes:
        raise typer.BadParameter(f"at most {settings.token_max_age_minutes}, which is TOKEN_MAX_AGE_MINUTES")
    try:
        principal = Principal(subject or uuid7(now), role, customer_id)
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from None
    token_id, lifetime = str(uuid7(now)), timedelta(minutes=minutes)
    signed = issue_token(settings, principal, lifetime, now, token_id)
    if json:
        print_json({"token": signed, "jti": token_id, "expires_at": now + lifetime})
        return
    typer.echo(signed)
    typer.echo(f"jti {token_id}", err=True)


@token.command("revoke")
def token_revoke(
    jti: Annotated[str, typer.Argument(help="The token's jti, issued here or by a provider; or the token itself.")],
) -> None:
    """End a token; within 5 seconds nothing accepts it any more."""
    from app.core.security import CredentialsError, token_id_of
    from app.services.access.tokens import TokenService

    with suppress(CredentialsError):
        jti = token_id_of(jti)
    with_database(lambda database: TokenService(database).revoke(jti))
    typer.echo(f"revoked {jti}")


def _as_owner(work: Callable[["Database"], Awaitable[T]]) -> T:
    """Return what `work` gives of the database; the application's role has no right to make or end a key."""
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


def _print_key(made: "NewKeyView", json: bool) -> None:
    if json:
        print_json(made)
        return
    ends = f"\nends {made['expires_at']:%Y-%m-%d %H:%M} UTC" if made["expires_at"] else ""
    typer.echo(f"id   {made['id']}\nkey  {made['key']}{ends}\nKeep it now: it cannot be shown again.")


def register(cli: typer.Typer) -> None:
    """Add these verbs to the command."""
    cli.add_typer(keys, name="keys")
    cli.add_typer(token, name="token")
