"""One refund job: what each answer of the gateway means, and that it pays once."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import Role
from app.database import Database
from app.schemas.operations import DeadLetterQuery
from app.schemas.refund import RefundQuery
from app.services.jobs.service import JobKind
from app.services.operations.dead_letters import DeadLetterService
from app.services.payments.gateway.port import GatewayRefund, RefundRequest
from app.tasks.runner import Verdict
from app.utils.exceptions import ForbiddenError, InvalidStateTransitionError, NotFoundError
from tests.conftest import MovableClock, actor
from tests.fakes import FakeGateway, Mode
from tests.integration.jobs_support import add_job, job, rows
from tests.integration.money_support import Shop

pytestmark = pytest.mark.req("REQ-004")


@pytest.fixture
def shop(settings: Settings, database: Database, clock: MovableClock, admin: Actor) -> Shop:
    return Shop(settings, database, clock, admin)


async def dead_letter(database: Database) -> UUID:
    [letter] = await rows(database, "SELECT id FROM dead_letters WHERE resolution IS NULL")
    return UUID(str(letter.id))


@pytest.mark.req("REQ-004.7")
async def test_a_refund_is_paid_and_everyone_learns_of_it(shop: Shop) -> None:
    request = await shop.returned(Decimal("50.00"))
    [refund] = await rows(shop.database, "SELECT * FROM refunds")
    assert (refund.state, refund.reason, refund.return_id) == ("PENDING", "RETURN_COMPLETED", request["id"])
    assert await shop.follow_ups(refund.id) == []
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)
    assert shop.gateway.keys("refund") == [f"refund:{refund.id}"]
    after = await shop.returns.get(request["id"], shop.admin)
    done = await shop.refund(refund.id)
    assert after["refund_transaction_id"] == done.gateway_refund_id
    assert after["version"] == request["version"] + 1
    steps = await rows(shop.database, "SELECT type FROM events WHERE entity_id = :id ORDER BY seq", id=refund.id)
    assert [row.type for row in steps] == ["refund.created", "refund.processing", "refund.succeeded"]
    assert await shop.work(refund.id) is Verdict.NOTHING_TO_DO
    await shop.assert_paid_once(refund.id)


async def test_processing_is_committed_before_any_byte_is_sent(shop: Shop) -> None:
    refund = await shop.cancelled()
    seen = []

    async def look() -> None:
        seen.append(await shop.refund(refund.id))

    shop.gateway.hooks["refund", "arrived"] = look
    await shop.work(refund.id)
    assert [(row.state, row.version, row.first_sent_at) for row in seen] == [("PROCESSING", 2, shop.clock.now)]


async def test_after_a_decline_the_next_try_has_a_key_of_its_own(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline", "decline"]
    for declines in (1, 2):
        assert await shop.work(refund.id) is Verdict.POSTPONED
        declined = await shop.refund(refund.id)
        assert (declined.state, declined.declines) == ("PENDING", declines)
        assert declined.last_error == "ordered_decline: The gateway refused."
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert shop.gateway.keys("refund") == [f"refund:{refund.id}", f"refund:{refund.id}:2", f"refund:{refund.id}:3"]
    await shop.assert_paid_once(refund.id)


@pytest.mark.req("REQ-004.6")
@pytest.mark.parametrize("mode", ["timeout_after", "lost"])
async def test_an_unknown_outcome_is_looked_up_and_never_sent_under_a_new_key(shop: Shop, mode: Mode) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = [mode]
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert (await shop.refund(refund.id)).state == "UNKNOWN"
    before = len(shop.gateway.calls)
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert shop.gateway.calls[before] == ("lookup", str(refund.id))
    assert set(shop.gateway.keys("refund")) == {f"refund:{refund.id}"}
    assert len(shop.gateway.keys("refund")) == (1 if mode == "timeout_after" else 2)
    await shop.assert_paid_once(refund.id)


async def test_what_cannot_be_looked_up_is_not_sent_again(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["timeout_after"]
    shop.gateway.lookup = False
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert await shop.work(refund.id) is Verdict.POSTPONED
    shop.gateway.lookup = True
    shop.gateway.faults["lookup"] = ["unavailable", "lost"]
    for _ in range(2):
        assert await shop.work(refund.id) is Verdict.POSTPONED
        assert (await shop.refund(refund.id)).state == "UNKNOWN"
    assert len(shop.gateway.keys("refund")) == 1
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


async def test_what_was_surely_not_sent_stays_pending(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["unavailable", "reject"]
    for _ in range(2):
        assert await shop.work(refund.id) is Verdict.POSTPONED
        assert (await shop.refund(refund.id)).state == "PENDING"


async def test_an_earlier_decline_says_nothing_about_a_later_try(shop: Shop) -> None:
    """The look-up finds the declined attempt while the second is still under way: it may not be sent a third time."""
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline", "late"]
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert await shop.work(refund.id) is Verdict.POSTPONED
    for _ in range(2):
        await shop.work(refund.id)
        assert (await shop.refund(refund.id)).state == "UNKNOWN"
    shop.gateway.catch_up()
    await shop.work(refund.id)
    await shop.assert_paid_once(refund.id)
    assert (await shop.refund(refund.id)).declines == 1


async def test_a_pending_refund_is_asked_for_until_it_is_decided(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["pending"]
    for _ in range(2):
        assert await shop.work(refund.id) is Verdict.POSTPONED
        assert (await shop.refund(refund.id)).state == "PROCESSING"
    [pending] = shop.gateway.refunds.values()
    shop.gateway.decide(pending.id, paid=True)
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    await shop.assert_paid_once(refund.id)


async def test_a_refund_that_bounces_later_is_tried_under_a_new_key(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["pending"]
    assert await shop.work(refund.id) is Verdict.POSTPONED
    [pending] = shop.gateway.refunds.values()
    failed = shop.gateway.decide(pending.id, paid=False)
    assert await shop.tell("refund.failed", failed) == "REFUND_FAILED"
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert (await shop.refund(refund.id)).declines == 1
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert set(shop.gateway.keys("refund")) == {f"refund:{refund.id}", f"refund:{refund.id}:2"}
    await shop.assert_paid_once(refund.id)


class LyingGateway(FakeGateway):
    """Finds another refund than the one that was asked about."""

    def __init__(self, honest: FakeGateway, **lies: object) -> None:
        super().__init__()
        self.__dict__.update(honest.__dict__)
        self._lies = lies

    async def find_refund(self, reference: UUID) -> GatewayRefund | None:
        """Return the refund, with the lies."""
        found = await super().find_refund(reference)
        return None if found is None else replace(found, **self._lies)  # type: ignore[arg-type]


@pytest.mark.parametrize("lies", [{"amount": Decimal("5.00")}, {"currency": "JPY"}, {"payment_id": "pay_other"}])
async def test_a_look_up_that_returns_another_refund_settles_nothing(shop: Shop, lies: dict[str, object]) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["timeout_after"]
    assert await shop.work(refund.id) is Verdict.POSTPONED
    assert await shop.work(refund.id, gateway=LyingGateway(shop.gateway, **lies)) is Verdict.POSTPONED
    doubtful = await shop.refund(refund.id)
    assert (doubtful.state, doubtful.gateway_refund_id) == ("UNKNOWN", None)
    assert "does not fit" in doubtful.last_error
    assert await shop.follow_ups(refund.id) == []
    assert len(shop.gateway.keys("refund")) == 1


@pytest.mark.req("REQ-004.11", "REQ-004.4")
async def test_a_spent_budget_ends_with_a_person(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline"] * 6
    verdicts = [await shop.work(refund.id) for _ in range(6)]
    assert verdicts == [Verdict.POSTPONED] * 5 + [Verdict.DEAD_LETTERED]
    assert (await shop.refund(refund.id)).state == "FAILED"
    assert await shop.job_state(refund.id) == "DEAD"
    letter_id = await dead_letter(shop.database)
    [alert] = await rows(shop.database, "SELECT entity_id FROM jobs WHERE kind = 'notify.job_failed'")
    assert alert.entity_id == letter_id
    assert await shop.follow_ups(refund.id) == []
    assert shop.gateway.moved("refund", refund.id) == []
    payment = await shop.payment(refund.order_id)
    assert payment.refund_reserved_amount == refund.amount


async def test_an_unknown_outcome_stays_unknown_when_the_budget_is_spent(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["timeout_after"]
    shop.gateway.faults["lookup"] = ["lost"] * 5
    assert [await shop.work(refund.id) for _ in range(6)][-1] is Verdict.DEAD_LETTERED
    assert (await shop.refund(refund.id)).state == "UNKNOWN"
    kept = await shop.refund(refund.id)
    assert (kept.state, kept.released_at) == ("UNKNOWN", None)
    assert (await shop.payment(refund.order_id)).refund_reserved_amount == refund.amount
    found = await shop.refunds.reconcile(shop.gateway, repair=True)
    assert (found.repaired, (await shop.refund(refund.id)).state) == (1, "SUCCEEDED")


@pytest.mark.req("REQ-004.11")
async def test_a_refund_that_a_person_retries_is_paid_once(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline"]
    assert await shop.work(refund.id, refund_retries=0) is Verdict.DEAD_LETTERED
    letter_id = await dead_letter(shop.database)
    letters = DeadLetterService(shop.database, shop.clock)
    with pytest.raises(ForbiddenError):
        await letters.retry(letter_id, actor(Role.MANAGER))
    resolved = await letters.retry(letter_id, shop.admin)
    assert resolved["resolution"] == "RETRIED"
    with pytest.raises(InvalidStateTransitionError):
        await letters.dismiss(letter_id, shop.admin)
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert shop.gateway.keys("refund")[-1] == f"refund:{refund.id}:2"
    await shop.assert_paid_once(refund.id)


async def test_a_refund_that_a_person_dismisses_gives_its_share_back(shop: Shop) -> None:
    refund = await shop.part_refund()
    shop.gateway.faults["refund"] = ["decline"]
    assert await shop.work(refund.id, refund_retries=0) is Verdict.DEAD_LETTERED
    letters = DeadLetterService(shop.database, shop.clock)
    await letters.dismiss(await dead_letter(shop.database), shop.admin, "paid in cash")
    released = await shop.refund(refund.id)
    assert (released.state, released.released_at is None) == ("FAILED", False)
    assert (await shop.payment(refund.order_id)).refund_reserved_amount == 0
    assert (await letters.list(DeadLetterQuery(), shop.admin))["data"] == []
    assert await shop.work(refund.id) is Verdict.NOTHING_TO_DO
    # Yet the gateway pays it after all: the payment follows the money, and the share counts again.
    request = RefundRequest(
        refund_id=refund.id,
        gateway_payment_id=(await shop.payment(refund.order_id)).gateway_payment_id,
        amount=refund.amount,
        currency=refund.currency,
        idempotency_key="by hand",
    )
    assert await shop.tell("refund.succeeded", await shop.gateway.refund(request)) == "REFUND_SETTLED"
    assert (await shop.payment(refund.order_id)).refund_reserved_amount == refund.amount
    paid = await shop.refund(refund.id)
    assert (paid.state, paid.released_at) == ("SUCCEEDED", None)
    assert shop.gateway.moved("refund", refund.id) == [refund.amount]
    assert await shop.follow_ups(refund.id) == [JobKind.ISSUE_CREDIT_NOTE, JobKind.NOTIFY_REFUND_PROCESSED]


async def test_a_job_over_its_time_leaves_the_outcome_open(shop: Shop) -> None:
    refund = await shop.part_refund()

    async def hang() -> None:
        shop.clock.advance(seconds=1)
        await never.wait()

    never = asyncio.Event()
    shop.gateway.hooks["refund", "moved"] = hang
    assert await shop.work(refund.id, time_limit=timedelta(seconds=0.3)) is Verdict.POSTPONED
    assert (await shop.refund(refund.id)).state == "PROCESSING"
    assert await shop.work(refund.id) is Verdict.SUCCEEDED
    assert len(shop.gateway.keys("refund")) == 1
    await shop.assert_paid_once(refund.id)


async def test_without_an_amount_nothing_is_refunded(shop: Shop) -> None:
    await shop.returned(Decimal("0.00"))
    assert await rows(shop.database, "SELECT 1 FROM refunds") == []
    assert await rows(shop.database, "SELECT 1 FROM jobs WHERE queue = 'refunds'") == []


async def test_refunds_are_listed_newest_first(shop: Shop) -> None:
    older = await shop.cancelled()
    shop.clock.advance(minutes=1)
    newer = await shop.part_refund()
    await shop.work(newer.id)
    listed = (await shop.refunds.list(RefundQuery(), shop.admin))["data"]
    assert [(entry["id"], entry["state"]) for entry in listed] == [(newer.id, "SUCCEEDED"), (older.id, "PENDING")]
    [pending] = (await shop.refunds.list(RefundQuery.model_validate({"state": ["PENDING"]}), shop.admin))["data"]
    [of_order] = (await shop.refunds.list(RefundQuery(order_id=newer.order_id), shop.admin))["data"]
    assert (pending["id"], of_order) == (older.id, await shop.refunds.get(newer.id, shop.admin))
    assert of_order["amount"] == Decimal("50.00")
    with pytest.raises(NotFoundError):
        await shop.refunds.get(uuid4(), shop.admin)


async def test_a_job_without_refund_gives_up_in_the_open(shop: Shop) -> None:
    missing = uuid4()
    job_id = await add_job(shop.database, JobKind.PROCESS_REFUND, missing)
    assert await shop.work(missing, refund_retries=0) is Verdict.DEAD_LETTERED
    assert (await job(shop.database, job_id)).state == "DEAD"
