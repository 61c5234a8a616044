"""How log lines leave a process: at once, or those of one turn of its loop together (NFR-006)."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from select import PIPE_BUF

import pytest

from app.core.logging import LossyStream

pytestmark = pytest.mark.req("NFR-006")


@pytest.fixture
def pipe() -> Iterator[tuple[LossyStream, int]]:
    """A stream into a pipe, and the end to read from, which does not wait."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "w") as file:
        yield LossyStream(file), reading
    os.close(reading)


def read(descriptor: int) -> str | None:
    """Return what has been written; None for nothing."""
    try:
        return os.read(descriptor, 1_000_000).decode()
    except BlockingIOError:
        return None


async def test_lines_of_one_turn_are_written_together_at_its_end(pipe: tuple[LossyStream, int]) -> None:
    stream, reading = pipe
    stream.gather(asyncio.get_running_loop())
    stream.write("first\n")
    stream.write("second\n")
    assert read(reading) is None
    await asyncio.sleep(0)
    assert read(reading) == "first\nsecond\n"
    stream.write("third\n")
    stream.gather(None)
    stream.write("fourth\n")
    assert read(reading) == "third\nfourth\n"


async def test_a_line_of_another_thread_is_written_at_once(pipe: tuple[LossyStream, int]) -> None:
    stream, reading = pipe
    stream.gather(asyncio.get_running_loop())
    await asyncio.to_thread(stream.write, "other\n")
    assert read(reading) == "other\n"
    stream.gather(None)


async def test_lines_stay_whole_where_processes_share_a_pipe(
    pipe: tuple[LossyStream, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe takes no more than PIPE_BUF bytes in one piece."""
    stream, reading = pipe
    pieces: list[bytes] = []
    write = os.write

    def noted(descriptor: int, data: bytes) -> int:
        pieces.append(data)
        return write(descriptor, data)

    monkeypatch.setattr("app.core.logging.os.write", noted)
    stream.gather(asyncio.get_running_loop())
    lines = [json.dumps({"number": number, "text": "ü" * 300}, ensure_ascii=False) + "\n" for number in range(40)]
    for line in lines:
        stream.write(line)
    stream.gather(None)
    assert read(reading) == "".join(lines)
    assert 1 < len(pieces) < len(lines) / 2
    assert all(len(piece) <= PIPE_BUF and piece.endswith(b"\n") for piece in pieces)


def test_lines_are_written_when_the_process_ends_before_the_loop_comes_round() -> None:
    code = """
import asyncio, sys
from app.core.logging import LossyStream

stream = LossyStream(sys.stderr)
stream.gather(asyncio.new_event_loop())
stream.write("last\\n")
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "last\n")
