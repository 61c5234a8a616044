"""Photos and papers of a return over HTTP: who may add them, what is taken, what is kept of it (REQ-002, INT-004)."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.api.multipart import FRAMING_BYTES
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import Role
from app.database import Database
from app.dependencies import Services
from app.schemas.attachment import AttachmentResponse, Upload
from app.services.attachment_service import ORPHAN_AGE, PARTS, SEARCHED_AGE, AttachmentService
from app.services.file_links import FileLinks
from app.utils.exceptions import AttachmentNotAllowedError, ReturnNotFoundError
from app.utils.storage import Storage, StorageError, storage_for
from tests import databases
from tests.conftest import MovableClock
from tests.databases import TestServers
from tests.files_support import JPEG, KINDS, MULTIPART, PDF, backdate, body, chunks, part, photo, text_part
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return

pytestmark = pytest.mark.req("REQ-002.8", "INT-004.3")

LIMIT = 4096
CUSTOMER, WAREHOUSE, MANAGER, ADMIN, SERVICE = Role


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"attachment_max_bytes": LIMIT, "attachments_per_return": 10})


@pytest.fixture
async def returned(api: httpx2.AsyncClient, customer_id: UUID) -> dict[str, Any]:
    """A return of the customer's, REQUESTED."""
    order = await new_order(api, *TO_DELIVERED, customer_id=str(customer_id))
    return await new_return(api, order["id"])


def url_of(returned: dict[str, Any]) -> str:
    return f"/api/v1/returns/{returned['id']}/attachments"


async def send(client: httpx2.AsyncClient, returned: dict[str, Any], content: Any, **headers: str) -> httpx2.Response:
    """Send a body as it is."""
    return await client.post(url_of(returned), content=content, headers={"content-type": MULTIPART, **headers})


async def add(
    client: httpx2.AsyncClient, returned: dict[str, Any], content: bytes = JPEG, name: str = "crack.jpg"
) -> httpx2.Response:
    """Add a file the way any HTTP client does."""
    return await client.post(url_of(returned), files={"file": (name, content, "application/octet-stream")})


def kept_files(settings: Settings) -> list[Path]:
    """Return every file in the storage, staged ones too."""
    return files_in(settings.storage_path)


