"""What Schemathesis gets to know of this API, and the findings of its that are none (loaded by its command line).

An exclusion is listed here with its reason, and is as narrow as can be: one rule about one thing. Whatever else the tool
finds is a fault of the document or of the code.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import time
from typing import Any
from uuid import uuid4

import requests
import schemathesis
from requests.auth import AuthBase
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import AllowHeaderMismatch, RejectedPositiveData

KEPT, NOT_RETURNABLE, UNSUPPORTED = 200, 400, 415
WEBHOOK_SECRET = os.environ.get("FUZZ_WEBHOOK_SECRET", "")

BEYOND_JSON_SCHEMA = (
    # Rules between two parameters, or between a header and the body.
    (r"offset", r"cannot be combined with cursor"),
    (r"body", r"The event's id is not the one in the webhook-id header\."),
    # A pattern for it makes texts of all fields costly to generate and hard to read.
    (r".*", r"must not be blank"),
    # Beyond U+FFFF the dialects of patterns differ; the document says it in words.
    (r".*", r"must not contain private-use characters or noncharacters"),
    (r"line_items", r"the order's total is beyond 9999999999\.99"),
    # What the order holds, or the return.
    (r"restocking_fee|refund_amount", r"must not exceed the returned lines( less the fee)?: -?[\d.]+"),
    (r"items\.\d+\.line_item_id", r"is (not a line of this order|named twice)"),
    (r"items\.\d+\.quantity", r"is more than the \d+ that were bought(, of which other returns take back \d+)?"),
    (r"inspection\.\d+\.line_item_id", r"is (not a line of this return|named twice)"),
    (r"inspection\.\d+", r"accepted, damaged and missing are \d+ together, not the \d+ of this return"),
    (r"deduction_amount", r"must not exceed the approved refund: [\d.]+"),
    # Rules between two fields.
    (r"inspection|deduction_amount|deduction_reason", r"is for the step to COMPLETED"),
    (r"deduction_reason", r"is required with a deduction"),
    (r"deduction_amount", r"must be above 0 where there is a reason for it"),
    (r".*address\.postal_code", r"is required in [A-Z]{2}"),
    # What is to be corrected: something, and to another value; a number of digits is no pattern.
    (r"body", r"must have one of [a-z_, ]+"),
    (r"[a-z_]+", r"is what it was"),
    (r"customer_phone", r"must be a telephone number, such as .*"),
    # A sparse answer is asked for in JSON; the invoice is a PDF by default.
    (r"fields", r"is for JSON; ask for it with Accept: application/json"),
    # A state like any other, named where it can be asked for.
    (r"new_state", r"a review needs its notes: use PATCH /returns/\{id\}/(approve|reject)"),
    # Whether we gave it out, only we can tell.
    (r"cursor", r"is not a cursor that this API gave out"),
    # Lists that would make the document unreadable.
    (r"currency", r"must be an ISO 4217 code"),
    (r".*address\.country", r"must be an ISO 3166-1 alpha-2 code"),
    # JSON Schema's multipleOf is defined on reals; with the doubles of most validators 19.99 is no multiple of 0.01.
    (
        r"shipping_amount|refund_amount|restocking_fee|deduction_amount|line_items\.\d+\.(unit_price|tax_rate)",
        r"Decimal input should have no more than \d+ (decimal places|digits in total)",
    ),
    # Facts of the caller's own: any JSON, but what PostgreSQL cannot hold exactly is refused at any depth.
    (r".*", r"must not (contain NUL characters|have a NUL character in its name)"),
    (r".*", r"must be a number within 64 bits"),
    (r"body", r"is nested deeper than \d+ levels"),
    # The document describes a webhook's envelope; what is in it is the gateway's, and is read by its own rules.
    (r"body", r"The event (cannot be read: .*|is not JSON\.)"),
    # The tool takes 0 for an example of this header's pattern, which it is not.
    (r"If-Match", r'must be \* or a list of entity tags, such as "3"'),
    # What a refusal of more than twenty fields ends with.
    (r"", r"and \d+ more"),
    # A checksum.
    (r".*", r"holds what looks like a card number; none is ever stored here"),
)
"""Field and message of refusals that no schema can foretell; both are matched in full."""


def is_beyond_json_schema(body: bytes | None) -> bool:
    """Return whether a refusal names nothing but rules of the list above."""
    try:
        error = json.loads(body or b"")["error"]
        faults = [(fault["field"], fault["message"]) for fault in error["details"]]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(faults) and all(
        any(re.fullmatch(field, name) and re.fullmatch(rule, message) for field, rule in BEYOND_JSON_SCHEMA)
        for name, message in faults
    )


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Return whether a finding counts."""
    if isinstance(failure, RejectedPositiveData):
        # An order in another state than a return needs is 400 by contract; 409 the tool expects by itself.
        not_now = response.status_code == NOT_RETURNABLE and b'"RETURN_NOT_ALLOWED"' in response.content
        # Any bytes are a file by the document; ours say by themselves what they are.
        no_picture = response.status_code == UNSUPPORTED and b"its bytes decide" in response.content
        return not (not_now or no_picture or is_beyond_json_schema(response.content))
    if isinstance(failure, AcceptedNegativeData) and case.path.endswith("/payments/webhook"):
        # A proven webhook is kept and answered 200, with any content: a person looks at what cannot be read.
        return bool(response.status_code != KEPT)
    if isinstance(failure, AllowHeaderMismatch) and case.path.endswith("/state"):
        # POST answers a change of state as PATCH does, and is left out of the document on purpose.
        return (failure.missing_methods, failure.undocumented_methods) != ([], ["POST"])
    return True


class Signature(AuthBase):
    """Signs a webhook as the gateway does, over the bytes that are sent."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the three headers, unless the case is about their absence or their form."""
        body = request.body
        content = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b""
        try:
            event_id = str(json.loads(content)["id"])
        except (ValueError, KeyError, TypeError):
            event_id = "evt_fuzz"
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", event_id):
            event_id = "evt_fuzz"
        moment = str(int(time.time()))
        digest = hmac.new(WEBHOOK_SECRET.encode(), f"{event_id}.{moment}.".encode() + content, hashlib.sha256).digest()
        request.headers["webhook-id"] = event_id
        request.headers["webhook-timestamp"] = moment
        request.headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return request


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Sign most webhooks and give each request an Idempotency-Key of its own: what is behind is to be reached."""
    if _is_about_headers(case):
        return
    if case.path.endswith("/payments/webhook"):
        kwargs["auth"] = Signature()
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"fuzz-{uuid4()}"


def _is_about_headers(case: Any) -> bool:
    """Return whether the headers of a case were made wrong on purpose."""
    meta = case.meta
    if meta is None:
        return False
    return any(
        str(location.value) == "header" and component.mode.is_negative
        for location, component in meta.components.items()
    )
