"""Every one of the thirty attacks is tried by tests that exist and run."""

import ast

import pytest

from app.config import ROOT
from tests.security.items import ITEMS, Item

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]


def test_there_are_thirty() -> None:
    assert list(ITEMS) == list(range(1, 31))
    assert len({item.attack for item in ITEMS.values()}) == 30


@pytest.mark.parametrize("item", ITEMS.values(), ids=[f"{number:02}" for number in ITEMS])
def test_each_attack_is_tried(item: Item) -> None:
    assert item.tests
    for test in item.tests:
        path, _, name = test.partition("::")
        module = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
        found = [
            node
            for node in module.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
        ]
        assert len(found) == 1, f"{test} is not there"
        switched_off = [ast.unparse(mark) for mark in found[0].decorator_list if "skip" in ast.unparse(mark)]
        assert all("skipif" in mark for mark in switched_off), test
        assert "xfail" not in ast.unparse(found[0]), test
