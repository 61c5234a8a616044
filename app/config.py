"""Settings of every process, read once from the environment and `.env`.

A missing or invalid value stops the start with one message that names every fault: a service that
starts with half a configuration fails later, in the middle of someone's refund.
"""

import ipaddress
import re
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AliasChoices,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.mail_address import mail_address

ROOT = Path(__file__).resolve().parent.parent

# Published with the source: production refuses every one of them, and so does an address that others reach.
DEVELOPMENT_SECRET_KEY = "development-secret-key-not-for-production"  # noqa: S105
DEVELOPMENT_API_KEY = "dev-api-key"
DEVELOPMENT_GATEWAY_KEY = "sk_test_articurated"
DEVELOPMENT_WEBHOOK_SECRET = "whsec_development-webhook-secret"  # noqa: S105
DEVELOPMENT_CHANNEL_SECRET = "whsec_development-channel-secret"  # noqa: S105
DEVELOPMENT_DATABASE_PASSWORD = "dev_password"  # noqa: S105
MINIMUM_SECRET_LENGTH = 32
MAXIMUM_TOKEN_AGE_MINUTES = 43_200
"""30 days; a revocation is kept for that long, because the maximum may have been longer when the token was issued."""
JOB_TIME_LIMIT_SECONDS = 25
"""A job that takes longer is stopped."""

