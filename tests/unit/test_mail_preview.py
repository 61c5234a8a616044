"""The previews: every message, ordinary and difficult, as files that a mail program and a browser can open."""

import email
import re
from email.policy import default
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import cli
from app.services.notifications.kinds import KINDS, short_texts
from app.services.notifications.rendering import render_mail
from devtools.mail_odd_samples import odd_samples
from devtools.mail_preview import write_previews
from tests.unit.test_mail_templates import Page

pytestmark = pytest.mark.req("REQ-006", "INT-002")

ODD = [(template, label) for template in KINDS for label in odd_samples(template)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("previews") / "made" / "on the way"
    write_previews(folder)
    return folder


@pytest.mark.parametrize("name", [*KINDS, *(f"{template}.{label}" for template, label in ODD)])
@pytest.mark.req("REQ-006.4")
def test_each_mail_is_there_three_times(folder: Path, name: str) -> None:
    html = (folder / f"{name}.html").read_text(encoding="utf-8")
    text = (folder / f"{name}.txt").read_text(encoding="utf-8")
    message = email.message_from_bytes((folder / f"{name}.eml").read_bytes(), policy=default)
    plain, rich = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert rich is not None
    assert plain.get_content().replace("\r\n", "\n") == text
    assert rich.get_content().replace("\r\n", "\n").strip() == html.strip()
    assert message["Subject"]
    assert f'href="{name}.eml"' in (folder / "index.html").read_text(encoding="utf-8")


def test_the_index_leads_to_files_that_exist_and_shows_the_lines(folder: Path) -> None:
    index = (folder / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'href="([^"]+)"', index))
    assert all((folder / name).is_file() for name in linked)
    shown = Page(index).text
    for channel, template in short_texts():
        line = (folder / f"{channel.lower()}.{template}.txt").read_text(encoding="utf-8").strip()
        assert line in shown


def test_difficult_values_are_those_of_real_trouble() -> None:
    assert {label for _, label in ODD} == {"long", "right-to-left", "bare", "many", "linked"}
    assert {template for template, _ in ODD} == set(KINDS)


@pytest.mark.parametrize(("template", "label"), ODD)
def test_difficult_values_break_neither_part(template: str, label: str) -> None:
    mail = render_mail(template, odd_samples(template)[label])
    page = Page(mail.html)
    assert page.open == []
    assert "None" not in page.text + mail.text
    assert mail.subject.isprintable()
    # What is longer than a phone is wide must be allowed to break: in HTML each such place says so.
    for tag, held in page.tags:
        if tag == "td" and "word-break" in (held.get("style") or ""):
            assert "overflow-wrap:anywhere" in (held["style"] or "")


@pytest.mark.parametrize("template", KINDS)
def test_a_mail_is_made_for_dark_rooms_and_inbox_lines(template: str) -> None:
    html = render_mail(template, KINDS[template].sample).html
    page = Page(html)
    assert ("meta", {"name": "color-scheme", "content": "light dark"}) in page.tags
    assert "prefers-color-scheme: dark" in html
    hidden = next(held for tag, held in page.tags if tag == "div")
    assert "display:none" in (hidden["style"] or "")
    # Each class that a text or a surface has is one that the dark sheet knows.
    classes = {name for _, held in page.tags for name in (held.get("class") or "").split()}
    assert classes - {"outer"} <= set(re.findall(r"^    \.(\w+)", html, re.MULTILINE))


def test_a_return_without_refund_promises_none() -> None:
    for template in ("return_approved", "return_arrived"):
        promised = render_mail(template, KINDS[template].sample)
        none = render_mail(template, {**KINDS[template].sample, "refund_amount": "0.00"})
        assert "refund" in promised.text
        assert "refund follows" not in none.html
        assert "start your refund" not in none.text + none.html
        assert "is yours again" not in none.html


@pytest.mark.req("REQ-006.4")
def test_the_command_says_where_it_wrote(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["mail", "preview", "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "out" / "index.html")
