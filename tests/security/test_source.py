"""What the source itself must not hold: careless comparisons, built SQL, secrets (NFR-004)."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import ROOT

pytestmark = [pytest.mark.req("NFR-004.1"), pytest.mark.security]

SECRET_NAME = re.compile(
    r"(^|_)(secret|signature|digest|hmac|password|api_?key|token|sha256|expected|credential)s?(_|$)", re.IGNORECASE
)
NOT_SECRET = {
    # Settings judged at start, against published values or each other: no caller takes part.
    ("app/config_rules.py", "DEVELOPMENT_DATABASE_PASSWORD"),
    ("app/config_rules.py", "{'', DEVELOPMENT_GATEWAY_KEY}"),
    ("app/config_rules.py", "previous == settings.secret_key"),
    ("app/config_rules.py", "secret[unit:] == secret[:-unit]"),
    # Found by its hash, by an index of the database's or of our own: nothing in a hash can be guessed bit by bit.
    ("app/services/access/keys.py", "ApiKey.sha256 == digest"),
    ("app/services/access/keys.py", "ApiKey.id == "),
    # The principals of two kinds of credentials, after each was proven.
    ("app/dependencies.py", "by_key != by_token"),
    # Names of headers.
    ("app/dependencies.py", "name in CREDENTIALS"),
    ("app/api/v1/health.py", "name in CREDENTIALS"),
    # Read from a token after its signature held, and looked up by an index.
    ("app/services/access/tokens.py", "RevokedToken.token_id == token_id"),
    # Two settings of the operator, who sees both.
    ("app/cli/backup.py", "make_url(login).password"),
    # Digests that everyone may see.
    ("app/services/workflow/audit.py", "bytes(row.hash)"),
    ("app/services/documents/invoices.py", "_(Invoice.drawn_sha256)"),
    ("app/backup/restore.py", "hexdigest() != sha256"),
    ("app/backup/verify.py", "hexdigest() != sha256"),
    ("app/backup/verify.py", "sha256_of(file) != sha256"),
    # Expected amounts and versions.
    ("app/services/payments/collection.py", "(expected, payment.currency)"),
    ("app/services/payments/money_in.py", "(expected_amount(payment), payment.currency)"),
    ("app/services/payments/reconciliation.py", "(ours.expected_amount, ours.currency)"),
    ("app/services/orders/corrections.py", "order.version not in expected.versions"),
    # Words of a template for postal addresses.
    ("app/utils/postal_address.py", "token not in values"),
    # Names of tables.
    ("app/services/operations/schema_check.py", "list(present) != [expected]"),
    # The mock gateway's test tokens, which order an outcome.
    ("devtools/mock_gateway/ledger.py", "_REFUND_FAILS"),
}


def modules() -> list[Path]:
    return sorted(path for folder in ("app", "devtools") for path in (ROOT / folder).rglob("*.py"))


def named_for_a_secret(operand: ast.expr) -> bool:
    """Return whether any name in an operand says that it is, or checks, a secret."""
    names = (
        node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        for node in ast.walk(operand)
    )
    return any(SECRET_NAME.search(name) for name in names)


def careless_comparisons(source: str) -> Iterator[str]:
    """Yield every comparison of something secret with something that is not a constant of the code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(
            isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops
        ):
            operands = [node.left, *node.comparators]
            plain = all(isinstance(operand, ast.Constant) for operand in operands[1:])
            if not plain and any(map(named_for_a_secret, operands)):
                yield ast.unparse(node)


def test_secrets_are_compared_by_compare_digest_alone() -> None:
    found = {
        (str(file.relative_to(ROOT)), comparison)
        for file in modules()
        for comparison in careless_comparisons(file.read_text(encoding="utf-8"))
    }
    excused = {(path, text) for path, text in found for at, part in NOT_SECRET if path == at and part in text}
    assert found - excused == set()
    assert {(at, part) for at, part in NOT_SECRET if any(p == at and part in t for p, t in excused)} == NOT_SECRET


