"""Returns in short words: asked for, reviewed, brought into any state."""

from typing import Any
from uuid import UUID

from app.core.actor import Actor
from app.core.enums import OrderStatus, RejectionReason, ReturnStatus
from app.database import Database
from app.schemas.return_request import ReturnApprove, ReturnCreate, ReturnReject, ReturnStateUpdate
from app.services.orders.service import OrderService
from app.services.orders.views import OrderView
from app.services.returns.service import ReturnService
from app.services.returns.views import ReturnView
from tests.integration.jobs_support import order_in, rows

R = ReturnStatus
PATHS: dict[ReturnStatus, tuple[ReturnStatus, ...]] = {
    R.REQUESTED: (),
    R.APPROVED: (R.APPROVED,),
    R.REJECTED: (R.REJECTED,),
    R.IN_TRANSIT: (R.APPROVED, R.IN_TRANSIT),
    R.RECEIVED: (R.APPROVED, R.IN_TRANSIT, R.RECEIVED),
    R.COMPLETED: (R.APPROVED, R.IN_TRANSIT, R.RECEIVED, R.COMPLETED),
}
APPROVAL = ReturnApprove(notes="Photos show the crack")
REJECTION = ReturnReject(notes="Worn", rejection_reason=RejectionReason.POLICY_VIOLATION)


async def count(database: Database, table: str) -> int:
    """Return how many rows a table has."""
    return len(await rows(database, f"SELECT 1 FROM {table}"))


class Desk:
    """Where returns are asked for and reviewed."""

    def __init__(self, orders: OrderService, returns: ReturnService, admin: Actor) -> None:
        self.orders, self.returns, self.admin = orders, returns, admin

    async def delivered(self, **fields: Any) -> OrderView:
        """Return a delivered order."""
        return await order_in(self.orders, self.admin, OrderStatus.DELIVERED, **fields)

    async def ask(self, order_id: UUID, by: Actor | None = None, **fields: Any) -> ReturnView:
        """Request a return."""
        data = ReturnCreate.model_validate({"order_id": order_id, "reason": "Glaze is cracked", **fields})
        return await self.returns.create(data, by or self.admin)

    async def step(self, return_id: UUID, state: ReturnStatus, by: Actor | None = None) -> ReturnView:
        """Bring a return into a state, the review by its own methods."""
        who = by or self.admin
        if state is R.APPROVED:
            return await self.returns.approve(return_id, APPROVAL, who)
        if state is R.REJECTED:
            return await self.returns.reject(return_id, REJECTION, who)
        return await self.returns.transition(return_id, ReturnStateUpdate(new_state=state), who)

    async def return_in(self, state: ReturnStatus) -> ReturnView:
        """Return a return that was brought into `state` the legal way."""
        request = await self.ask((await self.delivered())["id"])
        for step in PATHS[state]:
            request = await self.step(request["id"], step)
        return request
