"""What was found in a returned parcel, and what is deducted from the refund for it (REQ-002)."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypedDict

from app.core.enums import ReturnStatus
from app.schemas.return_request import InspectionItem, ReturnStateUpdate
from app.utils.exceptions import InvalidInputError
from app.utils.json_values import JsonObject

FIELDS = ("inspection", "deduction_amount", "deduction_reason")


def require_inspection_fits(update: ReturnStateUpdate) -> None:
    """Refuse an inspection at another step than the last one, and a deduction without its reason.

    Raises:
        InvalidInputError: names each field.
    """
    given = [name for name in FIELDS if getattr(update, name) is not None]
    if update.new_state is not ReturnStatus.COMPLETED:
        faults = [(name, "is for the step to COMPLETED") for name in given]
    elif (update.deduction_amount or Decimal(0)) > 0 and update.deduction_reason is None:
        faults = [("deduction_reason", "is required with a deduction")]
    elif not update.deduction_amount and update.deduction_reason is not None:
        faults = [("deduction_amount", "must be above 0 where there is a reason for it")]
    else:
        faults = []
    if faults:
        raise InvalidInputError(*faults)


class InspectionChanges(TypedDict, total=False):
    """The columns of a return that an inspection sets; one without findings or without a deduction leaves those out.

    Attributes:
        inspection: one entry a line, as JSON.
        refund_amount: the approved one less the deduction.
    """

    inspection: list[JsonObject]
    deduction_amount: Decimal
    deduction_reason: str | None
    refund_amount: Decimal


class InspectionRecord(TypedDict, total=False):
    """The same in the metadata of an audit row: JSON, with amounts as text, which keeps their digits."""

    inspection: list[JsonObject]
    deduction_amount: str
    deduction_reason: str | None
    refund_amount: str


def inspected(row: Mapping[Any, Any], update: ReturnStateUpdate) -> tuple[InspectionChanges, InspectionRecord]:
    """Return the columns that an inspection sets, and what the audit row says of it.

    Args:
        row: the return, RECEIVED.
        update: the step to COMPLETED.

    Raises:
        InvalidInputError: a line that is not the return's, pieces that do not add up to what comes back, or a deduction
            beyond the approved refund.
    """
    faults = _line_faults(row["items"], update.inspection or [])
    deduction = update.deduction_amount or Decimal(0)
    if deduction > row["refund_amount"]:
        faults.append(("deduction_amount", f"must not exceed the approved refund: {row['refund_amount']}"))
    if faults:
        raise InvalidInputError(*faults)
    changes: InspectionChanges = {}
    record: InspectionRecord = {}
    if update.inspection is not None:
        lines: list[JsonObject] = [item.model_dump(mode="json", exclude_none=True) for item in update.inspection]
        changes["inspection"] = record["inspection"] = lines
    if deduction:
        refund: Decimal = row["refund_amount"] - deduction
        changes |= {
            "deduction_amount": deduction,
            "deduction_reason": update.deduction_reason,
            "refund_amount": refund,
        }
        record |= {
            "deduction_amount": str(deduction),
            "deduction_reason": update.deduction_reason,
            "refund_amount": str(refund),
        }
    return changes, record


def _line_faults(items: list[Mapping[str, Any]], found: list[InspectionItem]) -> list[tuple[str, str]]:
    returned = {item["line_item_id"]: int(item["quantity"]) for item in items}
    faults, seen = [], set()
    for position, item in enumerate(found):
        line_id = str(item.line_item_id)
        if line_id not in returned:
            faults.append((f"inspection.{position}.line_item_id", "is not a line of this return"))
        elif line_id in seen:
            faults.append((f"inspection.{position}.line_item_id", "is named twice"))
        elif (pieces := item.accepted + item.damaged + item.missing) != returned[line_id]:
            faults.append(
                (
                    f"inspection.{position}",
                    f"accepted, damaged and missing are {pieces} together, not the {returned[line_id]} of this return",
                )
            )
        seen.add(line_id)
    return faults
