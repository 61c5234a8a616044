"""cases: what a person must decide."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import context, op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

KINDS = (
    "AMOUNT_MISMATCH",
    "SECOND_PAYMENT",
    "SECOND_REFUND",
    "REFUND_REVERSED",
    "REFUNDED_ELSEWHERE",
    "UNKNOWN_REFERENCE",
    "UNREADABLE_EVENT",
    "PAYMENT_NOT_CAPTURED",
    "DISPUTE",
    "UNDELIVERABLE_MESSAGE",
    "TAMPERED_RECORD",
    "UNPRINTABLE_DOCUMENT",
)
ENTITIES = ("ORDER", "RETURN", "INVOICE", "PAYMENT", "REFUND", "JOB", "NOTIFICATION", "GATEWAY_EVENT")
EVENT_ENTITIES = ("ORDER", "RETURN", "INVOICE", "PAYMENT", "REFUND", "JOB")


def _one_of(column: str, values: Sequence[str]) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


def _let_events_be_about(entities: Sequence[str], *, validate: bool) -> None:
    op.drop_constraint(op.f("ck_events_entity_type"), "events", type_="check")
    rule = _one_of("entity_type", entities)
    op.execute(
        f"ALTER TABLE events ADD CONSTRAINT ck_events_entity_type CHECK ({rule}){'' if validate else ' NOT VALID'}"
    )


def upgrade() -> None:
    """Create the table, with its one legal change: from OPEN to CLOSED."""
    op.create_table(
        "cases",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuid7()"), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("entity_type", sa.String(length=20), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("dedupe_key", sa.String(length=200), nullable=False),
        sa.Column("evidence", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("state", sa.String(length=10), server_default=sa.text("'OPEN'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_by", sa.Uuid(), nullable=True),
        sa.Column("close_note", sa.String(length=2000), nullable=True),
        sa.Column("action", sa.String(length=40), nullable=True),
        sa.CheckConstraint(_one_of("kind", KINDS), name=op.f("ck_cases_kind")),
        sa.CheckConstraint(_one_of("entity_type", ENTITIES), name=op.f("ck_cases_entity_type")),
        sa.CheckConstraint("state IN ('OPEN', 'CLOSED')", name=op.f("ck_cases_state")),
        sa.CheckConstraint("version = CASE state WHEN 'OPEN' THEN 1 ELSE 2 END", name=op.f("ck_cases_version")),
        sa.CheckConstraint("(state = 'CLOSED') = (closed_at IS NOT NULL)", name=op.f("ck_cases_closed_at")),
        sa.CheckConstraint("(state = 'CLOSED') = (close_note IS NOT NULL)", name=op.f("ck_cases_close_note")),
        sa.CheckConstraint(
            "state = 'CLOSED' OR (closed_by IS NULL AND action IS NULL)", name=op.f("ck_cases_decision")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_cases_order_id_orders")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cases")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_cases_dedupe_key")),
    )
    op.create_index("ix_cases_open", "cases", ["created_at", "id"], postgresql_where=sa.text("state = 'OPEN'"))
    op.create_index(op.f("ix_cases_created_at_id"), "cases", ["created_at", "id"])
    op.create_index(op.f("ix_cases_order_id"), "cases", ["order_id"])
    op.create_index(op.f("ix_cases_entity_id"), "cases", ["entity_id"])
    _let_events_be_about((*EVENT_ENTITIES, "CASE"), validate=True)
    triggers = {
        "guard_append_only": "BEFORE DELETE OR TRUNCATE ON cases FOR EACH STATEMENT"
        " EXECUTE FUNCTION guard_append_only()",
        "guard_initial_state": "BEFORE INSERT ON cases FOR EACH ROW WHEN (NEW.state <> 'OPEN')"
        " EXECUTE FUNCTION guard_initial_state('OPEN')",
        "guard_closed_case": "AFTER UPDATE ON cases FOR EACH ROW WHEN (OLD.state <> 'OPEN' OR NEW.state <> 'CLOSED')"
        " EXECUTE FUNCTION guard_end('closed_case', 'no move from %s to %s')",
        "guard_asked": "AFTER UPDATE OF id, kind, entity_type, entity_id, order_id, dedupe_key, evidence, created_at"
        " ON cases FOR EACH ROW EXECUTE FUNCTION guard_end('asked', 'no change of what was asked')",
    }
    for name, rule in triggers.items():
        op.execute(f"CREATE TRIGGER {name} {rule}")
        # In replica mode too, which skips ordinary triggers.
        op.execute(f"ALTER TABLE cases ENABLE ALWAYS TRIGGER {name}")
    op.execute(
        "GRANT SELECT, INSERT, UPDATE (state, version, closed_at, closed_by, close_note, action) ON cases"
        f" TO {context.config.attributes['database_role']}"
    )


def downgrade() -> None:
    """Drop the table. The events about its rows stay; their mails have nothing to say any more."""
    op.drop_table("cases")
    op.execute(
        "UPDATE jobs SET state = 'DISMISSED', lease_owner = NULL, lease_until = NULL"
        " WHERE kind IN ('notify.case', 'chat.case') AND state IN ('PENDING', 'PUBLISHED', 'RUNNING', 'DEAD')"
    )
    _let_events_be_about(EVENT_ENTITIES, validate=False)
