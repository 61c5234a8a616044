"""The shop's mail server is not for strangers: what callers write does not reach people who did not ask for it."""

import httpx2
import pytest

from tests.factories import order_payload

pytestmark = [pytest.mark.req("REQ-006", "NFR-004"), pytest.mark.security]


async def test_an_order_with_an_address_that_cannot_be_sent_to_is_422(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/api/v1/orders", json=order_payload(customer_email="ada..b@docomo.example"))
    assert answer.status_code == 422
    [fault] = answer.json()["error"]["details"]
    assert fault["field"] == "customer_email"
    kept = await api.post("/api/v1/orders", json=order_payload(customer_email="ada@bücher.example"))
    assert kept.json()["customer_email"] == "ada@xn--bcher-kva.example"
