"""API keys as the services return them; neither has the stored hash."""

from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from sqlalchemy import Row


class NewKeyView(TypedDict):
    """A key that was just made: the one answer that holds the key itself.

    Attributes:
        prefix: the part of the key by which people recognise it.
        principal_id: the caller that audit rows name; the successor of a key has the same.
        expires_at: None for a key without an end.
        key: the key itself.
    """

    id: UUID
    name: str
    role: str
    customer_id: UUID | None
    prefix: str
    created_at: datetime
    principal_id: UUID
    expires_at: datetime | None
    key: str


class KeyView(TypedDict):
    """The record of a key.

    Attributes:
        prefix, principal_id, expires_at: as in `NewKeyView`.
        last_used_at: to the minute; None for a key that was never used.
        successor_id: the key that took over from it.
    """

    id: UUID
    name: str
    role: str
    customer_id: UUID | None
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    principal_id: UUID
    expires_at: datetime | None
    successor_id: UUID | None


def new_key_view(key: str, row: Row[Any]) -> NewKeyView:
    """Return a key and the row that was inserted for it."""
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "customer_id": row.customer_id,
        "prefix": row.prefix,
        "created_at": row.created_at,
        "principal_id": row.principal_id or row.id,
        "expires_at": row.expires_at,
        "key": key,
    }


def key_view(row: Row[Any]) -> KeyView:
    """Return the record of a key from its row."""
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "customer_id": row.customer_id,
        "prefix": row.prefix,
        "created_at": row.created_at,
        "last_used_at": row.last_used_at,
        "revoked_at": row.revoked_at,
        "principal_id": row.principal_id or row.id,
        "expires_at": row.expires_at,
        "successor_id": row.successor_id,
    }
