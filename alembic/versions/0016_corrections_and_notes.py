"""corrections of orders, notes, and what an order says of its customer."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import context, op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ROLES = "('customer', 'warehouse', 'manager', 'admin', 'service')"
CUSTOMER_COLUMNS = {"customer_phone": 40, "customer_company": 200, "customer_vat_id": 30, "locale": 35}
CORRECTED = ("customer_email", "customer_phone", "shipping_address", "billing_address", "carrier", "tracking_number")
APPEND_ONLY = ("order_corrections", "notes")

# A step may set carrier and tracking number; every other change needs its row in order_corrections, of the same version
# and with the same old and new values, and comes while it still matters.
GUARD = """
CREATE FUNCTION guard_correction() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_row jsonb := to_jsonb(OLD);
    new_row jsonb := to_jsonb(NEW);
    field text;
BEGIN
    FOREACH field IN ARRAY TG_ARGV LOOP
        CONTINUE WHEN old_row -> field = new_row -> field
            OR (field IN ('carrier', 'tracking_number') AND OLD.status <> NEW.status);
        IF NOT EXISTS (SELECT FROM public.order_corrections c WHERE c.order_id = NEW.id AND c.version = NEW.version
                AND NEW.version = OLD.version + 1 AND c.changes -> field -> 'old' = old_row -> field
                AND c.changes -> field -> 'new' = new_row -> field) THEN
            RAISE EXCEPTION '% of order % changes without its correction', field, NEW.id
                USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'correction', TABLE = TG_TABLE_NAME;
        END IF;
        IF (field IN ('shipping_address', 'billing_address')
                AND OLD.status NOT IN ('PENDING_PAYMENT', 'PAID', 'PROCESSING_IN_WAREHOUSE'))
            OR (field IN ('carrier', 'tracking_number') AND OLD.status <> 'SHIPPED') THEN
            RAISE EXCEPTION '% of order % is not corrected in %', field, NEW.id, OLD.status
                USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'correction', TABLE = TG_TABLE_NAME;
        END IF;
    END LOOP;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    """Create the tables; let addresses, e-mail, phone and tracking be corrected, and only so."""
    role = context.config.attributes["database_role"]
    for column, length in CUSTOMER_COLUMNS.items():
        op.add_column("orders", sa.Column(column, sa.String(length=length), nullable=True))
    op.create_table(
        "order_corrections",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("changes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        sa.Column("actor_role", sa.String(length=20), nullable=False),
        sa.Column("ip_address", sa.String(length=45), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(f"actor_role IN {ROLES}", name=op.f("ck_order_corrections_actor_role")),
        sa.CheckConstraint("version >= 2", name=op.f("ck_order_corrections_version")),
        sa.CheckConstraint(
            "jsonb_typeof(changes) = 'object' AND changes <> '{}'", name=op.f("ck_order_corrections_changes")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_corrections_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_corrections")),
        sa.UniqueConstraint("order_id", "version", name=op.f("uq_order_corrections_order_id_version")),
    )
    op.create_table(
        "notes",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("return_id", sa.Uuid(), nullable=True),
        sa.Column("text", sa.String(length=2000), nullable=False),
        sa.Column("author_id", sa.Uuid(), nullable=False),
        sa.Column("author_role", sa.String(length=20), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(f"author_role IN {ROLES}", name=op.f("ck_notes_author_role")),
        sa.CheckConstraint("num_nonnulls(order_id, return_id) = 1", name=op.f("ck_notes_subject")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_notes_order_id_orders")),
        sa.ForeignKeyConstraint(["return_id"], ["return_requests.id"], name=op.f("fk_notes_return_id_return_requests")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notes")),
    )
    op.create_index(op.f("ix_notes_order_id_created_at_id"), "notes", ["order_id", "created_at", "id"])
    op.create_index(op.f("ix_notes_return_id_created_at_id"), "notes", ["return_id", "created_at", "id"])
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER guard_append_only")
        op.execute(f"GRANT SELECT, INSERT ON {table} TO {role}")
    op.execute(GUARD)
    changed = " OR ".join(f"OLD.{column} IS DISTINCT FROM NEW.{column}" for column in CORRECTED)
    op.execute(
        f"CREATE TRIGGER guard_correction AFTER UPDATE OF {', '.join(CORRECTED)} ON orders FOR EACH ROW"
        f" WHEN ({changed}) EXECUTE FUNCTION guard_correction({', '.join(map(repr, CORRECTED))})"
    )
    op.execute("ALTER TABLE orders ENABLE ALWAYS TRIGGER guard_correction")
    op.execute(f"GRANT UPDATE (customer_email, customer_phone, shipping_address, billing_address) ON orders TO {role}")


def downgrade() -> None:
    """Drop notes and corrections; orders keep their corrected values, which are the ones in force."""
    role = context.config.attributes["database_role"]
    op.execute(f"REVOKE UPDATE (customer_email, shipping_address, billing_address) ON orders FROM {role}")
    op.execute("DROP TRIGGER guard_correction ON orders")
    op.execute("DROP FUNCTION guard_correction()")
    for table in reversed(APPEND_ONLY):
        op.drop_table(table)
    for column in CUSTOMER_COLUMNS:
        op.drop_column("orders", column)
