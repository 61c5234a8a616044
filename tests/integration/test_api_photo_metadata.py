"""Photos are stored without what their camera wrote into them, over HTTP (REQ-002, NFR-004)."""

import hashlib
import json
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest

from app.api.http import incoming
from app.config import Settings
from tests.databases import past_guard
from tests.files_support import HEIC, as_stored, body, paper, part, photo
from tests.integration.attachments_support import add, counted, kept_files, limited, return_of, send, url_of
from tests.integration.conftest import error_of
from tests.unit.test_photo_cleaner import PHOTOS, SECRET

pytestmark = [pytest.mark.req("REQ-002.8", "INT-004.3", "NFR-004"), pytest.mark.security]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return limited(settings).model_copy(update={"attachment_max_bytes": 200_000})


@pytest.fixture
async def returned(api: httpx2.AsyncClient, customer_id: UUID) -> dict[str, Any]:
    """A return of the customer's, REQUESTED."""
    return await return_of(api, customer_id)


def stored(settings: Settings, record: dict[str, Any]) -> bytes:
    """Return the bytes of an attachment as the storage has them."""
    [path] = [path for path in kept_files(settings) if path.stem == record["id"]]
    return path.read_bytes()


async def test_no_photo_is_stored_with_its_metadata(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings
) -> None:
    for name, sent in {**PHOTOS, "HEIC": HEIC}.items():
        assert SECRET.encode() in sent
        response = await add(api, returned, sent)
        assert response.status_code == 201, f"{name}: {response.text}"
        record = response.json()
        kept = stored(settings, record)
        assert SECRET.encode() not in kept, name
        assert (record["size"], record["sha256"]) == (len(kept), hashlib.sha256(kept).hexdigest())
        fetched = await api.get(record["link"])
        assert fetched.content == kept
        again = await add(api, returned, sent)
        assert (again.status_code, again.json()["id"]) == (200, record["id"]), "the same photo is recognised"
    assert len(kept_files(settings)) == len(PHOTOS) + 1


async def test_a_heic_is_stored_and_named_as_a_jpeg(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings
) -> None:
    record = (await add(api, returned, HEIC, name="IMG_0001.HEIC")).json()
    assert (record["media_type"], record["file_name"]) == ("image/jpeg", "IMG_0001.jpg")
    [path] = kept_files(settings)
    assert path.suffix == ".jpg"


async def test_a_pdf_is_stored_as_it_is(api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings) -> None:
    for size in (1_000, 150_000):
        sent = paper(size, b"/Author (Ada)")
        record = (await add(api, returned, sent, name="receipt.pdf")).json()
        assert stored(settings, record) == sent


async def test_a_photo_that_an_earlier_release_stored_as_it_was_is_recognised(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, owner_connection: psycopg.Connection
) -> None:
    first = (await add(api, returned, PHOTOS["JPEG"])).json()
    as_sent = hashlib.sha256(PHOTOS["JPEG"]).hexdigest()
    past_guard(owner_connection, "attachments", "guard_append_only", f"UPDATE attachments SET sha256 = '\\x{as_sent}'")
    again = await add(api, returned, PHOTOS["JPEG"])
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert len(kept_files(settings)) == 1


async def test_what_cannot_be_read_is_refused_and_nothing_is_written(
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    settings: Settings,
    owner_connection: psycopg.Connection,
) -> None:
    for sent, kind in ((PHOTOS["JPEG"][:-120], "image/jpeg"), (HEIC[:495] + bytes(len(HEIC) - 495), "image/heic")):
        for headers in ({}, {"Idempotency-Key": kind}):
            response = await send(api, returned, body(part(sent)), **headers)
            assert response.status_code == 415, response.text
            error = error_of(response)
            assert error["message"] == f"The file begins as {kind} but cannot be decoded."
    assert counted(owner_connection, "SELECT count(*) FROM attachments") == 0
    assert kept_files(settings) == []


async def test_one_upload_more_than_there_are_places_is_answered_503_before_it_is_read(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming.UPLOADS, "left", 0)
    response = await add(api, returned, photo(1))
    assert response.status_code == 503
    assert error_of(response)["code"] == "SERVICE_UNAVAILABLE"
    monkeypatch.setattr(incoming.UPLOADS, "left", 1)
    for number in range(3):
        assert (await add(api, returned, photo(number))).status_code == 201
    listed = json.loads((await api.get(url_of(returned))).content)["data"]
    kept = {hashlib.sha256(as_stored(photo(number))[0]).hexdigest() for number in range(3)}
    assert {item["sha256"] for item in listed} == kept
    assert incoming.UPLOADS.left == 1
    assert len(kept_files(settings)) == 3
