"""Files that hold customers' data or secrets can be read by their owner alone, with any umask (NFR-004)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.operations import open_private
from app.local.process import write_state
from devtools.embedded.mail_store import MailStore
from devtools.mock_gateway.store import Store

pytestmark = [pytest.mark.req("NFR-004"), pytest.mark.security]


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Return name → permissions of what is in a folder."""
    return {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}


def test_the_mock_gateway_s_books(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    for _ in range(2):
        store = Store(folder)
        with store.transaction():
            store.write("UPDATE profile SET lookup = 1")
        found = modes(folder)
        store.close()
        assert {"ledger.sqlite3", "ledger.sqlite3-wal", "gateway.lock"} <= set(found)
        assert set(found.values()) == {"0o600"}
        # As an earlier release made them.
        for file in folder.iterdir():
            file.chmod(0o644)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_exported_audit_trail(tmp_path: Path) -> None:
    """Also where a file is there that others can read; what was in it is gone."""
    file = tmp_path / "trail.jsonl"
    for content in (b"first and longer", b"second"):
        with open_private(file) as stream:
            stream.write(content)
        assert file.read_bytes() == content
        assert modes(tmp_path) == {"trail.jsonl": "0o600"}
        file.chmod(0o644)


def test_caught_mails(tmp_path: Path) -> None:
    MailStore(tmp_path / "mail").add("a@example.com", ["b@example.com"], b"Subject: x\r\n\r\ny")
    assert set(modes(tmp_path / "mail").values()) == {"0o600"}
    assert (tmp_path / "mail").stat().st_mode & 0o777 == 0o700


def test_the_addresses_and_passwords_of_a_running_system(tmp_path: Path) -> None:
    write_state(tmp_path / "stack.json", {"database_url": "postgresql://app:word@localhost/x"})
    assert modes(tmp_path) == {"stack.json": "0o600"}
