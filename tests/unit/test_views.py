"""What services return has the names of what the API documents, and amounts become numbers only in the answer."""

from decimal import Decimal
from typing import Any, get_type_hints

import orjson
import pytest
from pydantic import BaseModel

from app.api.http.responses import answer
from app.api.v1.state_machines import MachineView
from app.schemas.attachment import AttachmentResponse
from app.schemas.case import CaseResponse, WayOutResponse
from app.schemas.common import Pagination
from app.schemas.note import NoteResponse
from app.schemas.notification import NotificationResponse
from app.schemas.operations import (
    CurrencyFigures,
    DayFigures,
    DeadLetterResponse,
    InvoiceRecord,
    ReturnTimes,
    ServiceLevel,
    ServiceLevels,
    StatsResponse,
    StepTime,
)
from app.schemas.order import CorrectionResponse, LineItemResponse, OrderResponse, OrderSummary
from app.schemas.refund import OrderRefund, RefundResponse
from app.schemas.return_request import InspectionItemResponse, ReturnItemResponse, ReturnResponse
from app.schemas.state_history import (
    AuditFault,
    AuditProgress,
    AuditRecord,
    AuditVerification,
    RejectionRecord,
    TransitionOption,
    TransitionOptions,
)
from app.schemas.system import HealthCheck, HealthResponse, MachineResponse
from app.services.cases.views import CaseView, WayOutView
from app.services.documents.invoices import InvoiceRecordView
from app.services.notifications.views import NotificationView
from app.services.operations.dead_letters import DeadLetterView
from app.services.operations.health import Check, HealthView
from app.services.operations.service_levels import DayView, LevelView, ReturnTimesView, ServiceLevelsView, StepTimeView
from app.services.operations.stats import CurrencyView, StatsView
from app.services.orders.corrections import CorrectionView
from app.services.orders.notes import NoteView
from app.services.orders.views import OrderLineView, OrderSummaryView, OrderView
from app.services.paging import PaginationView
from app.services.payments.refund_views import OrderRefundView, RefundView
from app.services.returns.views import AttachmentView, InspectionItemView, ReturnItemView, ReturnView
from app.services.workflow.verification import ProgressView, StoredFault, StoredVerification
from app.services.workflow.views import (
    FaultView,
    RecordView,
    RejectionView,
    TransitionOptionsView,
    TransitionOptionView,
    VerificationView,
)

VIEWS: list[tuple[type, type[BaseModel]]] = [
    (OrderLineView, LineItemResponse),
    (OrderSummaryView, OrderSummary),
    (OrderView, OrderResponse),
    (CorrectionView, CorrectionResponse),
    (NoteView, NoteResponse),
    (ReturnItemView, ReturnItemResponse),
    (InspectionItemView, InspectionItemResponse),
    (ReturnView, ReturnResponse),
    (AttachmentView, AttachmentResponse),
    (NotificationView, NotificationResponse),
    (InvoiceRecordView, InvoiceRecord),
    (RefundView, RefundResponse),
    (OrderRefundView, OrderRefund),
    (WayOutView, WayOutResponse),
    (CaseView, CaseResponse),
    (DeadLetterView, DeadLetterResponse),
    (RecordView, AuditRecord),
    (RejectionView, RejectionRecord),
    (FaultView, AuditFault),
    (StoredFault, AuditFault),
    (VerificationView, AuditVerification),
    (StoredVerification, AuditVerification),
    (ProgressView, AuditProgress),
    (TransitionOptionView, TransitionOption),
    (TransitionOptionsView, TransitionOptions),
    (CurrencyView, CurrencyFigures),
    (DayView, DayFigures),
    (LevelView, ServiceLevel),
    (ServiceLevelsView, ServiceLevels),
    (StepTimeView, StepTime),
    (ReturnTimesView, ReturnTimes),
    (StatsView, StatsResponse),
    (PaginationView, Pagination),
    (Check, HealthCheck),
    (HealthView, HealthResponse),
    (MachineView, MachineResponse),
]


@pytest.mark.parametrize(("view", "response"), VIEWS)
def test_a_view_has_the_names_of_its_response(view: type, response: type[BaseModel]) -> None:
    assert get_type_hints(view).keys() == response.model_fields.keys()


@pytest.mark.parametrize(("view", "response"), VIEWS)
def test_what_the_document_calls_an_amount_is_exact_in_the_view(view: type, response: type[BaseModel]) -> None:
    """Seconds and shares are the only floats."""
    hints = get_type_hints(view)
    floats = {name for name, field in response.model_fields.items() if field.annotation is float}
    assert floats == {name for name, kind in hints.items() if kind is Decimal}


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0.00", "0.0"), ("0.10", "0.1"), ("336.10", "336.1"), ("9999999999.99", "9999999999.99"), ("0.2000", "0.2")],
)
def test_an_amount_is_written_as_a_number(amount: str, text: str) -> None:
    assert answer({"amount": Decimal(amount)}).body == f'{{"amount":{text}}}'.encode()


@pytest.mark.parametrize("unknown", [object(), {1, 2}, b"\x00"])
def test_what_is_no_json_is_refused(unknown: Any) -> None:
    with pytest.raises(orjson.JSONEncodeError):
        answer({"value": unknown})
