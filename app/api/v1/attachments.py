"""Photos and papers of a return (REQ-002)."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, cast
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.api.deps import Context
from app.api.http.incoming import UPLOADS
from app.api.http.multipart import Part, read_multipart
from app.api.http.responses import answer, refuses
from app.api.http.routing import ApiRoute
from app.composition import Services
from app.request_state import state_of
from app.schemas.attachment import (
    UPLOAD_BODY,
    AttachmentFields,
    AttachmentList,
    AttachmentQuery,
    AttachmentResponse,
    Upload,
)
from app.utils.exceptions import InvalidInputError

if TYPE_CHECKING:
    from app.services.returns.attachments import PreparedUpload

FILE, DESCRIPTION = "file", "description"


class UploadRequest(Request):
    """A request with the file that it sends.

    Attributes:
        upload: as it was sent.
        prepared: the same, looked at and stored; set while the route works.
    """

    prepared: "PreparedUpload"

    def __init__(self, request: Request, upload: Upload) -> None:
        super().__init__(request.scope, request.receive)
        self.upload = upload


class UploadRoute(ApiRoute):
    """A route whose body is a file and what is said of it."""

    replays_early: ClassVar[bool] = True

    @property
    def takes_body(self) -> bool:
        """Whether something is uploaded."""
        return "POST" in (self.methods or ())

    async def read(self, request: Request) -> UploadRequest:
        """Return the request with its upload read, once it is sure that the caller may add to this return.

        Raises:
            ForbiddenError, ReturnNotFoundError: as `AttachmentService.require_addable`; nothing was read.
            ServiceUnavailableError: too many files are being uploaded at once, or by this caller.
            UnsupportedMediaTypeError, PayloadTooLargeError, InvalidInputError: as `read_multipart`.
            RequestValidationError: a description that is none.
        """
        state = state_of(request.scope)
        services: Services = request.app.state.services
        await services.attachments.require_addable(_return_id(request), state.caller)
        state.hold(UPLOADS, 1)
        file, parts = await read_multipart(request, FILE, services.settings.attachment_max_bytes, (DESCRIPTION,))
        try:
            return UploadRequest(request, Upload(file, parts[FILE].file_name or "", _description(parts)))
        except BaseException:
            file.close()
            raise

    async def essence(self, request: Request) -> bytes:
        """Return the content of an upload: a digest of its bytes, name and description; the multipart boundary has no effect."""
        upload = cast("UploadRequest", request).upload
        return orjson.dumps([upload.file.sha256.hex(), upload.file_name, upload.description])

    @asynccontextmanager
    async def around(self, request: Request) -> AsyncIterator[None]:
        """Store the bytes before the work begins; afterwards take back those that it has not recorded.

        Raises:
            AppError: as `AttachmentService.prepared`.
        """
        sent = cast("UploadRequest", request)
        services: Services = request.app.state.services
        caller = state_of(request.scope).caller
        async with services.attachments.prepared(_return_id(request), sent.upload, caller) as sent.prepared:
            yield

    def release(self, request: Request) -> None:
        """Close the upload's temporary file."""
        cast("UploadRequest", request).upload.file.close()


router = APIRouter(prefix="/api/v1/returns", tags=["Returns"], route_class=UploadRoute)


@router.post(
    "/{return_id}/attachments",
    response_model=AttachmentResponse,
    status_code=201,
    responses={
        200: {"model": AttachmentResponse, "description": "The return has these bytes already; nothing was changed"},
        **refuses("FORBIDDEN", "RETURN_NOT_FOUND", "ATTACHMENT_NOT_ALLOWED", "RECORD_TAMPERED"),
    },
    summary="Attach a photo or a paper to a return",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD_BODY}}}},
)
async def add(return_id: UUID, request: UploadRequest, context: Context) -> Response:
    """Add a JPEG, PNG, WebP, HEIC or PDF, recognised by its bytes alone, until the return is REJECTED or COMPLETED.

    The same bytes again are answered 200 with the record that is there, so an upload may always be repeated. A new
    one gives the return a new version.
    """
    record, is_new = await context.services.attachments.add(return_id, request.prepared, context.actor)
    return answer(record, 201 if is_new else 200)


def _return_id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["return_id"])
    except ValueError:
        raise InvalidInputError(("return_id", "must be a UUID")) from None


def _description(parts: Mapping[str, Part]) -> str | None:
    try:
        texts = {name: part.content.decode() for name, part in parts.items() if name != FILE}
    except UnicodeDecodeError:
        raise InvalidInputError((DESCRIPTION, "is not UTF-8")) from None
    try:
        fields = AttachmentFields.model_validate(texts)
    except ValidationError as fault:
        raise RequestValidationError([{**error, "loc": ("body", *error["loc"])} for error in fault.errors()]) from None
    return fields.description


@router.get(
    "/{return_id}/attachments",
    response_model=AttachmentList,
    responses=refuses("RETURN_NOT_FOUND"),
    summary="List a return's attachments",
)
async def list_attachments(return_id: UUID, query: Annotated[AttachmentQuery, Query()], context: Context) -> Response:
    """Oldest first, each with a link that works for a while. Customers see those of their own returns."""
    return answer(await context.services.attachments.list(return_id, query, context.actor))
