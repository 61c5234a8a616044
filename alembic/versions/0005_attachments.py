"""attachments: photos and papers of a return."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import context, op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Create the table; it is only ever added to, by every login."""
    op.create_table(
        "attachments",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("return_id", sa.Uuid(), nullable=False),
        sa.Column("file_name", sa.String(length=200), nullable=False),
        sa.Column("media_type", sa.String(length=100), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("description", sa.String(length=500), nullable=True),
        sa.Column("storage_key", sa.String(length=200), nullable=False),
        sa.Column("uploaded_by", sa.Uuid(), nullable=False),
        sa.Column("uploaded_by_role", sa.String(length=20), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("ck_attachments_sha256")),
        sa.CheckConstraint("size_bytes >= 1", name=op.f("ck_attachments_size_bytes")),
        sa.CheckConstraint(
            "uploaded_by_role IN ('customer', 'warehouse', 'manager', 'admin', 'service')",
            name=op.f("ck_attachments_uploaded_by_role"),
        ),
        sa.ForeignKeyConstraint(
            ["return_id"], ["return_requests.id"], name=op.f("fk_attachments_return_id_return_requests")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attachments")),
        sa.UniqueConstraint("return_id", "sha256", name=op.f("uq_attachments_return_id_sha256")),
        sa.UniqueConstraint("storage_key", name=op.f("uq_attachments_storage_key")),
    )
    op.create_index(
        op.f("ix_attachments_return_id_created_at_id"), "attachments", ["return_id", "created_at", "id"], unique=False
    )
    op.execute(
        "CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON attachments"
        " FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only()"
    )
    # In replica mode too, which skips ordinary triggers.
    op.execute("ALTER TABLE attachments ENABLE ALWAYS TRIGGER guard_append_only")
    op.execute(f"GRANT SELECT, INSERT ON attachments TO {context.config.attributes['database_role']}")


def downgrade() -> None:
    """Drop the table; the bytes stay in the storage."""
    op.drop_table("attachments")
