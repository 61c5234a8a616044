"""HTTP calls to addresses that someone configured: none of them reaches into our own network (NFR-004).

A webhook's URL may name anything: `http://169.254.169.254/`, a name that resolves to 10.0.0.5, a name that resolves to
something harmless when it is checked and to 127.0.0.1 when it is used, a public page that redirects to one of these.
So the name is resolved here, once; every address that came back must be public; the connection goes to one of the
addresses that were checked, under the name's own Host and TLS name; a redirect is an answer like any other that is
not 2xx; a proxy in the environment is not asked.

What may be reached beyond that is for the operator to say (`OUTBOUND_ALLOWED_HOSTS`): those hosts may have private
addresses, but never link-local ones, behind which clouds keep the credentials of a machine.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Self

import httpx2

from app.config import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[list[str]]]
"""Name and port → addresses as text, in the order to try them.

Raises:
    OSError: the name does not resolve.
"""

_MAX_ANSWER_BYTES: Final = 65_536
_MAX_ADDRESSES: Final = 3
_MAX_URL_CHARACTERS: Final = 2_048
_MAX_CONNECT_SECONDS: Final = 5.0
_RETRY_AFTER: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_UNFIT: Final = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
# Besides what `is_global` knows, for its tables differ between versions of Python.
_CLOSED: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2002::/16",
        "5f00::/16",
        "fc00::/7",
        "fec0::/10",
    )
)


class DestinationRefusedError(Exception):
    """The configured address is none that may be called; asking again gives the same answer.

    The message names the host at most: paths and queries of webhooks are secrets.
    """

    retryable = False


class OutboundError(Exception):
    """There was no readable answer: not resolved, not connected, too slow, broken off or too large."""

    retryable = True


@dataclass(frozen=True, slots=True)
class OutboundAnswer:
    """What came back; `retry_after` is in seconds, when the answer names a number of them."""

    status: int
    body: bytes
    retry_after: float | None = None

    @property
    def is_success(self) -> bool:
        """Whether it is 2xx; a redirect is none."""
        return 200 <= self.status < 300


async def system_resolver(host: str, port: int) -> list[str]:
    """Resolve as the system does."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Outbound:
    """Posts to configured addresses.

    Args:
        allowed_hosts: names or addresses, lower case, that may be private ones.
        development: loopback may be called, over plain HTTP too.
        timeout_seconds: for a whole call, resolving included.
        resolve: name → addresses.
        tls: trust anchors; the system's when absent.
    """

    def __init__(
        self,
        *,
        allowed_hosts: Collection[str] = (),
        development: bool = False,
        timeout_seconds: float = 10,
        resolve: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = frozenset(host.lower().rstrip(".") for host in allowed_hosts)
        self._development = development
        self._timeout = timeout_seconds
        self._resolve = resolve
        self._tls = tls

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the client that the configuration asks for."""
        return cls(
            allowed_hosts=settings.outbound_hosts,
            development=settings.environment != "production",
            timeout_seconds=settings.outbound_timeout_seconds,
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> OutboundAnswer:
        """Send `body` to `url`.

        Raises:
            DestinationRefusedError: this address may not be called.
            OutboundError: no readable answer.
        """
        target = parse_destination(url)
        try:
            async with asyncio.timeout(self._timeout):
                addresses = await self._checked_addresses(target)
                return await self._post_to_first(target, addresses, body, headers)
        except TimeoutError as fault:
            raise OutboundError(f"{target.host} did not answer within {self._timeout:g} s") from fault

    async def _checked_addresses(self, target: httpx2.URL) -> list[Address]:
        """Return where `target` is: the one resolution, every result of which must be permitted."""
        try:
            literal = ipaddress.ip_address(target.host)
        except ValueError:
            literal = None
        if literal is not None:
            addresses: list[Address] = [literal]
        else:
            addresses = [_address(text) for text in await self._resolved(target)]
        # One forbidden address among several is enough to refuse: which of them is used is not for chance to decide.
        for address in addresses:
            self._require_permitted(target, address)
        return list(dict.fromkeys(addresses))[:_MAX_ADDRESSES]

    async def _resolved(self, target: httpx2.URL) -> list[str]:
        try:
            found = await self._resolve(target.raw_host.decode("ascii"), _port(target))
        except (OSError, UnicodeError) as fault:
            raise OutboundError(f"{target.host} does not resolve") from fault
        if not found:
            raise OutboundError(f"{target.host} does not resolve")
        return found

    def _require_permitted(self, target: httpx2.URL, address: Address) -> None:
        loopback = self._development and _innermost(address).is_loopback
        if target.scheme != "https" and not loopback:
            raise DestinationRefusedError(f"{target.host} may only be called over https")
        allowed = target.host.lower().rstrip(".") in self._allowed and is_internal(address)
        if not (is_public(address) or loopback or allowed):
            raise DestinationRefusedError(f"{target.host} is at an address that may not be called")

    async def _post_to_first(
        self, target: httpx2.URL, addresses: list[Address], body: bytes, headers: Mapping[str, str]
    ) -> OutboundAnswer:
        """Send to the first address that takes a connection; once it has, no other gets the message."""
        timeout = httpx2.Timeout(self._timeout, connect=min(self._timeout / 2, _MAX_CONNECT_SECONDS))
        fault: Exception | None = None
        async with httpx2.AsyncClient(
            verify=True if self._tls is None else self._tls, timeout=timeout, follow_redirects=False, trust_env=False
        ) as client:
            for address in addresses:
                try:
                    return await _exchange(client, _pinned(client, target, address, body, headers))
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as unreached:
                    fault = unreached
                except (httpx2.HTTPError, httpx2.StreamError) as broken:
                    raise OutboundError(f"no answer from {target.host}: {type(broken).__name__}") from broken
        raise OutboundError(f"no connection to {target.host}: {type(fault).__name__}") from fault


def parse_destination(url: str) -> httpx2.URL:
    """Return a URL as the client itself will read it.

    Raises:
        DestinationRefusedError: it is no plain http(s) URL with a host.
    """
    if len(url) > _MAX_URL_CHARACTERS or _UNFIT.search(url):
        raise DestinationRefusedError("the address is too long, or holds spaces, backslashes or control characters")
    try:
        target = httpx2.URL(url)
        port = _port(target)
    except (httpx2.InvalidURL, ValueError):
        raise DestinationRefusedError("the address is not a URL") from None
    if target.scheme not in {"https", "http"} or not target.host:
        raise DestinationRefusedError("the address must begin with https:// and name a host")
    if target.userinfo or target.fragment or not 0 < port < 65_536:
        raise DestinationRefusedError(f"the address of {target.host} has a login, a fragment or an impossible port")
    return target


def is_public(address: Address) -> bool:
    """Return whether an address is one of the open Internet, in any form of writing."""
    inner = _innermost(address)
    return (
        inner.is_global
        and not inner.is_multicast
        and not (isinstance(inner, ipaddress.IPv6Address) and inner in _COMPATIBLE)
        and not any(inner.version == network.version and inner in network for network in _CLOSED)
    )


def is_internal(address: Address) -> bool:
    """Return whether an address is an inner one that an operator may open: loopback, private, shared; nothing else."""
    inner = _innermost(address)
    shared = inner.version == 4 and inner in ipaddress.IPv4Network("100.64.0.0/10")
    private = any(
        inner.version == network.version and inner in network
        for network in map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
    )
    return inner.is_loopback or private or shared


def _innermost(address: Address) -> Address:
    """Return the IPv4 address in an IPv6 one (mapped, or NAT64), else the address itself.

    6to4 and Teredo lead anywhere and are closed as a whole.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as fault:
        raise OutboundError("the name service gave something that is no address") from fault


def _port(target: httpx2.URL) -> int:
    return target.port if target.port is not None else {"https": 443}.get(target.scheme, 80)


def _pinned(
    client: httpx2.AsyncClient, target: httpx2.URL, address: Address, body: bytes, headers: Mapping[str, str]
) -> httpx2.Request:
    """Return the request to the address that was checked, under the name that was asked for."""
    return client.build_request(
        "POST",
        target.copy_with(host=str(address)),
        content=body,
        headers={
            "Accept-Encoding": "identity",
            "Connection": "close",
            "User-Agent": "articurated",
            **headers,
            "Host": target.netloc.decode("ascii"),
        },
        # The name in the certificate, and in the greeting.
        extensions={"sni_hostname": target.raw_host.decode("ascii").rstrip(".")},
    )


async def _exchange(client: httpx2.AsyncClient, request: httpx2.Request) -> OutboundAnswer:
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MAX_ANSWER_BYTES:
                raise OutboundError("the answer is too large")
    finally:
        await response.aclose()
    wait: str = response.headers.get("Retry-After", "")
    return OutboundAnswer(response.status_code, bytes(body), float(wait) if _RETRY_AFTER.fullmatch(wait) else None)
