"""Names of attachments: for people to read, and harmless in every program that reads them (REQ-002, NFR-004)."""

import re
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
        ("../../etc/passwd", "passwd.jpg"),
        ("..\\..\\secret.png", "secret.jpg"),
        ("C:\\Users\\ada\\crack.jpg", "crack.jpg"),
        ("a/b\\c/d.jpg", "d.jpg"),
        ("/", "attachment.jpg"),
        ("..", "attachment.jpg"),
        ("...", "attachment.jpg"),
        ("", "attachment.jpg"),
        ("\u202e\u0007", "attachment.jpg"),
        (".htaccess", "htaccess.jpg"),
        ("a\u202egpj.exe", "agpj.jpg"),
        ("a\u200fb\u2066c\ufeffd\u00ade.jpg", "abcde.jpg"),
        ("a\r\nSet-Cookie: x", "aSet-Cookie: x.jpg"),
        ("line\u2028break.jpg", "linebreak.jpg"),
        ("lone \ud800.jpg", "lone.jpg"),
        ("  a   b .jpg  ", "a b.jpg"),
        ("x" * 300 + ".jpeg", "x" * 195 + ".jpeg"),
        ("x" * 300, "x" * 196 + ".jpg"),
        ("x." + "y" * 300, "x_" + "y" * 194 + ".jpg"),
        ("花瓶.jpg", "花瓶.jpg"),
        ("花瓶.最終.jpg", "花瓶.最終.jpg"),
        ("photos.hta", "photos.jpg"),
        ("photos.HTA.", "photos.jpg"),
        ("photos.hta .", "photos.jpg"),
        ("IMG_0001.JPG", "IMG_0001.JPG"),
        ("IMG_0001.HEIC", "IMG_0001.jpg"),
        ("a.exe.jpg", "a_exe.jpg"),
        ("a.7z.jpg", "a_7z.jpg"),
        ("a.exe:x.jpg", "a_exe:x.jpg"),
        ("a.jpg.exe", "a.jpg"),
        ("a.jpg.html.exe", "a.jpg"),
        ("a.desktop", "a_desktop.jpg"),
        ("a.settingcontent-ms", "a_settingcontent-ms.jpg"),
        ("Vase 2.0", "Vase 2.0.jpg"),
        ("2026.11.30", "2026.11.30.jpg"),
        ("Mr. Smith", "Mr. Smith.jpg"),
        ("jpg", "jpg.jpg"),
        (FAMILY, FAMILY),
        ("<img src=x onerror=alert(1)>.jpg", "<img src=x onerror=alert(1)>.jpg"),
    ],
)
def test_what_is_kept_of_a_name(name: str, shown: str) -> None:
    assert display_name(name, "jpg") == shown


@pytest.mark.parametrize(
    ("name", "extension", "shown"),
    [
        ("invoice.pdf.exe", "pdf", "invoice.pdf"),
        ("invoice.pdf.exe", "jpg", "invoice.jpg"),
        ("crack.jpeg", "png", "crack.png"),
        ("crack.jpeg", "jpg", "crack.jpeg"),
        ("crack", "webp", "crack.webp"),
        ("", "pdf", "attachment.pdf"),
    ],
)
def test_the_extension_is_that_of_the_kind(name: str, extension: str, shown: str) -> None:
    assert display_name(name, extension) == shown


@given(st.text(st.characters(), max_size=400) | st.text("a.7 -_:exE", max_size=30) | st.text("x.", max_size=230))
def test_any_name_is_shown_without_harm(name: str) -> None:
    shown = display_name(name, "pdf")
    assert 1 <= len(shown) <= NAME_MAXIMUM
    assert not set(shown) & set("/\\\0\r\n")
    assert all(c in "\u200c\u200d" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)
    assert display_name(shown, "pdf") == shown
    stem, _, extension = shown.rpartition(".")
    assert extension.lower() == "pdf"
    assert not re.search(r"\.[A-Za-z0-9]*[A-Za-z]", stem)
    assert not stem.endswith((".", " "))
    shown.encode()
