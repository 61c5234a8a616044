"""Whether both sides did the same work, and did it right. Figures of anything else would be worth nothing."""

import asyncio
from collections.abc import Mapping

import psycopg

from app.database import Database
from app.services.workflow.audit import AuditService
from app.services.workflow.views import VerificationView
from benchmarks.servers import Target
from benchmarks.works import BenchmarkError, Pool, id_prefix

# What one completely walked order has left behind, as one text; both pools must have exactly one such text.
_TRACES = """
SELECT o.status || ' v' || o.version || ' chain ' || o.audit_seq
    || ' stamps ' || num_nonnulls(o.paid_at, o.shipped_at, o.delivered_at, o.carrier, o.tracking_number)
    || ' payment ' || p.state || ' ' || p.captured_amount
    || ' history ' || (SELECT string_agg(h.new_state || ' ' || h.trigger || ' ' || h.metadata::text, ', ' ORDER BY h.seq)
        FROM state_history h WHERE h.entity_id = o.id)
    || ' events ' || (SELECT string_agg(e.type || ' ' || coalesce(e.data ->> 'to', ''), ', ' ORDER BY e.seq)
        FROM events e WHERE e.entity_id = o.id)
    || ' jobs ' || (SELECT string_agg(j.kind || ' ' || j.queue || ' ' || j.state, ', ' ORDER BY j.kind)
        FROM jobs j WHERE j.entity_id IN (o.id, p.id)) AS trace,
    count(*)
FROM orders o JOIN payments p ON p.order_id = o.id
WHERE o.id >= %(first)s::uuid AND o.id < %(last)s::uuid AND o.status = 'DELIVERED'
GROUP BY 1
"""
_TRANSITIONS = "SELECT count(*) FROM state_history WHERE entity_id >= %(first)s::uuid AND entity_id < %(last)s::uuid"


def verify(target: Target, transitions: Mapping[Pool, int]) -> list[str]:
    """Compare what both sides left behind, and walk every audit chain.

    Args:
        target: the database that both worked on.
        transitions: how many each side says it made.

    Returns:
        What was found, a sentence each, for the report.

    Raises:
        BenchmarkError: something does not agree.
    """
    traces = {}
    with psycopg.connect(target.owner_url) as connection:
        for pool, claimed in transitions.items():
            bounds = {"first": f"{id_prefix(pool)}{0:012x}", "last": f"{id_prefix(pool)}{'f' * 12}"}
            [(stored,)] = connection.execute(_TRANSITIONS, bounds).fetchall()
            if stored != claimed:
                raise BenchmarkError(f"{pool.name} reports {claimed} transitions, the database holds {stored}")
            traces[pool] = connection.execute(_TRACES.encode(), bounds).fetchall()
    found = []
    if all(traces.values()):
        kinds = {trace for rows in traces.values() for trace, _ in rows}
        if len(kinds) != 1:
            raise BenchmarkError("the sides did not do the same work:\n" + "\n".join(sorted(kinds)))
        walked = sum(count for rows in traces.values() for _, count in rows)
        found.append(
            f"{sum(transitions.values()):,} transitions are on record, as many as were reported; all {walked:,} orders"
            " walked to their end left the same rows on both sides."
        )
    report = asyncio.run(_verify_audit(target))
    if not report["ok"]:
        raise BenchmarkError(f"the audit trail does not hold: {report['fault']}")
    found.append(f"`audit verify` holds over {report['rows']:,} rows of {report['entities']:,} chains.")
    return found


async def _verify_audit(target: Target) -> VerificationView:
    database = Database(target.settings(), "articurated-benchmark", pool_size=1)
    try:
        return await AuditService(database).verify()
    finally:
        await database.close()
