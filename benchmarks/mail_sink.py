"""A mail server that takes every mail and keeps none, at little cost: `python -m benchmarks.mail_sink PORT`.

What is measured is the sender, so the receiver does as little as it can.
"""

import asyncio
import sys


class Sink(asyncio.Protocol):
    """One SMTP session."""

    def __init__(self) -> None:
        self._buffer = b""
        self._in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("no TCP connection")
        self._transport = transport
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer each command; the end of a mail counts as one."""
        self._buffer += data
        while True:
            end = b"\r\n.\r\n" if self._in_data else b"\r\n"
            command, found, rest = self._buffer.partition(end)
            if not found:
                return
            self._buffer = rest
            self._answer(b"." if self._in_data else command[:4].upper())

    def _answer(self, verb: bytes) -> None:
        self._in_data = verb == b"DATA"
        if verb == b"EHLO":
            self._transport.write(b"250-sink\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE 33554432\r\n")
        elif verb == b"DATA":
            self._transport.write(b"354 go on\r\n")
        elif verb == b"QUIT":
            self._transport.write(b"221 bye\r\n")
            self._transport.close()
        else:
            self._transport.write(b"250 ok\r\n")


async def serve(port: int) -> None:
    """Listen on loopback until killed."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