def files_in(folder: Path) -> list[Path]:
    """Return every file below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def counted(connection: psycopg.Connection, sql: str) -> int:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return int(row[0])


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_a_file_is_kept_with_who_when_and_what(
    api: httpx2.AsyncClient,
    callers: dict[Role, httpx2.AsyncClient],
    returned: dict[str, Any],
    settings: Settings,
    clock: MovableClock,
    owner_connection: psycopg.Connection,
) -> None:
    for media_type, content in KINDS.items():
        clock.advance(minutes=5)
        response = await callers[CUSTOMER].post(
            url_of(returned),
            # Neither the name nor the type says what it is.
            files={"file": ("Glaçure fêlée.html", content, "text/html")},
            data={"description": "The crack,\nfrom the left"},
        )
        assert response.status_code == 201, response.text
        record = AttachmentResponse.model_validate(response.json())
        assert (record.media_type, record.size) == (media_type, len(content))
        assert record.sha256 == hashlib.sha256(content).hexdigest()
        assert (record.file_name, record.description) == ("Glaçure fêlée.html", "The crack,\nfrom the left")
        assert (str(record.return_id), record.created_at) == (returned["id"], clock.now)
        assert (record.uploaded_by_role, record.id.version) == (CUSTOMER, 7)

        extension = {"jpeg": "jpg"}.get(media_type.partition("/")[2], media_type.partition("/")[2])
        stored = settings.storage_path / "attachments" / returned["id"] / f"{record.id}.{extension}"
        assert stored.read_bytes() == content

        fetched = await api.get(record.link)
        assert (fetched.status_code, fetched.content) == (200, content)
        assert fetched.headers["content-type"] == media_type

        row = owner_connection.execute(
            "SELECT uploaded_by, sha256, storage_key FROM attachments WHERE id = %s", (record.id,)
        ).fetchone()
        assert row == (
            record.uploaded_by,
            hashlib.sha256(content).digest(),
            str(stored.relative_to(settings.storage_path)),
        )


async def test_adding_gives_the_return_a_version_and_an_event(
    api: httpx2.AsyncClient, returned: dict[str, Any], clock: MovableClock, owner_connection: psycopg.Connection
) -> None:
    clock.advance(minutes=5)
    record = (await add(api, returned)).json()
    now = (await api.get(f"/api/v1/returns/{returned['id']}")).json()
    assert (now["version"], now["status"]) == (returned["version"] + 1, "REQUESTED")
    assert now["updated_at"] > returned["updated_at"]
    event = owner_connection.execute(
        "SELECT seq, type, data, created_at FROM events WHERE entity_id = %s ORDER BY seq DESC LIMIT 1",
        (returned["id"],),
    ).fetchone()
    facts = {"attachment_id": record["id"], "media_type": "image/jpeg", "size": len(JPEG)}
    assert event == (now["version"], "return.attachment_added", facts, clock.now)
    # What follows goes on from there.
    approved = await api.patch(f"/api/v1/returns/{returned['id']}/approve", json={"notes": "cracked indeed"})
    assert approved.json()["version"] == now["version"] + 1
    assert (await api.get("/api/v1/audit/verify")).json()["ok"] is True


async def test_the_same_bytes_again_change_nothing(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, owner_connection: psycopg.Connection
) -> None:
    first = await add(api, returned)
    events = counted(owner_connection, "SELECT count(*) FROM events")
    again = await add(api, returned, name="another name.jpg")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert len(kept_files(settings)) == 1
    assert counted(owner_connection, "SELECT count(*) FROM events") == events
    # On another return they are another attachment.
    other = await new_return(api, (await new_order(api, *TO_DELIVERED))["id"])
    assert (await add(api, other)).status_code == 201


async def test_a_repeated_upload_is_answered_even_when_the_return_is_closed_by_now(
    api: httpx2.AsyncClient, returned: dict[str, Any]
) -> None:
    first = await add(api, returned)
    rejection = {"notes": "worn", "rejection_reason": "OTHER"}
    await api.patch(f"/api/v1/returns/{returned['id']}/reject", json=rejection)
    assert (await add(api, returned)).json()["id"] == first.json()["id"]


async def test_a_key_replays_the_answer_whatever_the_boundary(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings
) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    first = await api.post(url_of(returned), files={"file": ("a.jpg", JPEG)}, headers=key)
    again = await api.post(url_of(returned), files={"file": ("a.jpg", JPEG)}, headers=key)
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert (first.status_code, again.status_code) == (201, 201), again.text
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content
    for name, content, fields in (("a.jpg", photo(1), {}), ("b.jpg", JPEG, {}), ("a.jpg", JPEG, {"description": "x"})):
        other = await api.post(url_of(returned), files={"file": (name, content)}, data=fields, headers=key)
        assert other.status_code == 422, other.text
        assert error_of(other)["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert len(kept_files(settings)) == 1


async def test_a_name_is_for_people_and_for_nothing_else(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings
) -> None:
    for number, (given, shown) in enumerate(
        [
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\ada\\crack.jpg", "crack.jpg"),
            ("a\u202egpj.exe", "agpj.exe"),
            ("", "attachment.jpg"),
            ("花瓶.jpg", "花瓶.jpg"),
        ]
    ):
        disposition = f'form-data; name="file"; filename="{given}"'
        response = await send(api, returned, body(part(photo(number), disposition)))
        assert response.status_code == 201, response.text
        record = response.json()
        assert record["file_name"] == shown
        assert settings.storage_path / "attachments" / returned["id"] / f"{record['id']}.jpg" in kept_files(settings)
    nameless = await send(api, returned, body(part(photo(9), 'form-data; name="file"')))
    assert nameless.json()["file_name"] == "attachment.jpg"


@pytest.mark.security
async def test_the_database_refuses_to_change_a_record_whoever_asks(
    api: httpx2.AsyncClient, returned: dict[str, Any], servers: TestServers, database_name: str
) -> None:
    assert (await add(api, returned)).status_code == 201
    attacks = ("UPDATE attachments SET sha256 = sha256('x')", "DELETE FROM attachments", "TRUNCATE attachments")
    logins = {
        servers.app_url: f"SET ROLE {databases.ROLE}",
        servers.owner_url: "SELECT 1",
        servers.superuser_url: "SET session_replication_role = replica",
    }
    # Given servers have one login for all three: the last, who may do most, is the one that counts.
    for login, prepare in logins.items():
        with psycopg.connect(databases.url_of(login, database_name), autocommit=True) as connection:
            connection.execute(prepare.encode())
            for attack in attacks:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(attack.encode())


# --- who -------------------------------------------------------------------------------------------------------------


async def test_who_may_add_and_who_may_list(
    callers: dict[Role, httpx2.AsyncClient],
    returned: dict[str, Any],
    anonymous: httpx2.AsyncClient,
    clock: MovableClock,
) -> None:
    for number, role in enumerate((CUSTOMER, WAREHOUSE, MANAGER, ADMIN)):
        clock.advance(seconds=1)
        assert (await add(callers[role], returned, photo(number))).status_code == 201, role
    refused = await add(callers[SERVICE], returned, photo(9))
    assert refused.status_code == 403
    assert error_of(refused)["details"]["needed"] == ["admin", "customer", "manager", "warehouse"]
    assert (await add(anonymous, returned)).status_code == 401
    for role in Role:
        listed = (await callers[role].get(url_of(returned))).json()["data"]
        assert [item["uploaded_by_role"] for item in listed] == [CUSTOMER, WAREHOUSE, MANAGER, ADMIN]
        # A customer is not told which of the staff.
        told = [item["uploaded_by"] is not None for item in listed]
        assert told == ([True, False, False, False] if role is CUSTOMER else [True] * 4)
    assert (await anonymous.get(url_of(returned))).status_code == 401


@pytest.mark.security
async def test_a_foreign_return_is_not_there_and_its_upload_not_read(
    api: httpx2.AsyncClient, callers: dict[Role, httpx2.AsyncClient], settings: Settings
) -> None:
    foreign = await new_return(api, (await new_order(api, *TO_DELIVERED))["id"])
    assert (await add(api, foreign)).status_code == 201
    mine = callers[CUSTOMER]

    async def unread() -> AsyncIterator[bytes]:
        yield part(JPEG)
        pytest.fail("the body was read")

    for there in (foreign, {"id": str(uuid4())}):
        for response in (await send(mine, there, unread()), await mine.get(url_of(there))):
            assert response.status_code == 404
            assert error_of(response)["code"] == "RETURN_NOT_FOUND"
    assert (await send(callers[SERVICE], foreign, unread())).status_code == 403
    assert len(kept_files(settings)) == 1


# --- until when, and how many ----------------------------------------------------------------------------------------


async def test_until_the_return_is_closed(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings
) -> None:
    here = f"/api/v1/returns/{returned['id']}"
    assert (await add(api, returned, photo(0))).status_code == 201
    await api.patch(f"{here}/approve", json={"notes": "fine"})
    for number, state in enumerate(("IN_TRANSIT", "RECEIVED"), 1):
        assert (await add(api, returned, photo(number))).status_code == 201
        await api.patch(f"{here}/state", json={"new_state": state})
    assert (await add(api, returned, photo(3))).status_code == 201
    await api.patch(f"{here}/state", json={"new_state": "COMPLETED"})
    refused = await add(api, returned, photo(4))
    assert refused.status_code == 409
    error = error_of(refused)
    assert error["code"] == "ATTACHMENT_NOT_ALLOWED"
    assert error["details"] == {"reason": "RETURN_CLOSED", "return_id": returned["id"], "status": "COMPLETED"}
    assert len(kept_files(settings)) == 4

    other = await new_return(api, (await new_order(api, *TO_DELIVERED))["id"])
    await api.patch(f"/api/v1/returns/{other['id']}/reject", json={"notes": "x", "rejection_reason": "OTHER"})
    assert error_of(await add(api, other))["details"]["status"] == "REJECTED"


async def test_of_thirty_at_once_ten_are_kept(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, owner_connection: psycopg.Connection
) -> None:
    answers = await asyncio.gather(*(add(api, returned, photo(number)) for number in range(30)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(409)) == (10, 20)
    for refused in (answer for answer in answers if answer.status_code == 409):
        assert error_of(refused)["details"] == {"reason": "TOO_MANY", "return_id": returned["id"], "maximum": 10}
    assert counted(owner_connection, "SELECT count(*) FROM attachments") == 10
    # What lost the race was taken back.
    assert len(kept_files(settings)) == 10
    assert (await api.get(f"/api/v1/returns/{returned['id']}")).json()["version"] == 11
    seqs = owner_connection.execute("SELECT seq FROM events WHERE entity_id = %s ORDER BY seq", (returned["id"],))
    assert [seq for (seq,) in seqs] == [*range(1, 12)]


async def test_of_ten_copies_at_once_one_is_kept(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings
) -> None:
    answers = await asyncio.gather(*(add(api, returned) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    [stored] = kept_files(settings)
    assert stored.stem == answers[0].json()["id"]


async def test_uploads_and_a_rejection_at_once_agree_on_what_came_first(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, owner_connection: psycopg.Connection
) -> None:
    rejection = {"notes": "worn", "rejection_reason": "OTHER"}
    *added, rejected = await asyncio.gather(
        *(add(api, returned, photo(number)) for number in range(8)),
        api.patch(f"/api/v1/returns/{returned['id']}/reject", json=rejection),
    )
    assert rejected.status_code == 200
    kept = [answer for answer in added if answer.status_code == 201]
    reasons = {error_of(answer)["details"]["reason"] for answer in added if answer.status_code != 201}
    assert reasons <= {"RETURN_CLOSED"}
    events = owner_connection.execute(
        "SELECT seq, type FROM events WHERE entity_id = %s ORDER BY seq", (returned["id"],)
    ).fetchall()
    assert [seq for seq, _ in events] == [*range(1, len(kept) + 3)]
    assert events[-1][1] == "return.rejected", "nothing was added to a closed return"
    assert len(kept_files(settings)) == len(kept)


# --- hostile bodies --------------------------------------------------------------------------------------------------

FILE = part(JPEG)


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
    """A folder of its own for whatever would be written to a temporary file."""
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
        content = (photo(size) + bytes(LIMIT))[:LIMIT]
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


# --- when something dies or fails ------------------------------------------------------------------------------------


class Interrupted(Storage):
    """A storage that lets something happen between storing the bytes and recording them."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage._store, storage._folder)
        self.meanwhile: Any = None
        self.cannot_delete = False

    async def put_new(self, key: str, data: bytes, content_type: str, disposition: str | None = None) -> None:
        """Store, then let it happen."""
        await super().put_new(key, data, content_type, disposition)
        if self.meanwhile is not None:
            await self.meanwhile()

    async def delete(self, key: str) -> None:
        """Delete, or fail to."""
        if self.cannot_delete:
            raise StorageError("away")
        await super().delete(key)


