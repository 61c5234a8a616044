"""Mail, SMS and chat with their far ends in memory, and a worker that delivers what is due."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from app.composition import Ports
from app.config import Settings
from app.core.actor import Actor
from app.core.enums import OrderStatus
from app.database import Database
from app.services.jobs.service import JobKind
from app.services.orders.service import OrderService
from app.services.orders.views import OrderView
from app.tasks.worker_services import WorkerServices
from app.utils.messages import Message
from tests.conftest import MovableClock
from tests.integration.jobs_support import FakeMailSender, execute, order_in, rows

PHONE = "+33612345678"


@dataclass
class FakeChannel:
    """Keeps the messages; raises what it is given, once each."""

    faults: list[Exception] = field(default_factory=list)
    tried: list[Message] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)

    async def send(self, message: Message) -> None:
        """Take a message."""
        self.tried.append(message)
        if self.faults:
            raise self.faults.pop(0)
        self.sent.append(message)


class Post:
    """The three channels over one database, and a worker that does all jobs, due or not."""

    def __init__(self, settings: Settings, database: Database, clock: MovableClock, **channels: FakeChannel) -> None:
        self.database = database
        self.mails = FakeMailSender()
        self.sms, self.chat = channels.get("SMS", FakeChannel()), channels.get("CHAT", FakeChannel())
        self.bench = WorkerServices(
            settings, database=database, clock=clock, ports=Ports(mail_sender=self.mails, channels=channels or None)
        )
        self.runner = self.bench.runner("tester")

    async def deliver(self, prefix: str = "") -> None:
        """Do every message job whose kind begins with `prefix`, and what they make due, each once."""
        done: set[UUID] = set()
        while True:
            await execute(self.database, "UPDATE jobs SET run_at = now() WHERE state IN ('PENDING', 'PUBLISHED')")
            due = await rows(
                self.database,
                "SELECT id FROM jobs WHERE state = 'PENDING' AND kind ~ :kinds AND kind LIKE :prefix ORDER BY id",
                kinds=r"^(notify|sms|chat)\.",
                prefix=f"{prefix}%",
            )
            if not (ids := [row.id for row in due if row.id not in done]):
                return
            for job_id in ids:
                done.add(job_id)
                await self.runner.run(job_id)

    async def exhaust(self, prefix: str) -> None:
        """Do them again and again, until all are done or dead."""
        while await rows(
            self.database, "SELECT 1 FROM jobs WHERE kind LIKE :prefix AND state = 'PENDING'", prefix=f"{prefix}%"
        ):
            await self.deliver(prefix)

    async def told(self, **where: Any) -> list[Any]:
        """Return the rows of messages, by channel."""
        condition = " AND ".join(f"{name} = :{name}" for name in where) or "true"
        return await rows(self.database, f"SELECT * FROM notifications WHERE {condition} ORDER BY channel, id", **where)


async def shipped(orders: OrderService, by: Actor, phone: object = PHONE) -> OrderView:
    """Return a shipped order whose metadata has a phone number; only the message about its shipping is still to be sent."""
    return await order_in(orders, by, OrderStatus.SHIPPED, metadata={"phone": phone})


async def only(database: Database, kind: JobKind) -> None:
    """Leave of all jobs those of one kind."""
    await execute(database, "UPDATE jobs SET state = 'DISMISSED' WHERE kind <> :kind", kind=kind.value)
