"""A customer's data and our secrets, planted in an order that goes all the way through real processes.

They are in the ledger, the documents and the mails, and nowhere else: in no log of any process, in no command that any
of them sends to Redis (messages to workers among them), in no metric. tests/security/test_canaries.py does the same
for everything that goes wrong.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import make_url

from app.config import Settings
from tests.e2e.conftest import Journey, eventually
from tests.files_support import JPEG

pytestmark = [pytest.mark.e2e, pytest.mark.security, pytest.mark.xdist_group("stack")]

PLANTED = {
    "name": "Needlewood-9q1",
    "mail": "needle-9q2@haystack.example",
    "street": "9q3 Rue de l'Aiguille",
    "phone": "+33 6 99 93 94 95",
    "token": "tok_visa_needle9q4",
    "note": "9q5 leave it with the neighbour",
    "file": "9q6-at-home.jpg",
    "wrong key": "ack_009900qc_" + "n" * 43,
}


@contextmanager
def overheard(url: str) -> Iterator[list[str]]:
    """Listen to all commands that Redis is sent; give them."""
    heard: list[str] = []
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:

        def listen() -> None:
            try:
                heard.extend(str(command["command"]) for command in monitor.listen())
            except (redis.RedisError, OSError, ValueError):
                return  # The connection was closed: enough was heard.

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        yield heard
        monitor.connection.disconnect()
        listener.join(10)


@pytest.mark.req("NFR-004.9", "NFR-006.1")
def test_planted_data_stay_where_they_belong(journey: Journey) -> None:
    address = {"street": PLANTED["street"], "city": "Lyon", "postal_code": "69001", "country": "FR"}
    with overheard(journey.stack.info.redis_url) as heard:
        order = journey.order(
            customer_name=PLANTED["name"],
            customer_email=PLANTED["mail"],
            payment_token=PLANTED["token"],
            shipping_address=address,
            metadata={"phone": PLANTED["phone"]},
        )
        journey.call("GET", "/orders", headers={"X-API-Key": PLANTED["wrong key"]}, expect=401)
        assert journey.call("GET", f"/orders?q={PLANTED['mail']}")["data"]
        journey.move(order, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")
        body = {"order_id": order["id"], "reason": "cracked", "customer_notes": PLANTED["note"]}
        path = f"/returns/{journey.call('POST', '/returns', json=body)['id']}"
        journey.call("POST", f"{path}/attachments", files={"file": (PLANTED["file"], JPEG, "image/jpeg")})
        journey.call("PATCH", f"{path}/approve", json={"notes": PLANTED["note"]})
        for state in ("IN_TRANSIT", "RECEIVED", "COMPLETED"):
            journey.call("PATCH", f"{path}/state", json={"new_state": state})
        wanted = {"confirmed", "on its way", "arrived", "invoice", "return", "refund"}
        eventually(
            "the customer's mails",
            lambda: (
                wanted
                <= {
                    word
                    for word in wanted
                    for mail in journey.mails(PLANTED["mail"])
                    if word in mail["subject"].lower()
                }
            ),
        )
    metrics = journey.call("GET", "/metrics").decode()
    logs = sorted((Path(journey.stack.info.data_dir) / "logs").glob("*.log*"))
    # The mail catcher and the servers play machines of others; PostgreSQL's own log is theirs too.
    texts = {log.name: log.read_text(encoding="utf-8", errors="replace") for log in logs}
    texts |= {"redis": "\n".join(heard), "metrics": metrics}
    settings = Settings(_env_file=None)
    secrets = {
        "api key": journey.stack.info.api_key,
        "database password": make_url(journey.stack.info.database_url).password,
        "webhook secret": settings.payment_webhook_secret.get_secret_value(),
        "gateway key": settings.payment_gateway_api_key.get_secret_value(),
        "signing secret": settings.secret_key.get_secret_value(),
    }
    needles = {**PLANTED, **{name: value for name, value in secrets.items() if value}}
    assert len(heard) > 20, "messages went through Redis"
    assert any(order["id"] in text for name, text in texts.items() if name.startswith("api")), (
        "the API logged its requests"
    )
    found = {place: [name for name, needle in needles.items() if needle in text] for place, text in texts.items()}
    assert {place: names for place, names in found.items() if names} == {}
