"""Reading issued documents back: the bytes that were issued, or an error (contract section 11)."""

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
    if not hmac.compare_digest(hashlib.sha256(content).digest(), sha256):
        logger.critical("issued document was altered", number=number)
        raise DocumentAlteredError(number)
    return content
