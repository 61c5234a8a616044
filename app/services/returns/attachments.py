"""Photos and papers of a return: added while it is open, never changed (REQ-002, INT-004).

The bytes are stored first, under a key of their own, while no connection to the database is held; then the row, the
return's new version and its event commit together, under the return's row lock. A process killed in between leaves bytes
that no row names, never a row without bytes. `remove_orphans` finds those bytes once no upload can be about to name
them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import RowMapping, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.config import Settings
from app.core.actor import Actor
from app.core.enums import EntityType, ReturnStatus, Role
from app.database import Database
from app.models.attachment import Attachment
from app.models.return_request import ReturnRequest
from app.schemas.attachment import AttachmentQuery, Upload, display_name
from app.services import events
from app.services import paging as pages
from app.services.access import permissions
from app.services.access.permissions import Action
from app.services.access.visibility import visible_returns
from app.services.documents.links import FileKind, FileLinks
from app.services.jobs.due_time import due_time
from app.services.paging import Page
from app.services.returns.views import AttachmentView
from app.utils.clock import Clock, utc_now, uuid7
from app.utils.exceptions import (
    AppError,
    AttachmentNotAllowedError,
    ReturnNotFoundError,
    UnsupportedMediaTypeError,
)
from app.utils.held_file import HeldFile
from app.utils.media_types import ACCEPTED, BY_NAME, PDF, MediaType, content_disposition, sniff
from app.utils.photos import PhotoCleaner
from app.utils.storage import Storage, StorageError

logger = structlog.get_logger(__name__)

FOLDER = "attachments"
CLOSED = {ReturnStatus.REJECTED, ReturnStatus.COMPLETED}
ORPHAN_AGE = timedelta(days=7)
"""How old bytes without a row must be to be removed. An upload ends in seconds; this also leaves time after a
database was set back to an earlier day, when rows are missing that somebody may want to bring back."""

_ATTACHMENTS = Attachment.__table__.c
_RETURNS = ReturnRequest.__table__.c

SEARCHED_AGE = timedelta(days=30)
"""How long after its end a return is still looked through: time for every part of `PARTS` to come up twice."""

PARTS = 256
"""The sweep looks at the returns in as many parts, by the last byte of their ids, which is random: one part a tick."""

# Found by way of the returns that this database knows: in a storage that two databases share, by mistake or after a
# restore, what one of them does not know may be the other's.
_SEARCHED = text("""
    SELECT id FROM return_requests
    WHERE get_byte(uuid_send(id), 15) = :part AND created_at < :created_before
        AND (status NOT IN ('REJECTED', 'COMPLETED') OR updated_at > :closed_after)
