"""tables: one per model, with their constraints and indexes."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=True),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(role = 'customer') = (customer_id IS NOT NULL)", name=op.f("ck_api_keys_customer_id")),
        sa.CheckConstraint(
            "role IN ('customer', 'warehouse', 'manager', 'admin', 'service')", name=op.f("ck_api_keys_role")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_keys_sha256")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("entity_type", sa.String(length=10), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(length=60), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "entity_type IN ('ORDER', 'RETURN', 'INVOICE', 'PAYMENT', 'REFUND', 'JOB')",
            name=op.f("ck_events_entity_type"),
        ),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_events_seq")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("entity_type", "entity_id", "seq", name=op.f("uq_events_entity_type_entity_id_seq")),
    )
    op.create_index(op.f("ix_events_created_at_id"), "events", ["created_at", "id"], unique=False)
    op.create_table(
        "gateway_events",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("reference", sa.Uuid(), nullable=True),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("outcome", sa.String(length=30), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateway_events")),
    )
    op.create_index(op.f("ix_gateway_events_received_at"), "gateway_events", ["received_at"], unique=False)
    op.create_index(op.f("ix_gateway_events_reference"), "gateway_events", ["reference"], unique=False)
    op.create_table(
        "invoice_series",
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind IN ('INVOICE', 'CREDIT_NOTE')", name=op.f("ck_invoice_series_kind")),
        sa.CheckConstraint("last_number >= 1", name=op.f("ck_invoice_series_last_number")),
        sa.PrimaryKeyConstraint("kind", "year", name=op.f("pk_invoice_series")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("kind", sa.String(length=60), nullable=False),
        sa.Column("queue", sa.String(length=20), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("dedupe_key", sa.String(length=200), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("state", sa.String(length=10), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("claims", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("run_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_owner", sa.String(length=100), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fence", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'RUNNING') = (lease_until IS NOT NULL)", name=op.f("ck_jobs_lease")),
        sa.CheckConstraint("queue IN ('invoices', 'refunds', 'notifications')", name=op.f("ck_jobs_queue")),
        sa.CheckConstraint(
            "state IN ('PENDING', 'PUBLISHED', 'RUNNING', 'SUCCEEDED', 'DEAD', 'DISMISSED')", name=op.f("ck_jobs_state")
        ),
        sa.CheckConstraint("failures >= 0 AND claims >= 0 AND fence >= 0", name=op.f("ck_jobs_budgets")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_jobs_dedupe_key")),
    )
    op.create_index(op.f("ix_jobs_entity_id"), "jobs", ["entity_id"], unique=False)
    op.create_index("ix_jobs_pending", "jobs", ["run_at"], unique=False, postgresql_where=sa.text("state = 'PENDING'"))
    op.create_index(
        "ix_jobs_published", "jobs", ["published_at"], unique=False, postgresql_where=sa.text("state = 'PUBLISHED'")
    )
    op.create_index(
        "ix_jobs_running", "jobs", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'RUNNING'")
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("source_key", sa.String(length=200), nullable=False),
        sa.Column("template", sa.String(length=60), nullable=False),
        sa.Column("recipient", sa.String(length=320), nullable=False),
        sa.Column("channel", sa.String(length=10), server_default=sa.text("'email'"), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(length=10), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("message_id", sa.String(length=300), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('PENDING', 'SENT', 'REJECTED')", name=op.f("ck_notifications_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
        sa.UniqueConstraint(
            "source_key", "template", "recipient", name=op.f("uq_notifications_source_key_template_recipient")
        ),
    )
    op.create_index(op.f("ix_notifications_entity_id"), "notifications", ["entity_id"], unique=False)
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("order_number", sa.String(length=50, collation="C"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'PENDING_PAYMENT'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("customer_email", sa.String(length=320, collation="C"), nullable=False),
        sa.Column("customer_name", sa.String(length=200, collation="C"), nullable=True),
        sa.Column("currency", sa.String(length=3), server_default=sa.text("'USD'"), nullable=False),
        sa.Column("subtotal_amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("tax_amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("shipping_amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("total_amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("payment_method", sa.String(length=50), nullable=False),
        sa.Column("payment_transaction_id", sa.String(length=255), nullable=True),
        sa.Column("shipping_address", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("billing_address", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("carrier", sa.String(length=100), nullable=True),
        sa.Column("tracking_number", sa.String(length=100), nullable=True),
        sa.Column("cancellation_reason", sa.String(length=500), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("shipped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("audit_seq", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("audit_hash", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("(status = 'CANCELLED') = (cancelled_at IS NOT NULL)", name=op.f("ck_orders_cancelled_at")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_orders_currency")),
        sa.CheckConstraint("status <> 'DELIVERED' OR delivered_at IS NOT NULL", name=op.f("ck_orders_delivered_at")),
        sa.CheckConstraint(
            "status IN ('PENDING_PAYMENT', 'PAID', 'PROCESSING_IN_WAREHOUSE', 'SHIPPED', 'DELIVERED', 'CANCELLED')",
            name=op.f("ck_orders_status"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('SHIPPED', 'DELIVERED') OR shipped_at IS NOT NULL", name=op.f("ck_orders_shipped_at")
        ),
        sa.CheckConstraint("(audit_seq = 0) = (audit_hash IS NULL)", name=op.f("ck_orders_audit_head")),
        sa.CheckConstraint("shipping_amount >= 0", name=op.f("ck_orders_shipping_amount")),
        sa.CheckConstraint("subtotal_amount >= 0", name=op.f("ck_orders_subtotal_amount")),
        sa.CheckConstraint("tax_amount >= 0", name=op.f("ck_orders_tax_amount")),
        sa.CheckConstraint(
            "total_amount = subtotal_amount + tax_amount + shipping_amount", name=op.f("ck_orders_total_amount")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_orders_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("order_number", name=op.f("uq_orders_order_number")),
    )
    op.create_index(op.f("ix_orders_created_at_id"), "orders", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_orders_customer_email_lower", "orders", [sa.literal_column("lower(customer_email)")], unique=False
    )
    op.create_index(
        op.f("ix_orders_customer_id_created_at_id"), "orders", ["customer_id", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_orders_customer_name_lower", "orders", [sa.literal_column("lower(customer_name)")], unique=False
    )
    op.create_index(op.f("ix_orders_status_created_at_id"), "orders", ["status", "created_at", "id"], unique=False)
    op.create_index(
        "ix_orders_tracking_number",
        "orders",
        ["tracking_number"],
        unique=False,
        postgresql_where=sa.text("tracking_number IS NOT NULL"),
    )
    op.create_table(
        "state_history",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("entity_type", sa.String(length=10), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("previous_state", sa.String(length=50), nullable=False),
        sa.Column("new_state", sa.String(length=50), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("actor_type", sa.String(length=10), nullable=False),
        sa.Column("trigger", sa.String(length=100), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("actor_type IN ('USER', 'SYSTEM')", name=op.f("ck_state_history_actor_type")),
        sa.CheckConstraint("entity_type IN ('ORDER', 'RETURN')", name=op.f("ck_state_history_entity_type")),
        sa.CheckConstraint(
            "octet_length(prev_hash) = 32 AND octet_length(hash) = 32", name=op.f("ck_state_history_hash")
        ),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_state_history_seq")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_state_history")),
        sa.UniqueConstraint("entity_type", "entity_id", "seq", name=op.f("uq_state_history_entity_type_entity_id_seq")),
    )
    op.create_index(
        op.f("ix_state_history_actor_id_created_at_id"), "state_history", ["actor_id", "created_at", "id"], unique=False
    )
    op.create_index(op.f("ix_state_history_created_at_id"), "state_history", ["created_at", "id"], unique=False)
    op.create_index(
        op.f("ix_state_history_new_state_created_at_id"),
        "state_history",
        ["new_state", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "state_transitions",
        sa.Column("entity_type", sa.String(length=10), nullable=False),
        sa.Column("from_state", sa.String(length=50), nullable=False),
        sa.Column("to_state", sa.String(length=50), nullable=False),
        sa.CheckConstraint("entity_type IN ('ORDER', 'RETURN')", name=op.f("ck_state_transitions_entity_type")),
        sa.PrimaryKeyConstraint("entity_type", "from_state", "to_state", name=op.f("pk_state_transitions")),
    )
    op.create_table(
        "transition_rejections",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("entity_type", sa.String(length=10), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("current_state", sa.String(length=50), nullable=False),
        sa.Column("requested_state", sa.String(length=50), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("actor_type", sa.String(length=10), nullable=False),
        sa.Column("trigger", sa.String(length=100), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("actor_type IN ('USER', 'SYSTEM')", name=op.f("ck_transition_rejections_actor_type")),
        sa.CheckConstraint("entity_type IN ('ORDER', 'RETURN')", name=op.f("ck_transition_rejections_entity_type")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transition_rejections")),
    )
    op.create_index(
        op.f("ix_transition_rejections_actor_id_created_at_id"),
        "transition_rejections",
        ["actor_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_transition_rejections_created_at_id"), "transition_rejections", ["created_at", "id"], unique=False
    )
    op.create_index(
        op.f("ix_transition_rejections_entity_id_created_at_id"),
        "transition_rejections",
        ["entity_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_transition_rejections_requested_state_created_at_id"),
        "transition_rejections",
        ["requested_state", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=60), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("claims", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("resolution", sa.String(length=10), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_by", sa.Uuid(), nullable=True),
        sa.Column("resolution_note", sa.String(length=500), nullable=True),
        sa.CheckConstraint(
            "resolution IS NULL OR resolution IN ('RETRIED', 'DISMISSED')", name=op.f("ck_dead_letters_resolution")
        ),
        sa.CheckConstraint("(resolution IS NULL) = (resolved_at IS NULL)", name=op.f("ck_dead_letters_resolved_at")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_dead_letters_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
    )
    op.create_index(
        "ix_dead_letters_open",
        "dead_letters",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("resolution IS NULL"),
    )
    op.create_index(
        "uq_dead_letters_open_job_id",
        "dead_letters",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("resolution IS NULL"),
    )
    op.create_table(
        "order_line_items",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("product_id", sa.String(length=100), nullable=False),
        sa.Column("product_name", sa.String(length=300), nullable=False),
        sa.Column("sku", sa.String(length=100), nullable=True),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("unit_price", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("tax_rate", sa.Numeric(precision=5, scale=4), server_default=sa.text("0"), nullable=False),
        sa.Column("tax_amount", sa.Numeric(precision=12, scale=2), server_default=sa.text("0"), nullable=False),
        sa.Column("subtotal", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_order_line_items_quantity")),
        sa.CheckConstraint("subtotal = quantity * unit_price", name=op.f("ck_order_line_items_subtotal")),
        sa.CheckConstraint("tax_amount >= 0", name=op.f("ck_order_line_items_tax_amount")),
        sa.CheckConstraint("tax_rate >= 0 AND tax_rate <= 1", name=op.f("ck_order_line_items_tax_rate")),
        sa.CheckConstraint("unit_price >= 0", name=op.f("ck_order_line_items_unit_price")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_line_items_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_line_items")),
    )
    op.create_index("uq_order_line_items_order_id_position", "order_line_items", ["order_id", "position"], unique=True)
    op.create_table(
        "payments",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(length=10), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("method", sa.String(length=50), nullable=False),
        sa.Column("token", sa.String(length=200), nullable=True),
        sa.Column("amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("captured_amount", sa.Numeric(precision=12, scale=2), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "refund_reserved_amount", sa.Numeric(precision=12, scale=2), server_default=sa.text("0"), nullable=False
        ),
        sa.Column("gateway_payment_id", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'CAPTURED') = (captured_at IS NOT NULL)", name=op.f("ck_payments_captured_at")),
        sa.CheckConstraint("state IN ('PENDING', 'CAPTURED')", name=op.f("ck_payments_state")),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_payments_amount")),
        sa.CheckConstraint(
            "captured_amount = CASE state WHEN 'CAPTURED' THEN amount ELSE 0 END",
            name=op.f("ck_payments_captured_amount"),
        ),
        sa.CheckConstraint(
            "refund_reserved_amount >= 0 AND refund_reserved_amount <= captured_amount",
            name=op.f("ck_payments_refund_cap"),
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_payments_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sa.UniqueConstraint("gateway_payment_id", name=op.f("uq_payments_gateway_payment_id")),
        sa.UniqueConstraint("order_id", name=op.f("uq_payments_order_id")),
    )
    op.create_table(
        "return_requests",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("customer_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'REQUESTED'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("customer_notes", sa.String(length=2000), nullable=True),
        sa.Column("manager_notes", sa.String(length=2000), nullable=True),
        sa.Column("rejection_reason", sa.String(length=30), nullable=True),
        sa.Column("items", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("items_amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("restocking_fee", sa.Numeric(precision=12, scale=2), server_default=sa.text("0"), nullable=False),
        sa.Column("refund_amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("refund_transaction_id", sa.String(length=255), nullable=True),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("reviewed_by", sa.Uuid(), nullable=True),
        sa.Column("carrier", sa.String(length=100), nullable=True),
        sa.Column("tracking_number", sa.String(length=100), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rejected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("in_transit_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("review_reminded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("audit_seq", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("audit_hash", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "(status = 'REJECTED') = (rejection_reason IS NOT NULL)",
            name=op.f("ck_return_requests_rejected_with_reason"),
        ),
        sa.CheckConstraint(
            "jsonb_typeof(items) = 'array' AND jsonb_array_length(items) > 0", name=op.f("ck_return_requests_items")
        ),
        sa.CheckConstraint(
            "rejection_reason IS NULL OR rejection_reason IN ('DAMAGE_NOT_COVERED', 'POLICY_VIOLATION', 'OUTSIDE_WINDOW', 'FRAUDULENT', 'EXPIRED', 'OTHER')",
            name=op.f("ck_return_requests_rejection_reason"),
        ),
        sa.CheckConstraint(
            "status IN ('REQUESTED', 'APPROVED', 'REJECTED', 'IN_TRANSIT', 'RECEIVED', 'COMPLETED')",
            name=op.f("ck_return_requests_status"),
        ),
        sa.CheckConstraint("(audit_seq = 0) = (audit_hash IS NULL)", name=op.f("ck_return_requests_audit_head")),
        sa.CheckConstraint("items_amount >= 0", name=op.f("ck_return_requests_items_amount")),
        sa.CheckConstraint(
            "refund_amount >= 0 AND refund_amount <= items_amount - restocking_fee",
            name=op.f("ck_return_requests_refund_amount"),
        ),
        sa.CheckConstraint("restocking_fee >= 0", name=op.f("ck_return_requests_restocking_fee")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_return_requests_version")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_return_requests_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_return_requests")),
        sa.UniqueConstraint("order_id", name=op.f("uq_return_requests_order_id")),
    )
    op.create_index(op.f("ix_return_requests_created_at_id"), "return_requests", ["created_at", "id"], unique=False)
    op.create_index(
        op.f("ix_return_requests_customer_id_created_at_id"),
        "return_requests",
        ["customer_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_return_requests_status_created_at_id"), "return_requests", ["status", "created_at", "id"], unique=False
    )
    op.create_table(
        "refunds",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("return_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=10), server_default=sa.text("'PENDING'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("declines", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("gateway_refund_id", sa.String(length=255), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("first_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("succeeded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(reason = 'RETURN_COMPLETED') = (return_id IS NOT NULL)", name=op.f("ck_refunds_return_id")
        ),
        sa.CheckConstraint("(state = 'SUCCEEDED') = (succeeded_at IS NOT NULL)", name=op.f("ck_refunds_succeeded_at")),
        sa.CheckConstraint(
            "reason IN ('RETURN_COMPLETED', 'ORDER_CANCELLED', 'PAID_AFTER_CANCEL')", name=op.f("ck_refunds_reason")
        ),
        sa.CheckConstraint(
            "state <> 'SUCCEEDED' OR gateway_refund_id IS NOT NULL", name=op.f("ck_refunds_gateway_refund_id")
        ),
        sa.CheckConstraint(
            "state IN ('PENDING', 'PROCESSING', 'SUCCEEDED', 'FAILED', 'UNKNOWN')", name=op.f("ck_refunds_state")
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_refunds_amount")),
        sa.CheckConstraint("released_at IS NULL OR state = 'FAILED'", name=op.f("ck_refunds_released_at")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_refunds_order_id_orders")),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.id"], name=op.f("fk_refunds_payment_id_payments")),
        sa.ForeignKeyConstraint(
            ["return_id"], ["return_requests.id"], name=op.f("fk_refunds_return_id_return_requests")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refunds")),
        sa.UniqueConstraint("gateway_refund_id", name=op.f("uq_refunds_gateway_refund_id")),
        sa.UniqueConstraint("return_id", name=op.f("uq_refunds_return_id")),
    )
    op.create_index(op.f("ix_refunds_created_at_id"), "refunds", ["created_at", "id"], unique=False)
    op.create_index("ix_refunds_order_id", "refunds", ["order_id"], unique=False)
    op.create_index("ix_refunds_payment_id", "refunds", ["payment_id"], unique=False)
    op.create_index(op.f("ix_refunds_state_created_at_id"), "refunds", ["state", "created_at", "id"], unique=False)
    op.create_index(
        "uq_refunds_whole_order", "refunds", ["order_id"], unique=True, postgresql_where=sa.text("return_id IS NULL")
    )
    op.create_table(
        "invoices",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=10), server_default=sa.text("'NUMBERED'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("year", sa.Integer(), nullable=False),
        sa.Column("number_in_year", sa.Integer(), nullable=False),
        sa.Column("number", sa.String(length=30), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("refund_id", sa.Uuid(), nullable=True),
        sa.Column("refers_to_id", sa.Uuid(), nullable=True),
        sa.Column("issued_on", sa.Date(), nullable=False),
        sa.Column("view", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("storage_key", sa.String(length=200), nullable=False),
        sa.Column("drawn_sha256", sa.ARRAY(sa.LargeBinary()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(kind = 'CREDIT_NOTE') = (refund_id IS NOT NULL)", name=op.f("ck_invoices_refund_id")),
        sa.CheckConstraint(
            "(state = 'ISSUED') = (sha256 IS NOT NULL AND size_bytes IS NOT NULL AND issued_at IS NOT NULL)",
            name=op.f("ck_invoices_issued"),
        ),
        sa.CheckConstraint("sha256 IS NULL OR sha256 = ANY (drawn_sha256)", name=op.f("ck_invoices_drawn")),
        sa.CheckConstraint("kind IN ('INVOICE', 'CREDIT_NOTE')", name=op.f("ck_invoices_kind")),
        sa.CheckConstraint("state IN ('NUMBERED', 'ISSUED')", name=op.f("ck_invoices_state")),
        sa.CheckConstraint("number_in_year >= 1", name=op.f("ck_invoices_number_in_year")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_invoices_order_id_orders")),
        sa.ForeignKeyConstraint(["refers_to_id"], ["invoices.id"], name=op.f("fk_invoices_refers_to_id_invoices")),
        sa.ForeignKeyConstraint(["refund_id"], ["refunds.id"], name=op.f("fk_invoices_refund_id_refunds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoices")),
        sa.UniqueConstraint("kind", "year", "number_in_year", name=op.f("uq_invoices_kind_year_number_in_year")),
        sa.UniqueConstraint("number", name=op.f("uq_invoices_number")),
        sa.UniqueConstraint("refund_id", name=op.f("uq_invoices_refund_id")),
        sa.UniqueConstraint("storage_key", name=op.f("uq_invoices_storage_key")),
    )
    op.create_index("ix_invoices_order_id", "invoices", ["order_id"], unique=False)
    op.create_index("ix_invoices_refers_to_id", "invoices", ["refers_to_id"], unique=False)
    op.create_index(
        "uq_invoices_order_id_invoice",
        "invoices",
        ["order_id"],
        unique=True,
        postgresql_where=sa.text("kind = 'INVOICE'"),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index("uq_invoices_order_id_invoice", table_name="invoices", postgresql_where=sa.text("kind = 'INVOICE'"))
    op.drop_index("ix_invoices_refers_to_id", table_name="invoices")
    op.drop_index("ix_invoices_order_id", table_name="invoices")
    op.drop_table("invoices")
    op.drop_index("uq_refunds_whole_order", table_name="refunds", postgresql_where=sa.text("return_id IS NULL"))
    op.drop_index(op.f("ix_refunds_state_created_at_id"), table_name="refunds")
    op.drop_index("ix_refunds_payment_id", table_name="refunds")
    op.drop_index("ix_refunds_order_id", table_name="refunds")
    op.drop_index(op.f("ix_refunds_created_at_id"), table_name="refunds")
    op.drop_table("refunds")
    op.drop_index(op.f("ix_return_requests_status_created_at_id"), table_name="return_requests")
    op.drop_index(op.f("ix_return_requests_customer_id_created_at_id"), table_name="return_requests")
    op.drop_index(op.f("ix_return_requests_created_at_id"), table_name="return_requests")
    op.drop_table("return_requests")
    op.drop_table("payments")
    op.drop_index("uq_order_line_items_order_id_position", table_name="order_line_items")
    op.drop_table("order_line_items")
    op.drop_index(
        "uq_dead_letters_open_job_id", table_name="dead_letters", postgresql_where=sa.text("resolution IS NULL")
    )
    op.drop_index("ix_dead_letters_open", table_name="dead_letters", postgresql_where=sa.text("resolution IS NULL"))
    op.drop_table("dead_letters")
    op.drop_index(op.f("ix_transition_rejections_requested_state_created_at_id"), table_name="transition_rejections")
    op.drop_index(op.f("ix_transition_rejections_entity_id_created_at_id"), table_name="transition_rejections")
    op.drop_index(op.f("ix_transition_rejections_created_at_id"), table_name="transition_rejections")
    op.drop_index(op.f("ix_transition_rejections_actor_id_created_at_id"), table_name="transition_rejections")
    op.drop_table("transition_rejections")
    op.drop_table("state_transitions")
    op.drop_index(op.f("ix_state_history_new_state_created_at_id"), table_name="state_history")
    op.drop_index(op.f("ix_state_history_created_at_id"), table_name="state_history")
    op.drop_index(op.f("ix_state_history_actor_id_created_at_id"), table_name="state_history")
    op.drop_table("state_history")
    op.drop_index(
        "ix_orders_tracking_number", table_name="orders", postgresql_where=sa.text("tracking_number IS NOT NULL")
    )
    op.drop_index(op.f("ix_orders_status_created_at_id"), table_name="orders")
    op.drop_index("ix_orders_customer_name_lower", table_name="orders")
    op.drop_index(op.f("ix_orders_customer_id_created_at_id"), table_name="orders")
    op.drop_index("ix_orders_customer_email_lower", table_name="orders")
    op.drop_index(op.f("ix_orders_created_at_id"), table_name="orders")
    op.drop_table("orders")
    op.drop_index(op.f("ix_notifications_entity_id"), table_name="notifications")
    op.drop_table("notifications")
    op.drop_index("ix_jobs_running", table_name="jobs", postgresql_where=sa.text("state = 'RUNNING'"))
    op.drop_index("ix_jobs_published", table_name="jobs", postgresql_where=sa.text("state = 'PUBLISHED'"))
    op.drop_index("ix_jobs_pending", table_name="jobs", postgresql_where=sa.text("state = 'PENDING'"))
    op.drop_index(op.f("ix_jobs_entity_id"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("invoice_series")
    op.drop_index(op.f("ix_gateway_events_reference"), table_name="gateway_events")
    op.drop_index(op.f("ix_gateway_events_received_at"), table_name="gateway_events")
    op.drop_table("gateway_events")
    op.drop_index(op.f("ix_events_created_at_id"), table_name="events")
    op.drop_table("events")
    op.drop_table("api_keys")
