"""What the pages have a reader type is typed, against a running system, and what they show is compared with it.

The blocks of a page run one after another in one shell, as a reader would. A `json` or `text` block right after one
is what it shows: names, types, codes and words must be there; ids, moments and counts may differ, and `…` leaves out.
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import time
from types import MappingProxyType
from uuid import uuid4

import pytest

from app.config import ROOT, Settings
from app.local.data_folder import running_connection
from devtools.embedded.run import RunningStack
from devtools.mock_gateway.webhooks import secret_bytes, sign
from tests.databases import TestServers
from tests.e2e.conftest import Journey, eventually
from tests.e2e.docs_scenes import SCENES, Place, empty_database, replaced
from tests.e2e.docs_shown import Example, blocks, compare, examples, same_words
from tests.e2e.warm_command import CLIENT
from tools.documentation.events import EVENTS
from tools.documentation.site import PUBLISHED

pytestmark = [pytest.mark.e2e, pytest.mark.req("DOC.1"), pytest.mark.xdist_group("stack")]

TOUR = ROOT / "docs" / "tutorial.md"
RUN = [
    "reference/api.md",
    "how-to/woken-at-night.md",
    "how-to/settle-a-dispute.md",
    "how-to/handle-dead-letters.md",
    "how-to/decide-cases.md",
    "how-to/manage-keys.md",
    "how-to/watch-the-system.md",
    "how-to/preview-mails.md",
    "how-to/reconcile-refunds.md",
    "explanation/audit.md",
    "explanation/money.md",
]
FOLLOWED_ELSEWHERE = {
    "how-to/upgrade-postgresql.md": "tests/integration/test_upgrade_postgresql.py, which needs a PostgreSQL 15",
}
"""Page → what follows it, and why that is not done here."""
NOT_TYPED = {
    "docker compose": "needs a container engine: CI has one, and test_compose.py starts what compose would start",
    "-m benchmarks": "takes minutes, and what it measures is worth nothing beside other tests",
    "locust": "a minute of load: test_load.py lets it follow six orders",
    "./dev ": "works on this checkout: .ci/run begins with it, and test_dev_script.py has its verbs in another one",
    "articurated flower": "goes on until somebody stops it: test_compose.py starts it",
}
"""What an example has that no test types → why."""

_MARK = "\x1e"
_PHOTO = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\x00\x80")),
        (b"IEND", b""),
    )
)


def is_typed(example: Example) -> bool:
    """Return whether there is no reason against it."""
    return not any(words in example.shell for words in NOT_TYPED)


class Reader:
    """Someone with a shell beside the running system."""

    def __init__(self, stack: RunningStack, folder: Path, articurated: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.variables: dict[str, str] = {}
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (folder / "articurated.py").write_text(CLIENT.format(path=str(articurated)), encoding="utf-8")
        self._program(programs / "articurated", f'exec "{sys.executable}" -S -E "{folder}/articurated.py" "$@"')
        # A page waits for a worker by sleeping; a busy machine may need longer, and an idle one less.
        self._program(programs / "sleep", f'exec "{sys.executable}" -P "{folder}/until_idle.py"')
        (folder / "until_idle.py").write_text(_UNTIL_IDLE, encoding="utf-8")
        (folder / "photo.png").write_bytes(_PHOTO)
        (folder / "docs").symlink_to(ROOT / "docs")

    @staticmethod
    def _program(file: Path, line: str) -> None:
        file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        file.chmod(0o755)

    def follow(
        self,
        file: Path,
        prelude: str = "",
        dead: list[str] | None = None,
        instead: Mapping[str, str] = MappingProxyType({}),
    ) -> list[tuple[Example, str]]:
        """Type what a page says; return each example with what came out.

        Args:
            prelude: shell that a reader of the page has behind them.
            dead: ids of dead jobs, one for each `ID` on the page.
            instead: name on the page → what is typed in its place.
        """
        typed = [example for example in examples(file) if is_typed(example)]
        lines = [f"printf '{_MARK}'\n{self._adapted(replaced(example.shell, instead), dead)}" for example in typed]
        keep = "\nset +e; set >variables.txt"
        done = subprocess.run(
            ["sh", "-e"],
            input=("\n".join([prelude, *lines]) + keep).encode(),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            check=False,
        )
        out = done.stdout.decode()
        assert done.returncode == 0, f"{file.name}: {out[-1500:]}\n{done.stderr.decode()[-1500:]}"
        said = out.split(_MARK)[1:]
        assert len(said) == len(typed)
        found = re.findall(r"^(\w+)='?(.*?)'?$", (self.folder / "variables.txt").read_text(), re.MULTILINE)
        self.variables |= {name: value for name, value in found if name in {"ORDER", "RETURN"}}
        return list(zip(typed, said, strict=True))

    def _adapted(self, shell: str, dead: list[str] | None) -> str:
        info = self.stack.info
        shell = shell.replace("http://127.0.0.1:8000", info.api).replace("http://127.0.0.1:24393", str(info.gateway))
        shell = shell.replace(".articurated/", f"{info.data_dir}/")
        if dead is None:
            return re.sub(r"\bID\b", '"$ID"', shell)
        return re.sub(r"\bID\b", lambda _: dead.pop(), shell)

    def environment(self) -> dict[str, str]:
        """Return the variables of the reader's shell."""
        path = f"{self.folder}/.venv/bin:{os.environ['PATH']}"
        mine = {"PATH": path, "PYTHONPATH": str(ROOT), "ARTICURATED_DATA_DIR": self.stack.info.data_dir}
        inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
        if not self.stack.info.pids["postgres"]:
            # On given servers the data folder names no database, and so a command asks it for nothing else.
            mine |= running_connection(Path(self.stack.info.data_dir))
            mine |= {"DATABASE_URL": self.stack.info.database_url, "REDIS_URL": self.stack.info.redis_url}
        return {**inherited, **mine, "DATABASE_OF_STACK": self.stack.info.database_url, **self.variables}


