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

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
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


class SettingsError(Exception):
    """The configuration cannot be used; the message names each fault, one a line."""


class Settings(BaseSettings):
    """All configuration, one field per environment variable (same name in capitals).

    Durations are in the unit that the name ends with. Money settings are in the order's currency.
    """

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore")

    environment: Literal["development", "testing", "production"] = "development"
    allow_development_secrets: bool = Field(False, description="Also on addresses that other machines reach.")
    published_address: str = Field("", description="Where a container's ports are published; compose sets it.")
    private_network_hosts: str = Field("", description="Hosts that production may reach without TLS, by commas.")

    # Addresses may hold a password: none of them shows in the text of the settings.
    database_url: str = Field("postgresql://articurated:dev_password@localhost:5432/articurated_orders", repr=False)
    database_admin_url: str | None = Field(
        None, repr=False, description="Owner connection for migrations and API keys; DATABASE_URL when absent."
    )
    database_replica_url: str | None = Field(
        None, repr=False, description="Read replica for lists, search and figures; none when absent."
    )
    database_role: str = Field(
        "articurated_app",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Role each application connection takes on: it can neither change nor delete history.",
    )
    database_pool_size: int = Field(10, ge=1, le=200)
    database_statement_timeout_seconds: int = Field(15, ge=1)
    database_idle_transaction_timeout_seconds: int = Field(
        10,
        ge=1,
        description="Must be lower than the statement timeout, so that an idle transaction is ended before the statements waiting for its locks time out.",
    )

    redis_url: str = Field("redis://localhost:6379/0", repr=False)

    secret_key: SecretStr = SecretStr(DEVELOPMENT_SECRET_KEY)
    secret_key_previous: SecretStr = Field(SecretStr(""), description="Still verifies, signs no more.")
    api_key: SecretStr | None = SecretStr(DEVELOPMENT_API_KEY)
    jwt_issuer: str = "articurated"
    jwt_audience: str = "articurated-api"
    jwks_url: str | None = Field(None, description="Keys of an identity provider.")
    jwks_file: Path | None = Field(None, description="The same as a file.")
    jwks_issuer: str | None = Field(None, description="JWT_ISSUER when absent.")
    jwks_audience: str | None = Field(None, description="JWT_AUDIENCE when absent.")
    token_max_age_minutes: int = Field(1440, ge=1, le=MAXIMUM_TOKEN_AGE_MINUTES, description="Counted from `iat`.")
    jwks_refresh_seconds: int = Field(300, ge=1, le=3600)
    rate_limit_per_minute: int = Field(100, ge=0, le=100_000, description="Requests of one caller; 0 is no limit.")
    trusted_proxies: str = Field("", description="Addresses and networks whose X-Forwarded-For is used.")
    max_body_bytes: int = Field(1_048_576, ge=1024)
    http_connections_maximum: int = Field(500, ge=10, description="Open connections of one API process.")
    force_https: bool = Field(True, description="Production refuses what came over plain HTTP, health checks apart.")
    allowed_hosts: str = Field("", description="Names in Host that are this service's, by commas.")
    cors_allowed_origins: str = Field("", description="Web origins that may call from a browser, by commas.")

    smtp_host: str = "localhost"
    smtp_port: int = Field(1025, ge=1, le=65535)
    smtp_user: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_tls: Literal["none", "starttls", "implicit"] = "none"
    smtp_timeout_seconds: float = Field(10, gt=0)
    mail_from: Email = "orders@articurated.example"
    mail_from_name: str = "ArtiCurated"
    warehouse_email: Email = "warehouse@articurated.example"
    managers_email: Email = "managers@articurated.example"
    operations_email: Email = "operations@articurated.example"

    messages_per_recipient_per_hour: int = Field(
        100,
        ge=1,
        le=100_000,
        description="To one address or number of a customer; invoices and refunds are not limited.",
    )
    messages_per_customer_per_hour: int = Field(
        60, ge=1, le=100_000, description="About orders that one customer placed with their own credentials."
    )

    chat_adapter: Literal["off", "log", "webhook"] = "off"
    chat_webhook_url: SecretStr = SecretStr("")
    sms_adapter: Literal["off", "log", "webhook"] = "off"
    sms_webhook_url: SecretStr = SecretStr("")
    channel_webhook_secret: SecretStr = SecretStr(DEVELOPMENT_CHANNEL_SECRET)
    outbound_allowed_hosts: str = ""
    outbound_timeout_seconds: float = Field(10, gt=0, le=20)

    storage_type: Literal["local", "memory", "s3", "gcs", "azure"] = "local"
    storage_path: Path = ROOT / "storage"
    storage_bucket: str | None = None
    aws_access_key_id: str | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_s3_bucket: str | None = None
    aws_region: str | None = None
    aws_endpoint_url: str | None = None
    attachment_max_bytes: int = Field(10_485_760, ge=1024, le=104_857_600)
    attachments_per_return: int = Field(10, ge=1, le=100)
    file_link_ttl_seconds: int = Field(900, ge=10, le=604_800)
    mail_link_ttl_days: int = Field(
        30, ge=1, le=90, description="Of a link that a mail has in place of an attachment that was too large."
    )
    file_link_delivery: Literal["redirect", "stream"] = "redirect"
    public_url: str | None = Field(None, description="Where callers reach this API, for links in answers.")

    backup_path: Path | None = Field(None, description="Folder of the backups; on another disk than the data.")
    backup_database_url: str | None = Field(
        None, repr=False, description="Login that may replicate; DATABASE_ADMIN_URL when absent."
    )
    backup_encryption_key: SecretStr = Field(SecretStr(""), description="Encrypts backups; none are when empty.")
    backup_engine: Literal["own", "pgbackrest"] = "own"
    backup_pgbackrest_stanza: str = Field("", description="Its name for the database, with BACKUP_ENGINE=pgbackrest.")
    backup_every_hours: float = Field(6, gt=0, le=168)
    backup_full_every_days: float = Field(
        7, ge=0, le=365, description="Base backups in between hold what changed; 0 makes each a full one."
    )
    backup_keep_days: int = Field(14, ge=1, le=3660)

    payment_gateway_url: str = "http://127.0.0.1:8002"
    payment_gateway_api_key: SecretStr = SecretStr(DEVELOPMENT_GATEWAY_KEY)
    payment_webhook_secret: SecretStr = SecretStr(DEVELOPMENT_WEBHOOK_SECRET)
    payment_gateway_timeout_seconds: float = Field(10, gt=0)
    payment_webhook_tolerance_seconds: int = Field(300, ge=1)

    invoice_renderer: Literal["typst", "weasyprint"] = "typst"
    invoice_font_paths: str = Field("", description="Folders with more fonts for documents, divided by colons.")
    seller_name: str = "ArtiCurated Marketplace"
    seller_street: str = "12 Rue des Artisans"
    seller_postal_code: str = "75003"
    seller_city: str = "Paris"
    seller_country: str = Field("FR", pattern=r"^[A-Z]{2}$")
    seller_tax_id: str = "FR 40 303 265 045"
    seller_email: Email = "billing@articurated.example"

    shop_timezone: str = Field(
        "UTC", description="IANA time zone whose calendar decides the days of documents, mails, figures and returns."
    )

    orders_priced_by: Literal["anyone", "service"] | None = Field(
        None, description="Who may set prices at POST /orders; `service` in production, `anyone` elsewhere when absent."
    )
    unpaid_order_ttl_hours: int = Field(24, ge=1)
    return_window_days: int = Field(30, ge=1)
    return_review_sla_hours: int = Field(24, ge=1)
    return_expiry_days: int = Field(7, ge=1)

    invoice_retries: int = Field(3, ge=0, le=20)
    invoice_retry_base_seconds: float = Field(30, gt=0)
    invoice_retry_cap_seconds: float = Field(600, gt=0)
    refund_retries: int = Field(5, ge=0, le=20)
    refund_retry_base_seconds: float = Field(120, gt=0)
    refund_retry_cap_seconds: float = Field(1800, gt=0)
    notification_retries: int = Field(5, ge=0, le=20)
    notification_retry_base_seconds: float = Field(30, gt=0)
    notification_retry_cap_seconds: float = Field(1800, gt=0)
    job_max_claims: int = Field(20, ge=1, description="Claims a job may use up before it counts as crashing.")
    job_lease_seconds: float = Field(60, gt=0)
    job_redispatch_seconds: float = Field(
        60, gt=0, description="A published job that no worker claimed for so long is sent again."
    )
    relay_poll_seconds: float = Field(0.04, gt=0)
    # DAILY_SUMMARY_HOUR_UTC is the name that this had before the shop had a time zone.
    daily_summary_hour: int = Field(
        6, ge=0, le=23, validation_alias=AliasChoices("daily_summary_hour", "daily_summary_hour_utc")
    )

    sentry_dsn: SecretStr = SecretStr("")
    prometheus_port: int = Field(0, ge=0, le=65535, description="Of worker, relay and beat; 0 opens none.")
    prometheus_host: str = "127.0.0.1"
    flower_basic_auth: SecretStr = SecretStr("")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"

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
