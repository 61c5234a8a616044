"""What waits for a person, made in the way that the system makes it: jobs that have given up, cases, refused mails."""

from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import select, update

from app.core.enums import CaseEntity, CaseKind, NotificationState
from app.database import Database
from app.models.case import Case
from app.models.job import Job
from app.models.notification import Notification
from app.services.cases.service import open_case
from app.services.jobs import leases
from app.services.jobs import service as job_service
from app.services.jobs.service import JobKind


async def bury_job(database: Database, kind: JobKind = JobKind.ISSUE_INVOICE, entity_id: UUID | None = None) -> UUID:
    """Add a job, claim it, make it a dead letter; return the id of its dead letter."""
    about = entity_id or uuid4()
    key = f"{kind}:{about}"
    async with database.transaction() as session:
        await job_service.add(session, kind, about, key)
        job_id = (await session.execute(select(Job.id).where(Job.dedupe_key == key))).scalar_one()
    claim = await leases.claim(database, job_id, "test-worker", timedelta(minutes=1))
    assert claim is not None
    async with database.transaction() as session:
        return (await job_service.dead_letter(session, claim, "RuntimeError: printer on fire")).dead_letter_id


async def raise_case(database: Database, kind: CaseKind = CaseKind.DISPUTE) -> UUID:
    """Open a case; return its id."""
    key = f"test:{uuid4()}"
    async with database.transaction() as session:
        await open_case(
            session, kind, entity_type=CaseEntity.ORDER, entity_id=uuid4(), evidence={"status": "lost"}, dedupe_key=key
        )
        return (await session.execute(select(Case.id).where(Case.dedupe_key == key))).scalar_one()


async def refuse_mail(database: Database) -> UUID:
    """Add a mail that the server refused; return its id."""
    async with database.transaction() as session:
        mail = Notification(
            source_key=f"test:{uuid4()}",
            template="order_shipped",
            recipient="ada@example.com",
            entity_id=uuid4(),
            message_id="<1@a.example>",
            subject="Your order",
        )
        session.add(mail)
        await session.flush()
        refused = {"state": NotificationState.REJECTED, "attempts": 1, "last_error": "MailRejected 550"}
        await session.execute(update(Notification).where(Notification.id == mail.id).values(refused))
        return mail.id
