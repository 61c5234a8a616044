"""What was found in a returned parcel: kept, reported to the customer, and deducted from the refund (REQ-002)."""

from decimal import Decimal
from typing import Any

import pytest
from psycopg import errors
from pydantic import ValidationError

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import Role
from app.database import Database
from app.schemas.common import PageQuery
from app.schemas.return_request import ReturnStateUpdate
from app.services.jobs.service import JobKind
from app.services.notifications.service import NotificationService
from app.services.orders.views import OrderView
from app.services.returns import service as return_service
from app.services.returns.views import ReturnView
from app.services.workflow import transitions
from app.services.workflow.transitions import TransitionRequest
from app.tasks.runner import Verdict
from app.utils.exceptions import InvalidInputError, InvalidStateTransitionError
from tests.conftest import MovableClock, actor
from tests.integration.conftest import LOGINS, Login
from tests.integration.jobs_support import FakeMailSender, claim_for, refund_of, rows
from tests.integration.money_support import Shop
from tests.integration.returns_support import PATHS, Desk, R, count

pytestmark = pytest.mark.req("REQ-002", "REQ-002.7")

REASON = "One vase came back\nwith a chipped rim"


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


@pytest.fixture
def desk(shop: Shop) -> Desk:
    return Desk(shop.orders, shop.returns, shop.admin)


async def received(shop: Shop, desk: Desk) -> tuple[OrderView, ReturnView]:
    """Return a delivered order and its return, of both lines, RECEIVED."""
    order = await shop.delivered()
    request = await desk.ask(order["id"])
    for step in PATHS[R.RECEIVED]:
        request = await desk.step(request["id"], step)
    return order, request


def found(request: ReturnView, **first: Any) -> list[dict[str, Any]]:
    """Return an inspection of the two lines, the second as it should be."""
    one, two = (item["line_item_id"] for item in request["items"])
    return [{"line_item_id": one, **first}, {"line_item_id": two, "accepted": 1}]


async def complete(desk: Desk, request: ReturnView, **fields: Any) -> ReturnView:
    update = ReturnStateUpdate.model_validate({"new_state": "COMPLETED", **fields})
    return await desk.returns.transition(request["id"], update, desk.admin)


async def test_an_inspection_is_kept_and_its_deduction_is_not_refunded(shop: Shop, desk: Desk) -> None:
    order, request = await received(shop, desk)
    seen = found(request, accepted=1, damaged=1, note="Chipped at the foot")
    done = await complete(desk, request, inspection=seen, deduction_amount="40.10", deduction_reason=REASON)
    assert (done["refund_amount"], done["deduction_amount"], done["deduction_reason"]) == (
        Decimal("291.10"),
        Decimal("40.10"),
        REASON,
    )
    assert done["inspection"] == [
        {**seen[0], "missing": 0},
        {**seen[1], "damaged": 0, "missing": 0, "note": None},
    ]
    assert await desk.returns.get(request["id"], desk.admin) == done
    [refund] = await rows(shop.database, "SELECT * FROM refunds WHERE order_id = :id", id=order["id"])
    assert refund.amount == Decimal("291.10")
    last = (await desk.returns.history(request["id"], PageQuery(), desk.admin))["data"][-1]
    assert last["metadata"] == {
        "inspection": [{**seen[0], "missing": 0}, {**seen[1], "damaged": 0, "missing": 0}],
        "deduction_amount": "40.10",
        "deduction_reason": REASON,
        "refund_amount": "291.10",
    }


async def test_the_customer_is_informed_by_mail_and_on_the_credit_note(
    shop: Shop, desk: Desk, settings: Settings, clock: MovableClock
) -> None:
    order, request = await received(shop, desk)
    seen = found(request, accepted=1, missing=1, note="The parcel held one vase")
    await complete(desk, request, inspection=seen, deduction_amount=144.6, deduction_reason=REASON)
    refund = await refund_of(shop.database, order["id"])
    assert await shop.work(order["id"], JobKind.ISSUE_INVOICE) is Verdict.SUCCEEDED
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert await shop.work(refund.id, JobKind.ISSUE_CREDIT_NOTE) is Verdict.SUCCEEDED
    [note] = await rows(shop.database, "SELECT view FROM invoices WHERE kind = 'CREDIT_NOTE'")
    deducted = [line for line in note.view["lines"] if line["description"].startswith("Deduction")]
    assert [line["description"] for line in deducted] == [
        "Deduction after inspection: One vase came back with a chipped rim"
    ]
    assert sum(Decimal(line["subtotal"]) + Decimal(line["tax_amount"]) for line in deducted) == Decimal("-144.60")
    assert Decimal(note.view["total"]) == refund.amount == Decimal("186.60")
    [text] = await told(shop, settings, clock, "refund_processed")
    for words in ("1 accepted, 0 damaged, 1 missing", "> The parcel held one vase", "> with a chipped rim", "144.60"):
        assert words in text
    assert await told(shop, settings, clock, "return_completed") == [], "the mail of the refund says it"


async def told(shop: Shop, settings: Settings, clock: MovableClock, template: str) -> list[str]:
    """Send the mails of one kind that are due; return their texts."""
    mails = FakeMailSender()
    kind = JobKind(f"notify.{template}")
    for row in await rows(shop.database, "SELECT entity_id FROM jobs WHERE kind = :kind", kind=kind):
        service = NotificationService(shop.database, mails, shop.bench().storage, settings, clock)
        await service.send(await claim_for(shop.database, row.entity_id, kind))
    return [mail.text for mail in mails.sent]