@pytest.fixture
def storage(settings: Settings) -> Interrupted:
    return Interrupted(storage_for(settings))


@pytest.fixture
def attachments(database: Database, storage: Interrupted, settings: Settings, clock: MovableClock) -> AttachmentService:
    return AttachmentService(database, storage, FileLinks.from_settings(settings, clock), settings, clock)


async def put(attachments: AttachmentService, returned: dict[str, Any], actor: Actor) -> tuple[dict[str, Any], bool]:
    """Add a file without HTTP."""
    return_id = UUID(returned["id"])
    async with attachments.prepared(return_id, Upload(JPEG, "a.jpg", None), actor) as prepared:
        return await attachments.add(return_id, prepared, actor)


@pytest.fixture
def long_ago(clock: MovableClock) -> None:
    """Set the clock back: sweeps go by the database's when that is earlier."""
    clock.advance(days=-500)


async def test_a_return_that_closes_meanwhile_takes_nothing_and_keeps_no_bytes(
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    attachments: AttachmentService,
    storage: Interrupted,
    settings: Settings,
    admin: Actor,
) -> None:
    async def reject() -> None:
        rejection = {"notes": "worn", "rejection_reason": "OTHER"}
        await api.patch(f"/api/v1/returns/{returned['id']}/reject", json=rejection)

    storage.meanwhile = reject
    with pytest.raises(AttachmentNotAllowedError) as refusal:
        await put(attachments, returned, admin)
    assert refusal.value.details["reason"] == "RETURN_CLOSED"  # type: ignore[call-overload]
    assert kept_files(settings) == []


