"""Attachments on the wire: what comes with a file, and its record."""

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from app.core.enums import Role
from app.schemas.common import TEXT_BLOCK_PATTERN, Answer, PageQuery, Pagination, Request, Timestamp, text_block

NAME_MAXIMUM = 200
# Format characters turn text around or hide; these two join letters and emoji, and names need them.
_JOINERS = {"\u200c", "\u200d"}
_NOT_IN_NAMES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it came: its bytes, the name its sender gave it, and what was said of it."""

    content: bytes
    file_name: str
    description: str | None


class AttachmentFields(Request):
    """The text parts of an upload."""

    description: text_block(500) | None = None  # type: ignore[valid-type]


class AttachmentQuery(PageQuery):
    """A page of `GET /returns/{id}/attachments`."""


class AttachmentResponse(Answer):
    """The record of an attachment; `link` gives its bytes to whoever has it, until `link_expires_at`."""

    id: UUID
    return_id: UUID
    file_name: str
    media_type: str
    size: int
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    description: str | None
    uploaded_by: UUID | None
    uploaded_by_role: Role
    created_at: Timestamp
    link: str
    link_expires_at: Timestamp


class AttachmentList(Answer):
    """A page of attachments, oldest first."""

    data: list[AttachmentResponse]
    pagination: Pagination


def display_name(given: str, extension: str) -> str:
    """Return a file's name, fit to be shown: without folders and what steers a screen, at most 200 characters.

    Args:
        given: as the sender named it; it may be empty.
        extension: of the kind of file it turned out to be, for a name of which nothing is left.
    """
    last = given.replace("\\", "/").rpartition("/")[2]
    kept = "".join(
        character for character in last if character in _JOINERS or unicodedata.category(character) not in _NOT_IN_NAMES
    )
    kept = " ".join(kept.split()).strip(". ")
    if not kept:
        return f"attachment.{extension}"
    stem, dot, ending = kept.rpartition(".")
    if len(kept) > NAME_MAXIMUM and dot and len(ending) <= 10:
        return f"{stem[: NAME_MAXIMUM - len(ending) - 1]}.{ending}"
    return kept[:NAME_MAXIMUM]


UPLOAD_BODY: dict[str, Any] = {
    "type": "object",
    "description": "One file, perhaps with a description; no other parts.",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "contentMediaType": "application/octet-stream",
            "description": "A photo (JPEG, PNG, WebP, HEIC) or a PDF; its bytes decide, not its name or type.",
        },
        "description": {
            "type": "string",
            "minLength": 1,
            "maxLength": 500,
            "pattern": TEXT_BLOCK_PATTERN,
            "examples": ["The crack, from the left"],
        },
    },
}
"""The schema of an upload, for the document alone: FastAPI would read it to its end before anything is checked."""
