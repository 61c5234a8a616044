"""Wake-ups of the queue `invoices`: invoices and credit notes (REQ-004)."""

from app.core.enums import Queue
from app.tasks.celery_app import TASKS, task
from app.tasks.worker_process import run_job


@task(TASKS[Queue.INVOICES])
def generate_invoice(job_id: str) -> None:
    """Issue the document that the job asks for."""
    run_job(job_id)
