"""The words that this project does without, counted in comments, docstrings and pages."""

import pytest

from tools.plain_english import CODE, CODE_GOAL, PAGES, PAGES_GOAL, count, files_below, prose_of_code, prose_of_page

SOURCE = '''"""Whoever reads this."""

# nobody is told
LIMIT = 1
"""Whatever it is."""


def f() -> str:
    """Plain; `whatever` is code."""
    return "nobody"
'''


def test_comments_and_docstrings_are_read_and_strings_are_not() -> None:
    assert [prose.line for prose in prose_of_code(SOURCE)] == [3, 1, 5, 9]
    assert "nobody" not in " ".join(prose.text for prose in prose_of_code(SOURCE) if prose.line != 3)


def test_the_code_of_a_page_is_not_read() -> None:
    page = "Nobody\n```sh\ntold\n```\n`whatever` yet\n"
    assert [prose.text.strip() for prose in prose_of_page(page)] == ["Nobody", "yet"]


@pytest.mark.parametrize(("names", "goal"), [(CODE, CODE_GOAL), (PAGES, PAGES_GOAL)], ids=["code", "pages"])
def test_listed_words_are_rare(names: tuple[str, ...], goal: float) -> None:
    counted = count(files_below(names))
    assert counted.words > 10_000
    assert counted.per_thousand < goal, "\n".join(counted.found)
