"""What the pages tell a reader to type is typed, against a running system, and what they show is compared with it.

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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.config import ROOT
from app.embedded.run import RunningStack
from tests.e2e.conftest import Journey, eventually
from tests.e2e.warm_command import CLIENT
from tools.documentation.events import EVENTS

pytestmark = [pytest.mark.e2e, pytest.mark.req("DOC.1"), pytest.mark.xdist_group("stack")]

TOUR = ROOT / "docs" / "tutorial.md"
RUN = [
    "reference/api.md",
    "how-to/woken-at-night.md",
    "how-to/settle-a-dispute.md",
    "how-to/handle-dead-letters.md",
    "how-to/manage-keys.md",
    "how-to/watch-the-system.md",
    "how-to/preview-mails.md",
    "how-to/reconcile-refunds.md",
    "explanation/audit.md",
    "explanation/money.md",
]
NOT_RUN = {
    "how-to/deploy-with-compose.md": "needs containers; a test starts what compose would start",
    "how-to/deploy-on-servers.md": "for servers of the reader's own",
    "how-to/connect-storage.md": "for a bucket of the reader's own",
    "how-to/connect-an-identity-provider.md": "for a provider of the reader's own",
    "how-to/migrate-and-upgrade.md": "the system under test is migrated by its supervisor",
}
"""Pages with examples that need what a test does not have."""
SERVES = re.compile(r"articurated flower")
"""Goes on until somebody stops it."""

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_MARK = "\x1e"
_VARYING = re.compile(r"[0-9a-f]{8,}(?:-[0-9a-f]{4,})*|\d+")
_COUNTS = {
    "size",
    "rows",
    "entities",
    "latency_ms",
    "oldest_due_seconds",
    "dead_letters",
    "workers",
    "total",
    "version",
}
_PHOTO = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\x00\x80")),
        (b"IEND", b""),
    )
)


@dataclass
class Example:
    """A block to type, and what its page shows as the answer."""

    shell: str
    shown: list[tuple[str, str]] = field(default_factory=list)


def examples(file: Path) -> list[Example]:
    """Return the shell blocks of a page, each with the blocks that follow it directly."""
    found: list[Example] = []
    text = file.read_text(encoding="utf-8")
    end = -1
    for block in _BLOCK.finditer(text):
        language, body = block[1], block[2]
        if language == "sh":
            found.append(Example(body))
            end = block.end()
        elif language in {"json", "text"} and end >= 0 and not text[end : block.start()].strip():
            found[-1].shown.append((language, body))
            end = block.end()
        else:
            end = -1
    return found


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

    def follow(self, file: Path, prelude: str = "", dead: list[str] | None = None) -> list[tuple[Example, str]]:
        """Type what a page says; return each example with what came out.

        Args:
            prelude: shell that a reader of the page has behind them.
            dead: ids of dead jobs, one for each `ID` on the page.
        """
        typed = [example for example in examples(file) if "…" not in example.shell and not SERVES.search(example.shell)]
        blocks = [prelude, *(f"printf '{_MARK}'\n{self._adapted(example.shell, dead)}" for example in typed)]
        keep = "\nset +e; set >variables.txt"
        done = subprocess.run(
            ["sh", "-e"],
            input=("\n".join(blocks) + keep).encode(),
            cwd=self.folder,
            env=self._environment(),
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

    def _environment(self) -> dict[str, str]:
        path = f"{self.folder}/.venv/bin:{os.environ['PATH']}"
        mine = {"PATH": path, "PYTHONPATH": str(ROOT), "ARTICURATED_DATA_DIR": self.stack.info.data_dir}
        inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
        if not self.stack.info.pids["postgres"]:
            # On given servers the data folder names no database.
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


# --- what is shown, and what came -------------------------------------------------------------------------------


def documents(text: str) -> Iterator[Any]:
    """Yield the JSON documents in a text, leaving out what stands between them."""
    decoder, place = json.JSONDecoder(), 0
    while (start := text.find("{", place)) >= 0:
        try:
            found, place = decoder.raw_decode(text, start)
        except ValueError:
            place = start + 1
            continue
        yield found


def alike(shown: Any, real: Any, name: str = "") -> bool:
    """Return whether an answer has all that is shown, what differs from call to call apart."""
    if isinstance(shown, dict):
        return isinstance(real, dict) and all(key in real and alike(shown[key], real[key], key) for key in shown)
    if isinstance(shown, list):
        left = iter(real if isinstance(real, list) else [])
        return isinstance(real, list) and all(any(alike(one, other) for other in left) for one in shown)
    if isinstance(shown, str) and isinstance(real, str):
        return same_words(shown, real)
    if name in _COUNTS:
        return isinstance(real, int | float)
    return bool(shown == real) and type(shown) is type(real)


def same_words(shown: str, real: str) -> bool:
    """Return whether two lines say the same but for numbers and ids; `…` stands for anything."""
    if re.fullmatch(r"[\w-]{16,}…?", shown) and not shown.replace("_", "").isupper():
        return bool(real)  # a cursor or a signature
    parts = [re.escape(part) for part in _VARYING.sub("#", shown).split("…")]
    return re.fullmatch(".*".join(parts), _VARYING.sub("#", real)) is not None


def compare(example: Example, said: str) -> None:
    """Compare what a page shows with what came.

    Raises:
        AssertionError: something that is shown did not come.
    """
    came, lines = documents(said), [line.rstrip() for line in said.splitlines()]
    for language, body in example.shown:
        body = re.sub(r",\s*…", "", body) if language == "json" else body  # noqa: PLW2901 - the same, cleaned
        for line in filter(str.strip, body.splitlines() if language == "text" else ()):
            if not line.startswith("{"):
                assert any(same_words(line.rstrip(), real) for real in lines), f"not said: {line}\nbut:\n{said}"
        for shown in documents(body):
            seen = []
            for real in came:
                seen.append(real)
                if alike(shown, real):
                    break
            else:
                pytest.fail(f"not answered: {json.dumps(shown)}\nbut: {json.dumps(seen)[:3000]}")


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
def test_a_page_can_be_followed(reader: Reader, journey: Journey, name: str) -> None:
    before, dead = prelude(reader), None
    if name == "reference/api.md":
        before += f"RETURN={open_return(journey)}\n"
    elif name == "how-to/handle-dead-letters.md":
        dead = [bury(journey) for _ in range(4)]
    elif name == "how-to/manage-keys.md":
        before += "ID=$(articurated keys create --role manager --name example --json | id)\n"
    followed = reader.follow(ROOT / "docs" / name, before, dead)
    for example, said in followed:
        compare(example, said)
    if name == "explanation/money.md":
        key = {"Authorization": "Bearer sk_test_articurated"}
        assert journey.http.delete(f"{reader.stack.info.gateway}/control/faults", headers=key).is_success
    assert followed


def open_return(journey: Journey) -> str:
    """Make a return that waits for its review."""
    order = journey.order()
    journey.move(order, "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")
    made = journey.call("POST", "/returns", json={"order_id": order["id"], "reason": "An example"})
    return str(made["id"])


def bury(journey: Journey) -> str:
    """Make a dead job about nothing; retried, it ends quietly."""
    [(job_id,)] = journey.rows(
        "WITH job AS (INSERT INTO jobs (kind, queue, entity_id, dedupe_key, state, failures, finished_at)"
        " VALUES ('invoice.issue', 'invoices', %s, %s, 'DEAD', 4, now()) RETURNING *)"
        " INSERT INTO dead_letters (job_id, kind, entity_id, error, failures, claims)"
        " SELECT id, kind, entity_id, 'StorageError: an example', failures, claims FROM job RETURNING job_id",
        uuid4(),
        f"example:{uuid4()}",
    )
    return str(job_id)


@pytest.mark.req("DOC.5")
def test_every_example_is_followed_or_has_a_reason() -> None:
    pages = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md") if examples(file)}
    assert pages == {"tutorial.md", *RUN, *NOT_RUN}


def test_the_readme_has_the_beginning_of_the_tour() -> None:
    def typed(file: Path) -> list[str]:
        return [example.shell for example in examples(file) if "./dev" not in example.shell]

    tour = typed(TOUR)
    assert typed(ROOT / "README.md") == tour[: len(typed(ROOT / "README.md"))]
    assert len(typed(ROOT / "README.md")) > 3


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