DATABASE_ADDRESS = re.compile(r"(?P<login>[^:]+://(?:[^:/@]*(?::[^@]*)?@)?)(?P<hosts>[^/?]*)(?P<rest>.*)", re.DOTALL)
"""A database's address as SQLAlchemy reads it: a password in it may hold what one in a URL may not."""

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_PUBLIC_URL = re.compile(_ORIGIN.pattern + r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")

Email = Annotated[str, Field(max_length=254), AfterValidator(partial(mail_address, is_public=False))]


def _about(*, group: str = "", details: str = "", is_for_containers: bool = True) -> dict[str, JsonValue]:
    """Return what the generated files need beyond a field's description.

    Args:
        group: heading in `.env.example` and of the table in docs/configuration.md; it holds from this field on, until
            the next one that names a group.
        details: sentences that docs/configuration.md has after the description.
        is_for_containers: whether docker-compose.yml passes the setting on to the containers.
    """
    about: dict[str, JsonValue] = {"details": details, "is_for_containers": is_for_containers}
    return about | {"group": group} if group else about


class SettingsError(Exception):
    """The configuration cannot be used; the message names each fault, one a line."""


class Settings(BaseSettings):
    """All configuration, one field per environment variable (same name in capitals).

    Durations are in the unit that the name ends with. Money settings are in the order's currency.

    `python -m tools.documentation` makes `.env.example`, the tables of docs/configuration.md and the settings that
    docker-compose.yml passes on from these fields, in their order. A description is one line of Markdown: what the
    setting does, its unit, what it is when absent, and whether production needs it. Default and bounds are added to it.
    """

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore")

    environment: Literal["development", "testing", "production"] = Field(
        "development",
        description="`development`, `testing` or `production`; production refuses every secret that is in this repository.",
        json_schema_extra=_about(group="Environment"),
    )
    allow_development_secrets: bool = Field(
        False,
        description="Accept the secrets that are published with the source also on an address that other machines reach; refused in production.",
    )
    published_address: str = Field(
        "",
        description="Address on which a container's ports are published, which decides who reaches it; `docker-compose.yml` sets it.",
    )
    private_network_hosts: str = Field(
        "",
        description="Hosts of a private network that production may reach without TLS: names, addresses and networks, separated by commas.",
    )

    # Addresses may hold a password: none of them shows in the text of the settings.
    database_url: str = Field(
        "postgresql://articurated:dev_password@localhost:5432/articurated_orders",
        repr=False,
        description="Where the application connects, as a login that may take on `DATABASE_ROLE`; needed in production.",
        json_schema_extra=_about(group="Database"),
    )
    database_admin_url: str | None = Field(
        None,
        repr=False,
        description="Owner of the tables, for migrations and for creating and revoking API keys; `DATABASE_URL` when absent.",
        json_schema_extra=_about(is_for_containers=False),
    )
    database_replica_url: str | None = Field(
        None,
        repr=False,
        description="[Read replica](how-to/replicate-the-database.md) for lists, search and figures; none when empty, and it needs `DATABASE_URL`.",
    )
    database_role: str = Field(
        "articurated_app",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Role that each application connection takes on; it can neither change nor delete history.",
    )
    database_pool_size: int = Field(
        10, ge=1, le=200, description="Connections of one API process; a worker process uses 5."
    )
    database_statement_timeout_seconds: int = Field(
        15, ge=1, description="Seconds that one SQL statement may take at most."
    )
    database_idle_transaction_timeout_seconds: int = Field(
        10,
        ge=1,
        description="Seconds that a process may pause within a transaction, which is then rolled back; lower than `DATABASE_STATEMENT_TIMEOUT_SECONDS`.",
        json_schema_extra=_about(
            details="A process that is stopped, swapped out or cut off loses its connection then, and its locks are released"
            " before the statements waiting for them time out. No transaction waits for gateway, mail, storage or a document."
        ),
    )

    redis_url: str = Field(
        "redis://localhost:6379/0",
        repr=False,
        description="`redis://`, `rediss://` or `unix://`; the server must not evict (`maxmemory-policy noeviction`).",
        json_schema_extra=_about(group="Redis"),
    )

    secret_key: SecretStr = Field(
        SecretStr(DEVELOPMENT_SECRET_KEY),
        description="Signs bearer tokens (HS256) and links to files; production needs your own, at least 32 characters.",
        json_schema_extra=_about(group="Callers"),
    )
    secret_key_previous: SecretStr = Field(
        SecretStr(""),
        description="The `SECRET_KEY` before this one: tokens signed with it stay valid while it is set here, and nothing new is signed with it.",
    )
    api_key: SecretStr | None = Field(
        SecretStr(DEVELOPMENT_API_KEY),
        description="A key with the role admin, in development and testing only; empty switches it off, as production needs.",
    )
    jwt_issuer: str = Field("articurated", description="`iss` that a token must have.")
    jwt_audience: str = Field("articurated-api", description="`aud` that a token must have.")
    jwks_url: str | None = Field(
        None,
        description="Address of an identity provider's key set (RS256, ES256, EdDSA); https, or http to this machine in development.",
    )
    jwks_file: Path | None = Field(
        None,
        description="The key set as a file instead, read again within 5 seconds of a change; while the file is missing, none of the provider's keys is accepted.",
    )
    jwks_issuer: str | None = Field(None, description="`iss` of the provider's tokens; `JWT_ISSUER` when absent.")
    jwks_audience: str | None = Field(None, description="`aud` of the provider's tokens; `JWT_AUDIENCE` when absent.")
    token_max_age_minutes: int = Field(
        1440,
        ge=1,
        le=MAXIMUM_TOKEN_AGE_MINUTES,
        description="Minutes from its issue (`iat`) after which a bearer token is refused, even if its `exp` is later.",
        json_schema_extra=_about(details="A provider's token without `iat` must expire within that time."),
    )
    jwks_refresh_seconds: int = Field(
        300,
        ge=1,
        le=3600,
        description="Seconds after which the set from `JWKS_URL` is fetched again: a key that the provider removes is accepted that long.",
        json_schema_extra=_about(
            details="Every API process fetches it that often, and requests wait for it, up to 2 seconds, whenever the provider is slow."
        ),
    )
    rate_limit_per_minute: int = Field(
        100,
        ge=0,
        le=100_000,
        description="Requests that one caller may make in any 60 seconds; 0 is no limit, refused in production.",
    )
    trusted_proxies: str = Field(
        "",
        description="Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are used: addresses and networks, separated by commas.",
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1024, description="Bytes that a request body may have; a longer one is answered 413."
    )
    http_connections_maximum: int = Field(
        1000,
        ge=10,
        description="Open connections of one API process.",
        json_schema_extra=_about(
            details=(
                "A new one beyond it takes the place of the one that has waited longest for a request, whose client may"
                " be sending the next one just then. The processes of a machine take connections as they come, so each"
                " needs room for most of them."
            )
        ),
    )
    force_https: bool = Field(
        True, description="Whether production refuses what came over plain HTTP, health checks apart."
    )
    allowed_hosts: str = Field(
        "",
        description="Host names by which callers reach the API besides that of `PUBLIC_URL`, IP addresses, `localhost` and names without a dot, separated by commas.",
        json_schema_extra=_about(
            details="A request with another name in `Host` is answered 421, so that no web page can reach the API under a name of"
            " its own (DNS rebinding). Production without this and without `PUBLIC_URL` takes every name."
        ),
    )
    cors_allowed_origins: str = Field(
        "", description="Web origins that may call from a browser, separated by commas; none when empty."
    )

    smtp_host: str = Field(
        "localhost", description="Mail server; needed in production.", json_schema_extra=_about(group="Mail")
    )
    smtp_port: int = Field(1025, ge=1, le=65535, description="Port of the mail server.")
    smtp_user: str = Field("", description="Login, when the mail server wants one.")
    smtp_password: SecretStr = Field(SecretStr(""), description="Password of that login.")
    smtp_tls: Literal["none", "starttls", "implicit"] = Field("none", description="`none`, `starttls` or `implicit`.")
    smtp_timeout_seconds: float = Field(
        10, gt=0, description="Seconds that the mail server may take for one answer; lower than 25."
    )
    mail_from: Email = Field(
        "orders@articurated.example", description="Sender address; its domain is used in Message-IDs."
    )
    mail_from_name: str = Field("ArtiCurated", description="Sender name.")
    warehouse_email: Email = Field(
        "warehouse@articurated.example", description="Gets orders ready to pick and goods received."
    )
    managers_email: Email = Field(
        "managers@articurated.example", description="Gets returns awaiting review, and reminders of them."
    )
    operations_email: Email = Field(
        "operations@articurated.example",
        description="Gets failed jobs, cases that a person must decide, and the daily summary.",
    )

    messages_per_recipient_per_hour: int = Field(
        100,
        ge=1,
        le=100_000,
        description="Messages that go to one address or number of a customer in an hour; invoices, credit notes and refunds are not limited.",
        json_schema_extra=_about(
            details="More are recorded as SUPPRESSED, with a [case](how-to/decide-cases.md), and can be sent again."
        ),
    )
    messages_per_customer_per_hour: int = Field(
        60,
        ge=1,
        le=100_000,
        description="The same for all messages about orders that one customer placed with their own key or token, to all addresses together.",
    )

    chat_adapter: Literal["off", "log", "webhook"] = Field(
        "off",
        description="Where internal alerts go besides mail: `off`, `log` or `webhook`.",
        json_schema_extra=_about(group="SMS and chat"),
    )
    chat_webhook_url: SecretStr = Field(
        SecretStr(""),
        description="Address that the alerts are posted to; https, and a secret as most such addresses are.",
    )
    sms_adapter: Literal["off", "log", "webhook"] = Field(
        "off",
        description="How customers hear of shipping, delivery and refund besides mail: `off`, `log` or `webhook`.",
    )
    sms_webhook_url: SecretStr = Field(
        SecretStr(""), description="Address of the SMS service that the messages are posted to."
    )
    channel_webhook_secret: SecretStr = Field(
        SecretStr(DEVELOPMENT_CHANNEL_SECRET),
        description="Signs what is posted to both; production needs your own, at least 32 characters.",
    )
    outbound_allowed_hosts: str = Field(
        "",
        description="Names or addresses, separated by commas, that may be called although they are inside our own network.",
    )
    outbound_timeout_seconds: float = Field(10, gt=0, le=20, description="Seconds that such a call may take in all.")

    storage_type: Literal["local", "memory", "s3", "gcs", "azure"] = Field(
        "local",
        description="`local`, `memory` (lost at exit, refused in production), `s3`, `gcs` or `azure`.",
        json_schema_extra=_about(group="Storage"),
    )
    storage_path: Path = Field(
        ROOT / "storage",
        description="Folder of the local storage; `storage` in the checkout by default, in the data folder under `./dev run`.",
    )
    storage_bucket: str | None = Field(None, description="Bucket or container for `gcs`, `azure` and `s3`.")
    aws_access_key_id: str | None = Field(
        None, description="Credentials for `s3`; when absent, those of the machine are used."
    )
    aws_secret_access_key: SecretStr | None = Field(None, description="Secret that belongs to `AWS_ACCESS_KEY_ID`.")
    aws_s3_bucket: str | None = Field(None, description="Bucket for `s3`, when `STORAGE_BUCKET` is not set.")
    aws_region: str | None = Field(None, description="Region for `s3`.")
    aws_endpoint_url: str | None = Field(None, description="Address of another S3-compatible service.")
    attachment_max_bytes: int = Field(
        10_485_760,
        ge=1024,
        le=104_857_600,
        description="Bytes that a file attached to a return may have; a larger one is answered 413.",
    )
    attachments_per_return: int = Field(10, ge=1, le=100, description="How many files a return takes.")
    file_link_ttl_seconds: int = Field(
        900, ge=10, le=604_800, description="Seconds for which a link to an invoice or an attachment works."
    )
    mail_link_ttl_days: int = Field(
        30,
        ge=1,
        le=90,
        description="Days for which a link works that a mail has in place of an attachment too large for the mail server.",
        json_schema_extra=_about(
            details="Such links need `PUBLIC_URL`, and end with the `SECRET_KEY` that signed them."
        ),
    )
    file_link_delivery: Literal["redirect", "stream"] = Field(
        "redirect",
        description="`redirect` sends the caller on to the storage, where it can sign (`s3`, `gcs`, `azure`); `stream` passes the bytes through the API, as for a storage that callers cannot reach.",
    )
    public_url: str | None = Field(
        None,
        description="Where callers reach this API, for example `https://shop.example/api`; when absent, links are paths.",
    )

    backup_path: Path | None = Field(
        None,
        description="Folder that backups go to, best on another disk than the data; under `./dev run`, `backups` in the data folder when absent.",
        json_schema_extra=_about(group="Backups", is_for_containers=False),
    )
    backup_database_url: str | None = Field(
        None,
        repr=False,
        description="Login that may replicate, as a superuser may; `DATABASE_ADMIN_URL` when absent.",
        json_schema_extra=_about(is_for_containers=False),
    )
    backup_encryption_key: SecretStr = Field(
        SecretStr(""),
        description="Encrypts new backups, 32 characters or more; without it they are in clear text. Keep it apart from them.",
        json_schema_extra=_about(is_for_containers=False),
    )
    backup_engine: Literal["own", "pgbackrest"] = Field(
        "own",
        description="What makes base backups and keeps the log: `own`, or `pgbackrest` where that is installed and has a stanza.",
        json_schema_extra=_about(is_for_containers=False),
    )
    backup_pgbackrest_stanza: str = Field(
        "",
        description="Name of the stanza, with `BACKUP_ENGINE=pgbackrest`.",
        json_schema_extra=_about(is_for_containers=False),
    )
    backup_every_hours: float = Field(
        6,
        gt=0,
        le=168,
        description="Hours between two base backups; the log in between is fetched every 30 seconds.",
        json_schema_extra=_about(is_for_containers=False),
    )
    backup_full_every_days: float = Field(
        7,
        ge=0,
        le=365,
        description="Days after which a base backup is a full one; those in between hold what changed (PostgreSQL 17 and later, `summarize_wal = on`). 0 makes each a full one.",
        json_schema_extra=_about(is_for_containers=False),
    )
    backup_keep_days: int = Field(
        14,
        ge=1,
        le=3660,
        description="Days for which base backups are kept; the newest two are kept in any case, and what they go back to.",
        json_schema_extra=_about(is_for_containers=False),
    )

    payment_gateway_url: str = Field(
        "http://127.0.0.1:8002",
        description="Base address of the gateway; needed in production, https.",
        json_schema_extra=_about(group="Payment gateway"),
    )
    payment_gateway_api_key: SecretStr = Field(
        SecretStr(DEVELOPMENT_GATEWAY_KEY),
        description="Our key there, sent as a bearer token; production needs your own.",
    )
    payment_webhook_secret: SecretStr = Field(
        SecretStr(DEVELOPMENT_WEBHOOK_SECRET),
        description="Shared secret of the gateway's webhook signatures; production needs your own, at least 32 characters.",
    )
    payment_gateway_timeout_seconds: float = Field(
        10, gt=0, description="Seconds for one whole call, from connecting to the last byte; lower than 25."
    )
    payment_webhook_tolerance_seconds: int = Field(
        300, ge=1, description="Seconds by which a webhook's signed time may differ from ours."
    )

    invoice_renderer: Literal["typst", "weasyprint"] = Field(
        "typst",
        description="`typst`, or `weasyprint` (needs the extra `weasyprint` and Pango).",
        json_schema_extra=_about(group="Documents", is_for_containers=False),
    )
    invoice_font_paths: str = Field(
        "",
        description="Folders with more [fonts for documents](how-to/fonts-of-documents.md), separated by colons.",
    )
    seller_name: str = Field("ArtiCurated Marketplace", description="Trading name of the seller.")
    seller_street: str = Field("12 Rue des Artisans", description="Street of the seller.")
    seller_postal_code: str = Field("75003", description="Postal code of the seller.")
    seller_city: str = Field("Paris", description="City of the seller.")
    seller_country: str = Field("FR", pattern=r"^[A-Z]{2}$", description="Country of the seller, ISO 3166-1 alpha-2.")
    seller_tax_id: str = Field("FR 40 303 265 045", description="Tax number of the seller.")
    seller_email: Email = Field(
        "billing@articurated.example", description="Mailbox for questions, at the foot of invoices and mails."
    )

    shop_timezone: str = Field(
        "UTC",
        description="IANA time zone, such as `Europe/Paris`, whose calendar decides the days of documents, mails, figures and returns.",
        json_schema_extra=_about(
            group="Rules of the shop",
            details="That is the day and the year of order numbers, invoices and credit notes, their number series and storage"
            " keys, the days in mails, daily figures, the daily summary, and the end of the return window. Times in the API"
            " stay in UTC.",
        ),
    )
    orders_priced_by: Literal["anyone", "service"] | None = Field(
        None,
        description="Who may set prices at `POST /orders`: `anyone`, or `service` (no customers); when absent, `service` in production and `anyone` elsewhere.",
        json_schema_extra=_about(
            details="`anyone`: a customer may, for their own orders. `service`: a customer's request is 403, the storefront"
            " creates the order with a key of role service; managers and admins may too. In mails about an order that a customer"
            " placed, articles are named by their position, as the customer wrote their names."
        ),
    )
    unpaid_order_ttl_hours: int = Field(
        24, ge=1, description="Hours after which an unpaid order is cancelled by SYSTEM."
    )
    return_window_days: int = Field(
        30,
        ge=1,
        description="Days after the day of delivery in which a return may be requested; the window closes at the end of the last one, in the shop's time zone.",
    )
    return_review_sla_hours: int = Field(
        24, ge=1, description="Hours without review after which managers are reminded of a return once."
    )
    return_expiry_days: int = Field(
        7, ge=1, description="Days without review after which a return is rejected by SYSTEM as EXPIRED."
    )

    invoice_retries: int = Field(
        3,
        ge=0,
        le=20,
        description="Retries of invoice and credit note jobs.",
        json_schema_extra=_about(group="Jobs"),
    )
    invoice_retry_base_seconds: float = Field(30, gt=0, description="Seconds before the first of them.")
    invoice_retry_cap_seconds: float = Field(600, gt=0, description="Seconds of the longest wait between them.")
    refund_retries: int = Field(5, ge=0, le=20, description="Retries of refund and capture jobs.")
    refund_retry_base_seconds: float = Field(120, gt=0, description="Seconds before the first of them.")
    refund_retry_cap_seconds: float = Field(1800, gt=0, description="Seconds of the longest wait between them.")
    notification_retries: int = Field(5, ge=0, le=20, description="Retries of mails and other messages.")
    notification_retry_base_seconds: float = Field(30, gt=0, description="Seconds before the first of them.")
    notification_retry_cap_seconds: float = Field(1800, gt=0, description="Seconds of the longest wait between them.")
    job_max_claims: int = Field(
        20,
        ge=1,
        description="Tries of any kind, crashes included, after which a job becomes a dead letter.",
    )
    job_lease_seconds: float = Field(
        60,
        gt=0,
        description="Seconds that a worker holds a job without renewing its lease, which it does four times in that time; 4 or more.",
    )
    job_redispatch_seconds: float = Field(
        60, gt=0, description="Seconds after which a published job that no worker claimed is sent again."
    )
    relay_poll_seconds: float = Field(
        0.04,
        gt=0,
        description="Seconds between two looks of the relay for due jobs; lower than `JOB_REDISPATCH_SECONDS`.",
    )
    # DAILY_SUMMARY_HOUR_UTC is the name that this had before the shop had a time zone.
    daily_summary_hour: int = Field(
        6,
        ge=0,
        le=23,
        validation_alias=AliasChoices("daily_summary_hour", "daily_summary_hour_utc"),
        description="Hour, in the shop's time zone, from which yesterday's summary is mailed.",
    )

    sentry_dsn: SecretStr = Field(
        SecretStr(""),
        description="Sentry project that faults are reported to; nothing is sent when empty.",
        json_schema_extra=_about(group="Monitoring"),
    )
    prometheus_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port on which worker, relay and beat show their metrics to Prometheus; 0 opens none.",
        json_schema_extra=_about(details="The API shows its own at `/api/v1/metrics`."),
    )
    prometheus_host: str = Field("127.0.0.1", description="Address that this port listens on.")
    flower_basic_auth: SecretStr = Field(
        SecretStr(""),
        description="Login of Flower, as `name:password`; needed in production, where Flower runs.",
        json_schema_extra=_about(is_for_containers=False),
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.",
        json_schema_extra=_about(group="Logs"),
    )
    log_format: Literal["json", "console"] = Field(
        "json",
        description="`json`, or `console` for reading, which production refuses: its tracebacks quote data.",
    )

    @field_validator("database_url", "database_admin_url", "database_replica_url", "backup_database_url")
    @classmethod
    def _postgres_only(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must be a postgresql:// URL")
        return value

    @field_validator("database_url", "database_admin_url")
    @classmethod
    def _several_hosts_have_one_primary(cls, value: str | None) -> str | None:
        """Refuse a list of hosts that would be taken as it comes: after a failover the first may be a standby."""
        address = DATABASE_ADDRESS.match(value or "")
        if address is None:
            return value
        parameters = parse_qs(address["rest"].partition("?")[2])
        hosts = address["hosts"] + ",".join(parameters.get("host", []))
        if "," in hosts and parameters.get("target_session_attrs") not in (["read-write"], ["primary"]):
            raise ValueError("names several hosts, so it needs ?target_session_attrs=read-write")
        return value

    @field_validator("backup_encryption_key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < MINIMUM_SECRET_LENGTH:
            raise ValueError(f"must be empty or at least {MINIMUM_SECRET_LENGTH} characters")
        return value

    @field_validator("cors_allowed_origins")
    @classmethod
    def _origins_only(cls, value: str) -> str:
        for origin in filter(None, value.split(",")):
            if _ORIGIN.fullmatch(origin.strip()) is None:
                raise ValueError(f"{origin.strip()[:100]!r} is no origin: https://shop.example, no path, no wildcard")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names_only(cls, value: str) -> str:
        for name in filter(None, value.split(",")):
            if _HOST_NAME.fullmatch(name.strip()) is None:
                raise ValueError(f"{name.strip()[:100]!r} is no host name: no scheme, no port, no wildcard")
        return value

    @field_validator("public_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        """Links are made by putting a path behind it, so nothing in it may swallow or climb over that path."""
        if not value:
            return None
        if _PUBLIC_URL.fullmatch(value) is None or ".." in value:
            raise ValueError(
                "must be an http:// or https:// address, optionally with a path: no login, query or fragment"
            )
        return value.rstrip("/")

    @field_validator(
        *("database_replica_url", "jwks_url", "jwks_file", "orders_priced_by", "backup_path", "backup_database_url"),
        mode="before",
    )
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        return value or None

    @field_validator("shop_timezone")
    @classmethod
    def _known_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value[:100]!r} is no time zone of the IANA database, such as Europe/Paris") from None
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _named_proxies_only(cls, value: str) -> str:
        for given in filter(None, (part.strip() for part in value.split(","))):
            try:
                everyone = ipaddress.ip_network(given).prefixlen == 0
            except ValueError:
                raise ValueError(f"{given[:100]!r} is no address and no network such as 10.0.0.0/8") from None
            if everyone:
                raise ValueError(f"{given} would trust the header of every caller")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_only(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be a redis://, rediss:// or unix:// URL")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Refuse what contradicts itself, and in production what is unsafe; each fault on a line of its own."""
        from app import config_rules  # noqa: PLC0415 - that module needs this one

        faults = config_rules.contradictions(self)
        if self.environment == "production":
            faults += config_rules.refused_in_production(self)
        if faults:
            raise ValueError("\n  ".join(faults))
        return self

    @property
    def host_names(self) -> frozenset[str]:
        """Names by which callers reach the API besides those of this machine and of PUBLIC_URL (NFR-004)."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip())

    @property
    def cors_origins(self) -> list[str]:
        """Origins of web pages that may call the API from a browser (NFR-004); none by default."""
        return [origin.strip() for origin in self.cors_allowed_origins.split(",") if origin.strip()]

    @property
    def proxies(self) -> list[str]:
        """Addresses and networks whose `X-Forwarded-For` is used (NFR-004); none by default."""
        return [proxy.strip() for proxy in self.trusted_proxies.split(",") if proxy.strip()]

    @property
    def font_folders(self) -> tuple[Path, ...]:
        """Folders of fonts beside those that are shipped (REQ-004); none by default."""
        return tuple(Path(folder) for folder in self.invoice_font_paths.split(":") if folder)

    @property
    def outbound_hosts(self) -> frozenset[str]:
        """Hosts that webhooks may reach at inner addresses (NFR-004)."""
        return frozenset(host.strip().lower() for host in self.outbound_allowed_hosts.split(",") if host.strip())

    @property
    def private_hosts(self) -> list[str]:
        """Names, addresses and networks that need no TLS (NFR-004); none by default."""
        return [host.strip().lower() for host in self.private_network_hosts.split(",") if host.strip()]

    @property
    def prices_set_by(self) -> Literal["anyone", "service"]:
        """Who may set prices: a customer's own request to create an order is refused where it is `service`."""
        if self.orders_priced_by is not None:
            return self.orders_priced_by
        return "service" if self.environment == "production" else "anyone"

    @property
    def unpaid_order_ttl(self) -> timedelta:
        """Time after which an unpaid order is cancelled by SYSTEM (REQ-001)."""
        return timedelta(hours=self.unpaid_order_ttl_hours)


KEEP_ALIVE_SECONDS = 75
"""How long our HTTP servers keep an idle connection: longer than any usual client or proxy does (60 s at the most).

The side that closes first decides: a server that gave up first would now and then reset a request on its way.
"""

MONEY_LIMIT = Decimal("9999999999.99")
"""Largest amount that NUMERIC(12,2) holds."""


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, read on first use.

    Raises:
        SettingsError: a value is missing or invalid; the message names each.
    """
    try:
        return Settings()
    except ValidationError as fault:
        lines = [
            # What concerns several settings names them itself, one a line.
            "  "
            + ": ".join([*(str(part).upper() for part in error["loc"]), error["msg"].removeprefix("Value error, ")])
            for error in fault.errors(include_url=False, include_input=False)
        ]
        raise SettingsError("Configuration refused:\n" + "\n".join(lines)) from None
