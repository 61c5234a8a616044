"""Giving out the file that a link leads to (INT-004): who may have it was decided when the link was made."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select

from app.core.enums import DocumentState
from app.database import Database
from app.models.attachment import Attachment
from app.models.invoice import Invoice
from app.schemas.attachment import display_name
from app.services.documents.links import FileKind, FileLinks
from app.services.documents.store import check_attachment, check_document
from app.utils.exceptions import NotFoundError
from app.utils.media_types import BY_NAME, PDF
from app.utils.storage import Storage, StoredBytes

STORAGE_LINK_LIFETIME = timedelta(seconds=60)
"""How long an address that the storage signed works: it is followed at once."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that was found.

    Attributes:
        number: what errors and logs call it.
        is_foreign: somebody gave it to us; what is in it is nothing of ours.
        is_shown: whether a browser may show it by itself.
    """

    number: str
    name: str
    media_type: str
    storage_key: str
    sha256: bytes
    is_foreign: bool
    is_shown: bool


class FileService:
    """Follows links.

    Args:
        redirects: whether to send callers on to the storage where it can sign.
    """

    def __init__(self, database: Database, storage: Storage, links: FileLinks, *, redirects: bool) -> None:
        self._database = database
        self._storage = storage
        self._links = links
        self._redirects = redirects

    async def find(self, kind: FileKind, file_id: UUID, expires: str, signature: str) -> StoredFile:
        """Return the file that a link leads to.

        Raises:
            NotFoundError: no link of ours.
            LinkExpiredError: one that worked.
        """
        self._links.check(kind, file_id, expires, signature)
        return await (self._attachment(file_id) if kind is FileKind.ATTACHMENTS else self._document(file_id))

    async def open(self, found: StoredFile) -> str | StoredBytes:
        """Return an address to fetch a file from, or its bytes in pieces, once they are found to be as they were stored.

        Raises:
            DocumentAlteredError, AttachmentDamagedError: what is stored is not what was stored once.
            StorageError: it cannot be read now.
        """
        check = check_attachment if found.is_foreign else check_document
        stored = await check(self._storage, found.number, found.storage_key, found.sha256)
        if self._redirects and (url := await self._storage.signed_url(found.storage_key, STORAGE_LINK_LIFETIME)):
            return url
        return stored

    async def _attachment(self, file_id: UUID) -> StoredFile:
        table = Attachment.__table__.c
        async with self._database.autocommit() as connection:
            row = (await connection.execute(select(*table).where(table.id == file_id))).one_or_none()
        if row is None:
            raise NotFoundError("There is nothing at this address.")
        kind = BY_NAME[row.media_type]
        return StoredFile(
            number=str(row.id),
            name=display_name(row.file_name, kind.extension),
            media_type=row.media_type,
            storage_key=row.storage_key,
            sha256=bytes(row.sha256),
            is_foreign=True,
            is_shown=kind.is_shown,
        )

    async def _document(self, file_id: UUID) -> StoredFile:
        table = Invoice.__table__.c
        statement = select(table.number, table.storage_key, table.sha256).where(
            table.id == file_id, table.state == DocumentState.ISSUED
        )
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise NotFoundError("There is nothing at this address.")
        return StoredFile(
            number=row.number,
            name=f"{row.number}.pdf",
            media_type=PDF.name,
            storage_key=row.storage_key,
            sha256=bytes(row.sha256),
            is_foreign=False,
            is_shown=True,
        )
