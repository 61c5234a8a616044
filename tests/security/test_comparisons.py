"""What proves a caller, a link or a message is compared by `hmac.compare_digest`, and by nothing else (NFR-004).

It is made to find everything different, and then everything equal: what is right must be refused, and what is wrong let
in. A comparison instead of it or beside it, in any form, does not follow.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from app.core.security import same_secret
from app.services.documents.links import FileKind, FileLinks
from app.services.payments.webhooks import WebhookSignatureError, WebhookVerifier
from app.utils.exceptions import NotFoundError
from devtools.mock_gateway.connections import GatewayMiddleware
from tests.unit.gateway_support import SECRET
from tests.unit.test_payment_gateway_webhooks import EVENT, NOW, TOLERANCE, body_of, headers_for

pytestmark = [pytest.mark.req("NFR-004.1"), pytest.mark.security]

ID = UUID("0190a5f2-7a5e-7c3b-9f7e-1d2c3b4a5f60")
RIGHT, WRONG = "right", "wrong"


def takes_key(proof: str) -> bool:
    return same_secret(proof, RIGHT)


def takes_link(proof: str) -> bool:
    links = FileLinks(["a secret"], timedelta(hours=1))
    query = parse_qs(urlsplit(str(links.to(FileKind.INVOICES, ID)["link"])).query)
    signature = query["signature"][0] if proof == RIGHT else proof
    try:
        links.check(FileKind.INVOICES, ID, query["expires"][0], signature)
    except NotFoundError:
        return False
    return True


def takes_webhook(proof: str) -> bool:
    body = body_of(EVENT)
    # Of the right form: any other is refused before anything is compared.
    signature = base64.b64encode(hashlib.sha256(proof.encode()).digest()).decode()
    headers = headers_for(body) if proof == RIGHT else headers_for(body, webhook_signature=f"v1,{signature}")
    try:
        verifier = WebhookVerifier(SECRET, TOLERANCE, lambda: NOW)
        verifier.proven(verifier.claimed(headers), body)
    except WebhookSignatureError:
        return False
    return True


def takes_merchant(proof: str) -> bool:
    return GatewayMiddleware(_nothing, RIGHT)._is_known({"headers": [(b"authorization", f"Bearer {proof}".encode())]})


async def _nothing(*_: object) -> None:
    """Play the application behind the edge."""


@pytest.mark.parametrize("takes", [takes_key, takes_link, takes_webhook, takes_merchant])
def test_compare_digest_decides_and_nothing_else(takes: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    assert takes(RIGHT)
    assert not takes(WRONG)
    monkeypatch.setattr(hmac, "compare_digest", lambda _given, _expected: False)
    assert not takes(RIGHT)
    monkeypatch.setattr(hmac, "compare_digest", lambda _given, _expected: True)
    assert takes(WRONG)
