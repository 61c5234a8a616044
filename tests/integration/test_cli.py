"""The operators' verbs against a real database, in process; starting and serving are tested end to end."""

import asyncio
import io
import json
import os
import pwd
import re
import sys
from contextlib import redirect_stderr
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner, Result

from app.cli.main import cli, main
from app.config import Settings, get_settings
from app.core.actor import Actor
from app.core.enums import OrderStatus, Role
from app.core.security import read_token, token_id_of
from app.database import Database
from app.schemas.order import OrderStateUpdate
from app.services.orders.service import OrderService
from tests import databases
from tests.conftest import actor
from tests.databases import TestServers
from tests.factories import order_create


@pytest.fixture(autouse=True)
def _environment(command_line: None) -> None:
    """Every test here runs commands."""


def run(*words: object, expect: int = 0) -> Result:
    """Run the command in process."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == expect, (result.output, result.exception)
    return result


def paid_order(settings: Settings, by: Actor) -> str:
    """Return the id of a new order in PAID."""

    async def make() -> str:
        database = Database(settings, pool_size=1)
        try:
            orders = OrderService(database)
            order = await orders.create(order_create(), by)
            await orders.transition(order["id"], OrderStateUpdate(new_state=OrderStatus.PAID), by)
            return str(order["id"])
        finally:
            await database.close()

    return asyncio.run(make())


@pytest.mark.req("NFR-004.2")
def test_keys_are_shown_once_and_can_be_revoked(owner_connection: psycopg.Connection) -> None:
    created = json.loads(run("keys", "create", "--role", "manager", "--name", "counter", "--json").stdout)
    assert created["key"].startswith("ack_")
    assert created["role"] == "manager"
    dump = owner_connection.execute("SELECT api_keys::text FROM api_keys").fetchall()
    assert created["key"] not in str(dump)
    [listed] = json.loads(run("keys", "list", "--json").stdout)
    assert (listed["id"], listed["name"], listed["revoked_at"]) == (created["id"], "counter", None)
    assert created["key"] not in run("keys", "list").stdout
    run("keys", "revoke", created["id"])
    [listed] = json.loads(run("keys", "list", "--json").stdout)
    assert listed["revoked_at"] is not None


@pytest.mark.req("NFR-004")
def test_keys_are_made_and_ended_by_the_owners_connection_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, servers: TestServers
) -> None:
    if servers.given:
        pytest.skip("the given login owns the tables")
    made = json.loads(run("keys", "create", "--role", "manager", "--name", "till", "--json").stdout)
    monkeypatch.delenv("DATABASE_ADMIN_URL")
    get_settings.cache_clear()
    for words in (["create", "--role", "admin", "--name", "x"], ["rotate", made["id"]], ["revoke", made["id"]]):
        assert "set DATABASE_ADMIN_URL" in run("keys", *words, expect=1).stderr
    assert [row["id"] for row in json.loads(run("keys", "list", "--json").stdout)] == [made["id"]]


@pytest.mark.req("NFR-004.2")
def test_keys_end_and_are_rotated() -> None:
    words = ("--role", "manager", "--name", "till", "--expires-in", "30")
    assert re.search(r"^ends \d{4}-\d\d-\d\d \d\d:\d\d UTC$", run("keys", "create", *words).stdout, re.MULTILINE)
    old = json.loads(run("keys", "create", *words, "--json").stdout)
    new = json.loads(run("keys", "rotate", old["id"], "--overlap", "2", "--json").stdout)
    assert new["key"] != old["key"]
    assert [new[name] for name in ("name", "role", "principal_id")] == ["till", "manager", old["id"]]
    listed = {row["id"]: row for row in json.loads(run("keys", "list", "--json").stdout)}
    assert hours_between(new["created_at"], listed[old["id"]]["expires_at"]) == 2
    assert hours_between(new["created_at"], new["expires_at"]) == 30 * 24
    for column in ("last_used_at", "expires_at", "revoked_at"):
        assert column in run("keys", "list").stdout
    again = run("keys", "rotate", old["id"], expect=1)
    assert new["id"] in str(again.exception.details)  # type: ignore[union-attr]
    run("keys", "create", "--role", "manager", "--name", "till", "--expires-in", "0", expect=2)
    run("keys", "rotate", new["id"], "--overlap", "-1", expect=2)


def hours_between(earlier: str, later: str) -> float:
    """Return how many."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds() / 3600


