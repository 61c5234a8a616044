"""Strict reading of multipart/form-data: one file and a few words, or a 4xx (RFC 7578, NFR-004).

Parsed while it arrives, so that a body that is no upload of ours is refused at its first wrong byte and a file
that is too large is not read to its end. A large file goes to a temporary file without a name, so none can be left.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.utils.exceptions import InvalidInputError, PayloadTooLargeError, UnsupportedMediaTypeError
from app.utils.held_file import HeldFile
from app.utils.strict_json import BODY, printable

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FRAMING_BYTES = 65_536
"""What a body may have besides its file: boundaries, headers, the other parts, and a preamble."""

TEXT_BYTES = 8192
HEADERS_MAXIMUM = 8
HEADER_BYTES = 4096

_BOUNDARY = re.compile(rb"[A-Za-z0-9'()+_,./:=? -]{1,70}")
_TRANSPARENT = {b"7bit", b"8bit", b"binary"}

# It warns of what the caller did wrong, byte by byte; the answer says it, and a caller must not fill our log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its bytes, none of the file's, and the file name its sender gave it, None where there was none."""

    content: bytes
    file_name: str | None


class _TooLargeError(Exception):
    """The file is larger than it may be."""


class _Reader:
    """Takes the parser's callbacks and keeps what may be kept.

    Args:
        sizes: part name → bytes it may have; other parts are refused.
        file: the part that is the file.
    """

    def __init__(self, sizes: Mapping[str, int], file: str) -> None:
        self._sizes = sizes
        self._file = file
        self._header = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._limit = 0
        self._content = bytearray()
        self._size = 0
        self._file_name: str | None = None
        self.held = HeldFile()
        self.parts: dict[str, Part] = {}
        self.is_complete = False

    def callbacks(self) -> "MultipartCallbacks":
        """Return what the parser is to call."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._read_header,
            "on_header_value": self._read_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._read_content,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) == len(self._sizes):
            raise InvalidInputError((BODY, f"has more than {len(self._sizes)} parts"))
        self._headers, self._content, self._size, self._file_name = {}, bytearray(), 0, None

    def _read_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _read_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        name = bytes(self._header).lower()
        if name in self._headers:
            raise InvalidInputError((BODY, "has a part with a header given twice"))
        self._headers[name] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise InvalidInputError((BODY, "has a part without a name"))
        name = _text(options[b"name"], BODY)
        if name not in self._sizes:
            raise InvalidInputError((printable(name) or BODY, "is not a part of this request"))
        if name in self.parts:
            raise InvalidInputError((name, "is given twice"))
        if self._headers.get(b"content-transfer-encoding", b"binary").strip().lower() not in _TRANSPARENT:
            raise InvalidInputError((name, "must be sent as it is, without Content-Transfer-Encoding"))
        if b"filename" in options:
            if name != self._file:
                raise InvalidInputError((name, "must be text, not a file"))
            self._file_name = _text(options[b"filename"], name)
        self._name, self._limit = name, self._sizes[name]

    def _read_content(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size > self._limit:
            if self._name == self._file:
                raise _TooLargeError
            raise InvalidInputError((self._name, f"has more than {self._limit} bytes"))
        if self._name == self._file:
            self.held.write(data[start:end])
        else:
            self._content += data[start:end]

    def _end(self) -> None:
        self.parts[self._name] = Part(bytes(self._content), self._file_name)

    def _finish(self) -> None:
        self.is_complete = True


def _text(value: bytes, field: str) -> str:
    """Return a parameter of a part's header, which browsers write in UTF-8.

    Raises:
        InvalidInputError: it is something else, or has a NUL character.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidInputError((field, "has a name that is not UTF-8")) from None
    if "\0" in text:
        raise InvalidInputError((field, "must not have a NUL character in its name"))
    return text


async def read_multipart(
    request: Request, file: str, file_limit: int, texts: tuple[str, ...] = ()
) -> tuple[HeldFile, dict[str, Part]]:
    """Return the file, to be closed by the caller, and the parts of a body by name: it, and such of `texts` as were sent.

    Args:
        file: name of the part that must be there.
        file_limit: how many bytes it may have.
        texts: names of the parts that may be there.

    Raises:
        UnsupportedMediaTypeError: the body is no multipart/form-data, or packed.
        PayloadTooLargeError: the file or the whole is too large, by header or by what arrives.
        InvalidInputError: the body ends early, or has other parts, or none that is the file.
    """
    boundary = _boundary(request)
    limit = file_limit + FRAMING_BYTES
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise _too_large(file_limit)
    reader = _Reader({file: file_limit, **dict.fromkeys(texts, TEXT_BYTES)}, file)
    try:
        await _read(request, reader, boundary, limit, file_limit)
        _require_whole(reader, file)
    except BaseException:
        reader.held.close()
        raise
    return reader.held, reader.parts


async def _read(request: Request, reader: _Reader, boundary: bytes, limit: int, file_limit: int) -> None:
    parser = MultipartParser(
        boundary, reader.callbacks(), max_header_count=HEADERS_MAXIMUM, max_header_size=HEADER_BYTES
    )
    size, more = 0, True
    try:
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise InvalidInputError((BODY, "ended too early"))
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size > limit:
                raise _too_large(file_limit)
            parser.write(chunk)
    except FormParserError:
        raise InvalidInputError((BODY, "is not valid multipart/form-data")) from None
    except _TooLargeError:
        raise _too_large(file_limit) from None


def _require_whole(reader: _Reader, file: str) -> None:
    if not reader.is_complete:
        raise InvalidInputError((BODY, "ended too early"))
    if file not in reader.parts:
        raise InvalidInputError((file, "Field required"))


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not _BOUNDARY.fullmatch(boundary) or "content-encoding" in request.headers:
        raise UnsupportedMediaTypeError(
            "The body must be multipart/form-data with a boundary, no Content-Encoding.",
            {"expected": "multipart/form-data"},
        )
    return boundary


def _too_large(file_limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The file may have at most {file_limit} bytes.", {"max_bytes": file_limit})