@pytest.mark.usefixtures("long_ago")
async def test_bytes_that_cannot_be_taken_back_are_left_for_the_sweep(
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    attachments: AttachmentService,
    storage: Interrupted,
    settings: Settings,
    clock: MovableClock,
    admin: Actor,
) -> None:
    """As after a crash between the bytes and their row: the caller gets his answer, the bytes go later."""

    async def add_the_same() -> None:
        storage.meanwhile = None
        storage.cannot_delete = True
        assert (await add(api, returned)).status_code == 201

    storage.meanwhile = add_the_same
    record, is_new = await put(attachments, returned, admin)
    storage.cannot_delete = False
    assert not is_new
    assert len(kept_files(settings)) == 2
    mine = UUID(returned["id"]).bytes[-1]
    backdate(settings.storage_path, clock.now)
    clock.advance(days=1)
    assert await attachments.remove_orphans(mine) == 0, "an upload may still be under way"
    clock.advance(seconds=ORPHAN_AGE.total_seconds())
    assert await attachments.remove_orphans((mine + 1) % PARTS) == 0, "another part's turn"
    assert await attachments.remove_orphans(mine) == 1
    assert [path.stem for path in kept_files(settings)] == [str(record["id"])]
    assert await attachments.remove_orphans(mine) == 0


