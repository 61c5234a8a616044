"""Where access is decided: permissions in services, not in routes (NFR-004)."""

import ast
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
