"""bounded lists: an index for each filter of the lists that had none, in the order of the list."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_Indexes = dict[str, list[tuple[str, ...]]]

_OPEN = "ix_dead_letters_open"
_ADDED: _Indexes = {
    "state_history": [("actor_id", "new_state")],
    "transition_rejections": [("actor_id", "requested_state")],
    "notifications": [("channel", "state"), ("template", "channel", "state")],
    "cases": [("kind", "state"), ("entity_type", "state")],
    "dead_letters": [()],
}
_REPLACED: _Indexes = {
    "state_history": [("actor_id",)],
    "transition_rejections": [("actor_id",)],
    "notifications": [("state",)],
}
"""Table → the columns of its indexes before `created_at` and `id`."""


def upgrade() -> None:
    """Make the indexes, then drop those that they replace."""
    _create(_ADDED)
    _drop(_REPLACED)
    _open_dead_letters("created_at", "id")


def downgrade() -> None:
    """Have the indexes as before."""
    _open_dead_letters("created_at")
    _create(_REPLACED)
    _drop(_ADDED)


def _create(indexes: _Indexes) -> None:
    for table, lists in indexes.items():
        for first in lists:
            op.create_index(_name(table, first), table, [*first, "created_at", "id"])


def _drop(indexes: _Indexes) -> None:
    for table, lists in indexes.items():
        for first in lists:
            op.drop_index(_name(table, first), table)


def _name(table: str, first: tuple[str, ...]) -> str:
    return str(op.f("_".join(("ix", table, *first, "created_at_id"))))


def _open_dead_letters(*columns: str) -> None:
    op.drop_index(_OPEN, "dead_letters")
    op.create_index(_OPEN, "dead_letters", [*columns], postgresql_where=sa.text("resolution IS NULL"))
