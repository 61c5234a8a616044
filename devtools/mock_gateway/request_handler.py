"""Carries out requests, with idempotency keys as Stripe's v1 keeps them.

The first answer under a key, its status and body, is stored in the same transaction as the movement. It may be
a decline, a conflict or an injected 500. A repetition gets that answer byte for byte, with the header
`Idempotent-Replayed: true`. Other parameters under the same key are a 400 `idempotency_error`, a second
request while the first is still running a 409 `idempotency_error`. A 400 about the parameters is not
stored: nothing was carried out. Keys are forgotten after 24 hours.

Gateways differ; the profile chooses: `stripe` as above, `2xx_only` stores successes only (a repeated decline,
or a repeated request whose answer was a 500 after the money had moved, is carried out again), `none` ignores
the header.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from fastapi.responses import Response

from devtools.mock_gateway.clock import Clock
from devtools.mock_gateway.connections import DroppedConnection
from devtools.mock_gateway.errors import RefusalError, error_body, invalid
from devtools.mock_gateway.events import DeliveryPlan
from devtools.mock_gateway.faults import BEFORE, DELAY, DURING, READING, WEBHOOK, Fault, Faults
from devtools.mock_gateway.ledger import Answer
from devtools.mock_gateway.store import Store
from devtools.mock_gateway.webhooks import WebhookDispatcher

MAX_KEY_LENGTH = 255
_ORDERED_ERROR = error_body("api_error", "ordered_error", "The gateway failed, as ordered.")
_UNAVAILABLE = error_body("api_error", "unavailable", "The gateway is unavailable, as ordered.")

Work = Callable[[DeliveryPlan, str | None], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request that moves money.

    Attributes:
        operations: the fault operations it answers to.
        references: our references that it is about.
        fingerprint: what must be equal when a key is used again.
        key: the idempotency key, if one was sent.
        work: carries it out, given how its events are delivered and the code it is declined with.
    """

    operations: tuple[str, ...]
    references: tuple[str, ...]
    fingerprint: str
    key: str | None
    work: Work


def fingerprint(method: str, path: str, parameters: str) -> str:
    """Return a digest of what a request asks for."""
    return hashlib.sha256(f"{method} {path}\n{parameters}".encode()).hexdigest()


