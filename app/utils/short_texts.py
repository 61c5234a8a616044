"""template + context → one line, for SMS and chat (REQ-006).

Templates lie in `templates/sms/` and `templates/chat/` and have the context of the mail of the same name, of which
each gets only the facts listed here: nothing in chat says who a customer is, and nothing that a customer typed is
said there, so nobody can mention everyone or plant a link in it.
"""

from collections.abc import Mapping
from typing import Any, Final

import jinja2

from app.config import ROOT
from app.utils.mail_templates import Shop, cleaned, environment_of

FOLDERS: Final = {"SMS": ROOT / "templates" / "sms", "CHAT": ROOT / "templates" / "chat"}
SHORT_TEXTS: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "SMS": {
        "order_shipped": frozenset({"order_number", "carrier", "tracking_number"}),
        "order_delivered": frozenset({"order_number", "delivered_on", "return_until"}),
        "refund_processed": frozenset({"order_number", "amount", "currency"}),
    },
    "CHAT": {
        "job_failed": frozenset({"kind", "attempts", "order_number", "entity_type", "entity_id", "dead_letter_id"}),
        "gateway_event": frozenset({"outcome", "order_number", "reported", "reported_currency", "event_id"}),
        "case": frozenset({"kind", "order_number", "case_id"}),
        "return_review_overdue": frozenset({"return_number", "order_number", "hours_waiting", "expires_at"}),
        "daily_summary": frozenset({"day", "orders_created", "revenue", "refunds", "dead_jobs"}),
    },
}
"""Channel → template → the facts it may tell."""

LONGEST: Final = {"SMS": 459, "CHAT": 1000}
"""Characters; an SMS of 459 goes out in three parts."""


def render_short(channel: str, template: str, context: Mapping[str, Any], shop: Shop | None = None) -> str:
    """Return a message as one line.

    Args:
        channel: SMS or CHAT.
        template: a key of `SHORT_TEXTS[channel]`.
        context: of the mail of the same name.
        shop: who speaks; the brand alone when absent.

    Raises:
        KeyError: there is no such template, or the context lacks a fact that it tells.
        ValueError: the template asks for a fact that it may not tell, or a fact is malformed.
    """
    values = {name: cleaned(name, context[name]) for name in SHORT_TEXTS[channel][template]}
    try:
        text = environment_of(FOLDERS[channel]).get_template(f"{template}.txt").render(values, shop=shop or Shop())
    except jinja2.UndefinedError as fault:
        raise ValueError(f"context of {template} for {channel}: {fault}") from fault
    line = " ".join(text.split())
    limit = LONGEST[channel]
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
