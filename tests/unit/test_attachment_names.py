"""Names of attachments: for people to read, and harmless wherever they are read (REQ-002, NFR-004)."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.schemas.attachment import NAME_MAXIMUM, display_name

pytestmark = [pytest.mark.req("REQ-002", "NFR-004"), pytest.mark.security]

FAMILY = "\U0001f468\u200d\U0001f469.jpg"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("crack.jpg", "crack.jpg"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\secret.png", "secret.png"),
        ("C:\\Users\\ada\\crack.jpg", "crack.jpg"),
        ("a/b\\c/d.jpg", "d.jpg"),
        ("/", "attachment.jpg"),
        ("..", "attachment.jpg"),
        ("...", "attachment.jpg"),
        ("", "attachment.jpg"),
        ("\u202e\u0007", "attachment.jpg"),
        (".htaccess", "htaccess"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("a\u200fb\u2066c\ufeffd\u00ade.jpg", "abcde.jpg"),
        ("a\r\nSet-Cookie: x", "aSet-Cookie: x"),
        ("line\u2028break.jpg", "linebreak.jpg"),
        ("lone \ud800.jpg", "lone .jpg"),
        ("  a   b .jpg  ", "a b .jpg"),
        ("x" * 300 + ".jpeg", "x" * 195 + ".jpeg"),
        ("x" * 300, "x" * 200),
        ("x." + "y" * 300, ("x." + "y" * 300)[:200]),
        ("花瓶.jpg", "花瓶.jpg"),
        (FAMILY, FAMILY),
        ("<img src=x onerror=alert(1)>.jpg", "<img src=x onerror=alert(1)>.jpg"),
    ],
)
def test_what_is_kept_of_a_name(name: str, shown: str) -> None:
    assert display_name(name, "jpg") == shown


@given(st.text(st.characters(), max_size=400))
def test_any_name_is_shown_without_harm(name: str) -> None:
    shown = display_name(name, "pdf")
    assert 1 <= len(shown) <= NAME_MAXIMUM
    assert not set(shown) & set("/\\\0\r\n")
    assert all(c in "\u200c\u200d" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)
    assert display_name(shown, "pdf") == shown
    shown.encode()