_UNTIL_IDLE = """
import os, time, psycopg
deadline = time.monotonic() + 60
with psycopg.connect(os.environ["DATABASE_OF_STACK"], autocommit=True) as connection:
    waiting = "SELECT count(*) FROM jobs WHERE state IN ('PENDING', 'PUBLISHED', 'RUNNING') AND run_at < now() + '3 s'"
    while connection.execute(waiting).fetchone()[0] and time.monotonic() < deadline:
        time.sleep(0.1)
"""


# --- the pages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def articurated() -> Iterator[Path]:
    """The command, loaded once."""
    with tempfile.TemporaryDirectory() as folder:  # its name must be short for a socket
        door = Path(folder, "door")
        with subprocess.Popen([sys.executable, "-m", "tests.e2e.warm_command", door], cwd=ROOT) as server:
            eventually("the command", door.exists)
            yield door
            server.kill()


@pytest.fixture(scope="module")
def reader(stack: RunningStack, articurated: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A reader who has taken the tour."""
    reader = Reader(stack, tmp_path_factory.mktemp("reader"), articurated)
    for example, said in reader.follow(TOUR):
        compare(example, said)
    return reader


def prelude(reader: Reader) -> str:
    """Return the shell that the tour leaves behind."""
    return f"API={reader.stack.info.api}/api/v1 KEY=dev-api-key NUMBER=ORD- ACTOR={uuid4()}\n" + examples(TOUR)[
        0
    ].shell.replace("http://127.0.0.1:8000", reader.stack.info.api)


def test_the_tour(reader: Reader) -> None:
    assert set(reader.variables) == {"ORDER", "RETURN"}


@pytest.mark.req("DOC.5")
@pytest.mark.parametrize("name", RUN)
def test_a_page_can_be_followed(reader: Reader, journey: Journey, servers: TestServers, name: str) -> None:
    before, dead = prelude(reader), None
    if name == "reference/api.md":
        before += f"RETURN={open_return(journey)}\n"
    elif name == "how-to/handle-dead-letters.md":
        dead = [dead_letter(journey) for _ in range(4)]
    elif name == "how-to/decide-cases.md":
        before += f"ID={pay_another_amount(journey)}\nDISPUTE={keep_a_dispute(journey)}\n"
    elif name == "how-to/manage-keys.md":
        before += "ID=$(articurated keys create --role manager --name example --json | id)\n"
    followed = reader.follow(ROOT / "docs" / name, before, dead)
    for example, said in followed:
        # What the doctor finds on servers that were given is theirs.
        if not (servers.given and "articurated doctor" in example.shell):
            compare(example, said)
    if name == "explanation/money.md":
        key = {"Authorization": "Bearer sk_test_articurated"}
        assert journey.http.delete(f"{reader.stack.info.gateway}/control/faults", headers=key).is_success
    assert followed


@pytest.mark.req("DOC.5")
@pytest.mark.parametrize("name", SCENES)
def test_a_page_about_what_is_the_readers_own_can_be_followed(reader: Reader, servers: TestServers, name: str) -> None:
    if servers.given and name == "how-to/back-up-and-restore.md":
        pytest.skip("its commands back up the embedded server; tests/integration/test_backup_given.py has the other")
    file = ROOT / "docs" / name
    with SCENES[name](Place(servers, reader.stack.info, reader.folder)) as scene:
        assert [words for words in scene.instead if words not in file.read_text(encoding="utf-8")] == []
        followed = reader.follow(file, scene.before, instead=scene.instead)
    for example, said in followed:
        compare(example, said)
    assert followed


@pytest.mark.req("DOC.5", "DEV.4")
def test_a_database_that_is_not_migrated_is_refused_as_documented(reader: Reader, servers: TestServers) -> None:
    [told] = blocks(ROOT / "docs" / "how-to" / "migrate-and-upgrade.md", "text")
    with empty_database(Place(servers, reader.stack.info, reader.folder)) as scene:
        typed = ["sh", "-ec", f"{scene.before}\narticurated worker"]
        refused = subprocess.run(
            typed, cwd=reader.folder, env=reader.environment(), capture_output=True, text=True, check=False
        )
    assert refused.returncode == 1
    assert any(same_words(told.strip(), line.removeprefix("articurated: ")) for line in refused.stderr.splitlines())


def open_return(journey: Journey) -> str:
    """Make a return that waits for its review."""
    order = journey.order()
    journey.move(order, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")
    made = journey.call("POST", "/returns", json={"order_id": order["id"], "reason": "An example"})
    return str(made["id"])


def dead_letter(journey: Journey) -> str:
    """Make a dead job about nothing; retried, it ends quietly."""
    [(job_id,)] = journey.rows(
        "INSERT INTO jobs (kind, queue, entity_id, dedupe_key, run_at)"
        " VALUES ('invoice.issue', 'invoices', %s, %s, now() + interval '1 hour') RETURNING id",
        uuid4(),
        f"example:{uuid4()}",
    )
    journey.rows(
        "UPDATE jobs SET state = 'DEAD', failures = 4, finished_at = now(), run_at = now() WHERE id = %s RETURNING id",
        job_id,
    )
    journey.rows(
        "INSERT INTO dead_letters (job_id, kind, entity_id, error, failures, claims)"
        " SELECT id, kind, entity_id, 'StorageError: an example', failures, claims FROM jobs WHERE id = %s"
        " RETURNING job_id",
        job_id,
    )
    return str(job_id)


def pay_another_amount(journey: Journey) -> str:
    """Have the gateway take another amount than an order costs; return the id of the case."""
    order = journey.order()
    answer = journey.http.post(
        f"{journey.stack.info.gateway}/v1/payments",
        headers={"Authorization": "Bearer sk_test_articurated", "Idempotency-Key": f"storefront:{order['id']}"},
        json={
            "reference": order["id"],
            "amount": "1.00",
            "currency": order["currency"],
            "payment_token": "tok_visa",
            "capture": True,
        },
    )
    assert answer.is_success, answer.text
    [case] = eventually("the case", lambda: journey.call("GET", f"/cases?order_id={order['id']}")["data"])
    return str(case["id"])


def keep_a_dispute(journey: Journey) -> str:
    """Have the gateway report a dispute, and close its case with KEEP; return the id of the case."""
    order = journey.order()
    journey.move(order, "PAID")
    dispute = {
        "id": f"dp_{order['id']}",
        "reference": order["id"],
        "amount": str(order["total_amount"]),
        "currency": order["currency"],
        "reason": "product_not_received",
        "status": "needs_response",
    }
    event_id, now = f"evt_{order['id']}", int(time())
    event = {"id": event_id, "type": "dispute.created", "created": "2026-11-23T00:00:00Z", "data": {"object": dispute}}
    body = json.dumps(event).encode()
    key = secret_bytes(Settings(_env_file=None).payment_webhook_secret.get_secret_value())
    headers = {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(key, event_id, now, body),
    }
    journey.call("POST", "/payments/webhook", content=body, headers=headers)
    [case] = journey.call("GET", f"/cases?order_id={order['id']}")["data"]
    journey.call("POST", f"/cases/{case['id']}/close", json={"action": "KEEP", "note": "The bank has not decided"})
    return str(case["id"])


@pytest.mark.req("DOC.5")
def test_every_example_is_followed_or_has_a_reason() -> None:
    others = [ROOT / "README.md", *(ROOT / name for name in PUBLISHED if name.endswith(".md"))]
    found = {file: examples(file) for file in [*others, *(ROOT / "docs").rglob("*.md")]}
    typed = {file for file, shown in found.items() if any(map(is_typed, shown))}
    followed = {
        (ROOT / "docs" / name).resolve() for name in ("tutorial.md", "../README.md", *RUN, *SCENES, *FOLLOWED_ELSEWHERE)
    }
    assert typed == followed
    every = "".join(example.shell for shown in found.values() for example in shown)
    assert [words for words in NOT_TYPED if words not in every] == []


def test_the_readme_has_the_beginning_of_the_tour() -> None:
    def typed(file: Path) -> list[str]:
        return [example.shell for example in examples(file) if "./dev" not in example.shell]

    # Helpers of the shell, an order, its payment, a step that is refused.
    beginning = typed(ROOT / "README.md")
    assert [re.findall(r"new_state|line_items|^call\(\)", shell, re.MULTILINE) for shell in beginning] == [
        ["call()"],
        ["line_items"],
        ["new_state"],
        ["new_state"],
    ]
    for shown, of_tour in zip(beginning, typed(TOUR), strict=False):
        assert shown == of_tour


@pytest.mark.req("DOC.5", "REQ-003")
def test_the_events_of_a_running_system_are_those_of_the_page(reader: Reader, journey: Journey) -> None:
    seen = journey.rows(
        "SELECT DISTINCT entity_type, type, (SELECT array_agg(k) FROM jsonb_object_keys(data) k) FROM events"
    )
    assert len(seen) > 10
    for entity, name, members in seen:
        assert EVENTS[name].entity == entity
        assert set(members or ()) <= set(EVENTS[name].data), name
        assert len(members or ()) >= len(EVENTS[name].data) - 1, name
