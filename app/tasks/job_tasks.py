"""The task of each queue of jobs: its message names a job, and the worker process carries it out (REQ-004)."""

from app.tasks.celery_app import TASKS, task
from app.tasks.worker_process import run_job

for name in TASKS.values():
    task(name)(run_job)
