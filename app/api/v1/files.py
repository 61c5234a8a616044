"""What signed links lead to (INT-004)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.api.deps import ProcessServices
from app.api.http.file_transfer import FileTransfer
from app.api.http.responses import refuses
from app.api.http.routing import OpenRoute
from app.services.documents.links import PREFIX, FileKind
from app.utils.media_types import ACCEPTED, content_disposition

router = APIRouter(prefix=PREFIX, tags=["Files"], route_class=OpenRoute)

# What a stranger gave us is looked at, if at all, where it can load, run and reach nothing.
_CONFINED = "default-src 'none'; frame-ancestors 'none'; sandbox"
_BYTES = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/{kind}/{file_id}",
    response_class=Response,
    responses={
        200: {"description": "The file, as it was stored", "content": {kind.name: _BYTES for kind in ACCEPTED}},
        307: {"description": "The storage gives the file out itself, at the address in `Location`, for a minute"},
        **refuses("NOT_FOUND", "LINK_EXPIRED", "SERVICE_UNAVAILABLE"),
    },
    summary="Fetch the file that a link leads to",
)
async def fetch(
    kind: FileKind,
    file_id: UUID,
    services: ProcessServices,
    expires: Annotated[
        str, Query(description="As in the link: seconds since 1970.", json_schema_extra={"pattern": "^[0-9]*$"})
    ] = "",
    signature: Annotated[
        str, Query(description="As in the link.", json_schema_extra={"pattern": "^[A-Za-z0-9_-]*$"})
    ] = "",
) -> Response:
    """Give a file to a caller with a link to it; other credentials are neither needed nor read.

    Links are in the records of invoices and attachments. One that was altered is answered 404, one that has expired 403.
    """
    found = await services.files.find(kind, file_id, expires, signature)
    headers = {"Content-Disposition": content_disposition(found.name, is_shown=found.is_shown)}
    if found.is_foreign:
        headers["Content-Security-Policy"] = _CONFINED
    return FileTransfer(lambda: services.files.open(found), headers, found.media_type)
