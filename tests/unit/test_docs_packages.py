"""docs/development/packages.md leaves out arrows, and no package that another one needs."""

import re

import pytest

from tools.documentation.packages import drawn

pytestmark = pytest.mark.req("DOC.6")


def arrows(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    return re.findall(r"^    (\w+) --> (\w+)$", drawn(imports), re.MULTILINE)


def test_what_is_reached_by_way_of_another_has_no_arrow() -> None:
    imports = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": set()}
    assert arrows(imports) == [("top", "middle"), ("middle", "bottom")]


def test_two_packages_that_import_each_other_do_not_hide_each_other() -> None:
    imports = {"user": {"left", "right"}, "left": {"right"}, "right": {"left"}}
    assert arrows(imports) == [("user", "right"), ("left", "right"), ("right", "left")]


def test_what_one_of_two_that_import_each_other_needs_keeps_its_arrow() -> None:
    imports = {"left": {"right", "bottom"}, "right": {"left"}, "bottom": set()}
    assert arrows(imports) == [("left", "bottom"), ("left", "right"), ("right", "left")]


def test_a_package_without_imports_is_shown() -> None:
    assert "\n    alone\n" in drawn({"alone": set()})
