"""What a text may hold, and what is left of a text that somebody else sends us (NFR-004)."""

import re
from collections.abc import Callable

import httpx2
import pytest

from app.schemas import common
from app.schemas.common import TEXT_BLOCK_PATTERN, TEXT_LINE_PATTERN
from app.utils.redaction import redact_foreign_text
from tests.integration.conftest import new_order

pytestmark = [pytest.mark.req("NFR-004.5"), pytest.mark.security]

EVERY_CHARACTER = [chr(number) for number in range(0x11000) if not 0xD800 <= number < 0xE000]


@pytest.mark.parametrize(
    ("pattern", "check"),
    [
        (TEXT_LINE_PATTERN, common._no_control_characters),
        (TEXT_BLOCK_PATTERN, common._no_control_but_line_breaks),
    ],
)
def test_the_document_says_which_characters_a_text_may_have(pattern: str, check: Callable[[str], str]) -> None:
    documented = re.compile(pattern)

    def is_taken(text: str) -> bool:
        try:
            check(text)
        except ValueError:
            return False
        return True

    differing = [c for c in EVERY_CHARACTER if is_taken(f"a{c}b") != (documented.search(f"a{c}b") is not None)]
    assert differing == []
    assert not is_taken("\x1b[31m")
    assert not is_taken("gpj.\u202eexe")


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
