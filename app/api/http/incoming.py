"""The body of a request while it arrives: how long that may take, and how much all of them may hold (NFR-004)."""

import asyncio
from time import monotonic

from starlette.types import Message, Receive

from app.utils.budget import Budget
from app.utils.exceptions import RequestTimeoutError

BODY_SECONDS = 20.0
BYTES_A_SECOND = 16_384
"""A client may let us wait for its body for so long in all, and a second more for as many bytes as it has sent."""

REQUEST_BYTES = 8_388_608
WEBHOOK_BYTES = 2_097_152
"""Bytes of bodies that a process holds at once. Webhooks have a share of their own: anyone may begin to send one."""

UPLOADS_AT_ONCE = 32
"""Files that a process takes at once. Each is in a temporary file, with 64 KiB in memory at most."""

REQUESTS = Budget(REQUEST_BYTES)
WEBHOOKS = Budget(WEBHOOK_BYTES)
UPLOADS = Budget(UPLOADS_AT_ONCE)


def in_time(receive: Receive) -> Receive:
    """Return a `receive` that gives up on a body that comes too slowly; once it is whole, it waits as long as asked.

    Only the time that the server waits for the client counts, not what it does meanwhile.
    """
    left = BODY_SECONDS
    is_whole = False

    async def receive_in_time() -> Message:
        nonlocal left, is_whole
        if is_whole:
            return await receive()
        began = monotonic()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError:
            raise RequestTimeoutError("The body did not arrive in time.") from None
        left -= monotonic() - began
        left += len(message.get("body", b"")) / BYTES_A_SECOND
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time
