"""One module per kind of notification, with a `KIND`; a module that is put here is found by itself (REQ-006)."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final

from app.core.enums import Channel
from app.services.jobs.service import JobKind
from app.services.notifications.kind import Kind


def _found() -> dict[str, Kind[Any]]:
    """Return the kinds by name, in the order of their jobs."""
    kinds: list[Kind[Any]] = [import_module(f"{__name__}.{module.name}").KIND for module in iter_modules(__path__)]
    order = list(JobKind)
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: order.index(kind.job))}


KINDS: Final[Mapping[str, Kind[Any]]] = _found()
"""Every kind of notification by name."""


def short_texts() -> list[tuple[Channel, str]]:
    """Return each channel other than mail with the names of the kinds that are sent on it."""
    return [
        (channel, name)
        for channel in (Channel.SMS, Channel.CHAT)
        for name, kind in KINDS.items()
        if channel in kind.short
    ]
