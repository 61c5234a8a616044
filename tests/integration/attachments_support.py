"""Photos and papers of a return over HTTP, in short words: sent, added, and looked for in the storage."""

from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psycopg

from app.config import Settings
from tests.files_support import JPEG, MULTIPART
from tests.integration.conftest import TO_DELIVERED, new_order, new_return

LIMIT = 4096


def limited(settings: Settings) -> Settings:
    """Return the settings with limits that tests reach: LIMIT bytes a file, ten files a return."""
    return settings.model_copy(update={"attachment_max_bytes": LIMIT, "attachments_per_return": 10})


async def return_of(api: httpx2.AsyncClient, customer_id: UUID) -> dict[str, Any]:
    """Return a return of the customer's, REQUESTED."""
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
