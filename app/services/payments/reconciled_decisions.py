"""Which differences a person has decided: a closed case makes a comparison silent about that difference, and no other."""

from collections.abc import Collection
from decimal import Decimal, InvalidOperation

from sqlalchemy import select

from app.core.enums import CaseState
from app.database import Database
from app.models.case import Case
from app.utils.json_values import JsonObject

_AT_ONCE = 1_000


async def decided(database: Database, keys: Collection[str]) -> dict[str, JsonObject]:
    """Return the closed cases among the dedupe keys, each with its evidence."""
    found: dict[str, JsonObject] = {}
    wanted = sorted(set(keys))
    async with database.autocommit() as connection:
        for begin in range(0, len(wanted), _AT_ONCE):
            statement = select(Case.dedupe_key, Case.evidence).where(
                Case.dedupe_key.in_(wanted[begin : begin + _AT_ONCE]), Case.state == CaseState.CLOSED
            )
            found |= {row.dedupe_key: row.evidence for row in await connection.execute(statement)}
    return found


def is_about(evidence: JsonObject, amount: Decimal | None) -> bool:
    """Return whether a case was about this amount."""
    try:
        return amount is not None and Decimal(str(evidence.get("reported_amount"))) == amount
    except InvalidOperation:
        return False
