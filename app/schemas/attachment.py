"""Attachments on the wire: what comes with a file, and its record."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from app.core.enums import Role
from app.schemas.common import TEXT_BLOCK_PATTERN, Answer, PageQuery, Pagination, Request, Timestamp, text_block
from app.utils.held_file import HeldFile

NAME_MAXIMUM = 200
# Format characters turn text around or hide; these two join letters and emoji, and names need them.
_JOINERS = {"\u200c", "\u200d"}
_NOT_IN_NAMES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# A longer ending is more likely a word of the name; its dot is replaced.
_EXTENSION = re.compile("(?=[0-9]*[A-Za-z])[A-Za-z0-9]{1,4}")
_DOT_BEFORE_LETTER = re.compile(r"\.(?=[.0-9_-]*[A-Za-z])")
_SAME = {"jpg": {"jpg", "jpeg"}}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it came, the name its sender gave it, and what was said of it."""

    file: HeldFile
    file_name: str
    description: str | None


class AttachmentFields(Request):
    """The text parts of an upload."""

    description: text_block(500) | None = None  # type: ignore[valid-type]


class AttachmentQuery(PageQuery):
    """A page of `GET /returns/{id}/attachments`."""


class AttachmentResponse(Answer):
    """The record of an attachment; `link` gives its bytes to every holder, until `link_expires_at`."""

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
    """Return a file's name, safe to show and to save: at most 200 characters, ending as its kind does.

    Folders and characters that steer a screen are removed. The extension is that of the kind, so that no system runs
    what it saves: `photos.hta` becomes `photos.jpg`, `invoice.pdf.exe` becomes `invoice.pdf`. No other dot is left in
    front of a letter, as some servers and people read any of several extensions: `a.php.jpg` becomes `a_php.jpg`.

    Args:
        given: as the sender named it; it may be empty.
        extension: of the kind of file it turned out to be.
    """
    # Cut first: what follows looks at every dot.
    last = given.replace("\\", "/").rpartition("/")[2][: 2 * NAME_MAXIMUM]
    kept = "".join(
        character for character in last if character in _JOINERS or unicodedata.category(character) not in _NOT_IN_NAMES
    )
    stem, ending = " ".join(kept.split()).strip(". "), extension
    while (head := stem.rpartition(".")[0]) and _EXTENSION.fullmatch(stem, len(head) + 1):
        found, stem = stem[len(head) + 1 :], head.rstrip(". ")
        if found.lower() in _SAME.get(extension, {extension}):
            ending = found
            break
    stem = _DOT_BEFORE_LETTER.sub("_", stem)[: NAME_MAXIMUM - len(ending) - 1].rstrip(". ")
    return f"{stem or 'attachment'}.{ending}"


UPLOAD_BODY: dict[str, Any] = {
    "type": "object",
    "description": "One file, optionally with a description; no other parts.",
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
