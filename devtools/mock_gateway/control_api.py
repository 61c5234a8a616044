"""The gateway's interface for those who test with it: faults, profile, ledger, events."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from devtools.mock_gateway.faults import FaultOrder
from devtools.mock_gateway.gateway import CurrentGateway

router = APIRouter(prefix="/control")


class Profile(BaseModel):
    """What kind of gateway to be: how it keeps idempotency keys, whether it can look up by reference."""

    model_config = ConfigDict(extra="forbid", strict=True)

    idempotency: Literal["stripe", "2xx_only", "none"] = "stripe"
    lookup: bool = True


@router.post("/faults")
async def order_fault(order: FaultOrder, gateway: CurrentGateway) -> dict[str, Any]:
    """Order a fault; `devtools.mock_gateway.faults` lists the modes."""
    return gateway.faults.add(order)


@router.get("/faults")
async def list_faults(gateway: CurrentGateway) -> dict[str, Any]:
    """Return the faults that can still strike."""
    return {"data": gateway.faults.active()}


@router.delete("/faults")
async def clear_faults(gateway: CurrentGateway) -> dict[str, int]:
    """Forget all faults."""
    return {"cleared": gateway.faults.clear()}


@router.get("/profile")
async def get_profile(gateway: CurrentGateway) -> dict[str, Any]:
    """Return the profile."""
    return gateway.handler.profile()


@router.put("/profile")
async def put_profile(profile: Profile, gateway: CurrentGateway) -> dict[str, Any]:
    """Become another kind of gateway."""
    gateway.handler.set_profile(profile.idempotency, lookup=profile.lookup)
    return gateway.handler.profile()


@router.get("/ledger")
async def ledger(gateway: CurrentGateway) -> dict[str, Any]:
    """Return the whole ledger: every movement, also those whose answer was lost."""
    return gateway.queries.everything()


@router.get("/events")
async def events(gateway: CurrentGateway) -> dict[str, Any]:
    """Return every event with its deliveries."""
    return {"data": gateway.outbox.listing()}


@router.post("/events/{event_id}/resend")
async def resend(event_id: str, gateway: CurrentGateway) -> dict[str, str]:
    """Deliver an event again, delivered before or not."""
    gateway.outbox.resend(event_id)
    gateway.dispatcher.wake()
    return {"id": event_id, "state": "pending"}


@router.post("/reset")
async def reset(gateway: CurrentGateway) -> dict[str, str]:
    """Delete everything: ledger, keys, events, faults, profile."""
    gateway.store.wipe()
    return {"status": "empty"}
