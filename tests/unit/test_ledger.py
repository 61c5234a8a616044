"""Payments and refunds are written in `app/services/ledger` alone, whatever the form of the write."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.models.payment import Payment, Refund

pytestmark = [pytest.mark.req("REQ-004")]

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "app" / "services" / "ledger"
CLASSES = {"Payment": "payments", "Refund": "refunds"}
COLUMNS = {attribute.key for model in (Payment, Refund) for attribute in model.__mapper__.attrs}

READING_CALLS = {"select", "select_from", "get", "isinstance", "join", "outerjoin", "correlate"}
"""Calls that may be given one of the two classes: none of them writes."""

SETTERS = {"setattr", "delattr", "__setattr__", "__delattr__", "set_attribute", "set_committed_value"}
SESSION_WRITES = {"delete", "merge", "bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings"}

WRITING_SQL = re.compile(
    r"\b(?:(?:INSERT|MERGE)\s+INTO|UPDATE|DELETE\s+FROM|COPY)\s+(?:ONLY\s+)?(?:public\.)?\"?(?:payments|refunds)\b"
    r"|\bTRUNCATE\b[^;]*\b(?:payments|refunds)\b",
    re.IGNORECASE,
)

OTHERS = {
    # Rows of other tables, whose columns have the same names.
    ("app/services/cases/service.py", "case."),
    ("app/services/documents/invoices.py", "document."),
    ("app/services/orders/corrections.py", "order."),
    ("app/services/orders/corrections.py", "setattr(order, "),
    # The tables whose rows name an order, to read from.
    ("app/services/order_lookup.py", "Payment"),
    ("app/services/order_lookup.py", "Refund"),
    # Sample data: refunds that are paid without a gateway.
    ("devtools/seed.py", "WITH settled AS ( UPDATE refunds SET"),
}
"""What looks like a write of a payment or a refund, each looked at by a person."""


def sources() -> list[Path]:
    """Return the modules of the system and its tools; the mock gateway has tables of its own with these names."""
    found = [path for folder in ("app", "devtools", "tools") for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if ROOT / "devtools" / "mock_gateway" not in path.parents)


class Module:
    """The syntax tree of one module, and what its names mean."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.classes = dict(CLASSES)
        self.texts: dict[str, str] = {}
        self.annotations: set[ast.AST] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                self.classes |= {
                    alias.asname or alias.name: CLASSES[alias.name] for alias in node.names if alias.name in CLASSES
                }
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                self.texts |= dict.fromkeys(names, str(node.value.value))
            for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
                if annotation is not None:
                    self.annotations |= set(ast.walk(annotation))

    def table_of(self, node: ast.AST) -> str | None:
        """Return the table when an expression is one of the two classes."""
        if isinstance(node, ast.Name):
            return self.classes.get(node.id)
        return CLASSES.get(node.attr) if isinstance(node, ast.Attribute) else None

    def text_of(self, node: ast.AST) -> str:
        """Return the text that an expression makes, as far as it is made of constants."""
        text = "?"
        match node:
            case ast.Constant(value=str() as value):
                text = value
            case ast.JoinedStr(values=parts):
                text = "".join(map(self.text_of, parts))
            case ast.FormattedValue(value=part):
                text = self.text_of(part)
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                text = self.text_of(left) + self.text_of(right)
            case ast.Name(id=name):
                text = self.texts.get(name, text)
            case ast.Attribute(value=part, attr="__tablename__" | "__table__"):
                text = self.table_of(part) or text
        return text


def writes(source: str) -> Iterator[str]:
    """Yield every expression of a module that writes a payment or a refund, or could."""
    module = Module(source)
    for node in ast.walk(module.tree):
        if node not in module.annotations and is_write(module, node):
            # Of a class, what is done with it says more than its name.
            shown = module.parents[node] if module.table_of(node) is not None else node
            yield " ".join((module.text_of(node) if is_text(node) else ast.unparse(shown)).split())


def is_write(module: Module, node: ast.AST) -> bool:
    match node:
        case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
            return module.table_of(node) is not None and not is_read(module, node)
        case ast.Attribute(value=value, attr=name):
            return name in COLUMNS and ast.unparse(value) != "self"
        case ast.Call():
            return is_writing_call(module, node)
    return is_text(node) and not is_part_of_text(module, node) and bool(WRITING_SQL.search(module.text_of(node)))


def is_writing_call(module: Module, call: ast.Call) -> bool:
    name = called(call)
    on_session = isinstance(call.func, ast.Attribute) and "session" in ast.unparse(call.func.value)
    return (
        name in SETTERS
        or (name in SESSION_WRITES and on_session)
        or any(word.arg == "table" and module.text_of(word.value) in CLASSES.values() for word in call.keywords)
    )


