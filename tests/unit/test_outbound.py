"""Calls to configured addresses: none reaches inside, however the address is written or resolved."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import cast

import pytest
import trustme

from app.utils.outbound import (
    DestinationRefusedError,
    Outbound,
    OutboundError,
    is_internal,
    is_public,
    parse_destination,
)

pytestmark = [pytest.mark.req("NFR-004", "REQ-006"), pytest.mark.security]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

CLOSED = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.5", "172.16.0.1", "172.31.255.255", "192.168.1.1",  # noqa: S104
    "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7",
    "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.88.99.1",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "fec0::1", "2001:db8::1", "100::1",
    "::ffff:100.64.0.1", "::ffff:224.0.0.1", "::ffff:192.88.99.1", "64:ff9b::6440:1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.5", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::7f00:1", "::10.0.0.5",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.5", "64:ff9b:1::1",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:0808:0808::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:0:7f00:1::",
]  # fmt: skip
OPEN = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("text", CLOSED)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OPEN)
def test_addresses_that_are(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
    assert not is_internal(ipaddress.ip_address(text))


@dataclass
class Names:
    """A name service: the answers are given in turn, the last one again and again; `asked` counts."""

    answers: list[list[str]]
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> list[str]:
        """Answer."""
        self.asked.append((host, port))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


@dataclass
class Server:
    """A server on loopback: what it was sent, and over which name."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)


Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


def says(answer: bytes) -> Reply:
    """Return the behaviour of a server that gives this answer."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return reply


@asynccontextmanager
async def serving(reply: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run a server for the time of a test."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()
    if tls is not None:
        tls.sni_callback = lambda _, name, __: server.names.append(name)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(row[15:]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length:"))
            server.requests.append(head + await reader.readexactly(length))
            await reply(writer)
            await writer.drain()
            writer.write_eof() if tls is None else writer.close()
            await reader.read()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def refused(outbound: Outbound, url: str) -> str:
    """Return why a URL may not be called."""
    with pytest.raises(DestinationRefusedError) as fault:
        await outbound.post(url, b"{}", {})
    return str(fault.value)


@pytest.mark.parametrize("text", CLOSED)
@pytest.mark.req("NFR-004.10")
async def test_a_closed_address_is_refused_as_a_literal_and_behind_a_name(text: str) -> None:
    names = Names([[text]])
    outbound = Outbound(resolve=names)
    literal = f"[{text.partition('%')[0]}]" if ":" in text else text
    await refused(outbound, f"https://{literal}/hook")
    assert names.asked == [], "a literal is not looked up"
    said = await refused(outbound, "https://hooks.example/secret-path?token=abc")
    assert "hooks.example" in said
    assert "secret" not in said
    assert "abc" not in said


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example", "ftp://hooks.example/", "file:///etc/passwd", "gopher://hooks.example/", "https://",
        "https:///path", "//hooks.example/", "javascript:alert(1)", "https://user:pw@hooks.example/",
        "https://hooks.example@10.0.0.1/", "https://hooks.example/#frag", "https://hooks.example:0/",
        "https://hooks.example:99999/", "https://hooks.example\\@10.0.0.1/", "https://hooks.example/a b",
        "https://hooks.example/\r\nHost: 10.0.0.1", "https://hooks.exa\tmple/", "https://[::1/", "https://\uff45xample.com/",
        "https://hooks.example/" + "a" * 2100, "http://hooks.example/", "http://8.8.8.8/", "http://10.0.0.1/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("development", [False, True])
async def test_urls_that_are_none_for_a_webhook(url: str, development: bool) -> None:  # noqa: FBT001
    await refused(Outbound(resolve=Names([["8.8.8.8"]]), development=development), url)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "localhost."])
async def test_other_spellings_of_loopback_are_seen_through(host: str) -> None:
    """With the system's own resolver, which reads them all as 127.0.0.1."""
    with pytest.raises((DestinationRefusedError, OutboundError), match=r"may not be called|does not resolve|not a URL"):
        await Outbound(timeout_seconds=5).post(f"https://{host}/", b"", {})


async def test_one_closed_address_among_open_ones_is_enough() -> None:
    await refused(Outbound(resolve=Names([["8.8.8.8", "10.0.0.5"]])), "https://hooks.example/")


@pytest.mark.req("NFR-004.10")
async def test_a_name_is_resolved_once_and_the_connection_goes_where_it_was_checked() -> None:
    """Rebinding: the second answer, which would lead elsewhere, is never asked for."""
    async with serving(says(OK)) as server:
        names = Names([["127.0.0.1"], ["203.0.113.66"]])
        answer = await Outbound(development=True, resolve=names).post(
            f"http://hooks.example:{server.port}/hook?x=1", b"{}", {"X-Test": "1"}
        )
    assert answer.is_success
    assert answer.body == b"ok"
    assert names.asked == [("hooks.example", server.port)]
    [request] = server.requests
    assert request.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
    assert f"Host: hooks.example:{server.port}\r\n".encode() in request
    assert b"X-Test: 1\r\n" in request
    assert request.endswith(b"\r\n\r\n{}")
    rebinding = Names([["8.8.8.8"], ["127.0.0.1"]])
    checked = await Outbound(resolve=rebinding)._checked_addresses(parse_destination("https://hooks.example/"))
    assert [str(address) for address in checked] == ["8.8.8.8"]
    assert len(rebinding.asked) == 1