def told(*words: str) -> tuple[int, str]:
    """Run the command as a process would; return its exit code and what it said on standard error."""
    with patch.object(sys, "argv", ["articurated", *words]), redirect_stderr(io.StringIO()) as said:
        with pytest.raises(SystemExit) as end:
            main()
        return int(str(end.value.code)), said.getvalue()


def test_a_refusal_says_why() -> None:
    code, said = told("keys", "create", "--role", "customer", "--name", "x")
    assert code == 1
    assert "customer_id belongs to the role customer" in said


def test_without_a_system_and_a_database_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("ARTICURATED_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    code, said = told("keys", "list")
    assert (code, len(said.splitlines())) == (1, 1)
    assert "./dev run" in said


def test_an_unreachable_database_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    get_settings.cache_clear()
    code, said = told("keys", "list")
    assert (code, len(said.splitlines())) == (1, 1)
    assert "127.0.0.1" in said


def test_token_is_valid_for_its_role() -> None:
    customer = uuid4()
    token = run("token", "--role", "customer", "--customer-id", customer).stdout.strip()
    principal = read_token(get_settings(), token).principal
    assert (principal.role, principal.customer_id) == (Role.CUSTOMER, customer)
    run("token", "--role", "manager", "--customer-id", customer, expect=2)


def test_a_token_is_printed_with_its_jti_and_revoked_by_it() -> None:
    made = json.loads(run("token", "--role", "manager", "--json").stdout)
    assert read_token(get_settings(), made["token"]).token_id == made["jti"]
    plain = run("token", "--role", "manager")
    assert plain.stderr == f"jti {token_id_of(plain.stdout.strip())}\n"
    assert run("token", "revoke", made["jti"]).stdout == f"revoked {made['jti']}\n"
    assert run("token", "revoke", made["token"]).stdout == f"revoked {made['jti']}\n"
    assert "TOKEN_MAX_AGE_MINUTES" in run("token", "--role", "manager", "--minutes", 1441, expect=2).stderr
    run("token", expect=2)


@pytest.mark.req("REQ-003.4")
def test_audit_verify_passes_then_names_the_altered_row(
    settings: Settings, servers: TestServers, database_name: str
) -> None:
    order_id = paid_order(settings, actor(Role.ADMIN))
    assert "1 rows of 1 entities" in run("audit", "verify").stdout
    with psycopg.connect(databases.url_of(servers.superuser_url, database_name)) as connection:
        connection.execute("ALTER TABLE state_history DISABLE TRIGGER guard_append_only")
        connection.execute("UPDATE state_history SET actor_type = 'SYSTEM'")
        connection.execute("ALTER TABLE state_history ENABLE ALWAYS TRIGGER guard_append_only")
    said = run("audit", "verify", expect=1).stdout
    assert f"ORDER {order_id} row 1" in said
    report = json.loads(run("audit", "verify", "--json", expect=1).stdout)
    assert (report["ok"], report["fault"]["seq"]) == (False, 1)


@pytest.mark.req("REQ-003.6")
def test_audit_export_is_json_lines(settings: Settings, tmp_path: Path) -> None:
    order_id = paid_order(settings, actor(Role.ADMIN))
    run("audit", "export", "--output", tmp_path / "trail.jsonl")
    assert (tmp_path / "trail.jsonl").stat().st_mode & 0o777 == 0o600
    [row] = [json.loads(line) for line in (tmp_path / "trail.jsonl").read_text().splitlines()]
    assert (row["entity_id"], row["new_state"], len(row["hash"])) == (order_id, "PAID", 64)


@pytest.mark.req("REQ-004.11")
def test_dead_jobs_are_listed_retried_and_dismissed(owner_connection: psycopg.Connection) -> None:
    job_ids = [uuid4() for _ in range(2)]
    for job_id in job_ids:
        owner_connection.execute(
            "INSERT INTO jobs (id, kind, queue, entity_id, dedupe_key)"
            " VALUES (%s, 'notify.invoice', 'notifications', %s, %s)",
            (job_id, uuid4(), str(job_id)),
        )
        owner_connection.execute(
            "UPDATE jobs SET state = 'DEAD', failures = 6, last_error = 'no route' WHERE id = %s", (job_id,)
        )
        owner_connection.execute(
            "INSERT INTO dead_letters (job_id, kind, entity_id, error, failures, claims)"
            " SELECT id, kind, entity_id, 'no route', 6, 6 FROM jobs WHERE id = %s",
            (job_id,),
        )
    listed = json.loads(run("jobs", "list", "--json").stdout)
    assert {row["id"] for row in listed} == {str(job_id) for job_id in job_ids}
    assert "no route" in run("jobs", "list").stdout
    letters: dict[Any, Any] = dict(owner_connection.execute("SELECT job_id, id FROM dead_letters").fetchall())
    by_letter = json.loads(run("jobs", "show", letters[job_ids[0]]).stdout)
    assert by_letter["id"] == str(job_ids[0])
    assert "retried" in run("jobs", "retry", job_ids[0], "--note", "route is back", "--by", "Grace Hopper").stdout
    assert "dismissed" in run("jobs", "dismiss", job_ids[1]).stdout
    account = pwd.getpwuid(os.getuid()).pw_name
    resolved = owner_connection.execute("SELECT job_id, resolved_by, resolved_operator FROM dead_letters").fetchall()
    assert sorted(resolved, key=str) == sorted(
        [(job_ids[0], None, "Grace Hopper"), (job_ids[1], None, account)], key=str
    )
    recorded = owner_connection.execute("SELECT type, data ->> 'operator' FROM events ORDER BY type").fetchall()
    assert recorded == [("job.dismissed", account), ("job.retried", "Grace Hopper")]
    run("jobs", "retry", job_ids[0], "--by", " ", expect=2)
    states: dict[Any, Any] = dict(owner_connection.execute("SELECT id, state FROM jobs").fetchall())
    assert [states[job_id] for job_id in job_ids] == ["PENDING", "DISMISSED"]
    shown = json.loads(run("jobs", "show", job_ids[0]).stdout)
    assert (shown["failures"], shown["claims"]) == (0, 0)
    assert CliRunner().invoke(cli, ["jobs", "retry", str(job_ids[0])]).exit_code != 0
    assert CliRunner().invoke(cli, ["jobs", "show", str(uuid4())]).exit_code != 0
    run("jobs", "list", "--state", "nonsense", expect=2)


def test_refunds_are_listed_by_state() -> None:
    assert json.loads(run("refunds", "list", "--json").stdout) == []
    run("refunds", "list", "--state", "nonsense", expect=2)


def test_diagram_and_openapi_can_be_written(tmp_path: Path) -> None:
    assert "PAID --> CANCELLED" in run("diagram", "order").stdout
    run("diagram", "return", "--format", "svg", "--output", tmp_path / "return.svg")
    assert (tmp_path / "return.svg").read_text().startswith("<svg")
    run("openapi", "--output", tmp_path / "api.yml")
    assert "/api/v1/orders" in (tmp_path / "api.yml").read_text()
    assert run("openapi").stdout == (tmp_path / "api.yml").read_text()


def test_seed_shows_progress(owner_connection: psycopg.Connection) -> None:
    run("seed", "--orders", 3, "--seed", 1, "--no-documents")
    assert owner_connection.execute("SELECT count(*) FROM orders").fetchone() == (3,)
    assert owner_connection.execute("SELECT count(*) FROM invoices").fetchone() == (0,)


def test_seed_says_how_many_documents_it_issued(
    owner_connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("seed", "--orders", 6, "--seed", 1).stdout
    [(issued,)] = owner_connection.execute("SELECT count(*) FROM invoices WHERE state = 'ISSUED'").fetchall()
    assert issued > 0
    assert f"6 orders added, {issued} documents issued" in said
    assert "document.issued" not in said
    monkeypatch.setattr("devtools.cli.DOCUMENTS_UP_TO", 5)
    assert "6 orders added, without invoices and credit notes" in run("seed", "--orders", 6, "--seed", 1).stdout
    assert owner_connection.execute("SELECT count(*) FROM invoices").fetchone() == (issued,)
