"""revoked tokens: bearer tokens that were ended before their time."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import context, op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Create the table. A revocation cannot be changed, nor removed before the token could not hold anyway."""
    op.create_table(
        "revoked_tokens",
        sa.Column("token_id", sa.String(length=255, collation="C"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("token_id <> ''", name=op.f("ck_revoked_tokens_token_id")),
        sa.CheckConstraint("expires_at > created_at", name=op.f("ck_revoked_tokens_expires_at")),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_revoked_tokens")),
    )
    op.create_index(op.f("ix_revoked_tokens_expires_at"), "revoked_tokens", ["expires_at"], unique=False)
    op.execute("""
        CREATE FUNCTION guard_revoked_token() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' AND OLD.expires_at <= now() THEN
                RETURN OLD;
            END IF;
            RAISE EXCEPTION 'revoked_tokens: a revocation stays until its token has expired'
                USING ERRCODE = 'check_violation', CONSTRAINT = 'revoked_token';
        END
        $$
    """)
    for name, rule in {
        "guard_revoked_token": "BEFORE UPDATE OR DELETE ON revoked_tokens FOR EACH ROW"
        " EXECUTE FUNCTION guard_revoked_token()",
        "guard_append_only": "BEFORE TRUNCATE ON revoked_tokens FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only()",
    }.items():
        op.execute(f"CREATE TRIGGER {name} {rule}")
        # In replica mode too, which skips ordinary triggers.
        op.execute(f"ALTER TABLE revoked_tokens ENABLE ALWAYS TRIGGER {name}")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON revoked_tokens TO {context.config.attributes['database_role']}")


def downgrade() -> None:
    """Drop the table: the previous release knows no revocation, and a revoked token holds again until it expires."""
    op.drop_table("revoked_tokens")
    op.execute("DROP FUNCTION guard_revoked_token()")
