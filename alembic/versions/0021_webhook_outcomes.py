"""webhook outcomes: a kept webhook has one of the outcomes that are known."""

from collections.abc import Sequence

from alembic import op

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NAME = "ck_gateway_events_outcome"
OUTCOMES = (
    *("PAID", "ALREADY_CAPTURED", "RESERVED_AFTER_CANCEL", "REFUNDED_ELSEWHERE", "DISPUTE", "DISPUTE_CLOSED"),
    *("DISPUTE_KNOWN", "UNREADABLE", "UNKNOWN_KIND", "RECORD_TAMPERED", "PAID_AFTER_CANCEL", "SECOND_PAYMENT"),
    *("AMOUNT_MISMATCH", "UNKNOWN_REFERENCE", "REFUND_SETTLED", "ALREADY_SETTLED", "SECOND_REFUND", "REFUND_FAILED"),
    *("REFUND_DUE_AGAIN", "REFUND_REVERSED", "IGNORED", "DUPLICATE"),
)


def upgrade() -> None:
    """Add the CHECK. No release has written another outcome."""
    listed = ", ".join(f"'{outcome}'" for outcome in OUTCOMES)
    op.create_check_constraint(op.f(NAME), "gateway_events", f"outcome IN ({listed})")


def downgrade() -> None:
    """Drop the CHECK."""
    op.drop_constraint(op.f(NAME), "gateway_events", type_="check")
