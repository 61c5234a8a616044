"""Signed links over HTTP: what they open, for how long, and that nothing else opens anything (INT-004, NFR-004)."""

import base64
import hashlib
import hmac
import io
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from app.composition import Services
from app.config import Settings
from app.core.logging import configure_logging
from app.database import Database
from app.schemas.attachment import AttachmentResponse
from app.schemas.operations import InvoiceRecord
from app.services.documents.links import FileKind, FileLinks
from app.utils.exceptions import LinkExpiredError, NotFoundError
from app.utils.storage import Storage, storage_for
from tests.conftest import MovableClock
from tests.databases import past_guard
from tests.files_support import JPEG, KINDS, PNG, as_stored, photo
from tests.integration.conftest import TO_DELIVERED, Connect, error_of, new_order, new_return
from tests.integration.test_api_invoices import PlainRenderer, issue

pytestmark = [pytest.mark.req("INT-004.4", "NFR-004"), pytest.mark.security]


@pytest.fixture
async def attached(api: httpx2.AsyncClient) -> dict[str, Any]:
    """The record of an attachment."""
    return await attach(api, JPEG)


async def attach(api: httpx2.AsyncClient, content: bytes, name: str = "crack.jpg") -> dict[str, Any]:
    """Add a file to a return of its own; return its record."""
    returned = await new_return(api, (await new_order(api, *TO_DELIVERED))["id"])
    response = await api.post(f"/api/v1/returns/{returned['id']}/attachments", files={"file": (name, content)})
    assert response.status_code == 201, response.text
    record: dict[str, Any] = response.json()
    return record


