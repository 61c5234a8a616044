"""Disputes of every type and form, also of payments that are booked after the dispute was reported (INT-001)."""

from typing import Any

import orjson
import pytest

from app.core.actor import Actor
from app.core.enums import CaseEntity, CaseKind
from app.schemas.order import OrderCancel
from app.services.cases import service as case_service
from app.services.cases.service import CaseService
from app.services.payments.gateway.port import GatewayDispute
from app.services.payments.webhooks import read_event
from app.tasks.runner import Verdict
from tests.integration.jobs_support import refund_of, rows
from tests.integration.money_support import Shop
from tests.integration.test_payment_cases import cases, dispute, open_cases, shop

__all__ = ["cases", "shop"]

pytestmark = [pytest.mark.req("INT-001"), pytest.mark.req("REQ-004")]


@pytest.mark.parametrize("kind", ["charge.dispute.created", "issuing_dispute.created"])
async def test_a_dispute_of_any_type_holds_the_refunds(shop: Shop, cases: CaseService, admin: Actor, kind: str) -> None:
    order = await shop.paid()
    payment_id = (await shop.payment(order["id"])).gateway_payment_id
    assert await shop.tell(kind, dispute(None, payment_id=payment_id)) == "DISPUTE"
    [case] = await open_cases(cases, admin)
    assert (await shop.payment(order["id"])).refunds_held_by == case["id"]
    ended = kind.replace("created", "closed")
    assert await shop.tell(ended, dispute(None, payment_id=payment_id, status="won")) == "DISPUTE_CLOSED"
    assert len(await open_cases(cases, admin)) == 1


async def test_a_dispute_of_a_payment_that_is_booked_later_holds_its_refunds(
    shop: Shop, cases: CaseService, admin: Actor
) -> None:
    order = await shop.ordered()
    payment = shop.charged(order)
    unmatched = dispute(None, payment_id=payment.id)
    assert await shop.tell("dispute.created", unmatched) == "DISPUTE"
    assert await shop.tell("payment.captured", payment) == "PAID"
    [case] = await open_cases(cases, admin)
    assert (case["order_number"], case["evidence"]["dispute_id"]) == (order["order_number"], "dp_1")
    assert (await shop.payment(order["id"])).refunds_held_by == case["id"]
    [first] = await rows(shop.database, "SELECT * FROM cases WHERE state = 'CLOSED'")
    assert (first.order_id, first.action) == (None, "SUPERSEDED")
    assert await shop.tell("dispute.updated", unmatched) == "DISPUTE_KNOWN"
    await shop.orders.cancel(order["id"], OrderCancel(), shop.admin)
    refund = await refund_of(shop.database, order["id"])
    assert await shop.work(refund.id) is Verdict.POSTPONED
    await cases.close(case["id"], admin, "go on", "RELEASE")
    assert await shop.work(refund.id) is Verdict.SUCCEEDED


async def test_a_dispute_that_arrives_while_its_payment_is_booked_is_met_before_a_refund_goes_out(
    shop: Shop, cases: CaseService, admin: Actor
) -> None:
    order = await shop.ordered()
    payment = shop.charged(order)
    assert await shop.tell("payment.captured", payment) == "PAID"
    # As the transaction that keeps the dispute saw it: the booking was not committed.
    await opened(shop, {"dispute_id": "dp_1", "gateway_payment_id": payment.id})
    await shop.orders.cancel(order["id"], OrderCancel(), shop.admin)
    refund = await refund_of(shop.database, order["id"])
    assert await shop.work(refund.id) is Verdict.POSTPONED
    [case] = await open_cases(cases, admin)
    assert (await shop.payment(order["id"])).refunds_held_by == case["id"]
    await cases.close(case["id"], admin, "go on", "RELEASE")
    assert await shop.work(refund.id) is Verdict.SUCCEEDED


async def opened(shop: Shop, evidence: dict[str, Any]) -> None:
    """Open the case of a dispute whose payment was not known."""
    async with shop.database.transaction() as session:
        await case_service.open_case(
            session,
            CaseKind.DISPUTE,
            entity_type=CaseEntity.GATEWAY_EVENT,
            entity_id=case_service.gateway_event_id("evt_dispute"),
            evidence=evidence,
            dedupe_key="dispute:dp_1",
        )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("dispute.created", {"id": None}),
        ("charge.dispute.created", {}),
        ("charge.dispute.created", {"payment": None, "payment_intent": "{payment}"}),
        ("issuing_dispute.created", {"payment": None, "charge": "{payment}"}),
    ],
)
def test_what_a_dispute_is_about_is_read_from_every_form(kind: str, changes: dict[str, Any]) -> None:
    told = {"id": "dp_1", "payment": "pay_1", "amount": "341.10"}
    told |= {name: value and value.format(payment="pay_1") for name, value in changes.items()}
    body = orjson.dumps({"id": "evt_1", "type": kind, "created": "2026-11-23T00:00:00Z", "data": {"object": told}})
    read = read_event("evt_1", body)
    assert isinstance(read.object, GatewayDispute)
    assert (read.object.id, read.object.payment_id) == (told["id"] or "evt_1", "pay_1")
