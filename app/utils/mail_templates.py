"""template + facts → subject, text and HTML (REQ-006, INT-002).

Templates lie in `templates/emails/`: `<name>.html` and `<name>.txt`. They are ours; what customers typed reaches them
as values only. HTML is escaped, nothing in a value is evaluated, and line feeds survive only in the fields that hold
free text, so that a name cannot write sentences into a mail.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from app.config import ROOT, Settings
from app.utils.documents import seller_address
from app.utils.formatting import date_text, known_payment_text, money_text, printable
from app.utils.messages import RenderedMessage
from app.utils.postal_address import postal_lines
from app.utils.unlinked import greeting_name, unlinked

FOLDER: Final = ROOT / "templates" / "emails"
_FROM_CALLERS: Final = frozenset({"name", "ship_to", "destination", "customer_name", "customer_notes", "reason"})
"""Facts that callers typed: no program that shows the message may make a link of them."""
_FREE_TEXT: Final = frozenset({"notes", "customer_notes", "reason", "error", "note", "deduction_reason"})
_BLANK_LINES: Final = re.compile(r"\n{3,}")
_REJECTIONS: Final = {
    "DAMAGE_NOT_COVERED": "The damage is not covered by our returns policy",
    "POLICY_VIOLATION": "The item does not meet the conditions for a return",
    "OUTSIDE_WINDOW": "The return window has closed",
    "FRAUDULENT": "The request could not be verified",
    "EXPIRED": "The request was not reviewed in time",
    "OTHER": "See the note below",
}
_GATEWAY_OUTCOMES: Final = {
    "PAID_AFTER_CANCEL": "The order was cancelled before its payment arrived. A full refund has been started.",
    "REFUND_DUE_AGAIN": "A refund whose job had given up has failed. The job tries again: do not pay it another way.",
}


@dataclass(frozen=True, slots=True)
class Shop:
    """Whom a mail is from, as its foot says: trading name, address on one line, mailbox for questions."""

    name: str = "ArtiCurated"
    address: str = ""
    email: str = ""


def shop_of(settings: Settings) -> Shop:
    """Return the shop as the configuration names it."""
    return Shop(
        name=settings.seller_name,
        address=", ".join(postal_lines(seller_address(settings))),
        email=settings.seller_email,
    )


def render_mail(
    template: str, subject: str, facts: Mapping[str, Any], shop: Shop | None = None, *, is_internal: bool
) -> RenderedMessage:
    """Return a mail's subject and both parts.

    Args:
        template: name of its two files.
        subject: in the syntax of the templates.
        facts: all that the templates ask for.
        shop: named in the foot; the brand alone when absent.
        is_internal: it is for staff: without greeting and contact.

    Raises:
        ValueError: a line in the facts lacks something, or an amount or a day in them is none.
    """
    values = {name: cleaned(name, value) for name, value in facts.items()}
    if not is_internal:
        values["customer_name"] = greeting_name(printable(facts["customer_name"] or "") or None)
    values |= {"shop": shop or Shop(), "internal": is_internal}
    environment = environment_of(FOLDER)
    try:
        line = " ".join(_subject_of(subject).render(values).split())
        return RenderedMessage(
            subject=line,
            text=_BLANK_LINES.sub("\n\n", environment.get_template(f"{template}.txt").render(values)).strip() + "\n",
            html=environment.get_template(f"{template}.html").render(values, subject=line),
        )
    except jinja2.UndefinedError as fault:
        raise ValueError(f"facts of {template}: {fault}") from fault


@cache
def _subject_of(source: str) -> jinja2.Template:
    return environment_of(FOLDER).from_string(source)


@cache
def environment_of(folder: Path) -> jinja2.Environment:
    """Return the environment of the templates in a folder: HTML escaped, unknown names refused, our filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        # A subject comes from a string, and is no HTML.
        autoescape=jinja2.select_autoescape(("html",), default=False, default_for_string=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "money": money_text,
        "day": date_text,
        "moment": _moment_text,
        "words": _words,
        "rejection": lambda category: _REJECTIONS.get(category, _words(category)),
        "payment": known_payment_text,
        "gateway_outcome": lambda outcome: _GATEWAY_OUTCOMES.get(outcome, _words(outcome)),
        "figure_rows": _figure_rows,
        "evidence_rows": lambda facts: [(fact["name"], fact["value"]) for fact in facts],
        "state_rows": lambda counts: [(_words(state), f"{count:,}") for state, count in counts.items()],
        "is_zero": lambda amount: Decimal(amount) == 0,
    }
    return environment


def cleaned(name: str, value: Any) -> Any:
    """Return a value fit for print, texts inside it included (see `printable`); those of callers hold no link."""
    if isinstance(value, str):
        text = printable(value, keep_lines=name in _FREE_TEXT)
        return unlinked(text) if name in _FROM_CALLERS else text
    if isinstance(value, Mapping):
        return {cleaned("", key): cleaned(str(key), held) for key, held in value.items()}
    if isinstance(value, Sequence):
        return [cleaned(name, held) for held in value]
    return value


def _moment_text(value: datetime | str) -> str:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if moment.tzinfo is None:
        raise ValueError("a moment needs its time zone")
    zone = str(moment.tzname())
    # Zones without an abbreviation of their own have only their offset for a name, such as +14.
    return f"{date_text(moment)}, {moment:%H:%M} {'UTC' if zone[0] in '+-' else ''}{zone}"


def _figure_rows(figures: Sequence[Mapping[str, Any]], name: str) -> list[tuple[str, str]]:
    return [
        (f"{name} {figure['currency']} ({figure['count']})", money_text(figure["amount"], figure["currency"]))
        for figure in figures
    ]


def _words(constant: str) -> str:
    """Return `PENDING_PAYMENT` as `Pending payment`; text that is no such constant stays as it is."""
    return constant.replace("_", " ").capitalize() if constant.isupper() else constant
