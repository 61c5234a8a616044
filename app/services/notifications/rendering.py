"""A kind's facts → what its reader sees, on each channel (REQ-006)."""

from collections.abc import Mapping
from typing import Any

from app.core.enums import Channel
from app.services.notifications.kinds import KINDS
from app.utils import mail_templates, short_texts
from app.utils.mail_templates import Shop
from app.utils.messages import RenderedMessage


def render_mail(name: str, facts: Mapping[str, Any], shop: Shop | None = None) -> RenderedMessage:
    """Return a mail's subject and both parts.

    Args:
        name: of a kind, a key of `KINDS`.
        facts: all those of the kind, and no other.
        shop: named in the foot; the brand alone when absent.

    Raises:
        KeyError: there is no such kind.
        ValueError: the facts or a line in them have missing or unknown keys, or an amount or a day in them is none.
    """
    kind = KINDS[name]
    wanted: frozenset[str] = kind.facts.__required_keys__
    if wanted != facts.keys():
        faults = [f"missing {fact}" for fact in sorted(wanted - facts.keys())]
        faults += [f"unknown {fact}" for fact in sorted(facts.keys() - wanted)]
        raise ValueError(f"facts of {name}: {', '.join(faults)}")
    return mail_templates.render_mail(name, kind.subject, facts, shop, is_internal=not kind.is_to_customer)


def render_short(channel: Channel, name: str, facts: Mapping[str, Any], shop: Shop | None = None) -> str:
    """Return a message for SMS or chat as one line.

    Args:
        channel: SMS or CHAT.
        name: of a kind that is sent on the channel.
        facts: of the kind; those that the channel may not say are not given to the template.
        shop: who speaks; the brand alone when absent.

    Raises:
        KeyError: the kind is not sent on the channel, or a fact that the channel says is missing.
        ValueError: the template asks for a fact that the channel may not say, or a fact is malformed.
    """
    said = {fact: facts[fact] for fact in KINDS[name].short[channel]}
    return short_texts.render_short(channel, name, said, shop)


def render(channel: Channel, name: str, facts: Mapping[str, Any], shop: Shop) -> RenderedMessage:
    """Return a message for any channel; of SMS and chat the subject is the whole message.

    Raises:
        KeyError, ValueError: as `render_mail` and `render_short`.
    """
    if channel is Channel.EMAIL:
        return render_mail(name, facts, shop)
    line = render_short(channel, name, facts, shop)
    return RenderedMessage(subject=line, text=line)