@pytest.mark.usefixtures("long_ago")
async def test_a_return_is_looked_through_for_a_while_after_it_was_closed(
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    attachments: AttachmentService,
    storage: Interrupted,
    settings: Settings,
    clock: MovableClock,
) -> None:
    async def leave_bytes() -> int:
        await storage.put_new(f"attachments/{returned['id']}/{uuid4()}.jpg", JPEG, "image/jpeg")
        backdate(settings.storage_path, clock.now - ORPHAN_AGE * 2)
        return UUID(returned["id"]).bytes[-1]

    clock.advance(days=100)
    assert await attachments.remove_orphans(await leave_bytes()) == 1, "open, however old"
    rejection = {"notes": "worn", "rejection_reason": "OTHER"}
    assert (await api.patch(f"/api/v1/returns/{returned['id']}/reject", json=rejection)).status_code == 200
    clock.advance(days=29)
    assert await attachments.remove_orphans(await leave_bytes()) == 1
    clock.advance(days=2)
    assert await attachments.remove_orphans(await leave_bytes()) == 0
    assert timedelta(hours=2 * PARTS) < SEARCHED_AGE - ORPHAN_AGE, "every part comes up twice"


async def test_a_commit_that_nobody_heard_of_keeps_its_bytes(
    database: Database,
    returned: dict[str, Any],
    attachments: AttachmentService,
    settings: Settings,
    owner_connection: psycopg.Connection,
    admin: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The row may be there although the caller was told of an error: never a row without bytes."""
    transaction = database.transaction

    @asynccontextmanager
    async def unheard() -> AsyncIterator[AsyncSession]:
        async with transaction() as session:
            yield session
        raise ConnectionResetError

    monkeypatch.setattr(database, "transaction", unheard)
    with pytest.raises(ConnectionResetError):
        await put(attachments, returned, admin)
    row = owner_connection.execute("SELECT storage_key FROM attachments").fetchone()
    assert row is not None
    assert (settings.storage_path / row[0]).read_bytes() == JPEG


async def test_the_sweep_spares_what_is_not_known_to_be_ours(
    database: Database, attachments: AttachmentService, storage: Interrupted, clock: MovableClock, settings: Settings
) -> None:
    """A storage that another database uses too, or that was filled by hand, loses nothing."""
    foreign = [
        f"attachments/{uuid4()}/{uuid4()}.jpg",
        "attachments/readme.txt",
        "attachments/a/b/c.jpg",
        "invoices/x.pdf",
    ]
    for key in foreign:
        await storage.put_new(key, b"x", "text/plain")
    backdate(settings.storage_path, clock.now - timedelta(days=400))
    assert sum([await attachments.remove_orphans(part) for part in range(PARTS)]) == 0
    assert sorted(str(path.relative_to(settings.storage_path)) for path in kept_files(settings)) == sorted(foreign)


async def test_a_storage_that_is_away_is_503_and_nothing_is_recorded(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, owner_connection: psycopg.Connection
) -> None:
    settings.storage_path.mkdir(parents=True)
    (settings.storage_path / "attachments").write_bytes(b"in the way")
    response = await add(api, returned)
    assert response.status_code == 503
    assert error_of(response)["code"] == "SERVICE_UNAVAILABLE"
    assert counted(owner_connection, "SELECT count(*) FROM attachments") == 0


async def test_the_service_itself_refuses_a_foreign_return(
    services: Services, returned: dict[str, Any], customer: Actor
) -> None:
    with pytest.raises(ReturnNotFoundError):
        await put(services.attachments, returned, customer)


# --- the list --------------------------------------------------------------------------------------------------------


async def test_the_list_is_paged_oldest_first(
    api: httpx2.AsyncClient, returned: dict[str, Any], clock: MovableClock
) -> None:
    made = []
    for number in range(5):
        clock.advance(seconds=1)
        made.append((await add(api, returned, photo(number))).json()["id"])
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        response = await api.get(url_of(returned), params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        page = response.json()
        found += [item["id"] for item in page["data"]]
        cursor = page["pagination"]["next_cursor"]
    assert found == made
    total = (await api.get(url_of(returned), params={"include_total": "true", "limit": 1})).json()["pagination"]
    assert total["total"] == 5
