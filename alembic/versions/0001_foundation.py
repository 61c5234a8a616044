"""foundation: time-ordered keys and the order number sequence."""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# RFC 9562 UUIDv7. PostgreSQL 18 has it built in; before that, a random (version 4) UUID gets the Unix time
# in milliseconds as its first 48 bits and 7 as its version.
BUILT_IN = "CREATE FUNCTION uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS 'SELECT uuidv7()'"
COMPOSED = """
CREATE FUNCTION uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
        || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid
$$
"""


def upgrade() -> None:
    """Create the function and the sequence."""
    version = op.get_bind().execute(sa.text("SELECT current_setting('server_version_num')::int")).scalar_one()
    op.execute(BUILT_IN if version >= 180000 else COMPOSED)
    op.execute(sa.schema.CreateSequence(sa.Sequence("order_number_seq")))


def downgrade() -> None:
    """Drop both."""
    op.execute(sa.schema.DropSequence(sa.Sequence("order_number_seq")))
    op.execute("DROP FUNCTION uuid7()")
