"""Every mail in both parts: complete, escaped, and without text of others."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.services.notifications import kinds
from app.services.notifications.kinds import KINDS
from app.services.notifications.rendering import render_mail
from app.utils.email_sender import compose
from app.utils.formatting import money_text
from app.utils.mail_templates import FOLDER, Shop, shop_of
from tests.factories import mail_message

pytestmark = pytest.mark.req("REQ-006", "INT-002")

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'> {{ 7*7 }} {% include '_base.html' %} "
    '{{ config }} ${7*7} #{7*7} <a href="javascript:alert(1)">x</a>'
)
VOID = {"br", "meta", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """What a mail client would see: tags that are balanced, their attributes, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag, and that it is open."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Require that it closes the tag opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep text that is shown."""
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All text, its white space made single."""
        return " ".join(" ".join(self.words).split())


def _hostile(value: Any, text: str) -> Any:
    """Return a context with the text in place of each text in it that is no date, amount or currency."""
    if isinstance(value, str):
        return value if re.fullmatch(r"\d{4}-\d\d-\d\d.*|[A-Z]{3}", value) else text
    if isinstance(value, Mapping):
        return {key: _hostile(held, text) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_hostile(held, text) for held in value]
    return value


def _facts(value: Any) -> list[str]:
    """Return the names and numbers in a context that a reader must find in the mail."""
    if isinstance(value, Mapping):
        return [fact for held in value.values() for fact in _facts(held)]
    if isinstance(value, list | tuple):
        return [fact for held in value for fact in _facts(held)]
    if isinstance(value, str) and not re.match(r"\d{4}-\d\d-\d\d", value):
        return value.split("\n")
    return []


def test_each_template_has_both_files_and_a_sample_and_no_file_is_left_over() -> None:
    names = {path.stem for path in FOLDER.iterdir() if not path.name.startswith("_")}

    assert names == KINDS.keys() == {path.stem for path in Path(kinds.__path__[0]).glob("[!_]*.py")}
    assert all((FOLDER / f"{name}{ending}").is_file() for name in names for ending in (".html", ".txt"))


@pytest.mark.req("INT-002.2", "REQ-006.3")
@pytest.mark.parametrize("name", KINDS)
def test_a_sample_gives_a_subject_and_both_parts_with_every_fact(name: str) -> None:
    mail = render_mail(name, KINDS[name].sample, shop_of(Settings(_env_file=None)))
    page = Page(mail.html)

    assert page.open == []
    assert 10 < len(mail.subject) <= 90
    assert "\n" not in mail.subject
    assert ("title", {}) in page.tags
    assert mail.text.endswith("\n")
    assert "\n\n\n" not in mail.text
    assert "<" not in mail.text
    for part in (page.text, " ".join(mail.text.split())):
        assert "ArtiCurated" in part
        for jinja in ("{{", "{%", "None", "Undefined"):
            assert jinja not in part
    # Constants are named in words, which other tests look at.
    for fact in set(_facts(KINDS[name].sample)) - {
        "EUR",
        "USD",
        "credit_card",
        "DAMAGE_NOT_COVERED",
        "REFUND",
        "AMOUNT_MISMATCH",
        "PAID_AFTER_CANCEL",
        "ORDER",
    }:
        assert fact in page.text
        assert fact in " ".join(mail.text.split())


@pytest.mark.parametrize("name", KINDS)
def test_the_html_needs_nothing_from_elsewhere(name: str) -> None:
    page = Page(render_mail(name, KINDS[name].sample, shop_of(Settings(_env_file=None))).html)

    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "form", "object", "svg"})
    assert all(value is None or "url(" not in value for _, held in page.tags for value in held.values())
    hrefs = [held["href"] for tag, held in page.tags if tag == "a"]
    assert all(href is not None and href.startswith("mailto:") for href in hrefs)


@pytest.mark.req("NFR-004.5")
@pytest.mark.security
@pytest.mark.parametrize("name", KINDS)
def test_markup_and_template_syntax_in_data_are_inert(name: str) -> None:
    shop = Shop(HOSTILE, HOSTILE, "billing@articurated.example")
    mail = render_mail(name, _hostile(KINDS[name].sample, HOSTILE), shop)
    page = Page(mail.html)
    clean = Page(render_mail(name, KINDS[name].sample, Shop("Shop", "Street", "billing@articurated.example")).html)

    assert page.open == []
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags} | {"span", "br"}
    assert not any(name.startswith("on") for _, held in page.tags for name in held)
    assert "{{ 7*7 }}" in page.text
    assert "{{ 7*7 }}" in mail.text
    assert "49" not in page.text
    assert "49" not in mail.text
    compose(
        mail_message(subject=mail.subject, text=mail.text, html=mail.html),
        "orders@articurated.example",
        "x",
        datetime.now(UTC),
    )


@pytest.mark.security
@pytest.mark.parametrize("name", KINDS)
def test_control_characters_in_data_reach_neither_subject_nor_text(name: str) -> None:
    text = "x\r\nBcc: victim@example.com\r\n\r\nYour account is closed.\x00\x1b[2J\u202e\u2028\ud800"
    context = _hostile(KINDS[name].sample, text)
    mail = render_mail(name, context)

    assert mail.subject.isprintable()
    for part in (mail.text, mail.html):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\u2028\ud800-\udfff]", part)
    # Only the fields that hold free text keep their line ends, and there each line is marked as quoted.
    assert "\nBcc:" not in mail.text
    assert "\nYour account" not in mail.text
    compose(
        mail_message(subject=mail.subject, text=mail.text, html=mail.html),
        "orders@articurated.example",
        "x",
        datetime.now(UTC),
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_context_that_lacks_or_adds_something_is_refused(name: str) -> None:
    for key in KINDS[name].sample:
        with pytest.raises(ValueError, match=f"missing {key}"):
            render_mail(name, {held: value for held, value in KINDS[name].sample.items() if held != key})
    with pytest.raises(ValueError, match="unknown colour"):
        render_mail(name, {**KINDS[name].sample, "colour": "red"})


@pytest.mark.parametrize("name", KINDS)
def test_what_may_be_absent_may_be_none(name: str) -> None:
    optional = {
        key
        for key, kind in KINDS[name].facts.__annotations__.items()
        if "None" in str(getattr(kind, "__forward_arg__", kind))
    }
    mail = render_mail(name, {**KINDS[name].sample, **dict.fromkeys(optional)})

    assert "None" not in mail.text
    assert "None" not in Page(mail.html).text
    if KINDS[name].is_to_customer:
        assert mail.text.startswith("Hello,\n")


@pytest.mark.parametrize("name", KINDS)
def test_a_context_that_went_through_json_says_the_same(name: str) -> None:
    stored = json.loads(json.dumps(KINDS[name].sample, default=str))

    assert render_mail(name, stored) == render_mail(name, KINDS[name].sample)


@pytest.mark.parametrize("key", ["name", "quantity", "amount"])
def test_a_line_that_lacks_something_is_refused(key: str) -> None:
    line = {held: value for held, value in {"name": "V", "quantity": 1, "amount": "1.00"}.items() if held != key}

    with pytest.raises(ValueError, match=rf"{key}|amount"):
        render_mail("order_confirmation", {**KINDS["order_confirmation"].sample, "lines": [line]})


def test_an_unknown_template_is_refused() -> None:
    for name in ("_base", "../invoices/invoice", "nonsense"):
        with pytest.raises(KeyError):
            render_mail(name, {})


@pytest.mark.parametrize(("key", "value"), [("total", "twelve"), ("total", Decimal("NaN")), ("order_date", "soon")])
def test_a_value_that_is_no_amount_or_day_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"amount|isoformat"):
        render_mail("order_confirmation", {**KINDS["order_confirmation"].sample, key: value})


def test_a_moment_without_its_zone_is_refused_and_others_are_shown_in_theirs() -> None:
    sample = KINDS["goods_received"].sample
    told = render_mail("goods_received", {**sample, "received_at": "2026-12-03T00:30:00+02:00"})

    assert "3 December 2026, 00:30 UTC+02:00" in told.text
    with pytest.raises(ValueError, match="time zone"):
        render_mail("goods_received", {**sample, "received_at": "2026-12-03T00:30:00"})


def test_amounts_follow_the_currency() -> None:
    mail = render_mail(
        "order_confirmation", {**KINDS["order_confirmation"].sample, "currency": "JPY", "total": "98000.00"}
    )

    assert "¥98,000\n" in mail.text
    assert "¥98,000<" in mail.html


def test_a_cancelled_order_mentions_a_refund_only_when_there_is_one() -> None:
    paid = render_mail("order_cancelled", KINDS["order_cancelled"].sample)
    unpaid = render_mail("order_cancelled", {**KINDS["order_cancelled"].sample, "refund_amount": None})

    assert money_text("909.60", "EUR") in paid.text
    assert "€" not in unpaid.text + unpaid.html
    assert "No payment was taken" in unpaid.text
    assert "No payment was taken" in unpaid.html


def test_an_approval_mentions_a_fee_only_when_there_is_one() -> None:
    with_fee = render_mail("return_approved", KINDS["return_approved"].sample)
    without = render_mail("return_approved", {**KINDS["return_approved"].sample, "restocking_fee": "0.00"})

    assert "Restocking fee" in with_fee.text
    assert "Restocking fee" in with_fee.html
    assert "Restocking fee" not in without.text + without.html


def test_a_return_mail_knows_the_request_from_the_goods() -> None:
    request = render_mail("return_received", KINDS["return_received"].sample)
    goods = render_mail("return_arrived", KINDS["return_arrived"].sample)

    assert "return request" in request.subject
    assert "has arrived" in goods.subject
    assert "refund" in goods.text
    assert "refund" not in request.text


def test_a_rejection_names_its_category_in_words() -> None:
    told = render_mail("return_rejected", KINDS["return_rejected"].sample)
    unknown = render_mail("return_rejected", {**KINDS["return_rejected"].sample, "category": "NEW_REASON"})

    assert "The damage is not covered by our returns policy" in told.text
    assert "DAMAGE_NOT_COVERED" not in told.text + told.html
    assert "New reason" in unknown.text


def test_a_failed_job_says_how_to_retry_it() -> None:
    mail = render_mail("job_failed", KINDS["job_failed"].sample)

    command = "articurated jobs retry 01937c55-01d2-7b1f-8a63-3c9a7720e54d"
    assert command in mail.text
    assert command in Page(mail.html).text


def test_a_failed_job_says_whether_it_was_tried_again() -> None:
    retried = render_mail("job_failed", KINDS["job_failed"].sample)
    final = render_mail("job_failed", {**KINDS["job_failed"].sample, "was_retried": False})

    for part in (retried.text, retried.html):
        assert "used its last retry" in part
        assert "not tried again" not in part
    for part in (final.text, final.html):
        assert "not tried again by itself" in part
        assert "last retry" not in part


def test_a_quiet_day_is_summed_up_too() -> None:
    quiet = {
        **KINDS["daily_summary"].sample,
        "orders_created": 0,
        "orders_by_state": {},
        "returns_by_state": {},
        "revenue": [],
        "refunds": [],
        "dead_jobs": 0,
    }
    mail = render_mail("daily_summary", quiet)

    assert "dead-letter" not in mail.text + mail.html
    assert Page(mail.html).open == []
    assert "Delivered: 1,204" in " ".join(render_mail("daily_summary", KINDS["daily_summary"].sample).text.split())


def test_the_foot_names_the_shop_to_customers_only() -> None:
    shop = shop_of(Settings(_env_file=None))

    assert "billing@articurated.example" in render_mail("invoice", KINDS["invoice"].sample, shop).text
    assert "12 Rue des Artisans, 75003 Paris, France" in render_mail("invoice", KINDS["invoice"].sample, shop).html
    assert "billing@" not in render_mail("job_failed", KINDS["job_failed"].sample, shop).text


def test_templates_never_mark_a_value_as_safe() -> None:
    for path in sorted(Path(FOLDER).iterdir()):
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", path.read_text()), path.name