@pytest.mark.parametrize(
    "line",
    [
        "given == expected",
        "given in {expected}",
        "given not in [*signatures]",
        "given.encode('utf-8') == expected.encode('utf-8')",
        "hmac.new(key, body).hexdigest() == given",
        "key_digest(key) != row.sha256",
        "self.signature == other",
        "headers['x'] == webhook_secret",
    ],
)
def test_the_check_finds_what_it_is_for(line: str) -> None:
    assert list(careless_comparisons(line)) == [line]


TEXT_OF_SQL = {"text", "literal_column", "exec_driver_sql", "SQL"}
"""Calls that make SQL of the text they get: SQLAlchemy's and psycopg's. They get constants alone."""

STATEMENTS = {"execute", "executemany", "scalar", "scalars", "copy"}
"""Calls that take a statement, whose first argument may also be an expression of SQLAlchemy."""

BUILT_SQL = {
    # Tables, triggers and sequences that the catalogue of our own schema names; a mark made from such names.
    ("app/services/operations/replication.py", "public."),
    # A condition of the same function.
    ("app/services/operations/replication.py", "{own}"),
    # One of two constant verbs.
    ("app/services/operations/replication.py", "verb.format(PUBLICATION"),
    # Table names and expressions of this code base, chosen by the entity type.
    ("app/services/workflow/audit.py", "_CHAINS.format("),
    ("app/services/workflow/transitions.py", "_STATEMENT.format("),
    # One pair of columns for each line of a table in the same module.
    ("app/services/operations/service_levels.py", "'SELECT ' + ', '.join("),
    # One row for each kind of job in a table of the same module.
    ("devtools/seed.py", "WITH settled AS"),
    # Kinds of jobs and of entities, from enumerations of this code base.
    ("devtools/seed.py", "INSERT INTO jobs (kind, queue, entity_id, dedupe_key, payload, run_at)"),
    # A table and its columns, from a literal in the same module.
    ("devtools/seed.py", "f'COPY {table}"),
    # A constant of the same module, in seconds.
    ("app/services/workflow/verification.py", "DEAD_AFTER.total_seconds():.0f"),
    # Names of columns, in a rule of the schema.
    ("app/models/payment.py", "f'{column} IS NOT NULL'"),
    # The table of a machine and its transitions, all of this code base; branches for each status that is asked for.
    ("app/services/workflow/transitions.py", "sql"),
    ("app/services/orders/reading.py", "branches[0] if len(branches) == 1"),
    # Conditions of the same module, with the parameter of the statement that they are put into.
    ("app/services/notifications/limits.py", "counted"),
    # Columns of our own tables, and the condition of what an actor may see.
    ("app/services/orders/reading.py", "SELECT {answer('o')}"),
    ("app/services/orders/writing.py", "WITH given AS"),
    # A choice between two constants.
    ("app/local/postgres.py", "'CREATE ROLE {} LOGIN NOSUPERUSER ' + rights"),
}
"""Where SQL is put together from something other than constants, each looked at by a person."""


def is_fixed(node: ast.expr) -> bool:
    """Return whether an expression is made of constants alone: literals, names in capitals, and their members."""
    if isinstance(node, ast.Name | ast.Attribute):
        return (node.id if isinstance(node, ast.Name) else node.attr).strip("_").isupper()
    if isinstance(node, ast.IfExp):
        return is_fixed(node.body) and is_fixed(node.orelse)
    parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
    if isinstance(node, ast.Call):
        method = node.func
        if not isinstance(method, ast.Attribute) or method.attr not in {"format", "replace", "join", "encode"}:
            return False
        parts = [method.value, *node.args, *(word.value for word in node.keywords)]
    return isinstance(node, ast.Constant) or (bool(parts) and all(map(is_fixed, parts)))


def is_put_together(node: ast.expr) -> bool:
    """Return whether an expression makes a text out of parts, without psycopg's quoting of each."""
    match node:
        case ast.JoinedStr():
            return True
        case ast.IfExp(body=one, orelse=other):
            return is_put_together(one) or is_put_together(other)
        case ast.BinOp(op=ast.Add() | ast.Mod(), left=left, right=right):
            return any(
                isinstance(part, ast.Constant | ast.JoinedStr) or is_put_together(part) for part in (left, right)
            )
        case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="join")):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "replace" | "encode"), args=args):
            return not any(isinstance(arg, ast.Call) and getattr(arg.func, "attr", "") == "Identifier" for arg in args)
        case _:
            return False