def called(call: ast.Call) -> str:
    """Return the name of the function or method that is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def is_read(module: Module, node: ast.Name | ast.Attribute) -> bool:
    """Return whether one of the two classes is used to read: a column of it, or an argument of a call that reads."""
    parent = module.parents[node]
    if isinstance(parent, ast.Attribute):
        above = module.parents[parent]
        if parent.attr == "__table__":
            return isinstance(above, ast.Attribute) and above.attr in {"c", "columns"}
        return parent.attr in COLUMNS | {"__tablename__"}
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.BitOr):
        parent = module.parents[parent]  # isinstance(subject, Payment | Refund)
    if not isinstance(parent, ast.Call) or parent.func is node:
        return False
    return called(parent) in READING_CALLS


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)


def is_part_of_text(module: Module, node: ast.AST) -> bool:
    parent = module.parents.get(node)
    return isinstance(parent, ast.JoinedStr | ast.FormattedValue) or (
        isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Add)
    )


def found_in(files: list[Path]) -> set[tuple[str, str]]:
    return {(str(file.relative_to(ROOT)), write) for file in files for write in writes(file.read_text("utf-8"))}


def test_payments_and_refunds_are_written_in_the_ledger_alone() -> None:
    found = found_in([file for file in sources() if LEDGER not in file.parents])
    excused = {(path, text) for path, text in found for at, part in OTHERS if path == at and part in text}
    assert found - excused == set()
    assert {(at, part) for at, part in OTHERS if any(p == at and part in t for p, t in excused)} == OTHERS


def test_the_check_sees_the_writes_of_the_ledger() -> None:
    found = found_in(sorted(LEDGER.glob("*.py")))
    for part in (
        "INSERT INTO payments",
        "update(Payment)",
        "payment.refunds_held_by",
        "INSERT INTO refunds",
        "refund.state",
    ):
        assert any(part in write for _, write in found), part


def test_the_guards_that_the_ledger_names_are_guards_of_the_two_tables() -> None:
    named = {
        name for file in LEDGER.glob("*.py") for name in re.findall(r"\b(?:ck|uq|guard)_\w+", file.read_text("utf-8"))
    }
    guards = json.loads((ROOT / "alembic" / "guards.json").read_text("utf-8"))["guards"]
    known = {*guards["trigger"], *guards["constraint"], *(f"refunds.{name}" for name in guards["unique index"])}
    assert named <= {name.partition(".")[2] for name in known if name.startswith(("payments.", "refunds."))}
    assert len(named) > 20


@pytest.mark.parametrize(
    "line",
    [
        "session.add(Payment(order_id=order.id))",
        "session.execute(update(Payment).values(state='CAPTURED'))",
        "session.execute(pg_insert(Refund).values(rows))",
        "connection.execute(delete(Refund.__table__))",
        "connection.execute(Payment.__table__.update().values(state='CAPTURED'))",
        "from app.models.payment import Payment as P\nupdate(P)",
        "from app.models import payment as models\nupdate(models.Payment)",
        "table = Refund.__table__",
        "books = {'refund': Refund}",
        "payment.captured_amount = amount",
        "subject.state = RefundState.FAILED",
        "self.refund.version += 1",
        "payment.state, other = state, None",
        "setattr(subject, column, value)",
        "del payment.token",
        "await session.delete(refund)",
        "await self.session.merge(refund)",
        'text("UPDATE payments SET state = :state")',
        'text("update only public.refunds set state = :state")',
        'connection.exec_driver_sql("DELETE FROM payments")',
        'SQL = """WITH money AS (\n    INSERT INTO\n refunds (id) SELECT id FROM moved)"""',
        "f'INSERT INTO {Refund.__tablename__} (id) VALUES (:id)'",
        "TABLE = 'payments'\nsql = f'UPDATE {TABLE} SET state = :state'",
        "'UPDATE ' + 'refunds SET state = 1'",
        "'TRUNCATE orders, payments'",
        "Machine(entity_type=kind, table='refunds')",
    ],
)
def test_the_check_finds_each_form_of_a_write(line: str) -> None:
    assert list(writes(line))


@pytest.mark.parametrize(
    "line",
    [
        "select(Payment.order_id).where(Payment.captured_at >= begin)",
        "select(*Refund.__table__.c)",
        "await session.get(Payment, payment_id, with_for_update=True)",
        "if isinstance(subject, Payment | Refund):\n    return subject.order_id",
        "def booked(payment: Payment | None) -> list[Refund]:\n    return payment.state",
        "self.state = state",
        "text('SELECT id FROM payments p FOR UPDATE')",
        "log('refunds.update', payments=3)",
        "select(Order).join(Payment, Payment.order_id == Order.id)",
    ],
)
def test_the_check_passes_what_reads(line: str) -> None:
    assert list(writes(line)) == []
