"""What goes over the wire: both parts, attachments, a stable id, and no header that data could add."""

import email
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP, default
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.utils.email_sender import Attachment, checked_address, compose, message_id_for
from app.utils.messages import Message
from tests.factories import mail_message

pytestmark = pytest.mark.req("REQ-006", "INT-002")

SENT_AT = datetime(2026, 11, 22, 14, 5, 11, tzinfo=UTC)
PDF = Attachment("ORD-2026-000318_20261122.pdf", "application/pdf", b"%PDF-1.7\r\n\x00\xff" * 5000)
ADDRESS_FAULTS = [
    "",
    "@",
    "a@",
    "@b.example",
    "a b@c.example",
    "a@b@c.example",
    "a@b.example\r\nBcc: x@y.example",
    "a@b.example\n",
    "a\x00@b.example",
    "a\x85@b.example",
    "a@b..example",
    "a@-b.example",
    "a@b.example.",
    ".a@b.example",
    "a..b@c.example",
    "a@b.example,c@d.example",
    "<a@b.example>",
    "A <a@b.example>",
    'a"b@c.example',
    "a@[127.0.0.1]",
    "x" * 65 + "@b.example",
    "a@" + "b" * 64 + ".example",
    "a@" + "b." * 130 + "example",
    "a\ud800@b.example",
]


def outgoing(**changes: Any) -> Message:
    """Return a mail; `changes` replace fields."""
    values: dict[str, Any] = {
        "recipient": "eleonore@example.com",
        "subject": "Your order ORD-2026-000318 is confirmed",
        "text": "Bonjour Éléonore,\n\nthank you.\n",
        "html": "<p>Bonjour Éléonore,</p><p>thank you.</p>",
        "message_id": "<notification.1@articurated.example>",
    }
    return mail_message(**(values | changes))


def composed(**changes: Any) -> EmailMessage:
    """Return the mail as the receiver parses it."""
    message = compose(outgoing(**changes), "orders@articurated.example", "ArtiCurated", SENT_AT)
    return email.message_from_bytes(message.as_bytes(policy=SMTP), policy=default)


def test_headers() -> None:
    message = composed()

    assert message["From"] == "ArtiCurated <orders@articurated.example>"
    assert message["To"] == "eleonore@example.com"
    assert message["Subject"] == "Your order ORD-2026-000318 is confirmed"
    assert message["Message-ID"] == "<notification.1@articurated.example>"
    assert message["Date"] == "Sun, 22 Nov 2026 14:05:11 +0000"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["MIME-Version"] == "1.0"


@pytest.mark.req("REQ-006.3")
def test_both_parts_say_the_same_with_plain_text_first() -> None:
    message = composed()

    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().replace("\r\n", "\n") == "Bonjour Éléonore,\n\nthank you.\n"
    assert html.get_content().strip() == "<p>Bonjour Éléonore,</p><p>thank you.</p>"


@pytest.mark.req("INT-002.2")
def test_attachments_are_beside_the_message_and_arrive_whole() -> None:
    message = composed(attachments=(PDF, Attachment("résumé 📎.txt", "text/plain", "é".encode())))

    assert message.get_content_type() == "multipart/mixed"
    assert next(part.get_content_type() for part in message.iter_parts()) == "multipart/alternative"
    held = list(message.iter_attachments())
    assert [part.get_filename() for part in held] == ["ORD-2026-000318_20261122.pdf", "résumé 📎.txt"]
    assert held[0].get_content_type() == "application/pdf"
    assert held[0].get_content() == PDF.data
    assert held[0].get_content_disposition() == "attachment"


def test_no_line_is_longer_than_smtp_takes() -> None:
    raw = compose(
        outgoing(text="x" * 5000, html="<p>" + "é" * 5000 + "</p>", subject="é" * 900, attachments=(PDF,)),
        "orders@articurated.example",
        "ArtiCurated",
        SENT_AT,
    ).as_bytes(policy=SMTP)

    assert max(len(part) for part in raw.split(b"\r\n")) <= 998


