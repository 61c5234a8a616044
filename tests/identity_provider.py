"""An identity provider for tests: keys, the set it publishes, a server that counts who fetches it, and tokens."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.core.key_cache import KeyCache
from app.core.security import CredentialsError

ISSUER = "https://login.example"
AUDIENCE = "orders"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@lru_cache
def private_key(kind: str, number: int = 0) -> Private:
    """Return a key of a kind, the same for the same number: RSA keys take a while to make."""
    match kind:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "small RSA":
            return rsa.generate_private_key(65537, 1024)  # noqa: S505 - has to be refused
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            return ec.generate_private_key(ec.SECP384R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    raise AssertionError(kind)


def jwk(kind: str, kid: str | None = "k1", number: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the public half as a provider publishes it; a member changed to None is left out."""
    public = private_key(kind, number).public_key()
    made = as_jwk(public)
    return {name: value for name, value in {**made, "kid": kid, "use": "sig", **changes}.items() if value is not None}


def as_jwk(key: Any) -> dict[str, Any]:
    """Return any key, public or private, as JWK."""
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return RSAAlgorithm.to_jwk(key, as_dict=True)
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return ECAlgorithm.to_jwk(key, as_dict=True)
    return OKPAlgorithm.to_jwk(key, as_dict=True)


def key_set(*keys: dict[str, Any]) -> bytes:
    """Return the document."""
    return orjson.dumps({"keys": keys})


def claims(**changes: Any) -> dict[str, Any]:
    """Return claims that hold for an hour; one changed to None is left out."""
    now = datetime.now(UTC)
    given = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(uuid4()),
        "role": "manager",
        "iat": now,
        "exp": now + timedelta(hours=1),
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def token(kind: str = "ES256", kid: str | None = "k1", number: int = 0, **changes: Any) -> str:
    """Return a token signed with a key of the provider's."""
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**changes), private_key(kind, number), algorithm=kind, headers=headers)


async def knows(cache: KeyCache, kid: str) -> bool:
    """Whether a key is found now."""
    try:
        return await cache.find({"kid": kid, "alg": "ES256"}) is not None
    except CredentialsError:
        return False


@dataclass
class KeyServer:
    """What the provider's server answers from now on, and what it was asked."""

    url: str = ""
    document: bytes = b""
    status: int = 200
    seconds: float = 0.0
    seconds_between_bytes: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    fetches: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def key_server(document: bytes) -> Iterator[KeyServer]:
    """Serve a set over real HTTP on loopback."""
    state = KeyServer(document=document)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.fetches.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
            time.sleep(state.seconds)
            self.send_response(state.status)
            for name, value in {"Content-Length": str(len(state.document)), **state.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if state.seconds_between_bytes:
                for position in range(len(state.document)):
                    self.wfile.write(state.document[position : position + 1])
                    time.sleep(state.seconds_between_bytes)
            else:
                self.wfile.write(state.document)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    state.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
