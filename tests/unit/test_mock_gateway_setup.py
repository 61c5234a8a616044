"""The gateway's store, settings and money."""

import sqlite3
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from devtools.mock_gateway.errors import RefusalError
from devtools.mock_gateway.main import create_app, create_app_from_env
from devtools.mock_gateway.money import to_minor, to_text
from devtools.mock_gateway.settings import GatewaySettings, GatewaySettingsError
from devtools.mock_gateway.store import Store, StoreInUseError
from tests.unit.gateway_merchant import captured, give_back
from tests.unit.gateway_support import API_KEY, SECRET, gateway_settings

pytestmark = pytest.mark.req("INT-001")


def test_one_process_keeps_the_books(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreInUseError):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def two_steps() -> None:
        with store.transaction():
            store.write("UPDATE profile SET idempotency = 'none'")
            store.write("UPDATE profile SET only_row = 2")

    try:
        with pytest.raises(sqlite3.IntegrityError):
            two_steps()
        row = store.row("SELECT idempotency FROM profile")
        assert row is not None
        assert row["idempotency"] == "stripe"
    finally:
        store.close()


def test_the_books_survive_an_orderly_restart(tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with TestClient(create_app(gateway_settings(tmp_path)), headers=headers) as client:
        payment_id = captured(client)
        before = client.get("/control/ledger").json()
    with TestClient(create_app(gateway_settings(tmp_path)), headers=headers) as client:
        assert client.get("/control/ledger").json() == before
        assert give_back(client, payment_id, "1").status_code == 200


ENVIRONMENT = {
    "GATEWAY_DATA_DIR": "/nowhere",
    "PAYMENT_GATEWAY_API_KEY": API_KEY,
    "PAYMENT_WEBHOOK_SECRET": SECRET,
    "PAYMENT_WEBHOOK_URL": "http://127.0.0.1:1/hook",
}


def test_settings_from_the_environment() -> None:
    settings = GatewaySettings.from_env(ENVIRONMENT)
    assert settings.data_dir == Path("/nowhere")
    assert settings.webhook_url == "http://127.0.0.1:1/hook"
    assert GatewaySettings.from_env({**ENVIRONMENT, "PAYMENT_WEBHOOK_URL": ""}).webhook_url is None
    assert API_KEY not in repr(settings)
    assert SECRET not in repr(settings)


def test_settings_name_every_fault() -> None:
    with pytest.raises(GatewaySettingsError) as raised:
        GatewaySettings.from_env({"PAYMENT_WEBHOOK_URL": "ftp://x"})
    for name in ENVIRONMENT:
        assert name in str(raised.value)
    with pytest.raises(GatewaySettingsError):
        GatewaySettings.from_env({**ENVIRONMENT, "PAYMENT_WEBHOOK_URL": "http://[::"})


def test_an_application_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ENVIRONMENT, "GATEWAY_DATA_DIR": str(tmp_path / "a" / "b")}.items():
        monkeypatch.setenv(name, value)
    with TestClient(create_app_from_env()) as client:
        assert client.get("/health").status_code == 200
    assert (tmp_path / "a" / "b" / "ledger.sqlite3").exists()


@given(st.integers(1, 10**12 - 1), st.sampled_from(["USD", "JPY", "KWD"]))
def test_money_survives_the_wire(minor: int, currency: str) -> None:
    assert to_minor(to_text(minor, currency), currency) == minor


def test_currencies_have_their_own_decimals() -> None:
    assert (to_text(1, "USD"), to_text(1, "JPY"), to_text(1, "KWD")) == ("0.01", "1", "0.001")
    assert (to_minor("1.5", "USD"), to_minor("500.00", "JPY"), to_minor("1.001", "KWD")) == (150, 500, 1001)
    for text, currency in (("1.5", "JPY"), ("1.001", "USD")):
        with pytest.raises(RefusalError):
            to_minor(text, currency)