def assignments(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """Return what each name of a scope is set to."""
    made: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            is_added = isinstance(node, ast.AugAssign)
            value = ast.BinOp(ast.Constant(""), ast.Add(), node.value) if is_added else node.value
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                # Of several targets, each counts as the whole value.
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        made.setdefault(name.id, []).append(value)
    return made


def real_names(tree: ast.Module) -> dict[str, str]:
    """Return what is imported under another name, by that name."""
    return {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }


def built_sql(source: str) -> Iterator[str]:
    """Yield each text that may be put together from values and is given to the database as SQL."""
    tree = ast.parse(source)
    imported = real_names(tree)
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))]:
        made = assignments(scope)
        for node in ast.walk(scope):
            given = [*node.args, *(word.value for word in node.keywords)] if isinstance(node, ast.Call) else []
            if not isinstance(node, ast.Call) or not given:
                continue
            called = str(getattr(node.func, "attr", None) or getattr(node.func, "id", ""))
            called = imported.get(called, called)
            if called not in TEXT_OF_SQL | STATEMENTS:
                continue
            first = given[0]
            for value in made.get(first.id, [first]) if isinstance(first, ast.Name) else [first]:
                if not is_fixed(value) and (called in TEXT_OF_SQL or is_put_together(value)):
                    yield ast.unparse(value)


def test_no_sql_is_built_from_values() -> None:
    """SQL is constant and values go beside it as parameters. Names from our own tables may be put in."""
    found = {
        (str(file.relative_to(ROOT)), built)
        for file in modules()
        for built in built_sql(file.read_text(encoding="utf-8"))
    }
    excused = {(path, text) for path, text in found for at, part in BUILT_SQL if path == at and part in text}
    assert found - excused == set()
    assert {(at, part) for at, part in BUILT_SQL if any(p == at and part in t for p, t in excused)} == BUILT_SQL


@pytest.mark.parametrize(
    "line",
    [
        "connection.execute(f\"SELECT 1 FROM orders WHERE customer_email = '{email}'\")",
        "connection.execute(text(f\"DELETE FROM orders WHERE id = '{data.order_id}'\"))",
        "session.execute(text(\"SELECT 1 FROM orders WHERE order_number = '%s'\" % number))",
        'session.execute(text("SELECT 1 FROM orders WHERE q = \'" + words + "\'"))',
        "session.execute(text('SELECT 1 FROM orders WHERE id = {}'.format(order_id)))",
        "connection.exec_driver_sql(f'SET ROLE {role}')",
        "statement = 'SELECT ' + column\ncursor.execute(statement, ())",
        "statement = 'SELECT 1 '\nstatement += clause\ncursor.execute(statement)",
        "select(literal_column(f'{word} DESC'))",
        "connection.execute(f'TRUNCATE {table}'.encode())",
        "text(first + second)",
        "text(separator.join(words))",
        "text(f'SELECT {word}' if word else 'SELECT 1')",
        "connection.execute(f'SELECT {word}' if word else 'SELECT 1')",
        "text(text=f'SELECT {word}')",
        "text(dedent(f'SELECT {word}'))",
        "text(statement_for(word))",
        "if statement := f'SELECT {word}':\n    connection.execute(text(statement))",
        "statement, values = f'SELECT {word}', ()\ncursor.execute(text(statement))",
        "connection.execute(text(self.statement))",
        "def found(word):\n    return text(word)",
        "from sqlalchemy import text as sql_text\nsql_text(f'SELECT {word}')",
        "cursor.copy(f'COPY {table} FROM STDIN')",
    ],
)
def test_the_check_of_sql_finds_every_shape(line: str) -> None:
    assert list(built_sql(line))


