"""Wake-ups of the queue `refunds`: money out, and money to be collected before it can go out (REQ-004)."""

from app.core.enums import Queue
from app.tasks.celery_app import TASKS, task
from app.tasks.worker_process import run_job


@task(TASKS[Queue.REFUNDS])
def process_refund(job_id: str) -> None:
    """Pay the refund back, or capture the payment, that the job asks for."""
    run_job(job_id)
