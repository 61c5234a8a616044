"""Where access is decided: permissions in services, and what a customer may see in one module (NFR-004)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import ROOT

pytestmark = [pytest.mark.req("NFR-004.3", "NFR-004.4"), pytest.mark.security]

PERMISSIONS = "app.services.access.permissions"
SHOWN = "TRANSITION_ROLES"
"""The one name of the permissions that HTTP code may import: `GET /state-machines` shows the table."""

DECIDES_BY = {"role", "sees_only", "customer_id"}
NOTED = {
    # The access log names the role.
    ("app/api/http/middleware.py", "actor.role"),
    # The same key of another role, or for another customer, is another request.
    ("app/api/http/idempotency.py", "actor.role"),
    ("app/api/http/idempotency.py", "actor.sees_only"),
}
"""Where HTTP code reads what permissions depend on without deciding anything by it."""


def permission_checks(source: str) -> Iterator[str]:
    """Yield what decides, or could decide, by the caller's role: names of the permissions, roles, and their fields."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module="app.services.access", names=names):
                yield from (name.name for name in names if name.name == "permissions")
            case ast.ImportFrom(module=module, names=names) if module == PERMISSIONS:
                yield from (name.name for name in names if name.name != SHOWN)
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name == PERMISSIONS)
            case ast.ImportFrom(names=names):
                yield from (name.name for name in names if name.name in {"Role", "ForbiddenError"})
            case ast.Attribute(attr=name) if name in DECIDES_BY | {"Role", "ForbiddenError", "permissions"}:
                yield ast.unparse(node)
            case ast.Name(id="permissions"):
                yield node.id
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]) if (
                name in DECIDES_BY
            ):
                yield ast.unparse(node)


def http_modules() -> list[Path]:
    return sorted((ROOT / "app" / "api").rglob("*.py"))


def test_routes_and_http_code_check_no_permission() -> None:
    found = {
        (str(file.relative_to(ROOT)), check)
        for file in http_modules()
        for check in permission_checks(file.read_text(encoding="utf-8"))
    }
    assert found == NOTED


@pytest.mark.parametrize(
    "source",
    [
        "from app.services.access import permissions",
        "from app.services.access.permissions import require",
        "from app.services.access.permissions import Action as Deed",
        "import app.services.access.permissions",
        "import app.services.access as rules\nrules.permissions.require(actor, 'refund.read')",
        "permissions.require(context.actor, Action.READ_REFUNDS)",
        "from app.core.enums import Role",
        "from app.core import enums\nif actor is enums.Role.ADMIN: pass",
        "from app.utils.exceptions import ForbiddenError",
        "if context.actor.role != 'admin': raise OSError",
        "if context.actor.customer_id: pass",
        "match actor.role:\n    case None: pass",
        "shown = rows if actor.sees_only is None else []",
        "role = getattr(context.actor, 'role', None)",
    ],
)
def test_the_check_finds_each_way_to_decide_in_a_route(source: str) -> None:
    assert list(permission_checks(source))


VISIBILITY = "app/services/access/visibility.py"
FILTER_IN_SQL = re.compile(
    r"customer_id\s*(=|<>|!=|\bIN\b|\bIS\b|\bLIKE\b)|(=|<>|\bIN\b)\s*\(?[\w:{}.\"]*customer_id", re.IGNORECASE
)
COMPARED = {
    # What the caller asks for, besides what they may see.
    ("app/services/orders/service.py", "columns.customer_id.__eq__"),
    ("app/services/orders/reading.py", "o.customer_id = CAST(:customer_id AS uuid)"),
    ("app/services/returns/service.py", "table.customer_id.__eq__"),
    # Messages to one customer are counted for their limit.
    ("app/services/notifications/limits.py", "n.customer_id = {customer}"),
    # Input, not rows: a customer orders for themselves, and only the role customer has a customer id.
    ("app/services/orders/service.py", "data.customer_id != actor.customer_id"),
    ("app/services/access/keys.py", "(role is Role.CUSTOMER) != (customer_id is not None)"),
    ("app/core/security.py", "(self.role is Role.CUSTOMER) != (self.customer_id is not None)"),
}
"""Where customer ids are compared for another purpose than to narrow what a customer sees."""


def names_a_customer(node: ast.AST) -> bool:
    """Return whether an expression has a customer's id in it: as a name, a field, or a column by its name."""
    names = {"customer_id", "sees_only"}
    return any(
        (isinstance(part, ast.Attribute) and part.attr in names)
        or (isinstance(part, ast.Name) and part.id in names)
        or (isinstance(part, ast.Constant) and part.value in names)
        for part in ast.walk(node)
    )


def text_of(node: ast.Constant | ast.JoinedStr) -> str:
    """Return a text of the source; what is formatted into it is `{}`."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)


def customer_filters(source: str) -> Iterator[str]:
    """Yield each comparison of a customer's id, in Python, in SQLAlchemy or in a text of SQL."""
    comparing = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(ops=ops) if any(isinstance(op, comparing) for op in ops) and names_a_customer(node):
                yield ast.unparse(node)
            case ast.Attribute(
                value=ast.Attribute(attr="customer_id") | ast.Subscript(slice=ast.Constant("customer_id"))
            ):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(attr="filter_by"), keywords=keywords):
                yield from (ast.unparse(node) for keyword in keywords if keyword.arg == "customer_id")
            case ast.Tuple(elts=[ast.Attribute(attr="sees_only"), *_]):
                yield ast.unparse(node)
            case ast.Constant(value=str()) | ast.JoinedStr() if FILTER_IN_SQL.search(text_of(node)):
                yield text_of(node)


def test_what_a_customer_sees_is_narrowed_in_one_module() -> None:
    found = {
        (str(file.relative_to(ROOT)), comparison)
        for file in (ROOT / "app").rglob("*.py")
        if file.parent.name != "models"
        for comparison in customer_filters(file.read_text(encoding="utf-8"))
    }
    assert {(path, comparison) for path, comparison in found if path != VISIBILITY} == COMPARED


@pytest.mark.parametrize(
    "source",
    [
        "statement = statement.where(Order.customer_id == actor.sees_only)",
        "statement = statement.where(actor.customer_id == Order.customer_id)",
        "select(Order).where(Order.id == order_id, table.customer_id == customer)",
        "select(Order).where(cast(Order.customer_id, Text) == str(customer))",
        "select(Order).where(table.c['customer_id'] == customer)",
        "select(Order).where(table.c['customer_id'].in_([customer]))",
        "select(Order).where(Order.customer_id.in_([customer]))",
        "select(Order).where(Order.customer_id.is_not_distinct_from(customer))",
        "select(Order).filter_by(customer_id=customer)",
        "pages.given((actor.sees_only, column.__eq__))",
        "text('SELECT 1 FROM orders WHERE customer_id = :customer')",
        "text('SELECT 1 FROM orders o WHERE :customer = o.customer_id')",
        "text('SELECT 1 FROM orders WHERE customer_id IN (:customer)')",
        "text(f'SELECT 1 FROM orders WHERE {alias}.customer_id IS NOT DISTINCT FROM :customer')",
        "text(f'SELECT 1 FROM orders WHERE :customer = {alias}.customer_id')",
        "rows = [row for row in rows if row.customer_id == actor.customer_id]",
    ],
)
def test_the_check_finds_each_filter_of_its_own(source: str) -> None:
    assert list(customer_filters(source))
