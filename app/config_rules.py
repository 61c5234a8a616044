"""Judgement of settings as a whole: what contradicts itself, and what production refuses (NFR-004).

Each function returns faults: one sentence each, which begins with the variable that has to be changed.
"""

import ipaddress
import os
from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from app.config import (
    DATABASE_ADDRESS,
    DEVELOPMENT_API_KEY,
    DEVELOPMENT_CHANNEL_SECRET,
    DEVELOPMENT_DATABASE_PASSWORD,
    DEVELOPMENT_GATEWAY_KEY,
    DEVELOPMENT_SECRET_KEY,
    DEVELOPMENT_WEBHOOK_SECRET,
    JOB_TIME_LIMIT_SECONDS,
    MINIMUM_SECRET_LENGTH,
    Settings,
    SettingsError,
)

MAIL_CATCHERS = ("mail catcher", "mailpit", "mailhog", "maildev", "mailcatcher", "smtp4dev", "inbucket", "greenmail")
"""Names of mail servers that deliver nothing: as a host's name, and in the greeting of the server (RFC 5321, 4.2)."""

MINIMUM_LEASE_SECONDS = 4
"""A lease is renewed four times, and the statement that does it may take a second."""

_CATCHER_PORT = 1025
_MOCK_GATEWAY_PORT = 8002
_MINIMUM_DISTINCT = 8
_MINIMUM_PASSWORD = 12
_SEQUENCE_STEPS = 2
_VERIFYING = frozenset({"verify-full", "verify-ca"})
_OFF = frozenset({"0", "f", "false", "n", "no"})
"""What redis-py reads as false in an address."""


# --- settings that contradict each other -----------------------------------------------------------------------


def contradictions(settings: Settings) -> list[str]:
    """Return what cannot hold at the same time, in any environment."""
    return [*_time_rules(settings), *_pairs(settings), *_channels(settings), *_provider(settings)]


def _time_rules(settings: Settings) -> Iterator[str]:
    if settings.database_idle_transaction_timeout_seconds >= settings.database_statement_timeout_seconds:
        yield (
            "DATABASE_IDLE_TRANSACTION_TIMEOUT_SECONDS must be lower than DATABASE_STATEMENT_TIMEOUT_SECONDS, so that"
            " an idle transaction is ended before the statements waiting for its locks time out"
        )
    for name in ("INVOICE", "REFUND", "NOTIFICATION"):
        base = getattr(settings, f"{name.lower()}_retry_base_seconds")
        if base > getattr(settings, f"{name.lower()}_retry_cap_seconds"):
            yield f"{name}_RETRY_BASE_SECONDS must not be above {name}_RETRY_CAP_SECONDS: the first wait is the shortest"
    if settings.job_lease_seconds < MINIMUM_LEASE_SECONDS:
        yield (
            f"JOB_LEASE_SECONDS must be at least {MINIMUM_LEASE_SECONDS}: it is renewed four times in that time, and a"
            " worker that cannot renew it loses the job"
        )
    if settings.relay_poll_seconds >= settings.job_redispatch_seconds:
        yield "RELAY_POLL_SECONDS must be lower than JOB_REDISPATCH_SECONDS: a job would be sent again at each look"
    for name in ("PAYMENT_GATEWAY_TIMEOUT_SECONDS", "SMTP_TIMEOUT_SECONDS"):
        if getattr(settings, name.lower()) >= JOB_TIME_LIMIT_SECONDS:
            yield f"{name} must be lower than {JOB_TIME_LIMIT_SECONDS}: a job that takes longer is stopped"
    if settings.return_review_sla_hours >= settings.return_expiry_days * 24:
        yield (
            "RETURN_REVIEW_SLA_HOURS must be lower than RETURN_EXPIRY_DAYS in hours: the request would expire before"
            " managers are reminded of it"
        )
    if settings.payment_webhook_tolerance_seconds >= settings.unpaid_order_ttl_hours * 3600:
        yield "PAYMENT_WEBHOOK_TOLERANCE_SECONDS must be lower than UNPAID_ORDER_TTL_HOURS in seconds"


def _pairs(settings: Settings) -> Iterator[str]:
    if settings.database_replica_url is not None and "database_url" not in settings.model_fields_set:
        yield "DATABASE_REPLICA_URL needs the DATABASE_URL that it is a replica of"
    if bool(settings.smtp_user) is not _given(settings.smtp_password):
        yield "SMTP_USER and SMTP_PASSWORD belong together: set both or neither"
    if bool(settings.aws_access_key_id) is not _given(settings.aws_secret_access_key):
        yield "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: set both or neither"
    bucket = settings.storage_bucket or (settings.aws_s3_bucket if settings.storage_type == "s3" else None)
    if settings.storage_type in {"s3", "gcs", "azure"} and not bucket:
        yield f"STORAGE_BUCKET is needed while STORAGE_TYPE is {settings.storage_type}"
    previous = settings.secret_key_previous.get_secret_value()
    if previous and previous == settings.secret_key.get_secret_value():
        yield "SECRET_KEY_PREVIOUS must differ from SECRET_KEY: what it signed would never end"


