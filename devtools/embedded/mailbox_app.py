"""The mailbox page of the mail catcher, and the same as JSON for tests and the demo (INT-002).

    GET    /                                list, newest first; ?q= searches recipients and subjects
    GET    /messages/{id}                   one mail
    GET    /messages/{id}/html              its HTML part, sandboxed
    GET    /messages/{id}/attachments/{n}   an attached file, counted from 0
    GET    /api/messages?to=&subject=       {"messages": [...], "total": n}, newest first, ?limit= of them
    DELETE /api/messages                    empties the mailbox

A caught mail is foreign text: everything is escaped, its HTML runs nothing and loads nothing.
"""

from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from devtools.embedded.mail_store import Mail, MailStore

PAGES = Path(__file__).parent / "mailbox_pages"
LIST_LENGTH = 200
SAFE_TYPES = {"application/pdf", "image/png", "image/jpeg", "text/plain"}
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
MAIL_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def create_app(store: MailStore) -> Starlette:
    """The pages over a mailbox."""
    mailbox = _Mailbox(store)
    return Starlette(
        routes=[
            Route("/", mailbox.list_page),
            Route("/style.css", mailbox.style),
            Route("/messages/{id}", mailbox.message_page),
            Route("/messages/{id}/html", mailbox.html_part),
            Route("/messages/{id}/attachments/{number:int}", mailbox.attachment),
            Route("/api/messages", mailbox.api_list, methods=["GET"]),
            Route("/api/messages", mailbox.api_clear, methods=["DELETE"]),
        ],
        # A page elsewhere must not reach the mailbox by pointing a name of its own at 127.0.0.1.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
    )


class _Mailbox:
    def __init__(self, store: MailStore) -> None:
        self._store = store
        self._templates = Environment(
            loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters["size"] = _size

    async def list_page(self, request: Request) -> Response:
        asked = request.query_params.get("q", "").strip()
        found = list(self._store.find(anything=asked))
        return self._page("list.html", mails=found[:LIST_LENGTH], total=len(found), shown=LIST_LENGTH, asked=asked)

    async def style(self, _request: Request) -> Response:
        return Response((PAGES / "style.css").read_bytes(), media_type="text/css", headers=HEADERS)

    async def message_page(self, request: Request) -> Response:
        return self._page("message.html", mail=self._mail(request))

    async def html_part(self, request: Request) -> Response:
        html = self._mail(request).html
        if html is None:
            raise HTTPException(404)
        return HTMLResponse(html, headers={**HEADERS, "Content-Security-Policy": MAIL_POLICY})

    async def attachment(self, request: Request) -> Response:
        mail, number = self._mail(request), request.path_params["number"]
        if number >= len(mail.attachments):
            raise HTTPException(404)
        found = mail.attachments[number]
        safe = found.media_type in SAFE_TYPES
        disposition = "inline" if safe else "attachment"
        return Response(
            found.content,
            media_type=found.media_type if safe else "application/octet-stream",
            headers={
                **HEADERS,
                "Content-Disposition": f"{disposition}; filename*=utf-8''{quote(found.name, safe='')}",
            },
        )

    async def api_list(self, request: Request) -> Response:
        asked = request.query_params
        limit = asked.get("limit", str(LIST_LENGTH))
        if not limit.isdecimal():
            raise HTTPException(422, "limit must be a number")
        found = list(self._store.find(recipient=asked.get("to", ""), subject=asked.get("subject", "")))
        mails = (self._store.get(summary.id) for summary in islice(found, int(limit)))
        return JSONResponse({"messages": [_as_json(mail) for mail in mails if mail], "total": len(found)})

    async def api_clear(self, _request: Request) -> Response:
        return JSONResponse({"deleted": self._store.clear()})

    def _mail(self, request: Request) -> Mail:
        mail = self._store.get(request.path_params["id"])
        if mail is None:
            raise HTTPException(404)
        return mail

    def _page(self, template: str, **values: Any) -> Response:
        body = self._templates.get_template(template).render(values)
        return HTMLResponse(body, headers={**HEADERS, "Content-Security-Policy": PAGE_POLICY})


def _as_json(mail: Mail) -> dict[str, Any]:
    summary = mail.summary
    return {
        "id": summary.id,
        "from": summary.sender,
        "to": list(summary.recipients),
        "subject": summary.subject,
        "message_id": summary.message_id,
        "date": summary.received.isoformat().replace("+00:00", "Z"),
        "headers": dict(mail.headers),
        "text": mail.text,
        "html": mail.html,
        "attachments": [
            {
                "name": each.name,
                "media_type": each.media_type,
                "size": len(each.content),
                "url": f"/messages/{summary.id}/attachments/{number}",
            }
            for number, each in enumerate(mail.attachments)
        ],
    }


def _size(content: bytes) -> str:
    kilobytes = len(content) / 1024
    return f"{len(content)} B" if kilobytes < 1 else f"{kilobytes:.0f} KB"