def test_words_beyond_ascii_survive_in_headers() -> None:
    message = composed(subject="Ihre Bestellung: Gefäß 花瓶 🎁")

    assert message["Subject"] == "Ihre Bestellung: Gefäß 花瓶 🎁"


def test_an_international_domain_is_written_in_ascii() -> None:
    assert composed(recipient="eleonore@bücher.example")["To"] == "eleonore@xn--bcher-kva.example"


@pytest.mark.security
@pytest.mark.parametrize(
    "control", ["\r\n", "\n", "\r", "\x00", "\x0b", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"], ids=ascii
)
@pytest.mark.parametrize("field", ["subject", "recipient", "message_id", "filename", "content_type", "from_name"])
def test_a_control_character_in_a_header_value_is_refused(field: str, control: str) -> None:
    injected = f"x{control}Bcc: victim@example.com"
    from_name = injected if field == "from_name" else "ArtiCurated"
    changes: dict[str, Any] = {}
    if field == "recipient":
        changes = {field: f"a@b.example{control}Bcc:victim@example.com"}
    elif field == "filename":
        changes = {"attachments": (Attachment(injected, "text/plain", b""),)}
    elif field == "content_type":
        changes = {"attachments": (Attachment("x", f"text/plain{control}X-Evil: 1", b""),)}
    elif field != "from_name":
        changes = {field: injected}

    with pytest.raises(ValueError, match=r"control character|not a"):
        compose(outgoing(**changes), "orders@articurated.example", from_name, SENT_AT)


@pytest.mark.security
@settings(deadline=None)
@given(subject=st.text(st.characters(), max_size=120), name=st.text(st.characters(), max_size=60))
def test_no_accepted_value_adds_a_header(subject: str, name: str) -> None:
    try:
        message = compose(outgoing(subject=subject), "orders@articurated.example", name, SENT_AT)
    except ValueError:
        return
    parsed = email.message_from_bytes(message.as_bytes(policy=SMTP), policy=default)

    assert sorted(set(parsed.keys())) == [
        "Auto-Submitted",
        "Content-Type",
        "Date",
        "From",
        "MIME-Version",
        "Message-ID",
        "Subject",
        "To",
    ]
    assert parsed["To"] == "eleonore@example.com"
    assert len(parsed["From"].addresses) == 1
    assert parsed["From"].addresses[0].addr_spec == "orders@articurated.example"


@pytest.mark.security
@pytest.mark.parametrize("address", ADDRESS_FAULTS, ids=lambda address: ascii(address)[:24])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="not a mail"):
        compose(outgoing(recipient=address), "orders@articurated.example", "ArtiCurated", SENT_AT)


@pytest.mark.parametrize(
    "address",
    [
        "a@b.example",
        "first.last+tag@sub.example.com",
        "o'brien@example.ie",
        "x_y@localhost",
        "é@example.fr",
        "a@bücher.de",
    ],
)
def test_real_addresses_are_taken(address: str) -> None:
    assert checked_address(address) == address


@pytest.mark.parametrize("message_id", ["", "x@y", "<x>", "<x@y> <z@y>", "<x y@z>", "<x@y>\r\nBcc: a@b.example"])
def test_what_is_no_message_id_is_refused(message_id: str) -> None:
    with pytest.raises(ValueError, match="not a Message-ID"):
        composed(message_id=message_id)


@pytest.mark.req("INT-002.3")
def test_the_message_id_of_a_matter_is_always_the_same() -> None:
    once = message_id_for("order.paid.018f.order_confirmation", "orders@bücher.example")

    assert once == "<order.paid.018f.order_confirmation@xn--bcher-kva.example>"
    assert once == message_id_for("order.paid.018f.order_confirmation", "orders@bücher.example")
    with pytest.raises(ValueError, match="not a Message-ID"):
        message_id_for("a b", "orders@articurated.example")
    with pytest.raises(ValueError, match="not a mail domain"):
        message_id_for("a", "orders@" + "b" * 64)
