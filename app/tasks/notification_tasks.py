"""Wake-ups of the queue `notifications`: mail, SMS and chat (REQ-006)."""

from app.core.enums import Queue
from app.tasks.celery_app import TASKS, task
from app.tasks.worker_process import run_job


@task(TASKS[Queue.NOTIFICATIONS])
def send_notification(job_id: str) -> None:
    """Send the message that the job asks for."""
    run_job(job_id)