@pytest.mark.parametrize(
    "line",
    [
        "connection.execute(text('SELECT 1 FROM orders WHERE id = :id'), {'id': order_id})",
        "TABLE = 'orders'\nconnection.execute(f'SELECT 1 FROM {TABLE}')",
        "session.execute(select(Order.id).where(Order.id == order_id))",
        "connection.execute(sql.SQL('CREATE ROLE {}').format(sql.Identifier(name)))",
        "statement = 'SELECT 1' if is_short else 'SELECT 2'\nconnection.execute(text(statement))",
    ],
)
def test_the_check_of_sql_passes_constants_and_parameters(line: str) -> None:
    assert list(built_sql(line)) == []


def test_the_linter_looks_for_built_sql_too() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert lint["select"] == ["ALL"]
    assert not {"S", "S6", "S60", "S608"} & set(lint["ignore"])
    assert all(
        not {"S", "S608"} & set(codes)
        for path, codes in lint["per-file-ignores"].items()
        if path.startswith(("app", "devtools", "{app"))
    )
    for file in modules():
        for line in file.read_text(encoding="utf-8").splitlines():
            if "noqa: S608" in line:
                assert re.search(r"noqa: S608 - \w+", line), f"{file.name}: an exception without its reason"


SECRETS = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{100,}"),
    "AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})"),
    "Slack token": re.compile(r"\bxox[abposr]-[A-Za-z0-9-]{20,}"),
    "Stripe key": re.compile(r"\b(?:sk|rk)_live_[A-Za-z0-9]{16,}"),
    "Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "our own key": re.compile(r"\back_[0-9a-f]{8}_[A-Za-z0-9_-]{43}\b"),
    "signed token": re.compile(r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
    "password in a URL": re.compile(r"\b[a-z][a-z0-9+]*://[^\s/:@'\"{}$<>]+:([^\s/@'\"{}$<>%]{8,})@"),
    "password assigned": re.compile(
        r"^[ \t]*(?:export )?[A-Z_]*(?:PASSWORD|SECRET|SECRET_KEY|API_KEY|TOKEN)[ \t]*[=:][ \t]*[\"']?([A-Za-z0-9+/_=!@#-]{12,})[\"']?[ \t]*$",
        re.MULTILINE,
    ),
}
ALLOWED = [
    re.compile(pattern)
    for pattern in tomllib.loads((ROOT / ".gitleaks.toml").read_text(encoding="utf-8"))["allowlists"][0]["regexes"]
] + [re.compile("dev_password"), re.compile(r"[:'][A-Z]+_(?:PASSWORD|SECRET)['@]")]
"""Known to all who read them: production refuses each, or a word in capitals stands for what the reader has."""


def tracked_files() -> list[Path]:
    """Return the repository's files, those that are about to be added too; without git, all that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
    else:
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if not {".venv", ".tools", ".git"} & set(p.parts)]
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def secrets_in(text: str) -> set[tuple[str, str]]:
    """Return what looks like a secret, with its kind."""
    found = {(kind, match[0].strip()) for kind, shape in SECRETS.items() for match in shape.finditer(text)}
    return {(kind, value) for kind, value in found if not any(known.search(value) for known in ALLOWED)}


def test_no_secret_is_in_the_repository() -> None:
    found = {}
    for file in tracked_files():
        if file.suffix in {".png", ".ttf", ".otf", ".woff2", ".pdf"} or "tests" in file.relative_to(ROOT).parts[:1]:
            continue
        if held := secrets_in(file.read_text(encoding="utf-8", errors="replace")):
            found[str(file.relative_to(ROOT))] = held
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "key = AKIA" + "ABCDEFGHIJKLMNOP",
        "token: ghp_" + "a1B2" * 10,
        "DATABASE_URL=postgresql://shop:" + "hunter2hunter2@db/shop",
        "SECRET_KEY=" + "9f8e7d6c5b4a39281706",
        "-----BEGIN PRIVATE KEY-----\n" + "MIIE" * 40,
        "ack_" + "0a1b2c3d_" + "x" * 43,
    ],
)
def test_the_scan_finds_what_it_is_for(text: str) -> None:
    assert secrets_in(text)
