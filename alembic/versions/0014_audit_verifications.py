"""audit verifications: one at a time, with progress, and a result that every process can read."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import context, op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Make the table; at most one row of it is RUNNING."""
    op.create_table(
        "audit_verifications",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'RUNNING'"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("rows_checked", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rows_expected", sa.BigInteger(), nullable=True),
        sa.Column("result", postgresql.JSONB(), nullable=True),
        sa.CheckConstraint("state IN ('RUNNING', 'DONE', 'FAILED')", name=op.f("ck_audit_verifications_state")),
        sa.CheckConstraint("(state = 'DONE') = (result IS NOT NULL)", name=op.f("ck_audit_verifications_result")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_verifications")),
    )
    op.create_index(
        "uq_audit_verifications_running",
        "audit_verifications",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state = 'RUNNING'"),
    )
    role = context.config.attributes["database_role"]
    columns = "state, updated_at, rows_checked, rows_expected, result"
    op.execute(f"GRANT SELECT, INSERT (id), UPDATE ({columns}) ON audit_verifications TO {role}")


def downgrade() -> None:
    """Drop the table: it holds results only, and the trail can be verified again."""
    op.drop_table("audit_verifications")