@pytest.fixture
async def invoiced(api: httpx2.AsyncClient, services: Services) -> InvoiceRecord:
    """The record of an invoice."""
    services.invoices._renderer = PlainRenderer()
    order = await new_order(api, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED")
    await issue(services, order)
    answer = await api.get(f"/api/v1/orders/{order['id']}/invoice", headers={"Accept": "application/json"})
    return InvoiceRecord.model_validate(answer.json())


def parts_of(link: str) -> tuple[str, str, str]:
    """Return path, expires and signature of a link."""
    split = urlsplit(link)
    query = parse_qs(split.query, strict_parsing=True)
    assert set(query) == {"expires", "signature"}
    return split.path, query["expires"][0], query["signature"][0]


async def test_a_link_opens_an_invoice_without_credentials(
    invoiced: InvoiceRecord, anonymous: httpx2.AsyncClient, clock: MovableClock, settings: Settings
) -> None:
    response = await anonymous.get(invoiced.link)
    assert response.status_code == 200
    assert hashlib.sha256(response.content).hexdigest() == invoiced.sha256
    assert response.headers["content-type"] == "application/pdf"
    assert response.headers["content-disposition"] == f'inline; filename="{invoiced.number}.pdf"'
    _, expires, _ = parts_of(invoiced.link)
    assert int(expires) == int(clock.now.timestamp()) + settings.file_link_ttl_seconds
    assert invoiced.link_expires_at.timestamp() == int(expires)
    assert (await anonymous.head(invoiced.link)).status_code == 200


async def test_what_a_stranger_gave_is_delivered_so_that_nothing_in_it_runs(
    attached: dict[str, Any], api: httpx2.AsyncClient, anonymous: httpx2.AsyncClient
) -> None:
    list_url = f"/api/v1/returns/{attached['return_id']}/attachments"
    for content in {**KINDS, "image/jpeg": photo(1)}.values():
        kept, kind = as_stored(content)
        added = await api.post(list_url, files={"file": ("Glaçure'.html", content)})
        response = await anonymous.get(added.json()["link"])
        assert response.content == kept
        assert response.headers["content-type"] == kind.name
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        [policy] = response.headers.get_list("content-security-policy")
        assert {directive.strip() for directive in policy.split(";")} >= {"sandbox", "default-src 'none'"}
        shown, extension = kind.name != "application/pdf", kind.extension
        named = f"filename=\"Gla_ure'.{extension}\"; filename*=UTF-8''Gla%C3%A7ure%27.{extension}"
        assert response.headers["content-disposition"] == f"{'inline' if shown else 'attachment'}; {named}"


async def test_a_name_that_an_earlier_release_kept_is_delivered_with_the_extension_of_its_kind(
    attached: dict[str, Any],
    api: httpx2.AsyncClient,
    anonymous: httpx2.AsyncClient,
    owner_connection: psycopg.Connection,
) -> None:
    renamed = "UPDATE attachments SET file_name = 'photos.jpg.hta'"
    past_guard(owner_connection, "attachments", "guard_append_only", renamed)
    [listed] = (await api.get(f"/api/v1/returns/{attached['return_id']}/attachments")).json()["data"]
    assert listed["file_name"] == "photos.jpg"
    response = await anonymous.get(listed["link"])
    assert response.headers["content-disposition"] == 'inline; filename="photos.jpg"'


async def test_a_link_works_until_it_expires_and_then_says_so(
    attached: dict[str, Any],
    api: httpx2.AsyncClient,
    anonymous: httpx2.AsyncClient,
    clock: MovableClock,
    settings: Settings,
) -> None:
    _, expires, _ = parts_of(attached["link"])
    clock.advance(seconds=settings.file_link_ttl_seconds - 1)
    assert (await anonymous.get(attached["link"])).status_code == 200
    clock.advance(seconds=1)
    for client in (anonymous, api):
        response = await client.get(attached["link"])
        assert response.status_code == 403
        error = error_of(response)
        assert error["code"] == "LINK_EXPIRED"
        assert error["details"] == {"expired_at": attached["link_expires_at"]}
    # A caller who may see the record gets another.
    listed = (await api.get(f"/api/v1/returns/{attached['return_id']}/attachments")).json()["data"]
    [record] = [AttachmentResponse.model_validate(item) for item in listed]
    assert record.link != attached["link"]
    assert (await anonymous.get(record.link)).status_code == 200
    assert int(expires) < int(parts_of(record.link)[1])


async def test_every_fault_of_a_link_gives_the_same_answer(
    attached: dict[str, Any],
    invoiced: InvoiceRecord,
    api: httpx2.AsyncClient,
    anonymous: httpx2.AsyncClient,
    settings: Settings,
    clock: MovableClock,
) -> None:
    path, expires, signature = parts_of(attached["link"])
    _, _, other_signature = parts_of(invoiced.link)
    later = str(int(expires) + 1)
    absent = str(FileLinks.from_settings(settings, clock).to(FileKind.ATTACHMENTS, uuid4())["link"])
    secret = settings.secret_key.get_secret_value().encode()
    signed = f"attachments\n{attached['id']}\n{expires}".encode()
    bare = base64.urlsafe_b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode().rstrip("=")
    forged = {
        "no query": path,
        "no signature": f"{path}?expires={expires}",
        "no time": f"{path}?signature={signature}",
        "a later time": f"{path}?expires={later}&signature={signature}",
        "an earlier time": f"{path}?expires=1&signature={signature}",
        "the same time written otherwise": f"{path}?expires=0{expires}&signature={signature}",
        "a time that is none": f"{path}?expires=never&signature={signature}",
        "an endless time": f"{path}?expires={'9' * 400}&signature={signature}",
        "a time in other digits": f"{path}?expires=%D9%A1&signature={signature}",
        "no text": f"{path}?expires=%F0%9F%92%A9&signature=%F0%9F%92%A9",
        "a changed signature": f"{path}?expires={expires}&signature={'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        "half a signature": f"{path}?expires={expires}&signature={signature[:20]}",
        "a padded signature": f"{path}?expires={expires}&signature={signature}=",
        "another file's signature": f"{path}?expires={expires}&signature={other_signature}",
        "another kind": f"{path.replace('attachments', 'invoices')}?expires={expires}&signature={signature}",
        "another id": f"{path.replace(attached['id'], str(uuid4()))}?expires={expires}&signature={signature}",
        "SECRET_KEY itself": f"{path}?expires={expires}&signature={bare}",
        "a file that is not there": absent,
    }
    for name, link in forged.items():
        for client in (anonymous, api):
            response = await client.get(link)
            assert response.status_code == 404, f"{name}: {response.text}"
            error = error_of(response)
            assert (error["code"], error["details"]) == ("NOT_FOUND", {}), name
            assert error["message"] == "There is nothing at this address.", name
    assert (await anonymous.get(attached["link"])).status_code == 200


async def test_a_document_that_is_not_issued_is_not_there(
    invoiced: InvoiceRecord, anonymous: httpx2.AsyncClient, owner_connection: psycopg.Connection
) -> None:
    set_back = "UPDATE invoices SET state = 'NUMBERED', sha256 = NULL, size_bytes = NULL, issued_at = NULL"
    past_guard(owner_connection, "invoices", "guard_issued_document", set_back)
    assert (await anonymous.get(invoiced.link)).status_code == 404


async def test_bytes_that_are_not_those_that_were_stored_are_not_given_out(
    attached: dict[str, Any], anonymous: httpx2.AsyncClient, settings: Settings
) -> None:
    [stored] = [path for path in settings.storage_path.rglob("*.jpg")]  # noqa: C416
    stored.write_bytes(photo(1))
    with capture_logs() as logs:
        altered = await anonymous.get(attached["link"])
        stored.unlink()
        missing = await anonymous.get(attached["link"])
    # A photo is no document that the law asks for.
    told = [(entry["log_level"], entry["event"]) for entry in logs]
    assert ("error", "attachment.altered") in told
    assert ("error", "attachment.not_found") in told
    assert not any("document" in event for _, event in told)
    for response in (altered, missing):
        assert response.status_code == 500
        assert error_of(response)["code"] == "INTERNAL_ERROR"


async def test_the_log_of_a_link_that_was_used_does_not_hold_its_signature(
    attached: dict[str, Any], anonymous: httpx2.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure_logging(settings.model_copy(update={"log_format": "json", "log_level": "DEBUG"}))
    path, expires, signature = parts_of(attached["link"])
    assert (await anonymous.get(attached["link"])).status_code == 200
    assert (await anonymous.get(f"{path}?expires={expires}&signature={signature}x")).status_code == 404
    text = written.getvalue()
    used = [json.loads(line) for line in text.splitlines() if '"request"' in line]
    assert [(line["path"], line["status"]) for line in used] == [(path, 200), (path, 404)]
    assert signature not in text


@pytest.mark.parametrize("moment", ["2026-11-23T10:00:00+00:00", "2026-11-23T10:00:00.999999+00:00"])
def test_a_signature_is_for_one_kind_one_file_and_one_time(
    moment: str, settings: Settings, clock: MovableClock
) -> None:
    clock.now = datetime.fromisoformat(moment)
    links = FileLinks.from_settings(settings, clock)
    file_id, other_id = uuid4(), uuid4()
    _, expires, signature = parts_of(str(links.to(FileKind.INVOICES, file_id)["link"]))
    links.check(FileKind.INVOICES, file_id, expires, signature)
    for kind, named, time in (
        (FileKind.ATTACHMENTS, file_id, expires),
        (FileKind.INVOICES, other_id, expires),
        (FileKind.INVOICES, file_id, str(int(expires) + 1)),
    ):
        with pytest.raises(NotFoundError):
            links.check(kind, named, time, signature)
    clock.now = datetime.fromtimestamp(int(expires) - 0.001, UTC)
    links.check(FileKind.INVOICES, file_id, expires, signature)
    clock.now = datetime.fromtimestamp(int(expires), UTC)
    with pytest.raises(LinkExpiredError):
        links.check(FileKind.INVOICES, file_id, expires, signature)


async def test_links_survive_the_rotation_of_the_secret_while_the_old_one_is_accepted(
    settings: Settings, clock: MovableClock
) -> None:
    def links(secret: str, previous: str = "") -> FileLinks:
        update = {"secret_key": SecretStr(secret), "secret_key_previous": SecretStr(previous)}
        return FileLinks.from_settings(settings.model_copy(update=update), clock)

    file_id = uuid4()
    _, expires, signature = parts_of(str(links("old").to(FileKind.INVOICES, file_id)["link"]))
    links("new", "old").check(FileKind.INVOICES, file_id, expires, signature)
    for others in (links("new"), links("new", "newer"), links(""), links("old ")):
        with pytest.raises(NotFoundError):
            others.check(FileKind.INVOICES, file_id, expires, signature)
    _, expires, signature = parts_of(str(links("new", "old").to(FileKind.INVOICES, file_id)["link"]))
    links("new").check(FileKind.INVOICES, file_id, expires, signature)


# --- where links lead ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "base"),
    [
        (None, ""),
        ("", ""),
        ("https://shop.example", "https://shop.example"),
        ("https://shop.example/", "https://shop.example"),
        ("http://localhost:8000/orders-api/v2", "http://localhost:8000/orders-api/v2"),
    ],
)
def test_a_link_is_absolute_where_there_is_a_public_address(given: str | None, base: str, clock: MovableClock) -> None:
    settings = Settings(_env_file=None, public_url=given)
    link = str(FileLinks.from_settings(settings, clock).to(FileKind.INVOICES, UUID(int=7))["link"])
    assert link.startswith(f"{base}/api/v1/files/invoices/00000000-0000-0000-0000-000000000007?expires=")


@pytest.mark.parametrize(
    "value",
    [
        "shop.example",
        "//shop.example",
        "ftp://shop.example",
        "javascript:alert(1)",
        "https://",
        "https://user:password@shop.example",
        "https://shop.example?x=1",
        "https://shop.example#x",
        "https://shop.example/../admin",
        "https://shop.example/a/./b",
        "https://shop.example//a",
        "https://shop.example/a%2e%2e",
        "https://shop.example/a b",
        "https://shop.example\\@evil.example",
        "https://shop.example\n",
        "https://shop..example",
    ],
)
def test_a_public_address_that_would_bend_links_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="http"):
        Settings(_env_file=None, public_url=value)


