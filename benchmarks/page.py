"""The page with the last figures: what is between its marks is replaced, the rest is kept."""

import re

from benchmarks.works import BenchmarkError

_SECTION = re.compile(r"(?ms)^<!-- measured: (?P<name>[\w-]+) -->\n.*?^<!-- end of measured -->$")


def sections_of(text: str) -> list[str]:
    """Return the names of the sections that a page has marks for, in its order."""
    return [found["name"] for found in _SECTION.finditer(text)]


def with_section(text: str, name: str, content: str) -> str:
    """Return a page with new content between the marks of a section.

    Raises:
        BenchmarkError: the page has no such marks, or has them twice.
    """
    if sections_of(text).count(name) != 1:
        raise BenchmarkError(f"the page needs the marks of `{name}` once")
    made = f"<!-- measured: {name} -->\n\n{content.strip()}\n\n<!-- end of measured -->"
    return _SECTION.sub(lambda found: made if found["name"] == name else found[0], text)


def published(said: str) -> str:
    """Return what belongs on the page of a command's output: all from the first line of a table or with a commit on."""
    first = re.search(r"(?m)^(?:\||Commit )", said)
    return said[first.start() :].strip() if first else ""