def _channels(settings: Settings) -> Iterator[str]:
    """Refuse a channel that is switched on without an address; `app.utils.outbound` judges each call (REQ-006)."""
    for name, adapter, url in (
        ("CHAT", settings.chat_adapter, settings.chat_webhook_url.get_secret_value()),
        ("SMS", settings.sms_adapter, settings.sms_webhook_url.get_secret_value()),
    ):
        schemes = ("https://",) if settings.environment == "production" else ("https://", "http://")
        if adapter == "webhook" and not url.startswith(schemes):
            yield f"{name}_WEBHOOK_URL must be an https:// address while {name}_ADAPTER is webhook"


def _provider(settings: Settings) -> Iterator[str]:
    """The provider's keys come over TLS or from a file: others could sign for any caller."""
    if settings.jwks_url is None:
        return
    if settings.jwks_file is not None:
        yield "JWKS_URL and JWKS_FILE exclude each other"
        return
    url = urlsplit(settings.jwks_url)
    plain = url.scheme == "http" and settings.environment != "production" and is_loopback(url.hostname)
    if not url.hostname or not (url.scheme == "https" or plain):
        yield "JWKS_URL must be an https:// address; http:// only to this machine, outside production"
    elif url.username is not None or url.password is not None or url.fragment:
        yield "JWKS_URL must have no login and no fragment"


# --- what production refuses -----------------------------------------------------------------------------------


def refused_in_production(settings: Settings) -> list[str]:
    """Return why production does not start under these settings."""
    return [
        *_weak_secrets(settings),
        *_open_doors(settings),
        *_databases(settings),
        *_redis(settings),
        *_gateway(settings),
        *_mail(settings),
        *_clear_text(settings),
    ]


def _weak_secrets(settings: Settings) -> Iterator[str]:
    own = f"must be your own, at least {MINIMUM_SECRET_LENGTH} characters, hard to guess (openssl rand -hex 24)"
    if _weak(settings.secret_key, DEVELOPMENT_SECRET_KEY):
        yield f"SECRET_KEY {own}"
    if _given(settings.secret_key_previous) and _weak(settings.secret_key_previous, DEVELOPMENT_SECRET_KEY):
        yield f"SECRET_KEY_PREVIOUS {own}, or empty"
    if _given(settings.api_key):
        yield "API_KEY is for development; leave it empty and create keys with `articurated keys create`"
    if settings.payment_gateway_api_key.get_secret_value() in {"", DEVELOPMENT_GATEWAY_KEY}:
        yield "PAYMENT_GATEWAY_API_KEY must be your own"
    if _weak(settings.payment_webhook_secret, DEVELOPMENT_WEBHOOK_SECRET):
        yield f"PAYMENT_WEBHOOK_SECRET {own}"
    is_used = "webhook" in {settings.chat_adapter, settings.sms_adapter}
    if is_used and _weak(settings.channel_webhook_secret, DEVELOPMENT_CHANNEL_SECRET):
        yield f"CHANNEL_WEBHOOK_SECRET {own}"
    if _given(settings.backup_encryption_key) and _guessable(settings.backup_encryption_key, ""):
        yield f"BACKUP_ENCRYPTION_KEY {own}, or empty"
    # What is no login at all is refused where Flower starts.
    name, _, password = settings.flower_basic_auth.get_secret_value().partition(":")
    if name and password and (len(password) < _MINIMUM_PASSWORD or is_trivial(password)):
        yield f"FLOWER_BASIC_AUTH must have a password of at least {_MINIMUM_PASSWORD} characters, hard to guess"


def _open_doors(settings: Settings) -> Iterator[str]:
    if settings.rate_limit_per_minute == 0:
        yield "RATE_LIMIT_PER_MINUTE 0 lets anyone guess keys without end; set a high number instead"
    if settings.log_format == "console":
        yield "LOG_FORMAT console shows what a failed statement was about: customers' data; leave it json"
    if settings.storage_type == "memory":
        yield "STORAGE_TYPE memory forgets every invoice"
    if settings.allow_development_secrets:
        yield "ALLOW_DEVELOPMENT_SECRETS is for development"


