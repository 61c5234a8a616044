"""The closed vocabularies that tables, schemas and services share. Stored as text under a CHECK."""

from enum import StrEnum


class OrderStatus(StrEnum):
    """States of an order (REQ-001)."""

    PENDING_PAYMENT = "PENDING_PAYMENT"
    PAID = "PAID"
    PROCESSING_IN_WAREHOUSE = "PROCESSING_IN_WAREHOUSE"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"
    CANCELLED = "CANCELLED"


class ReturnStatus(StrEnum):
    """States of a return (REQ-002)."""

    REQUESTED = "REQUESTED"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    IN_TRANSIT = "IN_TRANSIT"
    RECEIVED = "RECEIVED"
    COMPLETED = "COMPLETED"


class RejectionReason(StrEnum):
    """Why a return was rejected (REQ-002)."""

    DAMAGE_NOT_COVERED = "DAMAGE_NOT_COVERED"
    POLICY_VIOLATION = "POLICY_VIOLATION"
    OUTSIDE_WINDOW = "OUTSIDE_WINDOW"
    FRAUDULENT = "FRAUDULENT"
    EXPIRED = "EXPIRED"
    OTHER = "OTHER"


class EntityType(StrEnum):
    """What a history row, an event or a job is about."""

    ORDER = "ORDER"
    RETURN = "RETURN"
    INVOICE = "INVOICE"
    PAYMENT = "PAYMENT"
    REFUND = "REFUND"
    JOB = "JOB"
    CASE = "CASE"


class ActorType(StrEnum):
    """Who acted: a person or program with credentials, or the system by itself (REQ-003)."""

    USER = "USER"
    SYSTEM = "SYSTEM"


class Trigger(StrEnum):
    """What set the change off (REQ-003)."""

    API_CALL = "API_CALL"
    BACKGROUND_JOB = "BACKGROUND_JOB"
    WEBHOOK = "WEBHOOK"
    CLI = "CLI"


class Role(StrEnum):
    """Roles of callers."""

    CUSTOMER = "customer"
    WAREHOUSE = "warehouse"
    MANAGER = "manager"
    ADMIN = "admin"
    SERVICE = "service"


class JobState(StrEnum):
    """States of a job row."""

    PENDING = "PENDING"
    PUBLISHED = "PUBLISHED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    DEAD = "DEAD"
    DISMISSED = "DISMISSED"


class Queue(StrEnum):
    """Celery queues of jobs, one per kind of promise (REQ-004)."""

    INVOICES = "invoices"
    REFUNDS = "refunds"
    NOTIFICATIONS = "notifications"


SWEEPS = "sweeps"
"""The Celery queue of beat's ticks. It holds no jobs, and every worker takes from it: ticks wait behind nothing."""

WORKER_QUEUES = (*(queue.value for queue in Queue), SWEEPS)
"""What the workers together must take from."""


class PaymentState(StrEnum):
    """States of the payment of an order."""

    PENDING = "PENDING"
    CAPTURED = "CAPTURED"


class RefundState(StrEnum):
    """States of a refund."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


class RefundReason(StrEnum):
    """What made the refund due."""

    RETURN_COMPLETED = "RETURN_COMPLETED"
    ORDER_CANCELLED = "ORDER_CANCELLED"
    PAID_AFTER_CANCEL = "PAID_AFTER_CANCEL"


class WebhookOutcome(StrEnum):
    """What became of something that the payment gateway reported; `docs/explanation/money.md` says what each means.

    A new one also needs a migration, because the CHECK of `gateway_events` lists them.
    """

    PAID = "PAID"
    ALREADY_CAPTURED = "ALREADY_CAPTURED"
    RESERVED_AFTER_CANCEL = "RESERVED_AFTER_CANCEL"
    REFUNDED_ELSEWHERE = "REFUNDED_ELSEWHERE"
    DISPUTE = "DISPUTE"
    DISPUTE_CLOSED = "DISPUTE_CLOSED"
    DISPUTE_KNOWN = "DISPUTE_KNOWN"
    UNREADABLE = "UNREADABLE"
    UNKNOWN_KIND = "UNKNOWN_KIND"
    RECORD_TAMPERED = "RECORD_TAMPERED"
    PAID_AFTER_CANCEL = "PAID_AFTER_CANCEL"
    SECOND_PAYMENT = "SECOND_PAYMENT"
    AMOUNT_MISMATCH = "AMOUNT_MISMATCH"
    UNKNOWN_REFERENCE = "UNKNOWN_REFERENCE"
    REFUND_SETTLED = "REFUND_SETTLED"
    ALREADY_SETTLED = "ALREADY_SETTLED"
    SECOND_REFUND = "SECOND_REFUND"
    REFUND_FAILED = "REFUND_FAILED"
    REFUND_DUE_AGAIN = "REFUND_DUE_AGAIN"
    REFUND_REVERSED = "REFUND_REVERSED"
    IGNORED = "IGNORED"
    DUPLICATE = "DUPLICATE"


class CaseKind(StrEnum):
    """What a person must decide; `case_kinds` says of each what it means and which ways out are legal.

    A new kind also needs a migration, because the table's CHECK lists them.
    """

    AMOUNT_MISMATCH = "AMOUNT_MISMATCH"
    SECOND_PAYMENT = "SECOND_PAYMENT"
    SECOND_REFUND = "SECOND_REFUND"
    REFUND_REVERSED = "REFUND_REVERSED"
    REFUNDED_ELSEWHERE = "REFUNDED_ELSEWHERE"
    UNKNOWN_REFERENCE = "UNKNOWN_REFERENCE"
    UNREADABLE_EVENT = "UNREADABLE_EVENT"
    PAYMENT_NOT_CAPTURED = "PAYMENT_NOT_CAPTURED"
    DISPUTE = "DISPUTE"
    UNDELIVERABLE_MESSAGE = "UNDELIVERABLE_MESSAGE"
    TAMPERED_RECORD = "TAMPERED_RECORD"
    UNPRINTABLE_DOCUMENT = "UNPRINTABLE_DOCUMENT"


class CaseEntity(StrEnum):
    """What a case is about. A gateway event's entity id is `case_service.gateway_event_id` of its text id."""

    ORDER = "ORDER"
    RETURN = "RETURN"
    INVOICE = "INVOICE"
    PAYMENT = "PAYMENT"
    REFUND = "REFUND"
    JOB = "JOB"
    NOTIFICATION = "NOTIFICATION"
    GATEWAY_EVENT = "GATEWAY_EVENT"


class CaseState(StrEnum):
    """A case is decided once."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"


class VerificationState(StrEnum):
    """States of a verification of the audit trail (REQ-003)."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


class DocumentKind(StrEnum):
    """Documents with a number of their own."""

    INVOICE = "INVOICE"
    CREDIT_NOTE = "CREDIT_NOTE"


class DocumentState(StrEnum):
    """A document is numbered first, then issued once its bytes are stored."""

    NUMBERED = "NUMBERED"
    ISSUED = "ISSUED"


class Channel(StrEnum):
    """Ways to send a message (REQ-006)."""

    EMAIL = "EMAIL"
    SMS = "SMS"
    CHAT = "CHAT"


class NotificationState(StrEnum):
    """Delivery of a notification.

    SENT: handed over. REJECTED: refused permanently by the receiver. FAILED: given up after the last retry. SUPPRESSED: not
    handed over, because a limit was reached.
    """

    PENDING = "PENDING"
    SENT = "SENT"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    SUPPRESSED = "SUPPRESSED"
