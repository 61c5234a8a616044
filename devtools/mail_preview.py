"""Every mail, SMS and chat message as files, filled with samples: to be looked at before customers do (INT-002)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import jinja2

from app.core.enums import Channel
from app.services.notifications.kinds import KINDS, short_texts
from app.services.notifications.rendering import render_mail, render_short
from app.utils.email_sender import compose, message_id_for
from app.utils.mail_templates import Shop
from app.utils.messages import Message, RenderedMessage
from devtools.mail_odd_samples import odd_samples

_SENT_AT: Final = datetime(2026, 11, 22, 14, 5, 11, tzinfo=UTC)
_FROM: Final = "orders@articurated.example"
_SHOP: Final = Shop("ArtiCurated Marketplace", "12 Rue des Artisans, 75003 Paris, FR", "billing@articurated.example")

_INDEX: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Messages</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #26221e }
 h1, h2 { font-weight: 600 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd5ca }
 table { border-collapse: collapse; width: 100% } td { padding: .35rem 1rem .35rem 0; vertical-align: top }
 tr + tr td { border-top: 1px solid #eee } code { font-size: 14px } a { color: #8a4b34 }
</style></head><body>
<h1>Messages</h1>
{% for title, rows in mails.items() %}
<h2>{{ title }}</h2>
<table>
{% for mail in rows %}
<tr><td><code>{{ mail.name }}</code></td><td>{{ mail.subject }}</td><td>
<a href="{{ mail.name }}.html">HTML</a> · <a href="{{ mail.name }}.txt">text</a> · <a href="{{ mail.name }}.eml">eml</a></td></tr>
{% endfor %}
</table>
{% endfor %}
{% for channel, rows in lines.items() %}
<h2>{{ channel }}</h2>
<table>
{% for name, text in rows %}
<tr><td><code>{{ name }}</code></td><td>{{ text }}</td><td>{{ text | length }}</td></tr>
{% endfor %}
</table>
{% endfor %}
</body></html>
"""


@dataclass(frozen=True, slots=True)
class _Preview:
    """A mail with the name of its files."""

    name: str
    template: str
    subject: str
    mail: RenderedMessage

    @property
    def is_odd(self) -> bool:
        return self.name != self.template


def write_previews(folder: Path) -> Path:
    """Write each mail as `.html`, `.txt` and `.eml`, SMS and chat as `.txt`, and an index; return the index.

    Difficult samples (`mail_odd_samples`) are `<template>.<what is difficult>`. Files of the same names are replaced,
    others left alone. Nothing is sent, no server is needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mails: dict[str, list[_Preview]] = {"To customers": [], "To staff": [], "With difficult values": []}
    for preview in _mails():
        _write_mail(folder, preview)
        audience = "To customers" if KINDS[preview.template].is_to_customer else "To staff"
        mails["With difficult values" if preview.is_odd else audience].append(preview)
    lines: dict[str, list[tuple[str, str]]] = {}
    for channel, name in short_texts():
        line = render_short(channel, name, KINDS[name].sample, _SHOP)
        lines.setdefault(channel, []).append((name, line))
        (folder / f"{channel.lower()}.{name}.txt").write_text(f"{line}\n", encoding="utf-8")
    index = folder / "index.html"
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_INDEX)
    index.write_text(page.render(mails=mails, lines=lines), encoding="utf-8")
    return index


def _mails() -> Iterator[_Preview]:
    for template, kind in KINDS.items():
        samples: dict[str, Mapping[str, Any]] = {template: kind.sample}
        samples |= {f"{template}.{label}": facts for label, facts in odd_samples(template).items()}
        for name, facts in samples.items():
            mail = render_mail(template, facts, _SHOP)
            yield _Preview(name, template, mail.subject, mail)


def _write_mail(folder: Path, preview: _Preview) -> None:
    mail = preview.mail
    message = Message(
        id=UUID(int=0),
        channel=Channel.EMAIL,
        template=preview.template,
        recipient="customer@example.com" if KINDS[preview.template].is_to_customer else "staff@articurated.example",
        subject=mail.subject,
        text=mail.text,
        html=mail.html,
        created_at=_SENT_AT,
        message_id=message_id_for(f"preview.{preview.name}", _FROM),
    )
    (folder / f"{preview.name}.html").write_text(mail.html, encoding="utf-8")
    (folder / f"{preview.name}.txt").write_text(mail.text, encoding="utf-8")
    (folder / f"{preview.name}.eml").write_bytes(compose(message, _FROM, "ArtiCurated", _SENT_AT).as_bytes())
