"""The refunds of an order, as its customer sees them, and the order that a dead letter is about (REQ-004)."""

import json
from uuid import UUID, uuid4

import httpx2
import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.composition import Services
from app.core.enums import Role
from app.services.jobs.service import JobKind
from app.services.notifications.kind import Addressed
from app.services.notifications.kinds import KINDS
from app.services.notifications.rendering import render_mail
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return
from tests.integration.dead import bury_job
from tests.integration.jobs_support import facts_of

pytestmark = pytest.mark.req("REQ-004")


async def test_a_customer_sees_the_refunds_of_their_own_orders(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient], customer_id: str
) -> None:
    order = await new_order(api, "PAID", "CANCELLED", customer_id=str(customer_id))
    foreign = await new_order(api, "PAID", "CANCELLED")
    customer = callers[Role.CUSTOMER]
    page = (await customer.get(f"/api/v1/orders/{order['id']}/refunds")).json()
    [refund] = page["data"]
    assert (refund["amount"], refund["currency"]) == (order["total_amount"], order["currency"])
    assert (refund["state"], refund["reason"], refund["succeeded_at"]) == ("PENDING", "ORDER_CANCELLED", None)
    assert refund["return_number"] is None
    assert not {"last_error", "gateway_refund_id", "payment_id"} & refund.keys()
    assert page["pagination"] == {"limit": 20, "next_cursor": None}
    for hidden in (foreign["id"], uuid4()):
        refused = await customer.get(f"/api/v1/orders/{hidden}/refunds")
        assert refused.status_code == 404
        assert error_of(refused)["code"] == "ORDER_NOT_FOUND"
    assert len((await api.get(f"/api/v1/orders/{foreign['id']}/refunds")).json()["data"]) == 1


async def test_a_refund_for_a_return_shows_its_number(api: httpx2.AsyncClient) -> None:
    order = await new_order(api, *TO_DELIVERED)
    requested = await new_return(api, order["id"])
    await api.patch(f"/api/v1/returns/{requested['id']}/approve", json={"notes": "Fine."})
    for state in ("IN_TRANSIT", "RECEIVED", "COMPLETED"):
        await api.patch(f"/api/v1/returns/{requested['id']}/state", json={"new_state": state})
    [refund] = (await api.get(f"/api/v1/orders/{order['id']}/refunds")).json()["data"]
    [listed] = (await api.get("/api/v1/refunds")).json()["data"]
    single = (await api.get(f"/api/v1/refunds/{refund['id']}")).json()
    assert {shown["return_number"] for shown in (refund, listed, single)} == {requested["return_number"]}


async def test_an_order_without_refunds_has_an_empty_list(api: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    assert (await api.get(f"/api/v1/orders/{order['id']}/refunds")).json()["data"] == []


async def test_a_dead_letter_names_its_order(api: httpx2.AsyncClient, services: Services) -> None:
    order = await new_order(api, "PAID", "CANCELLED")
    [refund] = (await api.get(f"/api/v1/orders/{order['id']}/refunds")).json()["data"]
    subjects = {
        JobKind.NOTIFY_ORDER_DELIVERED: order["id"],
        JobKind.PROCESS_REFUND: refund["id"],
        JobKind.NOTIFY_DAILY_SUMMARY: uuid4(),
    }
    for kind, entity_id in subjects.items():
        await bury_job(services.database, kind, entity_id)
    found = {letter["kind"]: letter for letter in (await api.get("/api/v1/jobs/dead")).json()["data"]}
    for kind in (JobKind.NOTIFY_ORDER_DELIVERED, JobKind.PROCESS_REFUND):
        assert (found[kind]["order_id"], found[kind]["order_number"]) == (order["id"], order["order_number"])
    summary = found[JobKind.NOTIFY_DAILY_SUMMARY]
    assert (summary["order_id"], summary["order_number"]) == (None, None)
    resolved = await api.post(f"/api/v1/jobs/dead/{found[JobKind.NOTIFY_ORDER_DELIVERED]['id']}/dismiss")
    assert resolved.json()["order_number"] == order["order_number"]

    dead_letter_id = UUID(found[JobKind.PROCESS_REFUND]["id"])
    addressed = await facts_of(services.database, services.settings, KINDS["job_failed"], dead_letter_id)
    assert isinstance(addressed, Addressed)
    mail = render_mail("job_failed", addressed.facts)
    for part in (mail.subject, mail.text, mail.html):
        assert order["order_number"] in part


def test_the_command_line_names_the_order_of_a_job(command_line: None) -> None:
    result = CliRunner().invoke(cli, ["jobs", "list"])
    assert "order_number" in result.stdout
    assert json.loads(CliRunner().invoke(cli, ["jobs", "list", "--json"]).stdout) == []
