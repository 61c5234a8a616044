"""The circuit breaker, with a clock that the tests move."""

import asyncio

import pytest

from app.services.payments.gateway.breaker import CircuitBreaker
from app.services.payments.gateway.port import (
    GatewayCircuitOpen,
    GatewayDeclined,
    GatewayError,
    GatewayOutcomeUnknown,
    GatewayUnavailable,
)

pytestmark = [pytest.mark.req("INT-001"), pytest.mark.req("NFR-003")]


class Clock:
    """Monotonic seconds that the tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the present."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock=clock)


def call(breaker: CircuitBreaker, fault: BaseException | None = None) -> None:
    with breaker.guard():
        if fault is not None:
            raise fault


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for number in range(times):
        fault = GatewayOutcomeUnknown("x") if number % 2 else GatewayUnavailable("x")
        with pytest.raises(type(fault)):
            call(breaker, fault)


@pytest.mark.req("NFR-003.3")
def test_five_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    call(breaker)
    fail(breaker, 5)
    assert breaker.is_open
    with pytest.raises(GatewayCircuitOpen) as raised:
        call(breaker)
    assert raised.value.retry_after == 30
    assert raised.value.consumes_retry is False
    assert isinstance(raised.value, GatewayUnavailable)


@pytest.mark.parametrize("fault", [None, GatewayDeclined("c", "m"), ValueError()])
def test_other_ends_are_no_failures(breaker: CircuitBreaker, fault: Exception | None) -> None:
    for _ in range(10):
        if fault is None:
            call(breaker)
        else:
            with pytest.raises(type(fault)):
                call(breaker, fault)
    assert not breaker.is_open


def test_a_success_resets_the_count(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    call(breaker)
    fail(breaker, 4)
    assert not breaker.is_open


@pytest.mark.req("NFR-003.3")
def test_open_for_thirty_seconds(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now += 29
    with pytest.raises(GatewayCircuitOpen) as raised:
        call(breaker)
    assert raised.value.retry_after == 1
    clock.now += 1
    call(breaker)
    assert not breaker.is_open
    fail(breaker, 4)
    assert not breaker.is_open


def test_a_failed_probe_opens_it_again(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now += 30
    fail(breaker)
    clock.now += 29
    with pytest.raises(GatewayCircuitOpen):
        call(breaker)
    clock.now += 1
    call(breaker)
    assert not breaker.is_open


def test_one_probe_at_a_time(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now += 30
    with breaker.guard():
        with pytest.raises(GatewayCircuitOpen) as raised:
            call(breaker)
        assert raised.value.retry_after == 1
    call(breaker)


@pytest.mark.parametrize("end", [asyncio.CancelledError, KeyboardInterrupt, ValueError])
def test_a_probe_without_verdict_leaves_room_for_another(
    breaker: CircuitBreaker, clock: Clock, end: type[BaseException]
) -> None:
    fail(breaker, 5)
    clock.now += 30
    with pytest.raises(end):
        call(breaker, end())
    assert breaker.is_open
    call(breaker)
    assert not breaker.is_open


def test_calls_from_before_say_nothing_about_now(breaker: CircuitBreaker, clock: Clock) -> None:
    early_success, early_failure = breaker.guard(), breaker.guard()
    early_success.__enter__()
    early_failure.__enter__()
    fail(breaker, 5)
    early_success.__exit__(None, None, None)
    assert breaker.is_open
    clock.now += 29
    fault = GatewayOutcomeUnknown("late")
    assert not early_failure.__exit__(type(fault), fault, None)
    clock.now += 1
    call(breaker)  # the late failure did not prolong the wait
    assert not breaker.is_open


@pytest.mark.req("NFR-003.3")
def test_only_a_refusal_to_try_uses_up_no_retry() -> None:
    errors: list[GatewayError] = [
        GatewayDeclined("c", "m"),
        GatewayUnavailable("m"),
        GatewayOutcomeUnknown("m"),
        GatewayCircuitOpen(1),
    ]
    assert [error.consumes_retry for error in errors] == [True, True, True, False]
    assert [error.may_have_moved_money for error in errors] == [False, False, True, False]