def _databases(settings: Settings) -> Iterator[str]:
    if "database_url" not in settings.model_fields_set:
        how = "docs/how-to/deploy-on-servers.md (docker compose does it by itself)"
        leave = "`ENVIRONMENT=development ./dev run`"
        yield f"DATABASE_URL is not set: name your own PostgreSQL, see {how}, or leave production: {leave}"
        return
    for name, url in _database_urls(settings):
        if DEVELOPMENT_DATABASE_PASSWORD in url:
            yield f"{name} holds the development password"
        hosts, parameters = _address(url)
        mode = (parameters.get("sslmode") or [os.environ.get("PGSSLMODE", "prefer")])[-1]
        open_hosts = [host for host in hosts if not _is_private(settings, host)]
        if open_hosts and mode not in _VERIFYING:
            yield (
                f"{name} reaches {', '.join(open_hosts)} with sslmode={mode}, which may send data in clear text or to"
                " the wrong server: add ?sslmode=verify-full, or name the host in PRIVATE_NETWORK_HOSTS"
            )


def _redis(settings: Settings) -> Iterator[str]:
    url = urlsplit(settings.redis_url)
    if url.scheme == "unix" or is_loopback(url.hostname or "localhost"):
        return
    parameters = parse_qs(url.query)
    if not (url.password or parameters.get("password") or parameters.get("ssl_certfile")):
        yield "REDIS_URL reaches another machine without a password"
    if _is_private(settings, url.hostname):
        return
    if url.scheme != "rediss":
        yield (
            f"REDIS_URL reaches {url.hostname} in clear text, the password too: use rediss://, or name the host in"
            " PRIVATE_NETWORK_HOSTS"
        )
    elif parameters.get("ssl_cert_reqs", ["required"])[-1].lower() in {"none", "optional", "cert_none"}:
        yield "REDIS_URL must not switch off the check of the server's certificate (ssl_cert_reqs)"
    elif parameters.get("ssl_check_hostname", ["true"])[-1].lower() in _OFF:
        yield "REDIS_URL must not switch off the check of the server's name (ssl_check_hostname)"


def _gateway(settings: Settings) -> Iterator[str]:
    if "payment_gateway_url" not in settings.model_fields_set:
        yield "PAYMENT_GATEWAY_URL is not set: the default is the mock gateway, which pays nothing out"
        return
    url = urlsplit(settings.payment_gateway_url)
    if url.scheme not in {"http", "https"} or not url.hostname:
        yield "PAYMENT_GATEWAY_URL must be an https:// address"
    elif url.scheme == "http" and not is_loopback(url.hostname):
        yield (
            f"PAYMENT_GATEWAY_URL sends our key to {url.hostname} in clear text: use https:// (the mock gateway is"
            " not for production)"
        )
    elif url.scheme == "http" and url.port == _MOCK_GATEWAY_PORT:
        yield "PAYMENT_GATEWAY_URL is the address of the mock gateway, which pays nothing out"


def _mail(settings: Settings) -> Iterator[str]:
    host = settings.smtp_host.lower()
    if "smtp_host" not in settings.model_fields_set:
        yield "SMTP_HOST is not set: the default is the mail catcher, which delivers nothing"
    elif host.partition(".")[0] in MAIL_CATCHERS:
        yield f"SMTP_HOST {settings.smtp_host} is a mail catcher, which delivers nothing"
    elif settings.smtp_port == _CATCHER_PORT and not (is_loopback(host) and "smtp_port" in settings.model_fields_set):
        yield f"SMTP_PORT {_CATCHER_PORT} is the mail catcher's; name that of your mail server (587 or 465)"
    if settings.smtp_user and settings.smtp_tls == "none" and not _is_private(settings, host):
        yield (
            f"SMTP_TLS none sends the login to {settings.smtp_host} in clear text: use starttls or implicit, or name the"
            " host in PRIVATE_NETWORK_HOSTS"
        )


def _clear_text(settings: Settings) -> Iterator[str]:
    endpoint = urlsplit(settings.aws_endpoint_url or "")
    if settings.storage_type == "s3" and endpoint.scheme == "http" and not _is_private(settings, endpoint.hostname):
        yield (
            f"AWS_ENDPOINT_URL sends documents to {endpoint.hostname} in clear text: use https://, or name the host"
            " in PRIVATE_NETWORK_HOSTS"
        )
    sentry = urlsplit(settings.sentry_dsn.get_secret_value())
    if sentry.scheme == "http" and not _is_private(settings, sentry.hostname):
        yield "SENTRY_DSN sends its key in clear text: use https://, or name the host in PRIVATE_NETWORK_HOSTS"
    if settings.force_https and (settings.public_url or "").startswith("http://"):
        yield "PUBLIC_URL must be an https:// address: the links to files carry their signature"


# --- development secrets on addresses that others reach --------------------------------------------------------


