"""Configuration of the gateway process."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit


class GatewaySettingsError(Exception):
    """The environment does not describe a gateway; the message names every fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What a gateway needs to know. Secrets stay out of its `repr`.

    Attributes:
        data_dir: folder of the ledger; made when absent. One process at a time may hold it.
        api_key: what callers present as `Authorization: Bearer <api key>`.
        webhook_secret: shared secret of the webhook signatures, `whsec_…`; see `webhooks.secret_bytes`.
        webhook_url: where events are posted; None keeps them in the outbox.
        webhook_retry_base_seconds: wait after the first failed delivery; doubles after each further one.
        webhook_retry_cap_seconds: longest wait between two deliveries.
        webhook_timeout_seconds: how long a receiver may take.
        idempotency_ttl_seconds: age at which a stored answer is forgotten (24 h, as Stripe may).
    """

    data_dir: Path
    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    webhook_url: str | None = None
    webhook_retry_base_seconds: float = 0.5
    webhook_retry_cap_seconds: float = 60.0
    webhook_timeout_seconds: float = 10.0
    idempotency_ttl_seconds: float = 86_400.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read GATEWAY_DATA_DIR, PAYMENT_GATEWAY_API_KEY, PAYMENT_WEBHOOK_SECRET, PAYMENT_WEBHOOK_URL.

        The first three are required: a gateway with a key that everyone knows is a choice for its
        operator to make.

        Raises:
            GatewaySettingsError: a variable is missing or the URL is not http(s).
        """
        required = ("GATEWAY_DATA_DIR", "PAYMENT_GATEWAY_API_KEY", "PAYMENT_WEBHOOK_SECRET")
        faults = [f"{name} is not set" for name in required if not environ.get(name)]
        url = environ.get("PAYMENT_WEBHOOK_URL") or None
        if url is not None and not _is_http(url):
            faults.append("PAYMENT_WEBHOOK_URL is not an http:// or https:// URL")
        if faults:
            raise GatewaySettingsError("Gateway configuration refused: " + "; ".join(faults))
        return cls(
            data_dir=Path(environ["GATEWAY_DATA_DIR"]),
            api_key=environ["PAYMENT_GATEWAY_API_KEY"],
            webhook_secret=environ["PAYMENT_WEBHOOK_SECRET"],
            webhook_url=url,
        )


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
