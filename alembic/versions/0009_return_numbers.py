"""return numbers, and several returns of an order, one of them open at a time."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import context, op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

OPEN = "status NOT IN ('REJECTED', 'COMPLETED')"

# Customers of approved returns know theirs by the reference of the mail, which was made from the id: it stays.
BACKFILL = """
UPDATE return_requests r SET return_number = CASE
    WHEN r.approved_at IS NOT NULL THEN 'RET-' || upper(right(r.id::text, 12))
    ELSE 'RET-' || to_char(r.created_at AT TIME ZONE 'UTC', 'YYYY-')
        || lpad(n.number::text, greatest(6, length(n.number::text)), '0') END
FROM (SELECT id, nextval('return_number_seq') AS number
    FROM (SELECT id FROM return_requests WHERE approved_at IS NULL ORDER BY created_at, id) AS unnamed
    UNION ALL SELECT id, NULL FROM return_requests WHERE approved_at IS NOT NULL) AS n
WHERE n.id = r.id
"""

# Of two transactions that add returns to one order the second waits for the order's lock, and then sees the first's.
GUARD = """
CREATE FUNCTION guard_return_quantities() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    fault text;
BEGIN
    PERFORM 1 FROM public.orders o WHERE o.id = NEW.order_id FOR NO KEY UPDATE;
    SELECT item.line_item_id INTO fault
    FROM (
        SELECT i ->> 'line_item_id' AS line_item_id, sum((i ->> 'quantity')::numeric) AS quantity,
            bool_and(coalesce((i ->> 'quantity')::numeric = greatest(1, trunc((i ->> 'quantity')::numeric)), false))
                AS is_whole
        FROM public.return_requests r, jsonb_array_elements(r.items) AS i
        WHERE r.order_id = NEW.order_id AND (r.status <> 'REJECTED' OR r.id = NEW.id)
        GROUP BY 1
    ) AS item
    LEFT JOIN public.order_line_items l ON l.id = item.line_item_id::uuid AND l.order_id = NEW.order_id
    WHERE NOT coalesce(item.is_whole AND item.quantity <= l.quantity, false)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the returns of order % take back more of line % than was bought', NEW.order_id, fault
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'return_quantities', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""

REFUSE_SEVERAL = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM return_requests GROUP BY order_id HAVING count(*) > 1) THEN
        RAISE EXCEPTION 'an order has several returns, which the version before this migration cannot hold';
    END IF;
END $$
"""


def upgrade() -> None:
    """Number the returns; let an order have several."""
    role = context.config.attributes["database_role"]
    op.execute(sa.schema.CreateSequence(sa.Sequence("return_number_seq")))
    op.add_column("return_requests", sa.Column("return_number", sa.String(length=50, collation="C"), nullable=True))
    op.execute(BACKFILL)
    op.alter_column("return_requests", "return_number", nullable=False)
    op.create_unique_constraint(op.f("uq_return_requests_return_number"), "return_requests", ["return_number"])
    op.drop_constraint(op.f("uq_return_requests_order_id"), "return_requests", type_="unique")
    op.create_index(op.f("ix_return_requests_order_id"), "return_requests", ["order_id"])
    op.create_index(
        "uq_return_requests_open_order_id",
        "return_requests",
        ["order_id"],
        unique=True,
        postgresql_where=sa.text(OPEN),
    )
    op.execute(GUARD)
    op.execute(
        "CREATE TRIGGER guard_return_quantities AFTER INSERT OR UPDATE OF order_id, items ON return_requests"
        " FOR EACH ROW EXECUTE FUNCTION guard_return_quantities()"
    )
    # In replica mode too, which skips ordinary triggers.
    op.execute("ALTER TABLE return_requests ENABLE ALWAYS TRIGGER guard_return_quantities")
    op.execute(f"GRANT USAGE ON SEQUENCE return_number_seq TO {role}")


def downgrade() -> None:
    """Go back to one return an order, without a number.

    Refused while an order has several: none of them may be lost.
    """
    op.execute(REFUSE_SEVERAL)
    op.execute("DROP TRIGGER guard_return_quantities ON return_requests")
    op.execute("DROP FUNCTION guard_return_quantities()")
    op.drop_index("uq_return_requests_open_order_id", table_name="return_requests", postgresql_where=sa.text(OPEN))
    op.drop_index(op.f("ix_return_requests_order_id"), table_name="return_requests")
    op.create_unique_constraint(op.f("uq_return_requests_order_id"), "return_requests", ["order_id"])
    op.drop_column("return_requests", "return_number")
    op.execute(sa.schema.DropSequence(sa.Sequence("return_number_seq")))
