"""Every statement of every requirement has a test that names it, and the rules that hold the code together are held."""

import ast
import re
from pathlib import Path

import pytest

from app.config import ROOT
from app.main import openapi_document
from tools.documentation import marks, traceability
from tools.documentation.register import Row, Section, Statement, register

REGISTER = {
    *(f"REQ-00{number}" for number in range(1, 7)),
    *(f"NFR-00{number}" for number in range(1, 7)),
    *(f"INT-00{number}" for number in range(1, 5)),
    "TEST",
    "DEV",
    "DOC",
}
LATER = {"REQ-003.8", "REQ-006.7", "NFR-001.4", "NFR-003.7", "NFR-006.6"}
"""Statements that no test can show yet; nothing else may be put off."""


def modules() -> list[Path]:
    """Return the application's modules."""
    return list((ROOT / "app").rglob("*.py"))


def sections() -> list[tuple[str, Row]]:
    """Return every row of the commissioning technical document, with a name for it."""
    found: dict[int, Section] = register().sections
    return [(f"section {number}, {row.part}", row) for number, section in found.items() for row in section.rows]


@pytest.mark.req("TEST.3")
def test_the_register_is_whole() -> None:
    assert set(register().requirements) == REGISTER
    assert set(register().sections) == set(range(1, 15))
    assert {name for name, statement in register().statements().items() if statement.later} == LATER


@pytest.mark.req("TEST.3")
def test_markers_name_what_is_required() -> None:
    named = {identifier: test.node for test in marks.every_test() for identifier in test.ids}
    assert {name: node for name, node in named.items() if name not in register().ids()} == {}
    assert {name.partition(".")[0] for name in named} == REGISTER


@pytest.mark.req("TEST.3")
@pytest.mark.parametrize("name", sorted(set(register().statements()) - LATER))
def test_a_statement_is_met_and_shown(name: str) -> None:
    statement = register().statements()[name]
    assert statement.code, "no file meets it"
    assert traceability.naming(name, marks.every_test()), "no test names it"


@pytest.mark.req("TEST.3")
@pytest.mark.parametrize(("name", "row"), sections(), ids=[name for name, _ in sections()])
def test_a_row_of_the_document_is_met_and_shown(name: str, row: Row) -> None:
    assert row.code, "no file meets it"
    assert row.proof, "nothing shows it"
    for proof in row.proof:
        assert proof in register().ids() or traceability.proving(row, register(), marks.every_test())


@pytest.mark.req("TEST.3")
def test_what_meets_them_exists() -> None:
    operations = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, methods in openapi_document()["paths"].items()
        for method in methods
    }
    rows: list[Statement | Row] = [*register().statements().values(), *(row for _, row in sections())]
    assert [file for row in rows for file in row.code if not (ROOT / file).exists()] == []
    assert [endpoint for row in rows for endpoint in row.endpoints if endpoint not in operations] == []


@pytest.mark.req("TEST.3")
def test_a_marker_counts_for_what_is_below_it(tmp_path: Path) -> None:
    file = ROOT / "tests" / "unit" / "no_such_file.py"  # names are told from the root; the text comes from elsewhere
    text = """
import pytest
pytestmark = [pytest.mark.security, pytest.mark.req("A")]
@pytest.mark.req("B.1", "C")
@pytest.mark.parametrize("x", [1])
async def test_one(x): ...
@pytest.mark.req("D")
class TestTwo:
    @pytest.mark.req("E")
    def test_three(self): ...
    def helper(self): ...
"""
    found = {test.name: test.ids for test in marks.read(file, text)}
    assert found == {"test_one": {"A", "B.1", "C"}, "TestTwo::test_three": {"A", "D", "E"}}


@pytest.mark.req("NFR-005.1", "REQ-001")
def test_state_changes_in_one_place() -> None:
    """Nobody but the one statement sets a status: not on an object, not in SQL."""
    in_sql = re.compile(r"\bSET\s+status\b|values\([^)]*\bstatus\s*=", re.IGNORECASE)
    changing = set()
    for file in modules():
        source = file.read_text(encoding="utf-8")
        on_objects = any(
            isinstance(target, ast.Attribute)
            and target.attr == "status"
            and not (isinstance(target.value, ast.Name) and target.value.id == "self")
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Assign)
            for target in node.targets
        )
        if on_objects or in_sql.search(source):
            changing.add(str(file.relative_to(ROOT)))
    # The second one stores answers, which have a status of HTTP.
    assert changing == {"app/services/workflow/transitions.py", "app/services/access/idempotency.py"}


@pytest.mark.req("NFR-005.2")
def test_services_are_handed_what_they_need() -> None:
    """No service reads the configuration, opens a database or builds an adapter by itself."""
    building = re.compile(r"\b(get_settings|Database|SmtpMailSender|\w*Storage|HttpPaymentGateway|Redis)\((?!\))")
    for file in (ROOT / "app" / "services").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert [call for call in calls if building.match(call)] == [], file.name


@pytest.mark.req("NFR-005")
def test_history_is_only_ever_added_to() -> None:
    """No line of the application tries to rewrite an append-only table."""
    rewriting = re.compile(r"(UPDATE|DELETE\s+FROM|TRUNCATE)\s+(state_history|transition_rejections|events)\b")
    for file in modules():
        assert not rewriting.search(file.read_text(encoding="utf-8")), file
