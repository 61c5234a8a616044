"""What a text may hold, and what is left of a text that somebody else sends us (NFR-004)."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from pydantic import TypeAdapter, ValidationError

from app.schemas.common import TEXT_BLOCK_PATTERN, TEXT_LINE_PATTERN, text_block, text_line
from app.utils.redaction import redact_foreign_text
from tests.integration.conftest import new_order
from tests.integration.operations import Operation, all_operations, placed, texts_of

pytestmark = [pytest.mark.req("NFR-004.5"), pytest.mark.security]

EVERY_CHARACTER = [
    chr(number)
    for number in range(0x110000)
    # No surrogates; of the planes that Unicode has not begun to fill, the last code points.
    if not 0xD800 <= number < 0xE000 and (not 0x40000 <= number < 0xE0000 or number & 0xFFFF > 0xFF00)
]
NONCHARACTERS = {
    *map(chr, range(0xFDD0, 0xFDF0)),
    *(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)),
}
"""All 66 of Unicode (section 23.7 of its core specification)."""
NOT_SHOWN = NONCHARACTERS | {c for c in EVERY_CHARACTER if unicodedata.category(c) == "Co"}
NOT_SHOWN_MESSAGE = "must not contain private-use characters or noncharacters"


@pytest.mark.parametrize(("pattern", "kind"), [(TEXT_LINE_PATTERN, text_line(9)), (TEXT_BLOCK_PATTERN, text_block(9))])
def test_the_document_says_which_characters_a_text_may_have(pattern: str, kind: Any) -> None:
    documented, validator = re.compile(pattern), TypeAdapter(kind)

    def is_taken(text: str) -> bool:
        try:
            validator.validate_python(text)
        except ValidationError:
            return False
        return True

    differing = {c for c in EVERY_CHARACTER if is_taken(f"a{c}b") != (documented.search(f"a{c}b") is not None)}
    # The description says these: the dialects of patterns write them differently.
    assert differing == {c for c in NOT_SHOWN if ord(c) > 0xFFFF}
    assert not is_taken("\x1b[31m")
    assert not is_taken("gpj.\u202eexe")


@pytest.mark.parametrize("kind", [text_line(9), text_block(9)], ids=["line", "block"])
def test_a_text_has_no_character_that_no_font_can_show(kind: Any) -> None:
    validator = TypeAdapter(kind)
    for character in sorted(NONCHARACTERS | set("\ue000\uf8ff\U000f0000\U000ffffd\U00100000\U0010fffd")):
        with pytest.raises(ValidationError, match=NOT_SHOWN_MESSAGE):
            validator.validate_python(f"a{character}")


@pytest.mark.parametrize("kind", [text_line(10**6), text_block(10**6)], ids=["line", "block"])
def test_a_text_may_have_characters_that_unicode_has_not_assigned(kind: Any) -> None:
    """Python's tables of Unicode are older than what a telephone can type."""
    unassigned = "".join(c for c in EVERY_CHARACTER if unicodedata.category(c) == "Cn" and c not in NONCHARACTERS)
    assert TypeAdapter(kind).validate_python(unassigned) == unassigned
    assert TypeAdapter(kind).validate_python("\u0378") == "\u0378"


@pytest.mark.parametrize("text", [" ", "\u200b", "\u2060\ufeff", "\u0301", "\u00a0\ufe0f", "\U000e0041"], ids=ascii)
def test_a_text_of_which_nothing_is_seen_is_blank(text: str) -> None:
    for kind in (text_line(9), text_block(9)):
        with pytest.raises(ValidationError, match="must not be blank"):
            TypeAdapter(kind).validate_python(text)


def every_text() -> Iterator[Any]:
    """Yield each place for text in the JSON bodies of the API, as operation and path to the text."""
    for operation in all_operations():
        if operation.body_schema is None or operation.path.endswith("/webhook"):
            continue
        yield from (
            pytest.param(operation, path, id=f"{operation.id}:{'.'.join(path)}")
            for path in texts_of(operation.body_schema)
        )


TEXTS = list(every_text())


@pytest.mark.parametrize(("operation", "path"), TEXTS)
async def test_every_text_in_a_body_must_be_one_that_can_be_shown(
    api: httpx2.AsyncClient, operation: Operation, path: tuple[str, ...]
) -> None:
    for fault in ("\ue000", "\ufdd0", "\U0010fffd"):
        ids = dict.fromkeys(re.findall(r"{(\w+)}", operation.path), uuid4())
        answer = await api.request(operation.method, operation.url(**ids), json=placed(path, f"Vase {fault}"))
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert error["code"] == "VALIDATION_ERROR"
        assert {"field": ".".join(path), "message": NOT_SHOWN_MESSAGE} in error["details"]
        assert fault not in answer.text


def test_every_text_that_is_printed_is_among_them() -> None:
    tried = {".".join(param.values[1]) for param in TEXTS}
    addresses = {
        f"{which}_address.{field}"
        for which in ("shipping", "billing")
        for field in ("name", "street", "street2", "city", "state", "postal_code")
    }
    assert tried == addresses | {
        "carrier",
        "customer_company",
        "customer_name",
        "customer_notes",
        "deduction_reason",
        "inspection.0.note",
        "line_items.0.product_id",
        "line_items.0.product_name",
        "line_items.0.sku",
        "note",
        "notes",
        "payment_method",
        "payment_token",
        "reason",
        "text",
        "to",
        "tracking_number",
    }


async def test_a_name_can_be_found_by_every_character_it_may_have(api: httpx2.AsyncClient) -> None:
    for name in ("\u0645\u06cc\u200c\u062e\u0648", "Anne\u00a0Marie", "ክ\u1369 Ge\u00adorg"):
        order = await new_order(api, customer_name=name)
        found = (await api.get("/api/v1/orders", params={"q": name})).json()["data"]
        assert [each["id"] for each in found] == [order["id"]]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("mailbox full, try later", "mailbox full, try later"),
        ("550 no such user <ada@example.com>\r\nX-Evil: 1", "550 no such user <<address>> X-Evil: 1"),
        ("bad key sk_live_abc123 and token tok_9", "bad key <token> and token tok_9"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln is expired", "<token> is expired"),
        ("declined: 4242 4242 4242 4242", "declined: <number>"),
        ("order ORD-2026-000001, reference 12345678901234", "order ORD-2026-000001, reference 12345678901234"),
        ("hunter2-of-ours is wrong", "<secret> is wrong"),
        ("A9" * 20, "<token>"),
        ("x" * 500, "x" * 300),
        ("\x1b[31mred\x00", "[31mred"),
    ],
)
def test_of_what_a_server_says_secrets_and_addresses_are_left_out(said: str, kept: str) -> None:
    assert redact_foreign_text(said, ["hunter2-of-ours", ""]) == kept