async def test_over_tls_the_name_is_greeted_and_proven_not_the_address() -> None:
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("chat.example").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with serving(says(OK), theirs) as server:
        outbound = Outbound(allowed_hosts=["chat.example", "other.example"], resolve=Names([["127.0.0.1"]]), tls=ours)
        assert (await outbound.post(f"https://chat.example:{server.port}/", b"{}", {})).is_success
        assert server.names == ["chat.example"]
        with pytest.raises(OutboundError):
            await outbound.post(f"https://other.example:{server.port}/", b"{}", {})
        assert len(server.requests) == 1, "nothing is said to a server that proves another name"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.req("NFR-004.10")
async def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    async with serving(says(OK)) as inside:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:{inside.port}/\r\nContent-Length: 0\r\n\r\n"
        async with serving(says(head.encode())) as server:
            answer = await Outbound(development=True).post(f"http://127.0.0.1:{server.port}/", b"{}", {})
    assert (answer.status, answer.is_success) == (status, False)
    assert inside.requests == []


async def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(says(OK)) as proxy, serving(says(OK)) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await Outbound(development=True).post(f"http://127.0.0.1:{server.port}/", b"{}", {})
    assert (len(server.requests), proxy.requests) == (1, [])


async def endless(writer: asyncio.StreamWriter) -> None:
    """Answer without end."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(10_000):
        writer.write(b"x" * 65_536)
        await writer.drain()


async def silent(_: asyncio.StreamWriter) -> None:
    """Answer nothing for a long time."""
    await asyncio.sleep(30)


async def dripping(writer: asyncio.StreamWriter) -> None:
    """Answer bit by bit, so that no single wait is long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")
    for _ in range(60):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def broken(writer: asyncio.StreamWriter) -> None:
    """Break off in the head."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")


@pytest.mark.parametrize(
    ("reply", "seconds", "complaint"),
    [
        (endless, 20, "too large"),
        (silent, 0.3, "did not answer"),
        (dripping, 0.5, "did not answer"),
        (broken, 20, "no answer"),
    ],
)
async def test_an_answer_without_end_or_too_late_or_broken_off_is_none(
    reply: Reply, seconds: float, complaint: str
) -> None:
    async with serving(reply) as server:
        with pytest.raises(OutboundError, match=complaint):
            await Outbound(development=True, timeout_seconds=seconds).post(
                f"http://127.0.0.1:{server.port}/", b"{}", {}
            )


async def test_a_name_service_that_hangs_or_fails_is_no_answer() -> None:
    async def hanging(host: str, port: int) -> list[str]:
        await asyncio.sleep(30)
        return []

    async def failing(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    for resolve, complaint in (
        (hanging, "did not answer"),
        (failing, "does not resolve"),
        (Names([[]]), "does not resolve"),
        (Names([["not an address"]]), "no address"),
    ):
        with pytest.raises(OutboundError, match=complaint):
            await Outbound(resolve=resolve, timeout_seconds=0.1).post("https://hooks.example/", b"{}", {})


async def test_an_address_that_takes_no_connection_leaves_its_place_to_the_next() -> None:
    async with serving(says(OK)) as server:
        names = Names([["::1", "127.0.0.1"]])
        url = f"http://hooks.example:{server.port}/"
        assert (await Outbound(development=True, resolve=names).post(url, b"{}", {})).is_success
    with pytest.raises(OutboundError, match="no connection to"):
        await Outbound(development=True, resolve=names).post(url, b"{}", {})


async def test_only_hosts_that_the_operator_names_may_be_inside() -> None:
    for address, allowed in (("10.0.0.5", True), ("127.0.0.1", True), ("100.64.0.9", True), ("fd00::5", True),
                             ("169.254.169.254", False), ("fe80::1", False), ("224.0.0.1", False), ("0.0.0.0", False),  # noqa: S104
                             ("::ffff:169.254.169.254", False), ("64:ff9b::a9fe:a9fe", False)):  # fmt: skip
        outbound = Outbound(allowed_hosts=["chat.internal"], resolve=Names([[address]]))
        target = parse_destination("https://Chat.Internal./")
        if allowed:
            assert [str(found) for found in await outbound._checked_addresses(target)] == [address]
        else:
            await refused(outbound, "https://chat.internal/")
        await refused(outbound, "https://chat.internal.example/")
        # Plain HTTP stays shut: what is posted is signed, not secret, but the network could read it.
        await refused(outbound, "http://chat.internal/")


async def test_in_production_loopback_is_closed() -> None:
    async with serving(says(OK)) as server:
        await refused(Outbound(), f"http://127.0.0.1:{server.port}/")
        await refused(Outbound(), f"https://127.0.0.1:{server.port}/")
    assert server.requests == []


@pytest.mark.parametrize(("header", "wait"), [("120", 120.0), ("soon", None), ("-1", None), ("9" * 9, None)])
async def test_how_long_to_wait_is_read_from_the_answer(header: str, wait: float | None) -> None:
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n"
    async with serving(says(head.encode())) as server:
        answer = await Outbound(development=True).post(f"http://127.0.0.1:{server.port}/", b"{}", {})
    assert (answer.status, answer.retry_after) == (503, wait)
