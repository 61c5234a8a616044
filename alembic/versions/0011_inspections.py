"""inspections: what was found in a returned parcel, and what is deducted for it."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import context, op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLUMNS = "inspection, deduction_amount, deduction_reason"
LIMIT = "ck_return_requests_refund_amount"
CHECKS = {
    "deduction_amount": "deduction_amount >= 0",
    "deduction_reason": "(deduction_amount > 0) = (deduction_reason IS NOT NULL)",
    "inspected": "status = 'COMPLETED' OR (inspection IS NULL AND deduction_amount = 0)",
    "inspection": "inspection IS NULL OR jsonb_typeof(inspection) = 'array'",
}
DEDUCTED = (
    "OLD.status <> NEW.status AND NEW.status = 'COMPLETED'"
    " AND NEW.refund_amount <> OLD.refund_amount - NEW.deduction_amount"
)
# Name of the rule, columns, what of a change is refused, and what the error says.
GUARDS = [
    (
        "closed_return",
        f"restocking_fee, refund_amount, {COLUMNS}",
        "OLD.status = ANY ('{REJECTED,COMPLETED}'::text[])",
        "no change of its money after it ended",
    ),
    (
        "deduction",
        "status",
        DEDUCTED,
        "the refund is what was approved less the deduction",
    ),
]


def upgrade() -> None:
    """Give returns their inspection; what was approved less the deduction is what is refunded."""
    role = context.config.attributes["database_role"]
    op.add_column("return_requests", sa.Column("inspection", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column(
        "return_requests",
        sa.Column("deduction_amount", sa.Numeric(precision=12, scale=2), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("return_requests", sa.Column("deduction_reason", sa.String(length=500), nullable=True))
    for name, condition in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_return_requests_{name}"), "return_requests", condition)
    _limit_refund("items_amount - restocking_fee - deduction_amount")
    for rule, columns, condition, message in GUARDS:
        op.execute(
            f"CREATE TRIGGER guard_{rule} AFTER UPDATE OF {columns} ON return_requests FOR EACH ROW"
            f" WHEN ({condition}) EXECUTE FUNCTION guard_end('{rule}', '{message}')"
        )
        op.execute(f"ALTER TABLE return_requests ENABLE ALWAYS TRIGGER guard_{rule}")
    op.execute(f"GRANT UPDATE ({COLUMNS}) ON return_requests TO {role}")


def _limit_refund(most: str) -> None:
    op.drop_constraint(op.f(LIMIT), "return_requests", type_="check")
    op.create_check_constraint(op.f(LIMIT), "return_requests", f"refund_amount >= 0 AND refund_amount <= {most}")


def downgrade() -> None:
    """Drop the columns; what was refunded stays as it is."""
    for rule, *_ in GUARDS:
        op.execute(f"DROP TRIGGER guard_{rule} ON return_requests")
    _limit_refund("items_amount - restocking_fee")
    for name in CHECKS:
        op.drop_constraint(op.f(f"ck_return_requests_{name}"), "return_requests", type_="check")
    for column in COLUMNS.split(", "):
        op.drop_column("return_requests", column)
