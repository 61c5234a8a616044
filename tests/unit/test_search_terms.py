"""What an order is found by: names of every script, parts of an address, ends of numbers (REQ-005)."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.utils.search_terms import folded, order_terms, tsquery

pytestmark = pytest.mark.req("REQ-005")


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("Ünal", "unal"),
        ("ÜNAL", "unal"),
        ("U\u0308nal", "unal"),
        ("Élodie", "elodie"),
        ("Иван", "иван"),
        ("ИВАН", "иван"),
        ("Straße", "strasse"),
        ("\uff21\uff44\uff41", "ada"),
        ("İstanbul", "istanbul"),
        ("\u0131\u015f\u0131k", "isik"),
        ("I\u015f\u0131k", "isik"),
        ("Łukasz Ørsted Đorđe", "lukasz orsted dorde"),
        ("Æsop Œuvre Þór", "aesop oeuvre thor"),
    ],
)
def test_case_form_width_and_marks_make_no_difference(given_text: str, expected: str) -> None:
    assert folded(given_text) == expected


@given(st.text(max_size=40))
def test_every_normal_form_folds_to_the_same(text: str) -> None:
    forms = {folded(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(forms) == 1
    assert folded(folded(text)) == folded(text)


def test_the_terms_of_an_order_are_written_out() -> None:
    terms = order_terms(
        order_number="ORD-2026-000123",
        email="Ada.M@example.com",
        addresses=[{"name": "Élodie Ünal"}, {"street": "no name"}],
        names=["Ada Marchand", None],
        phone="+33 (0)1 42",
    )
    assert terms == sorted(
        [
            *("ord-2026-000123", "~321000-6202-dro"),
            *("ada.m@example.com", "ada.m", "da.m", "a.m", ".m"),
            *("ada", "marchand", "elodie", "unal"),
            *("330142", "~241033"),
        ]
    )


@pytest.mark.parametrize(
    ("typed", "query"),
    [
        ("Ünal", "('unal':* | '~lanu':*)"),
        ("O'Brien", "('o''brien':* | '~neirb''o':* | ('o' & 'brien':*))"),
        ("back\\slash", "('back\\\\slash':* | '~hsals\\\\kcab':* | ('back':* & 'slash':*))"),
        ("ada marchand", "('ada':* | '~ada':*) & ('marchand':* | '~dnahcram':*)"),
        ("01 42 33", "('014233':* | '~332410':* | '~33241':*)"),
        (
            "0151/23456",
            "('0151/23456':* | '~65432/1510':* | '015123456':* | '~654321510':* | '~65432151':* | ('0151':* & '23456':*))",
        ),
        (
            "x.y@MÜNCHEN.example",
            "('x.y@xn--mnchen-3ya.example':* | '~elpmaxe.ay3-nehcnm--nx@y.x':* | ('x' & 'y' & 'xn':* & 'mnchen':* & '3ya':* & 'example':*))",
        ),
        ("00 0 12", "('00012':* | '~21000':*)"),
        ("\u738b", "('\u738b':*)"),
        ("x", "('x')"),
        ("&!", ""),
        ("--", ""),
        ("ORD-2026-000123", "('ord-2026-000123':* | '~321000-6202-dro':*)"),
        ("ord-2025", "('ord-2025':* | '~5202-dro':*)"),
        ("CN-2026-", "('cn-2026-':* | '~-6202-nc':*)"),
        ("ord-20", "('ord-20':* | '~02-dro':* | ('ord':* & '20':*))"),
    ],
)
def test_what_is_typed_becomes_a_query(typed: str, query: str) -> None:
    assert tsquery(typed) == query
