"""Photos and papers of a return over HTTP: who may add them, until when, what is kept of it (REQ-002, INT-004)."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest

from app.config import Settings
from app.core.enums import Role
from app.schemas.attachment import AttachmentResponse
from app.utils.media_types import content_disposition
from app.utils.storage import Storage
from tests import databases
from tests.conftest import MovableClock
from tests.databases import TestServers
from tests.files_support import JPEG, KINDS, as_stored, body, part, photo
from tests.integration.attachments_support import add, counted, kept_files, limited, return_of, send, url_of
from tests.integration.conftest import TO_DELIVERED, error_of, new_order, new_return

pytestmark = pytest.mark.req("REQ-002.8", "INT-004.3")

CUSTOMER, WAREHOUSE, MANAGER, ADMIN, SERVICE = Role


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return limited(settings)


@pytest.fixture
async def returned(api: httpx2.AsyncClient, customer_id: UUID) -> dict[str, Any]:
    """A return of the customer's, REQUESTED."""
    return await return_of(api, customer_id)


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_a_file_is_kept_with_who_when_and_what(
    api: httpx2.AsyncClient,
    callers: dict[Role, httpx2.AsyncClient],
    returned: dict[str, Any],
    settings: Settings,
    clock: MovableClock,
    owner_connection: psycopg.Connection,
) -> None:
    for content in KINDS.values():
        clock.advance(minutes=5)
        response = await callers[CUSTOMER].post(
            url_of(returned),
            # Neither the name nor the type says what it is.
            files={"file": ("Glaçure fêlée.html", content, "text/html")},
            data={"description": "The crack,\nfrom the left"},
        )
        assert response.status_code == 201, response.text
        kept, kind = as_stored(content)
        extension = kind.extension
        record = AttachmentResponse.model_validate(response.json())
        assert (record.media_type, record.size) == (kind.name, len(kept))
        assert record.sha256 == hashlib.sha256(kept).hexdigest()
        assert (record.file_name, record.description) == (f"Glaçure fêlée.{extension}", "The crack,\nfrom the left")
        assert (str(record.return_id), record.created_at) == (returned["id"], clock.now)
        assert (record.uploaded_by_role, record.id.version) == (CUSTOMER, 7)

        stored = settings.storage_path / "attachments" / returned["id"] / f"{record.id}.{extension}"
        assert stored.read_bytes() == kept

        fetched = await api.get(record.link)
        assert (fetched.status_code, fetched.content) == (200, kept)
        assert fetched.headers["content-type"] == kind.name

        row = owner_connection.execute(
            "SELECT uploaded_by, sha256, storage_key FROM attachments WHERE id = %s", (record.id,)
        ).fetchone()
        assert row == (
            record.uploaded_by,
            hashlib.sha256(kept).digest(),
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
    facts = {"attachment_id": record["id"], "media_type": "image/jpeg", "size": len(as_stored(JPEG)[0])}
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


async def test_a_repeated_upload_is_answered_even_when_the_return_is_closed(
    api: httpx2.AsyncClient, returned: dict[str, Any]
) -> None:
    first = await add(api, returned)
    rejection = {"notes": "worn", "rejection_reason": "OTHER"}
    await api.patch(f"/api/v1/returns/{returned['id']}/reject", json=rejection)
    assert (await add(api, returned)).json()["id"] == first.json()["id"]


async def test_a_key_replays_the_answer_with_any_boundary(
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
    api: httpx2.AsyncClient,
    returned: dict[str, Any],
    settings: Settings,
    owner_connection: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database and a bucket, which answers without our headers, have the safe name too."""
    dispositions: list[str] = []
    put_file = Storage.put_file

    async def noted(self: Storage, key: str, file: Any, media_type: str, disposition: str) -> None:
        dispositions.append(disposition)
        await put_file(self, key, file, media_type, disposition)

    monkeypatch.setattr(Storage, "put_file", noted)
    for number, (given, shown) in enumerate(
        [
            ("../../etc/passwd", "passwd.jpg"),
            ("C:\\Users\\ada\\crack.jpg", "crack.jpg"),
            ("a\u202egpj.exe", "agpj.jpg"),
            ("", "attachment.jpg"),
            ("photos.hta", "photos.jpg"),
            ("crack.jpg.exe", "crack.jpg"),
            ("花瓶.jpg", "花瓶.jpg"),
        ]
    ):
        disposition = f'form-data; name="file"; filename="{given}"'
        response = await send(api, returned, body(part(photo(number), disposition)))
        assert response.status_code == 201, response.text
        record = response.json()
        assert record["file_name"] == shown
        stored = owner_connection.execute("SELECT file_name FROM attachments WHERE id = %s", (record["id"],))
        assert stored.fetchone() == (shown,)
        assert dispositions[-1] == content_disposition(shown, is_shown=False)
        assert settings.storage_path / "attachments" / returned["id"] / f"{record['id']}.jpg" in kept_files(settings)
    nameless = await send(api, returned, body(part(photo(9), 'form-data; name="file"')))
    assert nameless.json()["file_name"] == "attachment.jpg"


@pytest.mark.security
async def test_the_database_refuses_every_login_to_change_a_record(
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
        # For customers, the identity of staff is omitted.
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


async def test_of_many_at_once_ten_are_kept(
    api: httpx2.AsyncClient, returned: dict[str, Any], settings: Settings, owner_connection: psycopg.Connection
) -> None:
    answers = await asyncio.gather(*(add(api, returned, photo(number)) for number in range(24)))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(409)) == (10, 14)
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