def development_secrets(settings: Settings) -> list[str]:
    """Return the variables whose value is published with the source or trivial to guess."""
    found = []
    if _given(settings.api_key) and _guessable(settings.api_key, DEVELOPMENT_API_KEY):
        found.append("API_KEY")
    if _guessable(settings.secret_key, DEVELOPMENT_SECRET_KEY):
        found.append("SECRET_KEY")
    if _given(settings.secret_key_previous) and _guessable(settings.secret_key_previous, DEVELOPMENT_SECRET_KEY):
        found.append("SECRET_KEY_PREVIOUS")
    if settings.payment_gateway_api_key.get_secret_value() in {"", DEVELOPMENT_GATEWAY_KEY}:
        found.append("PAYMENT_GATEWAY_API_KEY")
    if _guessable(settings.payment_webhook_secret, DEVELOPMENT_WEBHOOK_SECRET):
        found.append("PAYMENT_WEBHOOK_SECRET")
    urls = dict(_database_urls(settings))
    return [*found, *(name for name, url in urls.items() if f":{DEVELOPMENT_DATABASE_PASSWORD}@" in url)]


def is_mail_catcher(greeting: str) -> bool:
    """Return whether a mail server says that it delivers nothing: in the text behind its own name (RFC 5321, 4.2)."""
    text = greeting.strip().partition(" ")[2].lower()
    return any(name in text for name in MAIL_CATCHERS)


def refuse_public_address(settings: Settings, address: str, *variables: str) -> None:
    """Refuse to listen where others reach it under secrets that anyone can read in the source.

    Args:
        settings: of the process.
        address: to listen on.
        variables: those that guard what would listen; all without any.

    Raises:
        SettingsError: the message names each variable.
    """
    if settings.allow_development_secrets or not is_reachable(settings, address):
        return
    found = [name for name in development_secrets(settings) if not variables or name in variables]
    if found:
        raise SettingsError(
            f"Refused to listen on {address}, which other machines reach, under secrets that are published or easy to"
            f" guess: {', '.join(found)}. Set your own, listen on 127.0.0.1, or accept it with"
            " ALLOW_DEVELOPMENT_SECRETS=true (--allow-development-secrets)."
        )


def is_reachable(settings: Settings, address: str) -> bool:
    """Return whether others than this machine reach a process that listens on `address`.

    In a container that is decided by where its port is published: PUBLISHED_ADDRESS.
    """
    return not is_loopback(settings.published_address or address)


def is_loopback(host: str | None) -> bool:
    """Return whether a name or address leads to this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False


def is_trivial(secret: str) -> bool:
    """Return whether a secret has too little in it: few different characters, a repetition, a plain sequence."""
    # Up to a half: what is behind the first unit repeats it, and the last repetition may be cut short.
    units = range(1, len(secret) // 2 + 1)
    if len(set(secret)) < _MINIMUM_DISTINCT or any(secret[unit:] == secret[:-unit] for unit in units):
        return True
    # A plain sequence has one step, and a second one where it begins again.
    return len({ord(later) - ord(earlier) for earlier, later in pairwise(secret)}) <= _SEQUENCE_STEPS


def _weak(secret: SecretStr, published: str) -> bool:
    return len(secret.get_secret_value()) < MINIMUM_SECRET_LENGTH or _guessable(secret, published)


def _guessable(secret: SecretStr | None, published: str) -> bool:
    value = secret.get_secret_value() if secret else ""
    return value == published or is_trivial(value.removeprefix("whsec_"))


def _given(secret: SecretStr | None) -> bool:
    return secret is not None and bool(secret.get_secret_value())


def _is_private(settings: Settings, host: str | None) -> bool:
    """Return whether traffic to a host needs no TLS: this machine, or named in PRIVATE_NETWORK_HOSTS."""
    host = (host or "").strip("[]").lower()
    if is_loopback(host):
        return True
    for entry in settings.private_hosts:
        if host == entry:
            return True
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry):
                return True
        except ValueError:
            continue
    return False


def _database_urls(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in ("database_url", "database_admin_url", "database_replica_url", "backup_database_url"):
        if url := getattr(settings, name):
            yield name.upper(), url


def _address(url: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the hosts that a PostgreSQL address reaches over a network, and its parameters; a path is a socket."""
    address = DATABASE_ADDRESS.match(url)
    if address is None:
        return [], {}
    parameters = parse_qs(address["rest"].partition("?")[2])
    named = [*parameters.get("hostaddr", parameters.get("host", [])), address["hosts"]]
    hosts = [_without_port(unquote(host.strip())) for host in ",".join(filter(None, named)).split(",")]
    return [host for host in hosts if host and not host.startswith(("/", "@"))], parameters


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]
