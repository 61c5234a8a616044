"""released holds: the refunds of a disputed payment go on only after a decision to release them."""

from collections.abc import Sequence

from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

GUARD_HOLD = """
CREATE OR REPLACE FUNCTION guard_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.cases c WHERE c.id = OLD.refunds_held_by AND c.state = 'OPEN') THEN
        RAISE EXCEPTION 'the refunds of payment % are held until case % is decided', OLD.id, OLD.refunds_held_by
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'hold', TABLE = TG_TABLE_NAME;
    END IF;
@RELEASE@    RETURN NULL;
END $$
"""
# The case that holds is the one whose decision counts; only an open dispute of the order may take its place.
RELEASE = """    IF NOT EXISTS (SELECT FROM public.cases c
                   WHERE (NEW.refunds_held_by IS NULL AND c.id = OLD.refunds_held_by AND c.action = 'RELEASE')
                   OR (c.id = NEW.refunds_held_by AND c.kind = 'DISPUTE' AND c.state = 'OPEN'
                       AND c.order_id = NEW.order_id)) THEN
        RAISE EXCEPTION 'the refunds of payment % are held until case % is released', OLD.id, OLD.refunds_held_by
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'hold', TABLE = TG_TABLE_NAME;
    END IF;
"""
# A hold names an open dispute where there is one. Earlier releases left it with a closed one.
MOVE_HOLDS = """
UPDATE payments p SET refunds_held_by = c.id
FROM (SELECT DISTINCT ON (order_id) order_id, id FROM cases WHERE kind = 'DISPUTE' AND state = 'OPEN'
      ORDER BY order_id, created_at, id) c
WHERE c.order_id = p.order_id AND EXISTS (SELECT FROM cases h WHERE h.id = p.refunds_held_by AND h.state = 'CLOSED')
"""


def upgrade() -> None:
    """Install the rule, once the holds that it has to find are in place."""
    op.execute(MOVE_HOLDS)
    op.execute(GUARD_HOLD.replace("@RELEASE@", RELEASE))


def downgrade() -> None:
    """Take the rule away."""
    op.execute(GUARD_HOLD.replace("@RELEASE@", ""))
