"""The storage port over the S3 protocol: what is sent, and what the answers mean."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from structlog.testing import capture_logs

from app.config import Settings
from app.utils.storage import Storage, StorageError, StorageKeyExists, StorageKeyMissing, storage_for

pytestmark = pytest.mark.req("INT-004")

KEY = "invoices/ORD-2026-000001_20261122.pdf"


@dataclass
class Bucket:
    """A server with the part of the S3 protocol that a conditional write needs."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    answer_always: int | None = None
    lose_next_answer: bool = False
    lock: Lock = field(default_factory=Lock)


@contextmanager
def bucket_server() -> Iterator[Bucket]:
    """Serve an empty bucket on loopback."""
    held = Bucket()
    server = Server(held)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    held.url = f"http://127.0.0.1:{server.server_port}"
    yield held
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with bucket_server() as held:
        yield held


@pytest.fixture
def storage(bucket: Bucket) -> Storage:
    return storage_for(
        Settings(
            _env_file=None,
            storage_type="s3",
            aws_s3_bucket="articurated",
            aws_access_key_id="AKIATEST",
            aws_secret_access_key="secret-access-key",
            aws_region="eu-west-3",
            aws_endpoint_url=bucket.url,
        )
    )


@pytest.mark.req("INT-004.2")
async def test_a_write_is_conditional_signed_and_typed(bucket: Bucket, storage: Storage) -> None:
    await storage.put_new(KEY, b"pdf", "application/pdf")

    [(verb, path, headers)] = bucket.requests
    assert (verb, path) == ("PUT", f"/articurated/{KEY}")
    assert headers["if-none-match"] == "*"
    assert headers["content-type"] == "application/pdf"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIATEST/")
    assert "/eu-west-3/s3/" in headers["authorization"]
    assert "secret-access-key" not in str(headers)


@pytest.mark.req("INT-004.1")
async def test_the_four_verbs(bucket: Bucket, storage: Storage) -> None:
    assert not await storage.exists(KEY)
    with pytest.raises(StorageKeyMissing):
        await storage.get(KEY)
    await storage.put_new(KEY, b"first", "application/pdf")
    with pytest.raises(StorageKeyExists):
        await storage.put_new(KEY, b"second", "application/pdf")
    assert await storage.get(KEY) == b"first"
    assert await storage.exists(KEY)
    await storage.delete(KEY)
    assert bucket.objects == {}


async def test_a_signed_address_sets_the_headers_of_the_storages_answer(bucket: Bucket, storage: Storage) -> None:
    disposition = "attachment; filename=\"a_.jpg\"; filename*=UTF-8''a%C3%A9.jpg"
    await storage.put_new("attachments/a/b.jpg", b"photo", "image/jpeg", disposition)
    await storage.put_new(KEY, b"pdf", "application/pdf")

    [(_, _, photo), (_, _, invoice)] = bucket.requests
    assert photo["content-disposition"] == disposition
    assert photo["content-type"] == "image/jpeg"
    assert "content-disposition" not in invoice


@pytest.mark.req("INT-004.4")
async def test_a_signed_address_needs_no_credentials_and_ends(bucket: Bucket, storage: Storage) -> None:
    await storage.put_new(KEY, b"pdf", "application/pdf")
    url = await storage.signed_url(KEY, timedelta(seconds=60))

    assert url is not None
    assert url.startswith(f"{bucket.url}/articurated/{KEY}?")
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query["X-Amz-Expires"] == "60"
    assert query["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert query["X-Amz-SignedHeaders"] == "host"
    assert re.fullmatch(r"[0-9a-f]{64}", query["X-Amz-Signature"])
    assert "secret-access-key" not in url
    assert len(bucket.requests) == 1, "signing asks nobody"
    with pytest.raises(ValueError, match="a storage key"):
        await storage.signed_url("../secret", timedelta(seconds=60))


async def test_a_storage_that_cannot_sign_says_so_in_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "articurated")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    azure = storage_for(Settings(_env_file=None, storage_type="azure", storage_bucket="articurated"))

    with capture_logs() as logged:
        assert await azure.signed_url(KEY, timedelta(seconds=60)) is None
    assert [line["event"] for line in logged] == ["storage_link.not_signed"]


