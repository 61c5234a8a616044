"""What callers typed is shown in messages, and becomes no link there."""

from decimal import Decimal

import pytest

from app.core.enums import Channel
from app.services.notifications.kinds import KINDS, short_texts
from app.services.notifications.rendering import render_mail, render_short
from app.utils.unlinked import greeting_name, is_link_like, place_name, postal_code, unlinked

pytestmark = [pytest.mark.req("REQ-006", "NFR-004"), pytest.mark.security]

SHOWN = {
    "Vase, see https://shop.example/x": "Vase, see shop. example/x",
    "evil.com": "evil. com",
    "EVIL.COM/win": "EVIL. COM/win",
    "www.evil.com": "www. evil. com",
    "evil\u3002com": "evil. com",
    "a.b.evil.com": "a. b. evil. com",
    "ada@evil.com": "ada @ evil. com",
    "mailto:ada@evil.com": "ada @ evil. com",
    "javascript:alert(1)": "alert(1)",
    "St.Gallen": "St. Gallen",
    "10.5 cm": "10.5 cm",
    "Note: 16:30, size A.": "Note: 16:30, size A.",
}
GREETED = {
    "Éléonore Marchetti": "Éléonore Marchetti",
    "O'Brien-Smith": "O'Brien-Smith",
    "J. R. Tolkien": "J. R. Tolkien",
    "J.R.Tolkien": "J. R. Tolkien",
    "אלישבע כהן": "אלישבע כהן",
    "Visit evil.example": None,
    "https://evil.example/win": None,
    "evil.com": None,
    "t.co": None,
    "T.co": None,
    "evil\uff0ecom": None,
    "[evil].com": None,
    "ada@evil.com": None,
    "You won 1000 EUR": None,
    "a" * 61: None,
}


@pytest.mark.parametrize(("typed", "shown"), SHOWN.items(), ids=ascii)
def test_a_text_holds_no_link(typed: str, shown: str) -> None:
    assert unlinked(typed) == shown
    assert not is_link_like(shown)
    assert is_link_like(typed) == (typed != shown)


@pytest.mark.parametrize(("name", "greeted"), GREETED.items(), ids=lambda value: ascii(value)[:20])
def test_only_a_name_is_greeted(name: str, greeted: str | None) -> None:
    assert greeting_name(name) == greeted


PLACES = {
    "Lyon": "Lyon",
    "St. Gallen": "St. Gallen",
    # Not distinguishable from a domain.
    "St.Gallen": None,
    "Frankfurt (Oder)": "Frankfurt (Oder)",
    "Biel/Bienne": "Biel/Bienne",
    "Dublin 14": "Dublin 14",
    "'s-Hertogenbosch": "'s-Hertogenbosch",
    "San Fernando del Valle de Catamarca": "San Fernando del Valle de Catamarca",
    "東京都千代田区": "東京都千代田区",
    "Lyon 0900123": None,
    "Lyon ٠٩٠٠": None,
    "evil.com": None,
    "t.co/x": None,
    "https://evil.example": None,
    "ada@evil.com": None,
    "a" * 41: None,
}
CODES = {
    "69001": "69001",
    "SW1A 1AA": "SW1A 1AA",
    "12345-6789": "12345-6789",
    "D02": "D02",
    "LV-1050": "LV-1050",
    "CALL NOW": None,
    "evil.com": None,
    "+4909001": None,
    "12345678901": None,
    "٦٩٠٠١": None,
    None: None,
}


@pytest.mark.parametrize(("city", "shown"), PLACES.items(), ids=lambda value: ascii(value)[:20])
def test_only_the_name_of_a_place_is_shown(city: str, shown: str | None) -> None:
    assert place_name(city) == shown


@pytest.mark.parametrize(("code", "shown"), CODES.items(), ids=ascii)
def test_only_a_postal_code_is_shown(code: str | None, shown: str | None) -> None:
    assert postal_code(code) == shown


LINK = "https://evil.example/win"


def _typed(template: str) -> dict[str, object]:
    line = {"name": f"Vase {LINK}", "quantity": 1, "amount": Decimal(1), "sku": "ART-1"}
    changes = {
        "customer_name": LINK,
        "items": [line],
        "lines": [line],
        "destination": f"69001 {LINK}, France",
        "ship_to": [LINK, f"1 Road, {LINK}"],
        "payment_method": f"card {LINK}",
        "reason": f"See {LINK}",
        "customer_notes": LINK,
    }
    return {**KINDS[template].sample, **{key: value for key, value in changes.items() if key in KINDS[template].sample}}


@pytest.mark.parametrize("template", KINDS)
def test_no_mail_makes_a_link_of_what_a_caller_typed(template: str) -> None:
    mail = render_mail(template, _typed(template))
    for part in (mail.subject, mail.text, mail.html):
        assert "evil.example" not in part
        assert "https://evil" not in part
    if KINDS[template].is_to_customer:
        assert mail.text.startswith("Hello,\n")


def test_no_mail_to_a_customer_has_a_field_for_their_free_text() -> None:
    for template, kind in KINDS.items():
        assert not kind.is_to_customer or not {"reason", "customer_notes"} & kind.sample.keys(), template


@pytest.mark.parametrize(("channel", "template"), short_texts())
def test_no_short_text_holds_what_a_caller_typed(channel: Channel, template: str) -> None:
    assert "evil" not in render_short(channel, template, _typed(template))
