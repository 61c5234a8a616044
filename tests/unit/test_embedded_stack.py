"""What is started for which configuration, and what each part gets."""

from pathlib import Path

import pytest

from app.config import Settings
from app.local.data_folder import locked, running_connection
from app.local.process import write_state
from app.utils import memory
from devtools.embedded import stack as stack_module
from devtools.embedded.stack import Stack, StackInfo, StackOptions

EXTERNAL = {"DATABASE_URL": "postgresql://app:secret@db.example/orders", "REDIS_URL": "redis://cache.example/0"}


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test sets counts."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def stack_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Stack:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Stack(StackOptions(tmp_path, port=0), Settings(_env_file=None))


def names(stack: Stack) -> list[str]:
    return [child.name for child in stack.children]


def test_by_default_everything_is_started_servers_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_for(tmp_path, monkeypatch)
    api = ["api", "api-2", "api-spare"]
    assert names(stack) == [
        "postgres",
        "redis",
        "migrate",
        "mail",
        "gateway",
        *api,
        "relay",
        "worker",
        "beat",
        "backup",
    ]
    stages = {child.name: child.stage for child in stack.children}
    assert stages["postgres"] < stages["migrate"] < stages["api"] == stages["worker"]
    assert set(stack_module.STOP_ORDER) == {child.part for child in stack.children} - {"migrate"}


def test_where_memory_is_short_one_process_serves_and_none_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * memory.API_PROCESS_BYTES)
    assert [name for name in names(stack_for(tmp_path, monkeypatch)) if "api" in name] == ["api", "api-2"]
    monkeypatch.setattr(memory, "available_bytes", lambda: memory.API_PROCESS_BYTES)
    assert [name for name in names(stack_for(tmp_path, monkeypatch)) if "api" in name] == ["api"]


def test_the_memory_of_a_container_counts(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    assert memory.available_bytes(meminfo, limit) is None
    meminfo.write_text("MemTotal:  8000 kB\nMemAvailable:  4000 kB\n")
    limit.write_text("max\n")
    assert memory.available_bytes(meminfo, limit) == 4000 * 1024
    limit.write_text("1000000\n")
    assert memory.available_bytes(meminfo, limit) == 1_000_000


def test_given_servers_and_services_are_used_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_for(
        tmp_path,
        monkeypatch,
        **EXTERNAL,
        DATABASE_ADMIN_URL="postgresql://owner:secret@db.example/orders",
        SMTP_HOST="mail.example",
        PAYMENT_GATEWAY_URL="https://gateway.example",
        STORAGE_PATH=str(tmp_path / "elsewhere"),
    )
    assert names(stack) == ["migrate", "api", "api-2", "api-spare", "relay", "worker", "beat"]
    assert stack.connection() == {}
    info = stack.info()
    assert (info.database_url, info.redis_url) == (EXTERNAL["DATABASE_URL"], EXTERNAL["REDIS_URL"])
    assert (info.mail, info.mail_smtp, info.gateway) == (None, None, "https://gateway.example")
    assert info.pids["postgres"] == info.pids["redis"] == []
    assert stack._environment("migrate", tmp_path)["DATABASE_ADMIN_URL"].startswith("postgresql://owner")


def test_only_migrations_are_given_the_owners_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_for(tmp_path, monkeypatch, DATABASE_ADMIN_URL="postgresql://stale:one@localhost/x")
    assert stack.postgres is not None
    stack.postgres._secrets = {"postgres": "s", "articurated": "0wner-5ecret", "articurated_app": "apps"}
    stack.postgres.port = 1
    assert stack._environment("migrate", tmp_path)["DATABASE_ADMIN_URL"] == stack.postgres.owner_url
    for name in ("api", "worker", "relay", "beat", "gateway", "mail"):
        environment = stack._environment(name, tmp_path / "ready")
        assert "DATABASE_ADMIN_URL" not in environment
        assert not any("0wner-5ecret" in value for value in environment.values())
        assert environment["DATABASE_URL"] == stack.postgres.app_url
        assert environment["STORAGE_PATH"] == str(tmp_path / "storage")


def test_the_gateway_knows_where_its_events_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_for(tmp_path, monkeypatch, **EXTERNAL)
    environment = stack._environment("gateway", tmp_path)
    assert environment["PAYMENT_WEBHOOK_URL"] == f"http://127.0.0.1:{stack.api_port}/api/v1/payments/webhook"
    assert environment["GATEWAY_DATA_DIR"] == str(tmp_path / "gateway")
    assert stack._environment("api", tmp_path)["PAYMENT_GATEWAY_URL"] == f"http://127.0.0.1:{stack.gateway_port}"


def test_counters_of_all_processes_begin_at_nothing_and_outlive_a_healed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "counter_1.db").write_text("of an earlier run")
    stack = stack_for(tmp_path, monkeypatch, **EXTERNAL)
    for name in ("api", "relay", "worker", "beat"):
        assert stack._environment(name, tmp_path)["PROMETHEUS_MULTIPROC_DIR"] == str(folder)
    assert list(folder.iterdir()) == []
    (folder / "counter_2.db").write_text("of a worker")
    stack._environment("api", tmp_path)
    assert [file.name for file in folder.iterdir()] == ["counter_2.db"]
    assert "PROMETHEUS_MULTIPROC_DIR" not in stack._environment("gateway", tmp_path)


@pytest.mark.parametrize("taken", [(), (8000,)])
def test_port_8000_unless_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: tuple[int, ...]) -> None:
    for module in ("devtools.embedded.stack", "app.local.process"):
        monkeypatch.setattr(f"{module}.port_is_free", lambda port: port not in taken)
    for name, value in EXTERNAL.items():
        monkeypatch.setenv(name, value)
    stack = Stack(StackOptions(tmp_path), Settings(_env_file=None))
    assert (stack.api_port == 8000) is (not taken)


def test_a_running_systems_addresses_are_found_by_its_lock(tmp_path: Path) -> None:
    write_state(tmp_path / "stack.json", {"connection": {"DATABASE_URL": "postgresql://x"}})
    assert running_connection(tmp_path) == {}  # The file of one that was killed.
    with locked(tmp_path):
        assert running_connection(tmp_path) == {"DATABASE_URL": "postgresql://x"}


def test_the_line_of_json_can_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = stack_for(tmp_path, monkeypatch, **EXTERNAL).info()
    assert StackInfo.from_json({**info.to_json(), "of a later version": 1}) == info
    assert set(info.to_json()) >= {
        *("ready", "api", "database_url", "redis_url", "mail", "gateway", "api_key", "data_dir", "pids")
    }
    assert set(info.pids) == {"api", "worker", "relay", "beat", "gateway", "postgres", "redis"}
    assert Path(info.data_dir).is_absolute()