def json_response(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return _response(status, json.dumps(body), dict(headers or {}))


def _response(status: int, text: str, headers: Mapping[str, str]) -> Response:
    return Response(text, status, dict(headers), media_type="application/json")


class RequestHandler:
    """Carries out commands and look-ups, with idempotency keys, profile and faults."""

    def __init__(
        self, store: Store, faults: Faults, dispatcher: WebhookDispatcher, *, clock: Clock, ttl_seconds: float
    ) -> None:
        self._store = store
        self._faults = faults
        self._dispatcher = dispatcher
        self._clock = clock
        self._ttl = ttl_seconds
        self._running: set[str] = set()

    def profile(self) -> dict[str, Any]:
        """Return how this gateway behaves: `idempotency` and `lookup`."""
        row = self._store.row("SELECT idempotency, lookup FROM profile")
        return {} if row is None else {"idempotency": row["idempotency"], "lookup": bool(row["lookup"])}

    def set_profile(self, idempotency: str, *, lookup: bool) -> None:
        """Set how the gateway behaves."""
        self._store.write("UPDATE profile SET idempotency = ?, lookup = ?", idempotency, lookup)

    async def read(self, references: tuple[str, ...], answer: Callable[[], Mapping[str, Any]]) -> Response:
        """Answer a look-up, unless a fault applies to it.

        Raises:
            RefusalError: as `answer` raises.
        """
        struck = self._faults.take(READING, ("lookup",), references)
        if struck is not None:
            return _struck(struck)
        await self._delay(("lookup",), references)
        return json_response(200, answer())

    async def perform(self, command: Command) -> Response:
        """Carry out a command once per idempotency key.

        Raises:
            RefusalError: the key is empty or too long, in use, or was used for something else.
        """
        struck = self._faults.take(BEFORE, command.operations, command.references)
        if struck is not None:
            return _struck(struck)
        mode = self.profile()["idempotency"]
        key = None if mode == "none" else command.key
        if key is None:
            return await self._execute(command, None, mode)
        replay = self._replay(key, command.fingerprint)
        if replay is not None:
            return replay
        if key in self._running:
            message = "A request with this idempotency key is still running."
            raise RefusalError(409, "idempotency_error", "idempotency_key_in_use", message)
        self._running.add(key)
        try:
            return await self._execute(command, key, mode)
        finally:
            self._running.discard(key)

    def _replay(self, key: str, wanted: str) -> Response | None:
        if not 1 <= len(key) <= MAX_KEY_LENGTH:
            raise invalid("idempotency_key_invalid", f"A key has 1 to {MAX_KEY_LENGTH} characters.")
        oldest = self._clock().timestamp() - self._ttl
        stored = self._store.row("SELECT * FROM idempotency_keys WHERE key = ? AND created >= ?", key, oldest)
        if stored is None:
            return None
        if stored["fingerprint"] != wanted:
            message = "This idempotency key was used with other parameters."
            raise RefusalError(400, "idempotency_error", "idempotency_key_reused", message)
        headers = {"Idempotency-Key": key, "Idempotent-Replayed": "true"}
        return _response(stored["status"], stored["body"], headers)

    async def _execute(self, command: Command, key: str | None, mode: str) -> Response:
        await self._delay(command.operations, command.references)
        with self._store.transaction():
            fault = self._faults.take(DURING, command.operations, command.references)
            plan = _delivery_plan(self._faults.take(WEBHOOK, command.operations, command.references))
            answer = _carry_out(command.work, plan, fault)
            text = json.dumps(answer.body)
            if key is not None and _is_kept(answer.status, mode):
                self._keep(key, command.fingerprint, answer.status, text)
        self._dispatcher.wake()
        if fault is not None and fault.mode == "timeout_after":
            return DroppedConnection(fault.delay_seconds)
        if fault is not None and fault.mode == "reset_after":
            return DroppedConnection()
        return _response(answer.status, text, {} if key is None else {"Idempotency-Key": key})

    def _keep(self, key: str, wanted: str, status: int, text: str) -> None:
        now = self._clock().timestamp()
        self._store.write("DELETE FROM idempotency_keys WHERE created < ?", now - self._ttl)
        self._store.write(
            "INSERT INTO idempotency_keys (key, fingerprint, status, body, created) VALUES (?, ?, ?, ?, ?)",
            key,
            wanted,
            status,
            text,
            now,
        )

    async def _delay(self, operations: tuple[str, ...], references: tuple[str, ...]) -> None:
        delay = self._faults.take(DELAY, operations, references)
        if delay is not None:
            await asyncio.sleep(delay.delay_seconds)


def _carry_out(work: Work, plan: DeliveryPlan, fault: Fault | None) -> Answer:
    declined = "ordered_decline" if fault is not None and fault.mode == "decline" else None
    try:
        answer = work(plan, declined)
    except RefusalError as refusal:
        return Answer(refusal.status, refusal.body)
    if fault is not None and fault.mode == "error_after":
        return Answer(500, _ORDERED_ERROR)
    return answer


def _is_kept(status: int, mode: str) -> bool:
    """Return whether an answer is stored: 400 means that nothing was carried out."""
    if status == httpx2.codes.BAD_REQUEST:
        return False
    return mode == "stripe" or httpx2.codes.is_success(status)


def _delivery_plan(fault: Fault | None) -> DeliveryPlan:
    match fault:
        case None:
            return DeliveryPlan()
        case Fault(mode="duplicate_webhook"):
            return DeliveryPlan(copies=2)
        case Fault(mode="drop_webhook"):
            return DeliveryPlan(dropped=True)
        case Fault(mode="bad_signature"):
            return DeliveryPlan(bad_signature=True)
        case _:
            return DeliveryPlan(delay_seconds=fault.delay_seconds)


def _struck(fault: Fault) -> Response:
    match fault.mode:
        case "unavailable":
            return json_response(503, _UNAVAILABLE)
        case "error_before" | "error_after":
            return json_response(500, _ORDERED_ERROR)
        case "reset_after":
            return DroppedConnection()
        case _:
            return DroppedConnection(fault.delay_seconds)
