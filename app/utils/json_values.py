"""The type of JSON documents whose members are decided elsewhere."""

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = Mapping[str, Any]
"""A JSON object as it was received or stored: the body of a webhook, the answer of a payment gateway, the claims of a
token, the metadata that a caller gave an order. Its reader checks each member. What the application composes itself has
a `TypedDict` or a dataclass instead."""
