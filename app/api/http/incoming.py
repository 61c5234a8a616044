"""The body of a request while it arrives: how long that may take, and how much all of them may hold (NFR-004)."""

import asyncio
from collections import Counter
from typing import Self
from uuid import UUID

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

LEFT_TO_OTHERS = 4
"""One caller leaves a fourth of a budget to others: a storefront calls for all of its customers with one key."""

SHARE = "articurated.body_share"
"""Where a request's scope holds its `Share`."""


class Budget:
    """Bytes, or places, that all requests of a process may hold together.

    Attributes:
        left: how much is free.
        by_caller: principal → how much its requests hold; nothing of those that hold none.
    """

    def __init__(self, maximum: int) -> None:
        self.left = maximum
        self.by_caller: Counter[UUID] = Counter()
        self._for_one = maximum - maximum // LEFT_TO_OTHERS

    def take(self, size: int, caller: UUID | None, at_least: int) -> None:
        """Give `size` to a caller.

        Args:
            caller: who sends it; None for anyone, who is bound by the budget alone.
            at_least: what a caller may hold in any case: one whole body.

        Raises:
            ServiceUnavailableError: so much is not left, or the caller holds too much.
        """
        if size > self.left:
            raise ServiceUnavailableError("Too much is being sent at once; try again in a moment.")
        if caller is not None:
            if self.by_caller[caller] + size > max(self._for_one, at_least):
                raise ServiceUnavailableError("You are sending too much at once; let earlier requests end first.")
            self.by_caller[caller] += size
        self.left -= size

    def give_back(self, size: int, caller: UUID | None) -> None:
        """Take `size` back from a caller."""
        self.left += size
        if caller is not None:
            self.by_caller[caller] -= size
            if not self.by_caller[caller]:
                del self.by_caller[caller]


REQUESTS = Budget(REQUEST_BYTES)
WEBHOOKS = Budget(WEBHOOK_BYTES)
UPLOADS = Budget(UPLOADS_AT_ONCE)


class Share:
    """What one request holds of a budget, until it is answered."""

    def __init__(self) -> None:
        self._budget: Budget | None = None
        self._held = 0
        self._caller: UUID | None = None

    def take(self, budget: Budget, size: int, caller: UUID | None = None, at_least: int = 1) -> None:
        """Hold `size` more.

        Args, Raises: as `Budget.take`; the caller of one request is always the same.
        """
        budget.take(size, caller, at_least)
        self._budget, self._caller = budget, caller
        self._held += size

    def give_back(self) -> None:
        """Hold nothing any more."""
        if self._budget is not None:
            self._budget.give_back(self._held, self._caller)
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
