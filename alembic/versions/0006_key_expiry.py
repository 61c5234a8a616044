"""key expiry: a key that was rotated ends later than its successor begins."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import context, op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Let keys end by themselves, and know which key took over from which."""
    op.add_column("api_keys", sa.Column("principal_id", sa.Uuid(), nullable=True))
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("successor_id", sa.Uuid(), nullable=True))
    op.create_unique_constraint(op.f("uq_api_keys_successor_id"), "api_keys", ["successor_id"])
    op.create_foreign_key(op.f("fk_api_keys_successor_id_api_keys"), "api_keys", "api_keys", ["successor_id"], ["id"])
    op.create_check_constraint(
        op.f("ck_api_keys_succession"), "api_keys", "successor_id IS NULL OR expires_at IS NOT NULL"
    )
    op.execute(f"GRANT UPDATE (expires_at, successor_id) ON api_keys TO {context.config.attributes['database_role']}")


def downgrade() -> None:
    """Forget both: keys that ended by themselves are revoked, so that none of them comes back to life."""
    op.execute(
        f"REVOKE UPDATE (expires_at, successor_id) ON api_keys FROM {context.config.attributes['database_role']}"
    )
    op.execute("UPDATE api_keys SET revoked_at = expires_at WHERE revoked_at IS NULL AND expires_at IS NOT NULL")
    op.drop_constraint(op.f("ck_api_keys_succession"), "api_keys")
    op.drop_constraint(op.f("fk_api_keys_successor_id_api_keys"), "api_keys")
    op.drop_constraint(op.f("uq_api_keys_successor_id"), "api_keys")
    for column in ("successor_id", "expires_at", "principal_id"):
        op.drop_column("api_keys", column)
