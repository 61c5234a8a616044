"""One gateway with its parts: store, ledger, queries, request handler, outbox, dispatcher."""

from typing import Annotated

from fastapi import Depends, Request

from devtools.mock_gateway.clock import Clock
from devtools.mock_gateway.events import Outbox
from devtools.mock_gateway.faults import Faults
from devtools.mock_gateway.ledger import Ledger
from devtools.mock_gateway.ledger_queries import LedgerQueries
from devtools.mock_gateway.request_handler import RequestHandler
from devtools.mock_gateway.settings import GatewaySettings
from devtools.mock_gateway.store import Store
from devtools.mock_gateway.webhooks import WebhookDispatcher


class Gateway:
    """The parts of a running gateway, sharing one store and one clock."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        self.store = Store(settings.data_dir)
        self.faults = Faults(self.store)
        self.outbox = Outbox(self.store, clock)
        self.ledger = Ledger(self.store, self.outbox, clock)
        self.queries = LedgerQueries(self.store)
        self.dispatcher = WebhookDispatcher(settings, self.outbox, clock)
        self.handler = RequestHandler(
            self.store,
            self.faults,
            self.dispatcher,
            clock=clock,
            ttl_seconds=settings.idempotency_ttl_seconds,
        )


def current_gateway(request: Request) -> Gateway:
    """Return the gateway that serves this request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


CurrentGateway = Annotated[Gateway, Depends(current_gateway)]
