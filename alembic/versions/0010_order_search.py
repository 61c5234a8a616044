"""order search: terms of each order under an index of words, in place of two indexes on lower()."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import context, op
from app.utils.search_terms import order_terms

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

BATCH = 5000

# Numbers are ASCII, so lower() under the collation C folds them as the application folds what is typed.
INDEX_NUMBER = """
CREATE FUNCTION index_number() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row_of jsonb := to_jsonb(NEW);
    number text := lower((row_of ->> TG_ARGV[0]) COLLATE "C");
BEGIN
    INSERT INTO public.order_search (order_id, source, terms)
    VALUES ((row_of ->> TG_ARGV[1])::uuid, coalesce(TG_ARGV[2], row_of ->> TG_ARGV[0]),
        array_to_tsvector(ARRAY[number, '~' || reverse(number)]))
    ON CONFLICT (order_id, source) DO UPDATE SET terms = excluded.terms;
    RETURN NULL;
END $$
"""
# Table, name of the trigger, event, arguments of the function, condition.
NUMBERS = (
    ("invoices", "index_number", "INSERT", "'number', 'order_id'", ""),
    ("return_requests", "index_number", "INSERT", "'return_number', 'order_id'", ""),
    (
        "return_requests",
        "index_parcel",
        "UPDATE OF tracking_number",
        "'tracking_number', 'order_id'",
        "WHEN (NEW.tracking_number IS DISTINCT FROM OLD.tracking_number AND NEW.tracking_number <> '')",
    ),
    (
        "orders",
        "index_parcel",
        "UPDATE OF tracking_number",
        "'tracking_number', 'id', 'parcel'",
        "WHEN (NEW.tracking_number IS DISTINCT FROM OLD.tracking_number AND NEW.tracking_number <> '')",
    ),
)
EXISTING = (
    'SELECT order_id, number AS source, lower(number COLLATE "C") AS number FROM invoices',
    'SELECT order_id, return_number, lower(return_number COLLATE "C") FROM return_requests',
    "SELECT id, 'parcel', lower(tracking_number COLLATE \"C\") FROM orders WHERE tracking_number <> ''",
    "SELECT DISTINCT order_id, tracking_number, lower(tracking_number COLLATE \"C\") FROM return_requests WHERE tracking_number > ''",
)
ORDERS = sa.text(
    "SELECT id, order_number, customer_email, customer_name, shipping_address, billing_address FROM orders"
    " WHERE CAST(:after AS uuid) IS NULL OR id > :after ORDER BY id LIMIT :limit"
)
ADD = sa.text(
    "INSERT INTO order_search (order_id, source, terms) VALUES (:order_id, 'order', array_to_tsvector(CAST(:terms AS text[])))"
)


def upgrade() -> None:
    """Make the table, fill it from what is there, then let the database keep the numbers in it."""
    op.create_table(
        "order_search",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("terms", postgresql.TSVECTOR(), nullable=False),
        sa.ForeignKeyConstraint(
            ["order_id"], ["orders.id"], name=op.f("fk_order_search_order_id_orders"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("order_id", "source", name=op.f("pk_order_search")),
    )
    _add_orders()
    for existing in EXISTING:
        op.execute(
            "INSERT INTO order_search (order_id, source, terms)"
            f" SELECT order_id, source, array_to_tsvector(ARRAY[number, '~' || reverse(number)]) FROM ({existing})"
            " AS found(order_id, source, number)"
        )
    op.create_index(
        op.f("ix_order_search_terms"),
        "order_search",
        ["terms"],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 256},
    )
    op.execute(INDEX_NUMBER)
    for table, trigger, event, arguments, condition in NUMBERS:
        op.execute(
            f"CREATE TRIGGER {trigger} AFTER {event} ON {table} FOR EACH ROW {condition}"
            f" EXECUTE FUNCTION index_number({arguments})"
        )
    role = context.config.attributes["database_role"]
    op.execute(f"GRANT SELECT, INSERT, UPDATE (terms) ON order_search TO {role}")
    op.drop_index("ix_orders_customer_email_lower", table_name="orders")
    op.drop_index("ix_orders_customer_name_lower", table_name="orders")


def _add_orders() -> None:
    """Add the terms of the orders that are there, in batches: a large shop does not fit into memory."""
    connection = op.get_bind()
    after = None
    while rows := connection.execute(ORDERS, {"after": after, "limit": BATCH}).all():
        connection.execute(
            ADD,
            [
                {
                    "order_id": row.id,
                    "terms": order_terms(
                        order_number=row.order_number,
                        email=row.customer_email,
                        addresses=(row.shipping_address, row.billing_address),
                        names=(row.customer_name,),
                    ),
                }
                for row in rows
            ],
        )
        after = rows[-1].id


def downgrade() -> None:
    """Go back to the indexes on lower()."""
    op.create_index("ix_orders_customer_email_lower", "orders", [sa.literal_column("lower(customer_email)")])
    op.create_index("ix_orders_customer_name_lower", "orders", [sa.literal_column("lower(customer_name)")])
    for table, trigger, *_ in NUMBERS:
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    op.execute("DROP FUNCTION index_number()")
    op.drop_table("order_search")