""")


@dataclass(slots=True)
class PreparedUpload:
    """An upload that was looked at: what it is, the names it gets, and what became of it so far.

    Attributes:
        file: what is to be stored: a photo without its metadata, anything else as it was sent.
        kind: of `file`.
        found: the record of the same bytes, if the return has them already; these were not stored then.
        refusal: why it cannot be added, if it cannot; it was not stored then.
        may_be_named: whether a row may name the stored bytes.
    """

    upload: Upload
    file: HeldFile
    id: UUID
    kind: MediaType
    storage_key: str
    found: RowMapping | None = None
    refusal: AppError | None = None
    may_be_named: bool = False


class AttachmentService:
    """Adding attachments, listing them, and removing what failed uploads left behind."""

    def __init__(
        self, database: Database, storage: Storage, links: FileLinks, settings: Settings, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._storage = storage
        self._links = links
        self._maximum = settings.attachments_per_return
        self._clock = clock
        self._photos = PhotoCleaner()

    async def require_addable(self, return_id: UUID, actor: Actor) -> None:
        """Refuse, before a body is read, a caller who may not add to this return.

        Raises:
            ForbiddenError: the role may not.
            ReturnNotFoundError: there is no such return that this actor may see.
        """
        permissions.require(actor, Action.ADD_ATTACHMENT)
        async with self._database.autocommit() as connection:
            await _return(connection, return_id, actor)

    @asynccontextmanager
    async def prepared(self, return_id: UUID, upload: Upload, actor: Actor) -> AsyncIterator[PreparedUpload]:
        """Store the bytes of an upload, unless `add` would refuse or not need them; in the end keep what it recorded.

        Belongs around the unit of work that `add` is done in, not into it: the storage may hang.

        Raises:
            ForbiddenError: the role may not.
            UnsupportedMediaTypeError: the bytes are of no kind that is accepted, or of a photo that cannot be decoded.
            InvalidInputError: a photo of too many pixels.
            ServiceUnavailableError: too many photos are being read at once.
            StorageError: the bytes cannot be stored now.
        """
        permissions.require(actor, Action.ADD_ATTACHMENT)
        kind = _kind_of(upload)
        if kind is PDF:
            file = upload.file
        else:
            file, kind = await self._photos.clean(upload.file, kind, "file")
        try:
            attachment_id = uuid7(self._clock())
            key = f"{FOLDER}/{return_id}/{attachment_id}.{kind.extension}"
            async with self._kept(PreparedUpload(upload, file, attachment_id, kind, key), return_id, actor) as prepared:
                yield prepared
        finally:
            file.close()

    @asynccontextmanager
    async def _kept(self, prepared: PreparedUpload, return_id: UUID, actor: Actor) -> AsyncIterator[PreparedUpload]:
        # Nothing is stored that would be refused in the end, unless somebody comes in between.
        try:
            async with self._database.autocommit() as connection:
                prepared.found = await self._find_or_allow(connection, return_id, prepared, actor)
        except (ReturnNotFoundError, AttachmentNotAllowedError) as refusal:
            # For `add` to raise, so that it belongs to the request's key.
            prepared.refusal = refusal
        if prepared.found is not None or prepared.refusal is not None:
            yield prepared
            return
        # A bucket answers without our headers: from there nothing of a stranger's is shown in a browser.
        disposition = content_disposition(
            display_name(prepared.upload.file_name, prepared.kind.extension), is_shown=False
        )
        await self._storage.put_file(prepared.storage_key, prepared.file.start(), prepared.kind.name, disposition)
        try:
            yield prepared
        finally:
            if not prepared.may_be_named:
                await self._discard(prepared.storage_key)

    async def add(self, return_id: UUID, prepared: PreparedUpload, actor: Actor) -> tuple[AttachmentView, bool]:
        """Add a file to a return; return its record, and whether it is new: the same bytes again change nothing.

        Args:
            prepared: for this return and actor.

        Raises:
            ReturnNotFoundError: there is no such return that this actor may see.
            AttachmentNotAllowedError: the return is closed, or has its fill.
        """
        if prepared.refusal is not None:
            raise prepared.refusal
        if prepared.found is not None:
            return self._view(prepared.found, actor), False
        async with self._database.transaction() as session:
            row = await self._find_or_allow(session, return_id, prepared, actor, lock=True)
            is_new = row is None
            if row is None:
                # From here on its commit may be one whose outcome is unknown.
                prepared.may_be_named = True
                row = await self._insert(session, return_id, prepared, actor)
        return self._view(row, actor), is_new

    async def list(self, return_id: UUID, query: AttachmentQuery, actor: Actor) -> Page[AttachmentView]:
        """Return a page of a return's attachments, oldest first, each with a link.

        Raises:
            ReturnNotFoundError: there is no such return that this actor may see.
            InvalidInputError: a cursor that is not one.
        """
        permissions.require(actor, Action.READ_RETURN)
        async with self._database.autocommit() as connection:
            await _return(connection, return_id, actor)
            return await pages.fetch_page(
                connection,
                select(*_ATTACHMENTS).where(_ATTACHMENTS.return_id == return_id),
                (_ATTACHMENTS.created_at, _ATTACHMENTS.id),
                query,
                lambda row: self._view(row._mapping, actor),
                newest_first=False,
            )

    async def remove_orphans(self, part: int) -> int:
        """Remove bytes that an upload stored and did not live to record; return how many there were.

        Args:
            part: of the returns, counted round: those whose number is this one's remainder by `PARTS`.

        Raises:
            StorageError: the storage cannot be asked now.
        """
        async with self._database.autocommit() as connection:
            now = await due_time(connection, self._clock())
            before = now - ORPHAN_AGE
            parameters = {"part": part % PARTS, "created_before": before, "closed_after": now - SEARCHED_AGE}
            return_ids = (await connection.execute(_SEARCHED, parameters)).scalars().all()
        removed = 0
        for return_id in return_ids:
            found = await self._storage.list_old(f"{FOLDER}/{return_id}", before)
            for key in sorted(set(found) - await self._keys(return_id)) if found else ():
                logger.warning("orphaned_attachment.removed", key=key)
                await self._storage.delete(key)
                removed += 1
        return removed

    async def _keys(self, return_id: UUID) -> set[str]:
        async with self._database.autocommit() as connection:
            keys = await connection.execute(select(_ATTACHMENTS.storage_key).where(_ATTACHMENTS.return_id == return_id))
            return set(keys.scalars())

    async def _find_or_allow(
        self,
        executor: AsyncConnection | AsyncSession,
        return_id: UUID,
        new: PreparedUpload,
        actor: Actor,
        *,
        lock: bool = False,
    ) -> RowMapping | None:
        """Return the attachment of this return that has the same bytes, or None where a new one may be added.

        Raises:
            ReturnNotFoundError, AttachmentNotAllowedError: as `add`.
        """
        status = await _return(executor, return_id, actor, lock=lock)
        of_return = _ATTACHMENTS.return_id == return_id
        # As it is stored, and as it was sent: an earlier release stored photos as they were sent.
        hashes = {new.file.sha256, new.upload.file.sha256}
        same = await executor.execute(select(*_ATTACHMENTS).where(of_return, _ATTACHMENTS.sha256.in_(hashes)).limit(1))
        if (row := same.one_or_none()) is not None:
            return row._mapping
        if status in CLOSED:
            raise AttachmentNotAllowedError(
                "RETURN_CLOSED",
                f"Return {return_id} is {status}; nothing can be added to it.",
                return_id=str(return_id),
                status=status,
            )
        counted = await executor.execute(select(func.count()).select_from(Attachment).where(of_return))
        if counted.scalar_one() >= self._maximum:
            raise AttachmentNotAllowedError(
                "TOO_MANY",
                f"Return {return_id} has {self._maximum} attachments; it takes no more.",
                return_id=str(return_id),
                maximum=self._maximum,
            )
        return None

    async def _insert(self, session: AsyncSession, return_id: UUID, new: PreparedUpload, actor: Actor) -> RowMapping:
        now, upload = self._clock(), new.upload
        inserted = await session.execute(
            insert(Attachment.__table__)  # type: ignore[arg-type]
            .values(
                id=new.id,
                return_id=return_id,
                file_name=display_name(upload.file_name, new.kind.extension),
                media_type=new.kind.name,
                size_bytes=new.file.size,
                sha256=new.file.sha256,
                description=upload.description,
                storage_key=new.storage_key,
                uploaded_by=actor.id,
                uploaded_by_role=actor.role,
                created_at=now,
            )
            .returning(*_ATTACHMENTS)
        )
        changed = await session.execute(
            update(ReturnRequest)
            .where(ReturnRequest.id == return_id)
            .values(version=ReturnRequest.version + 1, updated_at=func.greatest(ReturnRequest.updated_at, now))
            .returning(ReturnRequest.version)
        )
        facts = {"attachment_id": str(new.id), "media_type": new.kind.name, "size": new.file.size}
        version = changed.scalar_one()
        await events.append(session, EntityType.RETURN, return_id, version, "return.attachment_added", now, facts)
        return inserted.one()._mapping

    async def _discard(self, key: str) -> None:
        try:
            await self._storage.delete(key)
        except StorageError as fault:
            logger.warning("attachment.not_removed", key=key, reason=fault.reason)

    def _view(self, row: RowMapping, actor: Actor) -> AttachmentView:
        # For customers, the identity of staff is omitted.
        is_told = actor.sees_only is None or row["uploaded_by_role"] == Role.CUSTOMER
        return {
            "id": row["id"],
            "return_id": row["return_id"],
            # Rows of earlier releases have names with any extension.
            "file_name": display_name(row["file_name"], BY_NAME[row["media_type"]].extension),
            "media_type": row["media_type"],
            "size": row["size_bytes"],
            "sha256": bytes(row["sha256"]).hex(),
            "description": row["description"],
            "uploaded_by": row["uploaded_by"] if is_told else None,
            "uploaded_by_role": row["uploaded_by_role"],
            "created_at": row["created_at"],
            **self._links.to(FileKind.ATTACHMENTS, row["id"]),
        }


def _kind_of(upload: Upload) -> MediaType:
    """Return what the bytes of an upload are.

    Raises:
        UnsupportedMediaTypeError: of no kind that is accepted.
    """
    with upload.file.view() as data:
        kind = sniff(data)
    if kind is None:
        names = [accepted.name for accepted in ACCEPTED]
        raise UnsupportedMediaTypeError(
            "The file is none of the accepted kinds; its bytes decide, not its name or type.", {"accepted": names}
        )
    return kind


async def _return(
    executor: AsyncConnection | AsyncSession, return_id: UUID, actor: Actor, *, lock: bool = False
) -> str:
    """Return the state of a return that this actor may see.

    Raises:
        ReturnNotFoundError: there is none.
    """
    statement = select(_RETURNS.status).where(_RETURNS.id == return_id, visible_returns(actor))
    status: str | None = await executor.scalar(statement.with_for_update(key_share=True) if lock else statement)
    if status is None:
        raise ReturnNotFoundError(return_id)
    return status
