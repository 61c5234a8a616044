"""Processes of the API: how several end where they cannot begin, and how many connections one has room for."""

import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from uvicorn.config import STARTUP_FAILURE

from app.api_server import OTHER_FILES, room_for_connections
from app.config import ROOT
from app.local.process import accepts, choose_port, wait_until

pytestmark = pytest.mark.req("NFR-003")

REFUSED = """
import asyncio
import time
from uvicorn.supervisors.multiprocess import Process

Process.pong = lambda _: time.sleep(60)

async def app(scope, receive, send):
    await receive()
    await asyncio.sleep(3)
    await send({"type": "lifespan.startup.failed", "message": "refused"})
"""
"""An application that answers its parent at most once, as while it ends, and then fails to begin."""

SERVE = """
from app.api_server import serve
if __name__ == "__main__":
    serve({"app": "refused:app", "host": "127.0.0.1", "port": 0, "lifespan": "on", "log_level": "critical"}, 2)
"""

ANSWERS = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"here"})
"""

HOLD = """
import sys
from app.api.http.protocol import BoundedHttpProtocol
from app.api_server import room_for_connections, serve
from app.config import Settings
if __name__ == "__main__":
    room = room_for_connections(Settings.model_fields["http_connections_maximum"].default)
    serve({
        "app": "answers:app", "host": "127.0.0.1", "port": int(sys.argv[1]), "loop": "uvloop",
        "http": BoundedHttpProtocol, "limit_concurrency": room, "lifespan": "off", "log_level": "critical",
    }, 2)
"""


def test_two_processes_that_cannot_begin_end_long_before_one_would_count_as_hung(tmp_path: Path) -> None:
    (tmp_path / "refused.py").write_text(REFUSED)
    (tmp_path / "begin.py").write_text(SERVE)
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "begin.py")],
        env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == STARTUP_FAILURE, ended.stderr.decode()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "raised"),
    [
        pytest.param(256, 4096, 1000, 1000 + OTHER_FILES, id="raised"),
        pytest.param(256, 600, 600 - OTHER_FILES, 600, id="as far as the system lets it"),
        pytest.param(3000, 3000, 1000, 3000, id="left as it is"),
        pytest.param(100, 100, 1, 100, id="hardly any"),
    ],
)
def test_a_process_asks_for_as_many_files_as_its_connections_need(
    soft: int, hard: int, connections: int, raised: int
) -> None:
    code = f"""
import resource
from app.api_server import room_for_connections
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(room_for_connections(1000), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout.split(), done.stderr) == ([str(connections), str(raised), str(hard)], "")


def test_two_processes_serve_a_thousand_clients_that_keep_their_connections(tmp_path: Path) -> None:
    """However the connections fall to them: one process usually takes two thirds."""
    (tmp_path / "answers.py").write_text(ANSWERS)
    (tmp_path / "begin.py").write_text(HOLD)
    assert room_for_connections(1000) == 1000, "this test holds as many connections"
    port = choose_port()
    command = [sys.executable, str(tmp_path / "begin.py"), str(port)]
    with (
        subprocess.Popen(command, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, cwd=tmp_path) as serving,
        ExitStack() as held,
    ):
        held.callback(serving.terminate)
        assert wait_until(lambda: accepts(port), seconds=30)
        clients = [held.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(1000)]
        assert [sum(is_answered(client) for client in clients) for _ in range(2)] == [1000, 1000]


def is_answered(client: socket.socket) -> bool:
    found = b""
    with suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        while not found.endswith(b"here") and (piece := client.recv(65_536)):
            found += piece
    return found.endswith(b"here")
