"""Parts that are away, in silence or hanging; and parts that are there as little as a look at them needs."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def unreachable() -> str:
    """Return an address at which no process listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def hanging() -> socket.socket:
    """Return a listener that takes connections and never says a word."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    return listener


def port_of(address: str | socket.socket) -> int:
    """Return the port of an address or listener."""
    return int(address.rpartition(":")[2]) if isinstance(address, str) else int(address.getsockname()[1])


class Speaker:
    """Says the same to all who connect; `met` is how many did, `heard` what the last one said first."""

    def __init__(self, *, greets: bytes = b"", answers: bytes = b"") -> None:
        self.greets = greets
        self.answers = answers
        self.met = 0
        self.heard = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.met += 1
        writer.write(self.greets)
        self.heard = await reader.readline()
        writer.write(self.answers)
        writer.close()


@asynccontextmanager
async def listening(speaker: Speaker) -> AsyncIterator[Speaker]:
    """Let a speaker listen while the context lasts."""
    server = await asyncio.start_server(speaker.serve, "127.0.0.1", 0)
    speaker.port = server.sockets[0].getsockname()[1]
    async with server:
        yield speaker