async def test_old_keys_are_distinguished_from_new_ones(bucket: Bucket, storage: Storage) -> None:
    for key in ("attachments/r/a.jpg", "attachments/r/b.jpg", "attachments/rr/c.jpg", KEY):
        await storage.put_new(key, b"x", "image/jpeg")

    stored = datetime(2026, 11, 22, 10, tzinfo=UTC)
    after = stored + timedelta(seconds=1)
    assert await storage.list_old("attachments/r", after) == ["attachments/r/a.jpg", "attachments/r/b.jpg"]
    assert await storage.list_old("attachments/r", stored) == []
    assert await storage.list_old("attachments/none", after) == []


async def test_after_a_lost_answer_the_writer_finds_its_own_bytes(bucket: Bucket, storage: Storage) -> None:
    bucket.lose_next_answer = True

    with pytest.raises(StorageKeyExists):
        await storage.put_new(KEY, b"mine", "application/pdf")
    assert await storage.get(KEY) == b"mine"


@pytest.mark.parametrize("status", [403, 500, 503])
async def test_a_refusal_is_retryable_and_discloses_nothing(bucket: Bucket, storage: Storage, status: int) -> None:
    bucket.answer_always = status

    before = datetime.now(UTC)
    for attempt in (
        storage.put_new(KEY, b"x", "application/pdf"),
        storage.get(KEY),
        storage.exists(KEY),
        storage.list_old("attachments", before),
    ):
        with pytest.raises(StorageError) as caught:
            await attempt
        assert caught.value.retryable
        assert caught.value.message == "The document storage cannot be used just now."


async def test_a_server_that_is_away_is_retryable() -> None:
    away = storage_for(
        Settings(
            _env_file=None,
            storage_type="s3",
            storage_bucket="articurated",
            aws_access_key_id="AKIATEST",
            aws_secret_access_key="secret-access-key",
            aws_region="eu-west-3",
            aws_endpoint_url="http://127.0.0.1:9",
        )
    )

    with pytest.raises(StorageError):
        await away.put_new(KEY, b"x", "application/pdf")


class Server(ThreadingHTTPServer):
    """Holds the bucket that its handlers serve."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bucket = bucket


class Handler(BaseHTTPRequestHandler):
    """Answers as S3 does."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_PUT(self) -> None:
        """Store, unless the request is conditional and the key is taken."""
        body = self._note()
        bucket = self.server.bucket
        with bucket.lock:
            taken = self.path in bucket.objects and self.headers["If-None-Match"] == "*"
            if not taken and bucket.answer_always is None:
                bucket.objects[self.path] = body
            if bucket.lose_next_answer:
                bucket.lose_next_answer = False
                self.close_connection = True
                return
        self._answer(412 if taken else 200)

    def do_GET(self) -> None:
        """Give what is stored, or list it."""
        self._note()
        split = urlsplit(self.path)
        if "list-type" in split.query:
            prefix = "/articurated/" + parse_qs(split.query)["prefix"][0]
            found = "".join(
                f"<Contents><Key>{key.removeprefix('/articurated/')}</Key><Size>1</Size>"
                "<LastModified>2026-11-22T10:00:00.000Z</LastModified></Contents>"
                for key in sorted(self.server.bucket.objects)
                if key.startswith(prefix)
            )
            self._answer(200, f"<ListBucketResult>{found}</ListBucketResult>".encode())
            return
        held = self.server.bucket.objects.get(self.path)
        self._answer(404 if held is None else 200, held or b"")

    def do_HEAD(self) -> None:
        """Tell whether something is stored."""
        self.do_GET()

    def do_POST(self) -> None:
        """Delete several, as the protocol has it: each key is named in an XML body."""
        wanted = re.findall(r"<Key>([^<]+)</Key>", self._note().decode())
        for key in wanted:
            self.server.bucket.objects.pop(f"/articurated/{key}", None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in wanted)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _note(self) -> bytes:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.bucket.requests.append((self.command, self.path, headers))
        return self.rfile.read(int(headers.get("content-length", "0")))

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(self.server.bucket.answer_always or status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"etag"')
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 10:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
