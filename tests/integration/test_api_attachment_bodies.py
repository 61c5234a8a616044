"""Uploads that are malformed, too large or of another kind: refused, and nothing of them is kept."""

import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest

from app.api.http.multipart import FRAMING_BYTES
from app.config import Settings
from tests.files_support import JPEG, KINDS, MULTIPART, PDF, body, chunks, paper, part, text_part
from tests.integration.attachments_support import LIMIT, counted, files_in, kept_files, limited, return_of, send, url_of
from tests.integration.conftest import error_of

pytestmark = pytest.mark.req("REQ-002.8", "INT-004.3")

FILE = part(JPEG)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return limited(settings)


@pytest.fixture
async def returned(api: httpx2.AsyncClient, customer_id: UUID) -> dict[str, Any]:
    """A return of the customer's, REQUESTED."""
    return await return_of(api, customer_id)


async def arriving(content: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield a body piece by piece, so that nothing says how long it is."""
    for chunk in chunks(content, size):
        yield chunk


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "no part": (b"--limit-of-parts--\r\n", 422, "file"),
    "nothing": (b"", 422, "body"),
    "no file": (body(text_part("description", "words")), 422, "file"),
    "two files": (body(FILE, part(PDF)), 422, "file"),
    "two descriptions": (body(text_part("description", "a"), text_part("description", "b")), 422, "description"),
    "a part too many": (body(FILE, text_part("description", "a"), text_part("status", "PAID")), 422, "body"),
    "10,000 parts": (body(*[text_part("description", "a")] * 10_000), 422, "description"),
    "another part": (body(text_part("status", "COMPLETED"), FILE), 422, "status"),
    "NUL in a part's name": (body(part(JPEG, 'form-data; name="fi\0le"')), 422, "body"),
    "NUL in a file's name": (body(part(JPEG, 'form-data; name="file"; filename="a\0.jpg"')), 422, "file"),
    "a file's name in Latin-1": (body(part(JPEG, 'form-data; name="file"; filename="\udce9.jpg"')), 422, "file"),
    "a part without a name": (body(part(JPEG, "form-data")), 422, "body"),
    "a part that is no field": (body(part(JPEG, 'attachment; name="file"')), 422, "body"),
    "a part without headers": (b"--limit-of-parts\r\n\r\nx\r\n--limit-of-parts--\r\n", 422, "body"),
    "a description that is a file": (
        body(part(b"words", 'form-data; name="description"; filename="a.txt"'), FILE),
        422,
        "description",
    ),
    "NUL in the description": (body(FILE, text_part("description", "a\0b")), 422, "description"),
    "direction in the description": (body(FILE, text_part("description", "a\u202eb")), 422, "description"),
    "a blank description": (body(FILE, text_part("description", " ")), 422, "description"),
    "an empty description": (body(FILE, text_part("description", "")), 422, "description"),
    "a long description": (body(FILE, text_part("description", "x" * 501)), 422, "description"),
    "a longer description": (body(text_part("description", "x" * 9000), FILE), 422, "description"),
    "a description in Latin-1": (body(FILE, text_part("description", b"\xe9")), 422, "description"),
    "a part in base64": (
        body(part(JPEG, 'form-data; name="file"; filename="a.jpg"', "Content-Transfer-Encoding: base64")),
        422,
        "file",
    ),
    "a huge header": (body(part(JPEG, "form-data; name=file", "X-Large: " + "x" * 5000)), 422, "body"),
    "many headers": (body(part(JPEG, "form-data; name=file", *[f"X-{n}: x" for n in range(20)])), 422, "body"),
    "a header twice": (
        body(part(JPEG, "form-data; name=file", "Content-Disposition: form-data; name=file")),
        422,
        "body",
    ),
    "a header that is none": (body(part(JPEG, "form-data; name=file", "no colon")), 422, "body"),
    "cut off in the file": (body(FILE)[:200], 422, "body"),
    "cut off in a header": (body(FILE)[:30], 422, "body"),
    "cut off before the end": (FILE, 422, "body"),
    "another boundary": (body(FILE).replace(b"limit-of-parts", b"another"), 422, "body"),
    "no multipart": (b'{"file": "x"}', 422, "body"),
    "an empty file": (body(part(b"")), 415, ""),
    "HTML": (body(part(b"<script>alert(1)</script>")), 415, ""),
    "SVG named .png": (body(part(b"<svg onload=alert(1)>", 'form-data; name="file"; filename="a.png"')), 415, ""),
}


OTHER_KINDS: list[dict[str, str]] = [
    {"content-type": "application/json"},
    {"content-type": "multipart/form-data"},
    {"content-type": "multipart/form-data; boundary="},
    {"content-type": f"multipart/form-data; boundary={'x' * 71}"},
    {"content-type": "multipart/form-data; boundary=a\tb"},
    {"content-type": "multipart/mixed; boundary=limit-of-parts"},
    {"content-type": "image/jpeg"},
    {"content-type": MULTIPART, "content-encoding": "gzip"},
    {"content-type": MULTIPART, "content-encoding": "identity"},
]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for what would be written to a temporary file."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.req("NFR-004", "REQ-005")
@pytest.mark.security
async def test_every_hostile_upload_is_refused_and_nothing_is_written(
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    settings: Settings,
    temporary: Path,
    owner_connection: psycopg.Connection,
) -> None:
    events = counted(owner_connection, "SELECT count(*) FROM events")
    for name, (content, status, field) in HOSTILE.items():
        for sent, headers in ((arriving(content, 4096), {}), (content, {"Idempotency-Key": name})):
            response = await send(api, returned, sent, **headers)
            error = error_of(response)
            if len(content) > LIMIT + FRAMING_BYTES and sent is content:
                assert response.status_code == 413, name
                continue
            assert response.status_code == status, f"{name}: {response.status_code} {response.text}"
            if status == 422:
                assert error["code"] == "VALIDATION_ERROR"
                assert [fault["field"] for fault in error["details"]] == [field], name
            else:
                assert error["code"] == "UNSUPPORTED_MEDIA_TYPE"
                assert error["details"] == {"accepted": list(KINDS)}, name
    assert counted(owner_connection, "SELECT count(*) FROM events") == events
    assert counted(owner_connection, "SELECT count(*) FROM attachments") == 0
    assert kept_files(settings) == []
    assert files_in(temporary) == []


@pytest.mark.req("NFR-004", "REQ-005")
@pytest.mark.security
async def test_a_body_of_another_kind_is_refused(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings
) -> None:
    for headers in OTHER_KINDS:
        response = await api.post(url_of(returned), content=body(FILE), headers=headers)
        assert response.status_code == 415, headers
        assert error_of(response)["details"] == {"expected": "multipart/form-data"}
    assert kept_files(settings) == []


async def test_the_largest_file_is_taken_in_pieces_of_any_size(
    api: httpx2.AsyncClient, returned: dict[str, Any]
) -> None:
    for size in (1, 7, 1000):
        content = paper(LIMIT, b"%d" % size)
        upload = body(text_part("description", "piece by piece"), part(content))
        response = await send(api, returned, arriving(upload, size))
        assert response.status_code == 201, response.text
        assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()
        assert response.json()["description"] == "piece by piece"


@pytest.mark.req("NFR-004", "REQ-005")
@pytest.mark.security
async def test_what_is_too_large_is_not_read_to_its_end(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, temporary: Path
) -> None:
    by_one = (JPEG + bytes(LIMIT))[: LIMIT + 1]
    assert (await send(api, returned, body(part(by_one)))).status_code == 413
    sent = 0

    async def endless(start: bytes, filling: bytes = bytes(1024)) -> AsyncIterator[bytes]:
        nonlocal sent
        yield start
        while True:
            sent += 1
            assert sent < 1000, "the body is read on and on"
            yield filling

    bodies = {
        "file": (endless(part(JPEG)[:-2]), 413),
        "preamble": (endless(b"\r\n", b"\r\n" * 512), 413),
        "epilogue": (endless(body(FILE)), 413),
        "description": (endless(part(b"", 'form-data; name="description"')[:-2]), 422),
        "header": (endless(b"--limit-of-parts\r\nX-Large: ", b"x" * 1024), 422),
    }
    for name, (content, status) in bodies.items():
        sent = 0
        response = await send(api, returned, content)
        assert response.status_code == status, f"{name}: {response.text}"
        assert sent <= (LIMIT + FRAMING_BYTES) // 1024 + 1
        if response.status_code == 413:
            error = error_of(response)
            assert (error["code"], error["details"]) == ("PAYLOAD_TOO_LARGE", {"max_bytes": LIMIT})
    # By its header alone, without a byte of it.
    declared = await send(api, returned, endless(b""), **{"content-length": str(10**12)})
    assert declared.status_code == 413
    assert kept_files(settings) == []
    assert files_in(temporary) == []
