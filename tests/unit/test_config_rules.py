"""Settings that contradict each other are refused; the message names the variables and the rule (NFR-004)."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.config import Settings

pytestmark = pytest.mark.req("NFR-004.7")


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"database_idle_transaction_timeout_seconds": 15},
            ("DATABASE_IDLE_TRANSACTION_TIMEOUT_SECONDS", "DATABASE_STATEMENT_TIMEOUT_SECONDS"),
        ),
        (
            {"database_statement_timeout_seconds": 5},
            ("DATABASE_IDLE_TRANSACTION_TIMEOUT_SECONDS", "DATABASE_STATEMENT_TIMEOUT_SECONDS"),
        ),
        ({"invoice_retry_base_seconds": 601}, ("INVOICE_RETRY_BASE_SECONDS", "INVOICE_RETRY_CAP_SECONDS")),
        ({"refund_retry_cap_seconds": 119}, ("REFUND_RETRY_BASE_SECONDS", "REFUND_RETRY_CAP_SECONDS")),
        (
            {"notification_retry_base_seconds": 1801},
            ("NOTIFICATION_RETRY_BASE_SECONDS", "NOTIFICATION_RETRY_CAP_SECONDS"),
        ),
        ({"job_lease_seconds": 1}, ("JOB_LEASE_SECONDS",)),
        ({"job_redispatch_seconds": 0.04}, ("RELAY_POLL_SECONDS", "JOB_REDISPATCH_SECONDS")),
        ({"payment_gateway_timeout_seconds": 25}, ("PAYMENT_GATEWAY_TIMEOUT_SECONDS",)),
        ({"smtp_timeout_seconds": 60}, ("SMTP_TIMEOUT_SECONDS",)),
        ({"return_review_sla_hours": 168}, ("RETURN_REVIEW_SLA_HOURS", "RETURN_EXPIRY_DAYS")),
        (
            {"payment_webhook_tolerance_seconds": 86_400},
            ("PAYMENT_WEBHOOK_TOLERANCE_SECONDS", "UNPAID_ORDER_TTL_HOURS"),
        ),
        ({"smtp_user": "shop"}, ("SMTP_USER", "SMTP_PASSWORD")),
        ({"smtp_password": "word"}, ("SMTP_USER", "SMTP_PASSWORD")),
        ({"aws_access_key_id": "id"}, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
        ({"storage_type": "gcs", "aws_s3_bucket": "b"}, ("STORAGE_BUCKET", "STORAGE_TYPE")),
        ({"secret_key": "x" * 40, "secret_key_previous": "x" * 40}, ("SECRET_KEY_PREVIOUS", "SECRET_KEY")),
        ({"database_replica_url": "postgresql://replica/shop"}, ("DATABASE_REPLICA_URL", "DATABASE_URL")),
        ({"jwks_url": "https://id.example/keys", "jwks_file": "keys.json"}, ("JWKS_URL", "JWKS_FILE")),
    ],
)
def test_a_contradiction_is_refused_by_name(changes: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(**changes)
    [fault] = refused.value.errors()
    assert all(name in fault["msg"] for name in named)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"database_idle_transaction_timeout_seconds": 14},
        {"invoice_retry_base_seconds": 600},
        {"job_lease_seconds": 4},
        {"return_review_sla_hours": 167},
        {"storage_type": "s3", "aws_s3_bucket": "b"},
        {"aws_access_key_id": "", "aws_secret_access_key": ""},
    ],
)
def test_the_limit_itself_is_taken(changes: dict[str, Any]) -> None:
    assert settings(**changes)


def test_every_contradiction_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        settings(job_lease_seconds=1, smtp_user="shop")
    assert len(refused.value.errors()[0]["msg"].splitlines()) == 2
