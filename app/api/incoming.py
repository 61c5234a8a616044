"""The body of a request while it arrives: how long that may take, and how much all of them may hold (NFR-004)."""

import asyncio
from typing import Self

from starlette.types import Message, Receive, Scope

from app.utils.exceptions import RequestTimeoutError, ServiceUnavailableError

BODY_SECONDS = 20.0
BYTES_A_SECOND = 16_384
"""A client may let us wait for its body for so long in all, and a second more for as many bytes as it has sent."""

REQUEST_BYTES = 8_388_608
WEBHOOK_BYTES = 2_097_152
"""Bytes of bodies that a process holds at once. Webhooks have a share of their own: anyone may begin to send one."""

UPLOADS_AT_ONCE = 32
"""Files that a process takes at once. Each is in a temporary file, with 64 KiB in memory at most."""

SHARE = "articurated.body_share"
"""Where a request's scope holds its `Share`."""


class Budget:
    """Bytes, or places, that all requests of a process may hold together."""

    def __init__(self, maximum: int) -> None:
        self.left = maximum


REQUESTS = Budget(REQUEST_BYTES)
WEBHOOKS = Budget(WEBHOOK_BYTES)
UPLOADS = Budget(UPLOADS_AT_ONCE)


class Share:
    """What one request holds of a budget, until it is answered."""

    def __init__(self) -> None:
        self._budget: Budget | None = None
        self._held = 0

    def take(self, budget: Budget, size: int) -> None:
        """Hold `size` bytes more.

        Raises:
            ServiceUnavailableError: so many are not left.
        """
        if size > budget.left:
            raise ServiceUnavailableError("Too much is being sent at once; try again in a moment.")
        self._budget = budget
        self._held += size
        budget.left -= size

    def give_back(self) -> None:
        """Hold nothing any more."""
        if self._budget is not None:
            self._budget.left += self._held
            self._held = 0

    @classmethod
    def of(cls, scope: Scope) -> Self:
        """Return the share of a request, to be given back with its answer."""
        share: Self = scope.setdefault(SHARE, cls())
        return share


def in_time(receive: Receive) -> Receive:
    """Return a `receive` that gives up on a body that comes too slowly; once it is whole, it waits as long as asked.

    Only the time that the server waits for the client counts, not what it does meanwhile.
    """
    loop = asyncio.get_running_loop()
    left = BODY_SECONDS
    is_whole = False

    async def receive_in_time() -> Message:
        nonlocal left, is_whole
        if is_whole:
            return await receive()
        began = loop.time()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError:
            raise RequestTimeoutError("The body did not arrive in time.") from None
        left -= loop.time() - began
        left += len(message.get("body", b"")) / BYTES_A_SECOND
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time
