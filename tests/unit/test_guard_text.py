"""Definitions that mean the same are printed the same; those that do not, are not (NFR-003)."""

import pytest

from app.services.operations.guard_text import one_form

pytestmark = pytest.mark.req("NFR-003")


@pytest.mark.parametrize(
    ("made", "restored"),
    [
        (
            "CHECK (((a)::text = ANY ((ARRAY['X'::character varying, 'it''s (AND)'::character varying])::text[])))",
            "CHECK (((a)::text = ANY (ARRAY[('X'::character varying)::text, ('it''s (AND)'::character varying)::text])))",
        ),
        ("WHEN ((((a) AND (b)) AND (c)))", "WHEN (((a) AND (b) AND (c)))"),
        ("((((a = 1) OR (b)) OR (c)) OR (d))", "((a = 1) OR (b) OR (c) OR (d))"),
    ],
)
def test_both_forms_become_one(made: str, restored: str) -> None:
    assert one_form(made) == one_form(restored) == restored


@pytest.mark.parametrize(
    "definition",
    [
        "((a OR b) AND c)",
        "(a OR (b AND c))",
        "(NOT (a AND b) AND c)",
        "(f(a AND b) AND c)",
        "((a AND b) = (c AND d))",
        "((a AND b) IS NULL AND c)",
        "CHECK ((a = 'x AND (y'::text))",
        '("a AND (b" AND c)',
        "(a AND (b OR c) OR d)",
        "(a = ANY ((ARRAY[b, c])::text[]))",
    ],
)
def test_what_means_something_else_is_left_as_it_is(definition: str) -> None:
    assert one_form(definition) == definition
