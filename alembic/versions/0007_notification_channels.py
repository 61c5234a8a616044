"""notification channels: mail, SMS and chat behind one record."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_UNIQUE = ("source_key", "template", "recipient")

# Which order a message is about; its job may be about another row.
BACKFILL = (
    "UPDATE notifications n SET order_id = o.id FROM orders o WHERE o.id = n.entity_id",
    "UPDATE notifications n SET order_id = r.order_id FROM return_requests r WHERE r.id = n.entity_id",
    "UPDATE notifications n SET order_id = r.order_id FROM refunds r WHERE r.id = n.entity_id",
    "UPDATE notifications n SET order_id = i.order_id FROM invoices i WHERE i.id = n.entity_id",
)


def _set_states(states: str) -> None:
    op.drop_constraint(op.f("ck_notifications_state"), "notifications", type_="check")
    op.create_check_constraint(op.f("ck_notifications_state"), "notifications", f"state IN ({states})")


def upgrade() -> None:
    """Give each message its channel and order; what the application may do covers the new columns."""
    op.alter_column("notifications", "channel", server_default=sa.text("'EMAIL'"))
    op.execute("UPDATE notifications SET channel = upper(channel)")
    op.create_check_constraint(op.f("ck_notifications_channel"), "notifications", "channel IN ('EMAIL', 'SMS', 'CHAT')")
    _set_states("'PENDING', 'SENT', 'REJECTED', 'FAILED'")
    op.drop_constraint(op.f("uq_notifications_source_key_template_recipient"), "notifications", type_="unique")
    op.create_unique_constraint(
        op.f("uq_notifications_source_key_template_recipient_channel"), "notifications", [*_UNIQUE, "channel"]
    )
    op.add_column("notifications", sa.Column("order_id", sa.Uuid(), nullable=True))
    for statement in BACKFILL:
        op.execute(statement)
    op.create_foreign_key(op.f("fk_notifications_order_id_orders"), "notifications", "orders", ["order_id"], ["id"])
    op.create_index(op.f("ix_notifications_order_id"), "notifications", ["order_id"])
    op.create_index(op.f("ix_notifications_created_at_id"), "notifications", ["created_at", "id"])
    op.create_index(op.f("ix_notifications_state_created_at_id"), "notifications", ["state", "created_at", "id"])


def downgrade() -> None:
    """Go back to mail alone: messages of other channels have no place in it."""
    op.execute("DELETE FROM notifications WHERE channel <> 'EMAIL'")
    op.execute("UPDATE notifications SET state = 'PENDING' WHERE state = 'FAILED'")
    for index in ("order_id", "created_at_id", "state_created_at_id"):
        op.drop_index(op.f(f"ix_notifications_{index}"), table_name="notifications")
    op.drop_constraint(op.f("fk_notifications_order_id_orders"), "notifications", type_="foreignkey")
    op.drop_column("notifications", "order_id")
    op.drop_constraint(op.f("uq_notifications_source_key_template_recipient_channel"), "notifications", type_="unique")
    op.create_unique_constraint(op.f("uq_notifications_source_key_template_recipient"), "notifications", list(_UNIQUE))
    _set_states("'PENDING', 'SENT', 'REJECTED'")
    op.drop_constraint(op.f("ck_notifications_channel"), "notifications", type_="check")
    op.alter_column("notifications", "channel", server_default=sa.text("'email'"))
    op.execute("UPDATE notifications SET channel = 'email'")
