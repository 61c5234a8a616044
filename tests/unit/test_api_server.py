"""An API of several processes: how it ends where it cannot begin."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from uvicorn.config import STARTUP_FAILURE

from app.config import ROOT

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
