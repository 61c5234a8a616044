"""The tables, one module a noun; importing this package registers them all with the metadata."""

from app.models.api_key import ApiKey
from app.models.attachment import Attachment
from app.models.audit_verification import AuditVerification
from app.models.base import Base
from app.models.case import Case
from app.models.event import Event
from app.models.idempotency_key import IdempotencyKey
from app.models.invoice import Invoice, InvoiceSeries
from app.models.job import DeadLetter, Job
from app.models.kept_figures import KeptFigures
from app.models.note import Note
from app.models.notification import Notification
from app.models.order import Order, OrderLineItem
from app.models.order_correction import OrderCorrection
from app.models.order_search import OrderSearch
from app.models.payment import GatewayEvent, Payment, Refund
from app.models.return_request import ReturnRequest
from app.models.revoked_token import RevokedToken
from app.models.state_history import StateHistory, StateTransition, TransitionRejection

__all__ = [
    "ApiKey",
    "Attachment",
    "AuditVerification",
    "Base",
    "Case",
    "DeadLetter",
    "Event",
    "GatewayEvent",
    "IdempotencyKey",
    "Invoice",
    "InvoiceSeries",
    "Job",
    "KeptFigures",
    "Note",
    "Notification",
    "Order",
    "OrderCorrection",
    "OrderLineItem",
    "OrderSearch",
    "Payment",
    "Refund",
    "ReturnRequest",
    "RevokedToken",
    "StateHistory",
    "StateTransition",
    "TransitionRejection",
]
