"""An address that is accepted can be sent to: by our mailer, and by a server without extensions (REQ-006, INT-002)."""

import asyncio
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.config import Settings
from app.mail_address import PATTERN, mail_address
from app.schemas.common import Email
from app.utils.email_sender import EmailSender
from tests.factories import mail_message
from tests.profile import examples
from tests.unit.smtp_support import Mailbox, serving

pytestmark = pytest.mark.req("REQ-006", "INT-002")

MAIL = mail_message(
    recipient="a@b.example", subject="s", text="t", html="<p>t</p>", message_id="<1@articurated.example>"
)
EMAIL: TypeAdapter[str] = TypeAdapter(Email)
LONG_DOMAIN = ".".join(["d" * 60] * 3) + ".example"

REFUSED = [
    "ada..b@docomo.example",
    ".ada@docomo.example",
    "ada.@docomo.example",
    '"ada..b"@docomo.example',
    "éléonore@shop.example",
    "ada@localhost",
    "ada@[127.0.0.1]",
    "ada@127.0.0.1",
    "ada@shop_one.example",
    "ada@-shop.example",
    "ada@shop..example",
    "ada@shop.example.",
    "ada@shop.example\n",
    "ada @shop.example",
    "ada@eve@shop.example",
    "ada@\u200dshop.example",
    "ada@\ud800.example",
    "x" * 65 + "@shop.example",
    "x" * 64 + "@" + LONG_DOMAIN,
    "ada@" + "ü" * 60 + ".example",
]
SENT_AS = {
    "ada@shop.example": "ada@shop.example",
    "Ada.Lovelace+x@Shop.Example": "Ada.Lovelace+x@Shop.Example",
    "o'brien@example.ie": "o'brien@example.ie",
    "{a}|~/=?^`#$%&*!@shop.example": "{a}|~/=?^`#$%&*!@shop.example",
    "ada@bücher.example": "ada@xn--bcher-kva.example",
    # IDNA 2003, which the standard library has, would write to strasse.example: another domain.
    "ada@straße.example": "ada@xn--strae-oqa.example",
    "ada@Bücher。example": "ada@xn--bcher-kva.example",
    "ada@例え.テスト": "ada@xn--r8jz45g.xn--zckzah",
    "ada@ab--cd.example": "ada@ab--cd.example",
}

ATOMS = st.text(string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-.", max_size=66)
LABELS = st.text(st.sampled_from(string.ascii_letters + string.digits + "-"), min_size=1, max_size=64) | st.text(
    st.characters(codec="utf-8"), min_size=1, max_size=20
)
ADDRESSES = (
    st.from_regex(PATTERN, fullmatch=True)
    | st.emails()
    | st.builds(lambda local, labels: f"{local}@{'.'.join(labels)}", ATOMS, st.lists(LABELS, min_size=1, max_size=5))
    | st.builds(lambda n, m: f"{'x' * n}@{'d' * 60}.{'d' * m}.example", st.integers(0, 70), st.integers(1, 200))
)


@pytest.mark.parametrize("address", REFUSED, ids=lambda address: ascii(address)[:30])
def test_an_address_that_cannot_be_sent_to_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        EMAIL.validate_python(address)


@pytest.mark.parametrize(("address", "sent_as"), SENT_AS.items(), ids=ascii)
def test_an_address_is_kept_as_it_is_sent_to(address: str, sent_as: str) -> None:
    assert EMAIL.validate_python(address) == sent_as


@settings(
    deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(address=ADDRESSES)
@example(address="x" * 64 + "@" + "d" * 60 + "." + "d" * 60 + "." + "d" * 59 + ".example")
@example(address="'=?utf-8?q?x?='@shop.example")
def test_what_is_accepted_arrives(address: str) -> None:
    try:
        accepted = mail_address(address)
    except ValueError:
        return
    mailbox = Mailbox()

    async def send() -> None:
        async with serving(mailbox) as configured:
            await EmailSender(configured).send(replace(MAIL, recipient=accepted))

    asyncio.run(send())
    assert [envelope.rcpt_tos for envelope in mailbox.envelopes] == [[accepted]]
    assert mail_address(accepted) == accepted


@pytest.mark.parametrize("name", ["mail_from", "warehouse_email", "managers_email", "operations_email", "seller_email"])
def test_settings_take_the_same_addresses(name: str) -> None:
    def configured(address: str) -> Any:
        return getattr(Settings(_env_file=None, **{name: address}), name)  # type: ignore[arg-type]

    assert configured("shop@bücher.example") == "shop@xn--bcher-kva.example"
    assert configured("root@mailhost") == "root@mailhost"
    for address in ("shop..x@docomo.example", "shop@", "shop", "Shop <shop@shop.example>"):
        with pytest.raises(ValidationError):
            configured(address)
