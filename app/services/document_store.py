"""Reading stored files back: the bytes that were stored, or an error (INT-004)."""

import hashlib
import hmac

import structlog

from app.utils.exceptions import AppError
from app.utils.storage import Storage, StorageKeyMissing

logger = structlog.get_logger(__name__)


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
    try:
        content = await storage.get(storage_key)
    except StorageKeyMissing:
        logger.critical("issued document is missing", number=number)
        raise DocumentAlteredError(number) from None
    if not _is_same(content, sha256):
        logger.critical("issued document was altered", number=number)
        raise DocumentAlteredError(number)
    return content


async def read_attachment(storage: Storage, attachment_id: str, storage_key: str, sha256: bytes) -> bytes:
    """Return the bytes of a photo or paper of a return.

    A return can be decided without it, and no law asks for it: it is logged as an error, not as a lost document.

    Raises:
        AttachmentDamagedError: other bytes are there, or none.
        StorageError: they cannot be read now.
    """
    try:
        content = await storage.get(storage_key)
    except StorageKeyMissing:
        logger.error("attachment.missing", attachment_id=attachment_id)  # noqa: TRY400 - the key says nothing more
        raise AttachmentDamagedError(attachment_id) from None
    if not _is_same(content, sha256):
        logger.error("attachment.altered", attachment_id=attachment_id)
        raise AttachmentDamagedError(attachment_id)
    return content


def _is_same(content: bytes, sha256: bytes) -> bool:
    return hmac.compare_digest(hashlib.sha256(content).digest(), sha256)
