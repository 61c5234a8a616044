"""Reading files back from the storage: the bytes that were stored, or an error (INT-004)."""

import hashlib
import hmac
from collections.abc import Callable

import structlog

from app.utils.exceptions import AppError
from app.utils.storage import Storage, StorageKeyMissing, StoredBytes

logger = structlog.get_logger(__name__)

Damaged = Callable[[str], AppError]
"""What is wrong (`missing` or `altered`) → the error, after it was logged."""


class DocumentAlteredError(AppError):
    """What is stored is not what was issued, or is gone; only a backup brings it back."""

    def __init__(self, number: str) -> None:
        super().__init__(f"Document {number} cannot be delivered.")


class AttachmentDamagedError(AppError):
    """What is stored is not what was attached to a return, or is gone."""

    def __init__(self, attachment_id: str) -> None:
        super().__init__(f"Attachment {attachment_id} cannot be delivered.")


async def read_document(storage: Storage, number: str, storage_key: str, sha256: bytes) -> bytes:
    """Return the bytes of an issued document.

    Args:
        storage: where it is kept.
        number: of the document, for errors.
        storage_key: its key.
        sha256: taken when it was issued.

    Raises:
        DocumentAlteredError: other bytes are there, or none.
        StorageError: they cannot be read now.
    """
    damaged = _document(number)
    try:
        content = await storage.get(storage_key)
    except StorageKeyMissing:
        raise damaged("missing") from None
    if not hmac.compare_digest(hashlib.sha256(content).digest(), sha256):
        raise damaged("altered")
    return content


async def check_document(storage: Storage, number: str, storage_key: str, sha256: bytes) -> StoredBytes:
    """Return the bytes of an issued document in pieces, once all of them are found to be what was issued.

    Args, Raises: as `read_document`.
    """
    return await _checked(storage, storage_key, sha256, _document(number))


async def check_attachment(storage: Storage, attachment_id: str, storage_key: str, sha256: bytes) -> StoredBytes:
    """Return the bytes of a photo or paper of a return in pieces, once all of them are found to be what was attached.

    A return can be decided without it, and no law asks for it: it is logged as an error, not as a lost document.

    Raises:
        AttachmentDamagedError: other bytes are there, or none.
        StorageError: they cannot be read now.
    """

    def damaged(what: str) -> AppError:
        if what == "missing":
            logger.error("attachment.not_found", attachment_id=attachment_id)
        else:
            logger.error("attachment.altered", attachment_id=attachment_id)
        return AttachmentDamagedError(attachment_id)

    return await _checked(storage, storage_key, sha256, damaged)


async def _checked(storage: Storage, storage_key: str, sha256: bytes, damaged: Damaged) -> StoredBytes:
    """Read all of it, then open it again: an altered file is never sent, and no file has to fit into memory."""
    digest = hashlib.sha256()
    try:
        async for piece in (await storage.stream(storage_key)).pieces:
            digest.update(piece)
        if not hmac.compare_digest(digest.digest(), sha256):
            raise damaged("altered")
        return await storage.stream(storage_key)
    except StorageKeyMissing:
        raise damaged("missing") from None


def _document(number: str) -> Damaged:
    def damaged(what: str) -> AppError:
        if what == "missing":
            logger.critical("issued_document.not_found", number=number)
        else:
            logger.critical("issued_document.altered", number=number)
        return DocumentAlteredError(number)

    return damaged
