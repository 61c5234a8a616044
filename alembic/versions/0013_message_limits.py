"""message limits: suppressed and repeated messages, and who resolved a dead letter at the command line."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import context, op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BEFORE = ("PENDING", "SENT", "REJECTED", "FAILED")
SETTLED = {"before": "'SENT', 'REJECTED'", "after": "'SENT', 'REJECTED', 'SUPPRESSED'"}


def _states(*states: str) -> None:
    op.drop_constraint(op.f("ck_notifications_state"), "notifications", type_="check")
    listed = ", ".join(f"'{state}'" for state in states)
    op.create_check_constraint(op.f("ck_notifications_state"), "notifications", f"state IN ({listed})")


def _guard(settled: str) -> None:
    op.execute("DROP TRIGGER guard_settled_notification ON notifications")
    op.execute(
        "CREATE TRIGGER guard_settled_notification AFTER UPDATE OF state, attempts, last_error, sent_at ON notifications"
        f" FOR EACH ROW WHEN (OLD.state IN ({settled}))"
        " EXECUTE FUNCTION guard_end('settled_notification', 'no change after it was settled')"
    )
    op.execute("ALTER TABLE notifications ENABLE ALWAYS TRIGGER guard_settled_notification")


def upgrade() -> None:
    """Add the state, the columns and their indexes. Earlier messages count towards no customer's limit."""
    _states(*BEFORE, "SUPPRESSED")
    _guard(SETTLED["after"])
    op.add_column("notifications", sa.Column("customer_id", sa.Uuid(), nullable=True))
    op.add_column("notifications", sa.Column("resend_of", sa.Uuid(), nullable=True))
    op.add_column("notifications", sa.Column("requested_by", sa.Uuid(), nullable=True))
    op.add_column("notifications", sa.Column("requested_operator", sa.String(length=100), nullable=True))
    op.create_foreign_key(
        op.f("fk_notifications_resend_of_notifications"), "notifications", "notifications", ["resend_of"], ["id"]
    )
    op.create_index(op.f("ix_notifications_resend_of"), "notifications", ["resend_of"])
    op.create_index(
        "ix_notifications_recipient", "notifications", [sa.text("lower(recipient)"), "channel", "created_at"]
    )
    op.create_index(
        "ix_notifications_customer",
        "notifications",
        ["customer_id", "created_at"],
        postgresql_where=sa.text("customer_id IS NOT NULL"),
    )
    op.add_column("dead_letters", sa.Column("resolved_operator", sa.String(length=100), nullable=True))
    role = context.config.attributes["database_role"]
    op.execute(f"GRANT UPDATE (resolved_operator) ON dead_letters TO {role}")


def downgrade() -> None:
    """Take it back. What was suppressed was not delivered, as what was given up; what was sent again stays listed."""
    op.drop_column("dead_letters", "resolved_operator")
    for index in ("ix_notifications_customer", "ix_notifications_recipient", op.f("ix_notifications_resend_of")):
        op.drop_index(index, table_name="notifications")
    op.drop_constraint(op.f("fk_notifications_resend_of_notifications"), "notifications", type_="foreignkey")
    for column in ("requested_operator", "requested_by", "resend_of", "customer_id"):
        op.drop_column("notifications", column)
    _guard(SETTLED["before"])
    op.execute("UPDATE notifications SET state = 'FAILED' WHERE state = 'SUPPRESSED'")
    _states(*BEFORE)
