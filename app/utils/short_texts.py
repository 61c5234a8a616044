"""template + facts → one line, for SMS and chat (REQ-006).

Templates lie in `templates/sms/` and `templates/chat/`. Each gets only the facts that its kind of notification lists
for the channel: nothing in chat identifies a customer or was typed by one, so no customer can mention everyone or plant
a link there.
"""

from collections.abc import Mapping
from typing import Any, Final

import jinja2

from app.config import ROOT
from app.utils.mail_templates import Shop, cleaned, environment_of

FOLDERS: Final = {"SMS": ROOT / "templates" / "sms", "CHAT": ROOT / "templates" / "chat"}
LONGEST: Final = {"SMS": 459, "CHAT": 1000}
"""Characters; an SMS of 459 goes out in three parts."""


def render_short(channel: str, template: str, facts: Mapping[str, Any], shop: Shop | None = None) -> str:
    """Return a message as one line.

    Args:
        channel: SMS or CHAT.
        template: name of its file.
        facts: those that the channel may say.
        shop: who speaks; the brand alone when absent.

    Raises:
        ValueError: the template asks for another fact, or a fact is malformed.
    """
    values = {name: cleaned(name, value) for name, value in facts.items()}
    try:
        text = environment_of(FOLDERS[channel]).get_template(f"{template}.txt").render(values, shop=shop or Shop())
    except jinja2.UndefinedError as fault:
        raise ValueError(f"facts of {template} for {channel}: {fault}") from fault
    line = " ".join(text.split())
    limit = LONGEST[channel]
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
