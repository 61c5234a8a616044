"""Unknown names of a body are refused, and cost no more than a refusal can show (REQ-005, NFR-004)."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.api.http.errors import FAULTS_SHOWN
from app.schemas.common import UNKNOWN_NAMES_REPORTED
from app.schemas.order import OrderCreate
from tests.factories import order_payload

pytestmark = [pytest.mark.req("REQ-005", "NFR-004"), pytest.mark.security]


def errors_of(body: dict[str, Any]) -> list[Any]:
    with pytest.raises(ValidationError) as refused:
        OrderCreate.model_validate(body)
    return [error["loc"] for error in refused.value.errors() if error["type"] == "extra_forbidden"]


def test_as_many_are_reported_as_a_refusal_shows() -> None:
    assert UNKNOWN_NAMES_REPORTED == FAULTS_SHOWN
    unknown = {f"k{number}": number for number in range(1_000)}
    assert errors_of(unknown | order_payload()) == [(f"k{number}",) for number in range(UNKNOWN_NAMES_REPORTED)]
    assert errors_of(order_payload() | {"k": 1}) == [("k",)]


def test_what_is_known_is_found_at_any_place() -> None:
    unknown = {f"k{number}": number for number in range(1_000)}
    with pytest.raises(ValidationError) as refused:
        OrderCreate.model_validate({**unknown, **order_payload(currency="dollars")})
    assert ("currency",) in [error["loc"] for error in refused.value.errors()]


def test_the_faults_of_many_objects_stay_few() -> None:
    line = {f"k{number}": number for number in range(49)}
    found = errors_of(order_payload(line_items=[line] * 200))
    assert len(found) == 200 * UNKNOWN_NAMES_REPORTED
