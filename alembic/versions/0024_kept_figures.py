"""kept figures: what is counted over whole tables is counted in the background, once for all processes."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import context, op

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Make the table, a row for each kind of figures."""
    op.create_table(
        "kept_figures",
        sa.Column("name", sa.String(20), nullable=False),
        sa.Column("collected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("figures", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_kept_figures")),
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON kept_figures TO {context.config.attributes['database_role']}")


def downgrade() -> None:
    """Drop the table: its figures can be collected again."""
    op.drop_table("kept_figures")
