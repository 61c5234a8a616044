"""The documentation says what the code does: links, diagrams, tables, commands, codes, and the worked examples."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from app.api.http.responses import ERROR_KINDS
from app.api.v1.state_machines import machines
from app.cli.main import cli
from app.config import ROOT
from app.core.enums import EntityType, RefundState, Role, WebhookOutcome
from app.main import openapi_document
from app.models import Base
from app.services.access.permissions import ACTIONS
from app.services.jobs.service import JobKind
from app.services.payments.gateway.port import PaymentStatus, RefundStatus
from app.services.payments.gateway.wire import WireFormatError, read_payment, read_refund
from app.services.payments.reconciliation import PaymentDifferenceKind
from app.services.payments.refund_reconciliation import DifferenceKind
from app.services.payments.service import NEEDS_A_PERSON
from app.services.workflow import diagrams
from app.services.workflow.audit import CANONICAL_VERSION
from app.utils.channels import signed_headers, signing_key

pytestmark = pytest.mark.req("DOC")

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PICTURES = {EntityType.ORDER: "order-states.svg", EntityType.RETURN: "return-states.svg"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PATH = re.compile(r"`((?:app|alembic|benchmarks|docs|monitoring|templates|tests)/[\w./-]+)`")


def page(name: str) -> str:
    """Return a page of docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """Return what stands under a heading of the second level in a page of docs/."""
    return page(name).split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return [body for name, body in _FENCE.findall(text) if name == language]