@pytest.mark.req("REQ-006.1")
async def test_a_deduction_of_all_completes_the_return_without_a_refund(
    shop: Shop, desk: Desk, settings: Settings, clock: MovableClock
) -> None:
    order, request = await received(shop, desk)
    done = await complete(desk, request, deduction_amount=331.2, deduction_reason="All of it came back broken")
    assert (done["status"], done["refund_amount"], done["inspection"]) == ("COMPLETED", Decimal(0), None)
    assert await count(shop.database, "refunds") == 0
    assert (await shop.payment(order["id"])).refund_reserved_amount == 0
    assert shop.gateway.refunds == {}
    [text] = await told(shop, settings, clock, "return_completed")
    assert "no money is paid" in text
    assert "> All of it came back broken" in text
    assert request["return_number"] in text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"deduction_amount": "331.21", "deduction_reason": "so"}, ["deduction_amount"]),
        ({"deduction_amount": 10}, ["deduction_reason"]),
        ({"deduction_reason": "so"}, ["deduction_amount"]),
        ({"deduction_amount": 0, "deduction_reason": "so"}, ["deduction_amount"]),
    ],
)
async def test_a_deduction_is_within_the_refund_and_has_a_reason(
    shop: Shop, desk: Desk, fields: dict[str, Any], named: list[str]
) -> None:
    _, request = await received(shop, desk)
    with pytest.raises(InvalidInputError) as refusal:
        await complete(desk, request, **fields)
    assert [fault["field"] for fault in refusal.value.details if isinstance(fault, dict)] == named
    assert await desk.returns.get(request["id"], desk.admin) == request


async def test_an_inspection_is_of_what_comes_back(shop: Shop, desk: Desk) -> None:
    order, request = await received(shop, desk)
    one, two = found(request, accepted=1)
    inspection = [one, two, two, {"line_item_id": str(order["id"]), "accepted": 1}]
    with pytest.raises(InvalidInputError) as refusal:
        await complete(desk, request, inspection=inspection)
    assert [fault["field"] for fault in refusal.value.details if isinstance(fault, dict)] == [
        "inspection.0",
        "inspection.2.line_item_id",
        "inspection.3.line_item_id",
    ]
    for count_ in (-1, 0.5, "1", True):
        with pytest.raises(ValidationError):
            await complete(desk, request, inspection=[{**one, "accepted": count_}])


async def test_only_the_last_step_takes_an_inspection(shop: Shop, desk: Desk) -> None:
    request = await desk.return_in(R.APPROVED)
    fields = {"inspection": found(request, accepted=2), "deduction_amount": 1, "deduction_reason": "so"}
    update = ReturnStateUpdate.model_validate({"new_state": "IN_TRANSIT", **fields})
    with pytest.raises(InvalidInputError) as refusal:
        await desk.returns.transition(request["id"], update, desk.admin)
    assert [fault["field"] for fault in refusal.value.details if isinstance(fault, dict)] == list(fields)
    with pytest.raises(InvalidStateTransitionError):
        await complete(desk, request, **fields)


async def test_what_a_customer_sees_of_it(shop: Shop, desk: Desk) -> None:
    order, request = await received(shop, desk)
    done = await complete(desk, request, deduction_amount=10, deduction_reason=REASON)
    seen = await desk.returns.get(request["id"], actor(Role.CUSTOMER, customer_id=order["customer_id"]))
    assert seen["deduction_reason"] == done["deduction_reason"]


@pytest.mark.parametrize("name", LOGINS)
@pytest.mark.parametrize(
    "change",
    [
        "refund_amount = 0",
        "restocking_fee = 0",
        "deduction_amount = 0, deduction_reason = NULL",
        "deduction_reason = 'another'",
        "inspection = '[]'",
    ],
)
async def test_after_the_end_its_money_is_fixed(shop: Shop, desk: Desk, login: Login, name: str, change: str) -> None:
    _, request = await received(shop, desk)
    await complete(desk, request, deduction_amount=10, deduction_reason=REASON)
    with pytest.raises(errors.IntegrityError) as refusal:
        login(name).execute(f"UPDATE return_requests SET {change}".encode())
    assert refusal.value.diag.constraint_name == "closed_return"


@pytest.mark.parametrize(
    "change",
    [
        "deduction_amount = 1, deduction_reason = 'early'",
        "inspection = '[]'",
        "deduction_amount = 1",
        "deduction_reason = 'so'",
    ],
)
async def test_nothing_is_deducted_before_the_end_nor_without_a_reason(
    shop: Shop, desk: Desk, login: Login, change: str
) -> None:
    await received(shop, desk)
    with pytest.raises(errors.CheckViolation):
        login("owner").execute(f"UPDATE return_requests SET {change}".encode())


async def test_the_database_does_the_sum(shop: Shop, desk: Desk) -> None:
    """A refund that is not what was approved less the deduction is refused, with its audit row and all."""
    _, request = await received(shop, desk)
    wrong = TransitionRequest(
        entity_id=request["id"],
        new_state=R.COMPLETED,
        actor=desk.admin,
        at=shop.clock.now,
        changes={"deduction_amount": "10", "deduction_reason": "so"},
    )
    with pytest.raises(Exception, match="deduction"):
        async with shop.database.autocommit() as connection:
            await transitions.apply(connection, return_service.STATEMENT, [wrong])
    assert (await desk.returns.get(request["id"], desk.admin))["status"] == "RECEIVED"
