"""Celery's side: wake-ups in, one service call out. PostgreSQL holds the truth."""
