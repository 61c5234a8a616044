"""lines with their order: an order, its lines and the event of its creation may be written by one statement."""

from collections.abc import Sequence

from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

GUARD_LINE_AGREED = """
CREATE OR REPLACE FUNCTION guard_line_agreed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM public.events e@LINE@ WHERE e.entity_type = 'ORDER' AND e.entity_id = NEW.order_id AND e.seq = 1@LATER@;
    IF FOUND THEN
        RAISE EXCEPTION 'order_line_items: no line is added to an order that was made'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'line_agreed', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
# The rows of one statement have one xmin. A transaction that inserts a line after that of the event's has another one,
# also where it is a savepoint.
LINE = " JOIN public.order_line_items l ON l.id = NEW.id"
LATER = " AND e.xmin <> l.xmin"


def upgrade() -> None:
    """Let the lines of an order come with the event of its creation, and not later."""
    op.execute(GUARD_LINE_AGREED.replace("@LINE@", LINE).replace("@LATER@", LATER))


def downgrade() -> None:
    """Have all lines written before the event."""
    op.execute(GUARD_LINE_AGREED.replace("@LINE@", "").replace("@LATER@", ""))
