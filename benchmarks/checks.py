"""Whether the sides did the same work, and did it right. Figures of anything else would be worth nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
import psycopg

from benchmarks.servers import Target
from benchmarks.works import BenchmarkError, Pool, Side, id_prefix

# What one completely walked order has left behind, as one text; a side must have exactly one such text.
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


@dataclass(frozen=True, slots=True)
class Walked:
    """What a side says it did.

    Attributes:
        target: the database that it worked on.
        pool: whose orders it walked there.
        transitions: how many it made.
    """

    target: Target
    pool: Pool
    transitions: int


def verify(walked: Mapping[Side, Walked]) -> list[str]:
    """Compare what the sides left behind, and walk every audit chain with the build that wrote it.

    pgbench and this build must leave the same rows. Those of an older build may be others, for its rules were; they must
    be the same for each of its orders.

    Returns:
        What was found, a sentence each, for the report.

    Raises:
        BenchmarkError: something does not agree.
    """
    traces: dict[Side, list[tuple[str, int]]] = {}
    for side, claim in walked.items():
        stored, traces[side] = _left_by(claim)
        if stored != claim.transitions:
            raise BenchmarkError(f"{side} reports {claim.transitions} transitions, the database holds {stored}")
    found = []
    if all(traces.values()):
        kinds = {side: {trace for trace, _ in rows} for side, rows in traces.items()}
        _require_one(kinds[Side.PGBENCH] | kinds[Side.NEW])
        made = sum(claim.transitions for claim in walked.values())
        done = {side: sum(count for _, count in rows) for side, rows in traces.items()}
        found.append(
            f"{made:,} transitions are on record, as many as were reported; all"
            f" {done[Side.PGBENCH] + done[Side.NEW]:,} orders walked to their end by pgbench and by this build left the"
            " same rows."
        )
        if Side.OLD in kinds:
            _require_one(kinds[Side.OLD])
            same = (
                "the same rows"
                if kinds[Side.OLD] == kinds[Side.NEW]
                else "rows that are equal to each other, but not to these"
            )
            found.append(f"The {done[Side.OLD]:,} orders of {walked[Side.OLD].target.build.label} left {same}.")
    for side, claim in walked.items():
        name = side if side is Side.PGBENCH else claim.target.build.label
        found.append(f"`audit verify` holds over {_verify_audit(claim.target)} ({name}).")
    return found


def _left_by(claim: Walked) -> tuple[int, list[tuple[str, int]]]:
    """Return how many transitions are on record, and every kind of rows that a finished order left, with its number."""
    prefix = id_prefix(claim.pool)
    bounds = {"first": f"{prefix}{0:012x}", "last": f"{prefix}{'f' * 12}"}
    with psycopg.connect(claim.target.owner_url) as connection:
        [(stored,)] = connection.execute(_TRANSITIONS, bounds).fetchall()
        return stored, connection.execute(_TRACES.encode(), bounds).fetchall()


def _require_one(kinds: set[str]) -> None:
    if len(kinds) != 1:
        raise BenchmarkError("the sides did not do the same work:\n" + "\n".join(sorted(kinds)))


def _verify_audit(target: Target) -> str:
    report = orjson.loads(target.run("audit", "verify", "--json"))
    if not report["ok"]:
        raise BenchmarkError(f"the audit trail does not hold: {report['fault']}")
    return f"{report['rows']:,} rows of {report['entities']:,} chains"