class Signing(Storage):
    """A storage that can sign, as S3 can."""

    def __init__(self, storage: Storage, url: str | None) -> None:
        super().__init__(storage._store, storage._folder)
        self.url = url
        self.asked: list[tuple[str, float]] = []

    async def signed_url(self, key: str, lifetime: Any) -> str | None:
        """Return the address."""
        self.asked.append((key, lifetime.total_seconds()))
        return self.url


@pytest.fixture
def signing(services: Services, settings: Settings) -> Signing:
    storage = Signing(storage_for(settings), "https://bucket.example/key?X-Amz-Signature=abc")
    services.storage = storage
    return storage


async def test_a_storage_that_can_sign_is_where_callers_are_sent(
    signing: Signing, attached: dict[str, Any], anonymous: httpx2.AsyncClient
) -> None:
    response = await anonymous.get(attached["link"])
    assert (response.status_code, response.headers["location"]) == (307, signing.url)
    assert response.headers["cache-control"] == "no-store"
    assert signing.asked == [(f"attachments/{attached['return_id']}/{attached['id']}.jpg", 60)]
    path, expires, _ = parts_of(attached["link"])
    assert (await anonymous.get(f"{path}?expires={expires}&signature=x")).status_code == 404
    assert len(signing.asked) == 1, "nothing is signed for a forged link"
    # Where it cannot, the bytes come from here.
    signing.url = None
    assert (await anonymous.get(attached["link"])).content == as_stored(JPEG)[0]


async def test_callers_who_cannot_reach_the_storage_get_the_bytes_from_here(
    settings: Settings, database: Database, clock: MovableClock, connect: Connect, application: FastAPI
) -> None:
    services = Services(settings.model_copy(update={"file_link_delivery": "stream"}), database, clock)
    storage = Signing(storage_for(settings), "https://minio.internal/key")
    services.storage = storage
    application.state.services = services
    attached = await attach(connect(**{"X-API-Key": "dev-api-key"}), PNG)
    assert (await connect().get(attached["link"])).content == as_stored(PNG)[0]
    assert storage.asked == []
    await services.health.close()


async def test_a_link_of_one_process_works_in_another(
    attached: dict[str, Any],
    settings: Settings,
    database: Database,
    clock: MovableClock,
    application: FastAPI,
    anonymous: httpx2.AsyncClient,
) -> None:
    application.state.services = other = Services(settings, database, clock)
    assert (await anonymous.get(attached["link"])).content == as_stored(JPEG)[0]
    await other.health.close()
