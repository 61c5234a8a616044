"""Notes of the staff on orders and returns (REQ-005)."""

from uuid import UUID, uuid4

import httpx2
import pytest

from app.core.enums import Role
from tests.conftest import MovableClock
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return

pytestmark = pytest.mark.req("REQ-005")


async def test_notes_are_listed_with_author_and_time_page_by_page(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient], clock: MovableClock
) -> None:
    order = await new_order(api, *TO_DELIVERED)
    requested = await new_return(api, order["id"])
    for url, own in (
        (f"/api/v1/orders/{order['id']}/notes", "order_id"),
        (f"/api/v1/returns/{requested['id']}/notes", "return_id"),
    ):
        for number, role in enumerate((Role.WAREHOUSE, Role.MANAGER, Role.ADMIN)):
            clock.advance(minutes=1)
            made = await callers[role].post(url, json={"text": f"note {number}\non two lines"})
            assert made.status_code == 201, made.text
            note = made.json()
            assert (note["author_role"], note["text"]) == (role, f"note {number}\non two lines")
            assert note["created_at"] == f"{clock.now:%Y-%m-%dT%H:%M:%S.%f}Z".replace(".000000", "")
            assert {name: note[name] for name in ("order_id", "return_id") if note[name]} == {own: url.split("/")[4]}
        first = (await api.get(f"{url}?limit=2&include_total=true")).json()
        assert [note["text"][:6] for note in first["data"]] == ["note 0", "note 1"]
        assert first["pagination"]["total"] == 3
        rest = (await api.get(f"{url}?limit=2&cursor={first['pagination']['next_cursor']}")).json()
        assert [note["text"][:6] for note in rest["data"]] == ["note 2"]
    assert (await api.get(f"/api/v1/orders/{order['id']}")).json()["version"] == order["version"]


@pytest.mark.req("NFR-004.3")
async def test_notes_are_for_the_staff(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient], customer_id: UUID
) -> None:
    order = await new_order(api, customer_id=str(customer_id))
    url = f"/api/v1/orders/{order['id']}/notes"
    await api.post(url, json={"text": "a difficult customer"})
    for role in (Role.CUSTOMER, Role.SERVICE):
        for answer in (await callers[role].get(url), await callers[role].post(url, json={"text": "me too"})):
            assert error_of(answer)["code"] == "FORBIDDEN"
    seen = await callers[Role.CUSTOMER].get(f"/api/v1/orders/{order['id']}")
    assert "difficult" not in seen.text


async def test_what_is_no_note(api: httpx2.AsyncClient) -> None:
    order = await new_order(api)
    url = f"/api/v1/orders/{order['id']}/notes"
    for body in ({}, {"text": ""}, {"text": " "}, {"text": "x" * 2001}, {"text": "4242 4242 4242 4242"}, {"note": "x"}):
        assert error_of(await api.post(url, json=body))["code"] == "VALIDATION_ERROR", body
    for path, code in (("orders", "ORDER_NOT_FOUND"), ("returns", "RETURN_NOT_FOUND")):
        missing = f"/api/v1/{path}/{uuid4()}/notes"
        for answer in (await api.get(missing), await api.post(missing, json={"text": "x"})):
            assert error_of(answer)["code"] == code
