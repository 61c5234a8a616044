"""The mail catcher: nothing is lost that was answered 250, and nothing in a mail acts on who looks at it (INT-002)."""

import asyncio
import os
import re
import smtplib
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from threading import Thread

import pytest
from aiosmtpd.smtp import SMTP
from starlette.testclient import TestClient

from devtools.embedded.mail_catcher import Catcher
from devtools.embedded.mail_store import MailStore
from devtools.embedded.mailbox_app import create_app

HOSTILE = "<script>alert(1)</script>"


def mail(subject: str = "Your order", text: str = "Hello", html: str | None = None) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "ArtiCurated <orders@articurated.example>"
    message["To"] = "Ada <ada@example.com>"
    message["Subject"] = subject
    message["Message-ID"] = "<1@articurated.example>"
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


def add(store: MailStore, message: EmailMessage, *recipients: str) -> str:
    return store.add("orders@articurated.example", recipients or ("ada@example.com",), message.as_bytes())


@pytest.fixture
def store(tmp_path: Path) -> MailStore:
    return MailStore(tmp_path / "mail")


@pytest.fixture
def browser(store: MailStore) -> Iterator[TestClient]:
    with TestClient(create_app(store), base_url="http://127.0.0.1") as client:
        yield client


def test_a_kept_mail_comes_back_whole_after_a_restart(store: MailStore, tmp_path: Path) -> None:
    message = mail("Größe & Café", "Zeile 1\nZeile 2\n", "<p>Größe</p>")
    message.add_attachment(b"%PDF-1.7", maintype="application", subtype="pdf", filename="ORD-1_20261122.pdf")
    mail_id = add(store, message, "ada@example.com", "zoë@example.com")
    found = MailStore(tmp_path / "mail").get(mail_id)
    assert found is not None
    assert found.summary.recipients == ("ada@example.com", "zoë@example.com")
    assert found.summary.subject == "Größe & Café"
    assert (found.text, found.html) == ("Zeile 1\nZeile 2\n", "<p>Größe</p>\n")
    assert [(each.name, each.content) for each in found.attachments] == [("ORD-1_20261122.pdf", b"%PDF-1.7")]


def test_a_mail_that_was_not_written_to_its_end_is_not_there(store: MailStore, tmp_path: Path) -> None:
    (tmp_path / "mail" / "00000000000000000001-aa.part").write_bytes(b"Subject: half")
    assert list(MailStore(tmp_path / "mail").find()) == []


def test_it_is_on_disk_before_the_sender_gets_an_answer(store: MailStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr("devtools.embedded.mail_store.os.fsync", fsync)
    mail_id = add(store, mail())
    assert [Path(path).name for path in synced] == [f"{mail_id}.part", "mail"]


def test_newest_first_and_found_by_recipient_and_subject(store: MailStore) -> None:
    add(store, mail("Your order is confirmed"))
    add(store, mail("Ready to pick"), "warehouse@example.com")
    add(store, mail("Your order has shipped"))
    assert [each.subject for each in store.find()] == [
        "Your order has shipped",
        "Ready to pick",
        "Your order is confirmed",
    ]
    assert [each.subject for each in store.find(recipient="WAREHOUSE")] == ["Ready to pick"]
    assert [each.subject for each in store.find(recipient="ada@", subject="shipped")] == ["Your order has shipped"]
    assert [each.subject for each in store.find(anything="pick")] == ["Ready to pick"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe no headers at all",
        b"Subject: =?utf-8?b?!!!?=\r\nTo: <<<>>>, @\r\nFrom: \x80\r\n\r\nbody",
        b"Content-Type: text/plain; charset=nobody-knows\r\n\r\nbody \xff",
        b'Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: image/png; name="../../etc/passwd"\r\n\r\n1',
        b"Subject: a\r\n b\r\nMessage-ID: not an id\r\n\r\n",
    ],
)
def test_no_mail_however_broken_breaks_the_page(store: MailStore, browser: TestClient, content: bytes) -> None:
    mail_id = store.add("", ["ada@example.com"], content)
    assert browser.get("/").status_code == 200
    assert browser.get(f"/messages/{mail_id}").status_code == 200
    assert browser.get("/api/messages").json()["total"] == 1


def test_an_address_cannot_smuggle_in_a_header(store: MailStore) -> None:
    mail_id = store.add("a@example.com\r\nX-Evil: 1", ["b@example.com\nX-Evil: 2"], b"\r\nbody")
    found = store.get(mail_id)
    assert found is not None
    assert "x-evil" not in {name.casefold() for name, _ in found.headers}


def test_the_list_escapes_and_runs_nothing(store: MailStore, browser: TestClient) -> None:
    add(store, mail(f"{HOSTILE} & more"), '"><img src=x>@example.com')
    page = browser.get("/", params={"q": HOSTILE})
    assert "1 mail" in page.text
    assert HOSTILE not in page.text
    assert "<img" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy
    assert "unsafe" not in policy