def anchors_of(file: Path) -> set[str]:
    """Return the anchors that a forge gives the headings of a page."""
    headings = _HEADING.findall(_FENCE.sub("", file.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def commands(command: Any = None, path: str = "articurated") -> Iterator[tuple[str, Any]]:
    """Yield (full name, command) of every verb."""
    command = command or typer.main.get_command(cli)
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            if inner.invoke_without_command:
                yield f"{path} {name}", inner
            yield from commands(inner, f"{path} {name}")
        else:
            yield f"{path} {name}", inner


def short(address: str) -> str:
    """Return an address as a page tells it: a single parameter is `{id}`, several keep their names."""
    names = re.findall(r"{[a-z_]+}", address)
    address = address.removeprefix("/api/v1")
    return address.replace(names[0], "{id}") if len(names) == 1 else address


def row_of(text: str, first_cell: str) -> str:
    """Return the table row that begins with a cell."""
    lines = text.splitlines()
    # A group that is a command too begins like each of its own.
    exact = [line for line in lines if line.startswith(f"| {first_cell}`")]
    [row] = exact or [line for line in lines if line.startswith(f"| {first_cell}")]
    return row


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(file: Path) -> None:
    text = _FENCE.sub("", file.read_text(encoding="utf-8"))
    for target in [link or source for link, source in _LINK.findall(text)]:
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        found = (file.parent / place).resolve() if place else file
        assert found.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors_of(found), f"{found.name} has no heading #{anchor}"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(file: Path) -> None:
    for name in _PATH.findall(file.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{name} does not exist"


@pytest.mark.req("DOC.4")
def test_every_page_is_reached_from_the_index() -> None:
    """Or from the page about measuring, which the index leads to."""
    index = page("index.md") + (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    missing = [file.name for file in DOCS.rglob("*.md") if file.name != "index.md" and f"{file.name})" not in index]
    assert missing == []


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_shell_examples_are_valid_shell(file: Path) -> None:
    for example in blocks(file.read_text(encoding="utf-8"), "sh"):
        subprocess.run(["sh", "-n"], input=example.encode(), check=True)


def test_no_mermaid_block_holds_what_ends_a_statement_there() -> None:
    for file in PAGES:
        for drawing in blocks(file.read_text(encoding="utf-8"), "mermaid"):
            assert ";" not in drawing, f"{file.name}: a semicolon ends a line of Mermaid"


# --- state machines --------------------------------------------------------------------------------------------


@pytest.mark.req("DOC.2", "REQ-001", "REQ-002")
@pytest.mark.parametrize("entity_type", PICTURES)
def test_diagrams_are_drawn_from_the_table(entity_type: EntityType) -> None:
    assert diagrams.mermaid(entity_type) in blocks(page("workflow-design.md"), "mermaid")


@pytest.mark.req("REQ-001", "REQ-002")
@pytest.mark.parametrize(("entity_type", "name"), PICTURES.items())
def test_pictures_are_drawn_from_the_table(entity_type: EntityType, name: str) -> None:
    drawn = (DOCS / "images" / name).read_text(encoding="utf-8")
    assert drawn == diagrams.svg(entity_type), f"run `articurated diagram {entity_type.lower()} --format svg`"


@pytest.mark.req("DOC.2", "REQ-001", "REQ-002")
@pytest.mark.parametrize("name", ["order", "return"])
def test_the_transition_tables_are_the_ones_that_run(name: str) -> None:
    wanted = []
    for transition in machines()[name]["transitions"]:
        jobs = ", ".join(f"`{job}`" for job in transition["jobs"]) or "–"
        wanted.append(f"| {transition['from']} | {transition['to']} | {', '.join(transition['roles'])} | {jobs} |")
    heading = {"order": "## Orders", "return": "## Returns"}[name]
    lines = section("workflow-design.md", heading).splitlines()
    assert [line for line in lines if re.match(r"\| [A-Z_]{4,} \|", line)] == wanted


@pytest.mark.req("NFR-004")
def test_the_roles_are_the_ones_that_run() -> None:
    text = page("workflow-design.md")
    for action, allowed in ACTIONS.items():
        cells = " | ".join("yes" if role in allowed else "–" for role in Role)
        assert row_of(text, f"`{action}`") == f"| `{action}` | {cells} |"


@pytest.mark.req("REQ-004", "REQ-006")
def test_every_kind_of_job_is_documented() -> None:
    text = page("workflow-design.md")
    assert [kind for kind in JobKind if f"`{kind}`" not in text] == []


@pytest.mark.req("DOC.2")
def test_every_table_is_documented() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", section("workflow-design.md", "## Tables"), re.MULTILINE))
    assert told == set(Base.metadata.tables) | {"alembic_version"}


# --- the outside -----------------------------------------------------------------------------------------------


@pytest.mark.req("DOC.5")
@pytest.mark.parametrize(("name", "command"), [*commands()])
def test_every_command_is_documented_with_its_options(name: str, command: Any) -> None:
    row = row_of(page("reference/commands.md"), f"`{name}")
    for parameter in command.params:
        # A hidden option is for the system itself, which starts its processes with it.
        if parameter.param_type_name == "option" and parameter.name != "help" and not parameter.hidden:
            assert any(spelling in row for spelling in parameter.opts), f"{name} has {parameter.opts}"


def test_no_documented_command_is_missing() -> None:
    known = {name for name, _ in commands()}
    for file in PAGES:
        for words in re.findall(
            r"(?:^|`|/)articurated ((?:[a-z]+ ?)+)", file.read_text(encoding="utf-8"), re.MULTILINE
        ):
            one, two = words.split()[0], " ".join(words.split()[:2])
            assert {f"articurated {one}", f"articurated {two}"} & known, f"{file.name}: articurated {words}"


@pytest.mark.req("REQ-005")
def test_every_address_is_documented() -> None:
    told = set(re.findall(r"`([A-Z]+ /[\w/{}-]*)`", section("reference/api.md", "## Addresses")))
    routes = {
        f"{method.upper()} {short(path)}" for path, methods in openapi_document()["paths"].items() for method in methods
    }
    assert told == routes


@pytest.mark.req("DOC.5", "REQ-005")
def test_every_error_is_documented_with_its_status() -> None:
    text = page("reference/errors.md")
    for code, kind in ERROR_KINDS.items():
        rows = [line for line in text.splitlines() if line.startswith("| `") and f"`{code}`" in line]
        assert any(f"| {kind.status} |" in row for row in rows), code


@pytest.mark.req("INT-001")
def test_the_page_on_money_has_every_outcome_state_and_difference() -> None:
    outcomes_told = section("explanation/money.md", "## What the gateway reports")
    assert re.findall(r"^\| `([A-Z_]+)` \|", outcomes_told, re.MULTILINE) == list(WebhookOutcome)
    for outcome in WebhookOutcome:
        marked = row_of(outcomes_told, f"`{outcome}`").endswith(("| yes |", "| case |"))
        assert marked == (outcome in NEEDS_A_PERSON), outcome
    for difference in DifferenceKind:
        assert row_of(section("explanation/money.md", "## Reconciliation"), f"`{difference}`")
    for kind in PaymentDifferenceKind:
        assert f"`{kind}`" in section("explanation/money.md", "## Comparing payments with the gateway's records")
    for state in RefundState:
        assert row_of(section("explanation/money.md", "## Money out"), f"{state} |")


@pytest.mark.req("NFR-006.2")
def test_documented_metrics_exist() -> None:
    """The page of metrics is made from the code; what other pages name is on it."""
    named = re.compile(r"`(articurated_[a-z_]+)`")
    known = set(named.findall(page("reference/metrics.md"))) | {"articurated_app", "articurated_api"}
    for file in PAGES:
        assert set(named.findall(file.read_text(encoding="utf-8"))) <= known, file.name


# --- worked examples -------------------------------------------------------------------------------------------


def example_row() -> dict[str, Any]:
    """Return the history row that docs/explanation/audit.md works through."""
    row: dict[str, Any] = json.loads(blocks(page("explanation/audit.md"), "json")[0])
    return row


@pytest.mark.req("REQ-003")
def test_the_hash_by_hand_is_right() -> None:
    shell = next(example for example in blocks(page("explanation/audit.md"), "sh") if "sha256sum" in example)
    done = subprocess.run(["sh"], input=shell.encode(), capture_output=True, check=True)
    assert done.stdout.decode().split()[0] == example_row()["hash"]
    assert f"'{CANONICAL_VERSION}\n" in shell


@pytest.mark.req("REQ-003.6")
@pytest.mark.parametrize(
    ("change", "holds"),
    [({}, True), ({"new_state": "CANCELLED"}, False), ({"metadata": {}}, False), ({"seq": 2}, False)],
)
def test_the_script_for_auditors_finds_what_was_changed(tmp_path: Path, change: dict[str, Any], holds: bool) -> None:  # noqa: FBT001
    script, trail = tmp_path / "verify_trail.py", tmp_path / "trail.jsonl"
    script.write_text(blocks(page("explanation/audit.md"), "python")[0], encoding="utf-8")
    trail.write_text(json.dumps({**example_row(), **change}) + "\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", script, trail], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is holds, done.stderr
    assert ("1 rows of 1 entities hold" in done.stdout) is holds


@pytest.mark.req("INT-001")
@pytest.mark.parametrize(
    ("name", "read", "statuses"), [("payment", read_payment, PaymentStatus), ("refund", read_refund, RefundStatus)]
)
def test_the_events_of_the_gateway_are_documented_with_every_required_field(
    name: str, read: Callable[[Any], object], statuses: Any
) -> None:
    text = section("reference/webhooks.md", "## From the payment gateway")
    assert re.findall(r"`(\w+)`", row_of(text, f"{name} |")) == list(get_args(statuses))
    [told] = [event for event in map(json.loads, blocks(text, "json")) if event["type"].startswith(f"{name}.")]
    assert {"id", "type", "created"} <= set(told)
    record = told["data"]["object"]
    assert read(record)
    for needed in record:
        with pytest.raises(WireFormatError):
            read({key: value for key, value in record.items() if key != needed})


@pytest.mark.req("REQ-006.5")
@pytest.mark.parametrize("secret", ["whsec_bm90IGEgcmVhbCBzZWNyZXQ=", "a text that is no base64!"])
def test_the_receiver_of_our_webhooks_knows_ours(secret: str) -> None:
    receiver: dict[str, Any] = {}
    exec(blocks(page("reference/webhooks.md"), "python")[0], receiver)  # noqa: S102 - of our own page
    is_genuine = receiver["is_genuine"]
    body = b'{"text": "An order is on its way"}'
    headers = signed_headers(signing_key(secret), "id-1", datetime.now(UTC), body)
    assert is_genuine(headers, body, secret)
    assert not is_genuine(headers, body + b" ", secret)
    assert not is_genuine(headers, body, "another secret")
    assert not is_genuine({**headers, "webhook-id": "id-2"}, body, secret)
