"""payment questions: amounts that a person accepted, money refunded elsewhere, and refunds held by a dispute."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import context, op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLUMNS = ("accepted_amount", "accepted_case_id", "refunded_elsewhere_amount", "refunds_held_by")

# A refund is not sent while its payment is disputed. The lock makes a hold that is being placed wait, or be seen.
GUARD_HELD_REFUND = """
CREATE FUNCTION guard_held_refund() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held uuid;
BEGIN
    SELECT p.refunds_held_by INTO held FROM public.payments p WHERE p.id = NEW.payment_id FOR SHARE;
    IF held IS NOT NULL THEN
        RAISE EXCEPTION 'refund % is held by case %', NEW.id, held
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'held_refund', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
GUARD_HOLD = """
CREATE FUNCTION guard_hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.cases c WHERE c.id = OLD.refunds_held_by AND c.state = 'OPEN') THEN
        RAISE EXCEPTION 'the refunds of payment % are held until case % is decided', OLD.id, OLD.refunds_held_by
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'hold', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$
"""
TRIGGERS = {
    ("refunds", "guard_held_refund"): "AFTER UPDATE OF state ON refunds FOR EACH ROW"
    " WHEN (NEW.state = 'PROCESSING' AND OLD.state <> 'PROCESSING') EXECUTE FUNCTION guard_held_refund()",
    ("payments", "guard_hold"): "AFTER UPDATE OF refunds_held_by ON payments FOR EACH ROW"
    " WHEN (OLD.refunds_held_by IS NOT NULL AND NEW.refunds_held_by IS DISTINCT FROM OLD.refunds_held_by)"
    " EXECUTE FUNCTION guard_hold()",
    ("payments", "guard_accepted"): "AFTER UPDATE OF accepted_amount, accepted_case_id ON payments FOR EACH ROW"
    " WHEN ((OLD.captured_at IS NOT NULL OR OLD.accepted_amount IS NOT NULL)"
    " AND (NEW.accepted_amount IS DISTINCT FROM OLD.accepted_amount"
    " OR NEW.accepted_case_id IS DISTINCT FROM OLD.accepted_case_id))"
    " EXECUTE FUNCTION guard_end('accepted', 'no change of what was accepted')",
    ("payments", "guard_refunded_elsewhere"): "AFTER UPDATE OF refunded_elsewhere_amount ON payments FOR EACH ROW"
    " WHEN (NEW.refunded_elsewhere_amount < OLD.refunded_elsewhere_amount)"
    " EXECUTE FUNCTION guard_end('refunded_elsewhere', 'money that went back does not return')",
}


def _check(name: str, rule: str, *, validate: bool = True) -> None:
    op.execute(
        f"ALTER TABLE payments ADD CONSTRAINT ck_payments_{name} CHECK ({rule}){'' if validate else ' NOT VALID'}"
    )


def upgrade() -> None:
    """Let a payment hold what a person accepted, what went back elsewhere, and which case holds its refunds."""
    op.add_column("payments", sa.Column("accepted_amount", sa.Numeric(12, 2), nullable=True))
    op.add_column("payments", sa.Column("accepted_case_id", sa.Uuid(), nullable=True))
    op.add_column(
        "payments",
        sa.Column("refunded_elsewhere_amount", sa.Numeric(12, 2), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("payments", sa.Column("refunds_held_by", sa.Uuid(), nullable=True))
    for column in ("accepted_case_id", "refunds_held_by"):
        op.create_foreign_key(op.f(f"fk_payments_{column}_cases"), "payments", "cases", [column], ["id"])
        op.create_index(
            f"ix_payments_{column}", "payments", [column], postgresql_where=sa.text(f"{column} IS NOT NULL")
        )
    for name in ("captured_amount", "refund_cap"):
        op.drop_constraint(op.f(f"ck_payments_{name}"), "payments", type_="check")
    _check(
        "captured_amount",
        "captured_amount = CASE state WHEN 'CAPTURED' THEN coalesce(accepted_amount, amount) ELSE 0 END",
    )
    _check(
        "refund_cap",
        "refund_reserved_amount >= 0 AND refunded_elsewhere_amount >= 0"
        " AND refund_reserved_amount + refunded_elsewhere_amount <= captured_amount",
    )
    _check("accepted", "(accepted_amount IS NULL) = (accepted_case_id IS NULL) AND accepted_amount > 0")
    op.execute(GUARD_HELD_REFUND)
    op.execute(GUARD_HOLD)
    for (table, name), rule in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {rule}")
        # In replica mode too, which skips ordinary triggers.
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    op.execute(f"GRANT UPDATE ({', '.join(COLUMNS)}) ON payments TO {context.config.attributes['database_role']}")


def downgrade() -> None:
    """Forget all of it. Payments of an accepted amount keep it; the older rule is not applied to them."""
    for table, name in TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for function in ("guard_hold", "guard_held_refund"):
        op.execute(f"DROP FUNCTION {function}()")
    for name in ("captured_amount", "refund_cap", "accepted"):
        op.drop_constraint(op.f(f"ck_payments_{name}"), "payments", type_="check")
    _check("captured_amount", "captured_amount = CASE state WHEN 'CAPTURED' THEN amount ELSE 0 END", validate=False)
    _check("refund_cap", "refund_reserved_amount >= 0 AND refund_reserved_amount <= captured_amount")
    for column in ("accepted_case_id", "refunds_held_by"):
        op.drop_index(f"ix_payments_{column}", table_name="payments")
        op.drop_constraint(op.f(f"fk_payments_{column}_cases"), "payments", type_="foreignkey")
    for column in COLUMNS:
        op.drop_column("payments", column)