@pytest.mark.req("INT-002.4")
def test_a_mail_is_shown_with_its_html_in_a_sandbox(store: MailStore, browser: TestClient) -> None:
    mail_id = add(store, mail(f"Order {HOSTILE}", f"text {HOSTILE}", f"<h1>Shipped</h1>{HOSTILE}"))
    page = browser.get(f"/messages/{mail_id}")
    assert HOSTILE not in page.text
    assert f'<iframe sandbox title="HTML part" src="/messages/{mail_id}/html">' in page.text
    part = browser.get(f"/messages/{mail_id}/html")
    assert "<h1>Shipped</h1>" in part.text
    policy = part.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none';")
    assert "allow-" not in policy


def test_attachments_are_served_as_what_they_are_or_as_bytes(store: MailStore, browser: TestClient) -> None:
    message = mail()
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="Rechnung Ä.pdf")
    message.add_attachment(HOSTILE.encode(), maintype="text", subtype="html", filename='evil".html')
    mail_id = add(store, message)
    pdf = browser.get(f"/messages/{mail_id}/attachments/0")
    assert (pdf.content, pdf.headers["content-type"]) == (b"%PDF", "application/pdf")
    assert pdf.headers["content-disposition"] == "inline; filename*=utf-8''Rechnung%20%C3%84.pdf"
    html = browser.get(f"/messages/{mail_id}/attachments/1")
    assert html.headers["content-type"] == "application/octet-stream"
    assert html.headers["content-disposition"] == "attachment; filename*=utf-8''evil%22.html"
    assert html.headers["x-content-type-options"] == "nosniff"


def test_what_is_not_there_is_404(store: MailStore, browser: TestClient) -> None:
    mail_id = add(store, mail())
    for path in (
        f"/messages/{mail_id}/html",
        f"/messages/{mail_id}/attachments/0",
        "/messages/..%2F..%2Fetc",
        "/messages/x",
    ):
        assert browser.get(path).status_code == 404


def test_other_names_for_this_address_are_refused(browser: TestClient) -> None:
    assert browser.get("/", headers={"Host": "mailbox.attacker.example"}).status_code == 400


def test_the_same_as_json(store: MailStore, browser: TestClient) -> None:
    message = mail("Your invoice", "Hello", "<p>Hello</p>")
    message.add_attachment(b"12345", maintype="application", subtype="pdf", filename="invoice.pdf")
    mail_id = add(store, message)
    add(store, mail("Something else"))
    answer = browser.get("/api/messages", params={"to": "ada@example.com", "subject": "invoice"}).json()
    assert answer["total"] == 1
    found = answer["messages"][0]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:]+(\.\d+)?Z", found.pop("date"))
    assert found.pop("headers")["To"] == "Ada <ada@example.com>"
    url = f"/messages/{mail_id}/attachments/0"
    assert found == {
        "id": mail_id,
        "from": "ArtiCurated <orders@articurated.example>",
        "to": ["ada@example.com"],
        "subject": "Your invoice",
        "message_id": "<1@articurated.example>",
        "text": "Hello\n",
        "html": "<p>Hello</p>\n",
        "attachments": [{"name": "invoice.pdf", "media_type": "application/pdf", "size": 5, "url": url}],
    }
    assert browser.get(url).content == b"12345"
    assert len(browser.get("/api/messages", params={"limit": "1"}).json()["messages"]) == 1
    assert browser.get("/api/messages", params={"limit": "-1"}).status_code == 422


def test_the_mailbox_can_be_emptied(store: MailStore, browser: TestClient, tmp_path: Path) -> None:
    add(store, mail())
    add(store, mail())
    assert browser.delete("/api/messages").json() == {"deleted": 2}
    assert browser.get("/api/messages").json() == {"messages": [], "total": 0}
    assert list((tmp_path / "mail").iterdir()) == []


@pytest.fixture
def smtp_port(store: MailStore) -> Iterator[int]:
    """The SMTP side on a free port, in a thread of its own."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        loop.create_server(lambda: SMTP(Catcher(store), enable_SMTPUTF8=True), "127.0.0.1", 0)
    )
    thread = Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.req("INT-002.4")
def test_mail_over_smtp_is_kept_for_every_recipient(store: MailStore, smtp_port: int) -> None:
    with smtplib.SMTP("127.0.0.1", smtp_port) as client:
        client.send_message(mail("Über SMTP"), to_addrs=["ada@example.com", "bcc@example.com"])
    (found,) = store.find()
    assert found.subject == "Über SMTP"
    assert found.recipients == ("ada@example.com", "bcc@example.com")


def test_a_full_disk_is_the_senders_to_retry(store: MailStore, smtp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "add", full)
    with smtplib.SMTP("127.0.0.1", smtp_port) as client, pytest.raises(smtplib.SMTPDataError) as refused:
        client.send_message(mail())
    assert refused.value.smtp_code == 452
