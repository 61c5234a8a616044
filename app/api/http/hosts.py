"""Which names in a `Host` header are this service's (NFR-004).

A web page of anyone can make its own name lead to this machine (DNS rebinding), and its browser then lets it call a
service there that trusts its network, as development does. The name in `Host` is the page's, and gives it away.

An address in place of a name is the one that the caller connected to, a name without a dot belongs to the local network,
and neither is a name that a page from elsewhere can have. So a system in containers is reached at any address that it is
published on, and by its services' names.
"""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import Scope

from app.config import Settings


def known_hosts(settings: Settings) -> frozenset[str] | None:
    """Return the names of this service, lower case; None where production has none configured, which takes every name."""
    names = set(settings.host_names)
    if settings.public_url:
        names.add(_name_in(urlsplit(settings.public_url).netloc))
    if settings.environment == "production" and not names:
        return None
    return frozenset(names)


def foreign_host(scope: Scope, known: frozenset[str]) -> str | None:
    """Return the `Host` of a request if it is not one of ours; without the header there is nothing to refuse."""
    given = [value for name, value in scope["headers"] if name == b"host"]
    if not given or (len(given) == 1 and _is_ours(given[0], known)):
        return None
    return str(given[-1], "latin-1")


@lru_cache(maxsize=64)
def _is_ours(host: bytes, known: frozenset[str]) -> bool:
    name = _name_in(str(host, "latin-1"))
    return name in known or name == "localhost" or name.endswith(".localhost") or "." not in name or _is_address(name)


def _name_in(host: str) -> str:
    """Return the name or address in `host[:port]`, lower case, an IPv6 address without its brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
