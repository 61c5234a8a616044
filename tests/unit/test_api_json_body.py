"""Strict reading of bodies and query strings: what is kept is what was sent."""

import time
import tracemalloc
from contextlib import suppress
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from app.api.http.json_body import read_body, require_json
from app.api.http.routing import check_query
from app.request_state import begin, state_of
from app.utils.budget import Budget, Share
from app.utils.exceptions import (
    InvalidInputError,
    PayloadTooLargeError,
    ServiceUnavailableError,
    UnsupportedMediaTypeError,
)
from app.utils.strict_json import DEPTH_MAXIMUM, VALUES_MAXIMUM, parse_object, printable

pytestmark = [pytest.mark.req("REQ-005", "NFR-004"), pytest.mark.security]


def nested(levels: int) -> bytes:
    """Return an object whose member is nested so that the whole has `levels` levels."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.req("NFR-004.5")
@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b"", "body", "is not valid JSON"),
        (b"{", "body", "is not valid JSON"),
        (b"{} {}", "body", "is not valid JSON"),
        (b'{"a": NaN}', "body", "is not valid JSON"),
        (b'{"a": -Infinity}', "body", "is not valid JSON"),
        (b'{"a": 1e999}', "body", "infinity"),
        (b'{"a": 1' + b"0" * 400 + b"}", "body", "infinity"),
        (b'{"a": "\\ud800"}', "body", "surrogate"),
        (b'{"a": "\xff"}', "body", "is not valid JSON"),
        (b'{"a": "\xed\xa0\x80"}', "body", "is not valid JSON"),
        (b"[]", "body", "must be a JSON object"),
        (b'"text"', "body", "must be a JSON object"),
        (b"5", "body", "must be a JSON object"),
        (b"null", "body", "must be a JSON object"),
        (nested(DEPTH_MAXIMUM + 1), "body", "deeper"),
        (nested(1_000), "body", "deeper"),
        (nested(9_000), "body", "is not valid JSON"),
        (nested(100_000), "body", "more than 10000 values"),
        (b'{"a": 0.12345678901234567890}', "body", "more digits"),
        (b'{"a": 12345678901234567.0}', "body", "more digits"),
        (b'{"a": [1e-400]}', "body", "more digits"),
        (b'{"a": 0.' + b"0" * 400 + b"1}", "body", "more digits"),
        (b'{"a": 1.2345678e-320}', "body", "more digits"),
        (b'{"a": 1e-99999999999999999999}', "body", "more digits"),
        (b'{"a":[{"b":{"c":["\\u0000"]}}]}', "a.0.b.c.0", "NUL"),
        (b'{"a": "\\u0000"}', "a", "NUL"),
        (b'{"a": {"b": ["x", "\\u0000"]}}', "a.b.1", "NUL"),
        (b'{"a": {"b\\u0000": 1}}', "a.b\ufffd", "NUL"),
        (b'{"a": 9223372036854775808}', "a", "64 bits"),
        (b'{"a": -9223372036854775809}', "a", "64 bits"),
        (b'{"a": [18446744073709551616]}', "a.0", "64 bits"),
        (b'{"a": 1e300}', "a", "64 bits"),
        (b'{"a": 1, "a": 2}', "body", "twice"),
        (b'{"a": 1, "\\u0061": 2}', "body", "twice"),
        (b'{"b": {"a": 1, "a" : 1}}', "body", "twice"),
        (orjson.dumps({"a": {str(n): n for n in range(1001)}}), "a", "more than 1000"),
    ],
)
def test_what_could_not_be_kept_is_refused(body: bytes, field: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_object(body)
    [fault] = refused.value.details
    assert isinstance(fault, dict)
    assert fault["field"] == field
    assert message in fault["message"]
    assert len(fault["message"]) < 200


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        nested(DEPTH_MAXIMUM),
        b'{"a": "\\\\u0000"}',
        b'{"a": "say \\"b\\": 1", "b": "c:\\\\"}',
        b'{"a": 9223372036854775807, "b": -9223372036854775808}',
        b'{"a" : {"a": [{"a": 1}, {"a": 2}]}}',
        b'{"a,[{:": "b,[{:\\"", "\\\\": "\\\\\\"", "c": "\\\\"}',
        b'{"a": 0.1, "b": 0.30000000000000004, "c": 1e17, "d": -1.5E-7, "e": 5e-324, "f": 2.500000000000000000000}',
    ],
)
def test_what_can_be_kept_is_read_as_it_was_sent(body: bytes) -> None:
    assert parse_object(body) == orjson.loads(body)


def with_values(count: int, value: bytes = b"0") -> bytes:
    """Return an object that has `count` values, itself and its list included."""
    return b'{"a":[' + b",".join([value] * (count - 2)) + b"]}"


@pytest.mark.parametrize("value", [b"0", b'""', b"[]", b"{ }", b"null", b'",:[{"'])
def test_the_values_of_a_body_are_counted(value: bytes) -> None:
    assert len(parse_object(with_values(VALUES_MAXIMUM, value))["a"]) == VALUES_MAXIMUM - 2
    with pytest.raises(InvalidInputError, match="not valid") as refused:
        parse_object(with_values(VALUES_MAXIMUM + 1, value))
    assert refused.value.details == [{"field": "body", "message": f"has more than {VALUES_MAXIMUM} values"}]


@pytest.mark.parametrize(
    "body",
    [
        # As many members as a body of 1 MiB can have, where the parser alone would make 350,000 objects of them.
        *(with_values(260_000, value) for value in (b"0", b'""', b"[]", b"{}")),
        b"{" + b",".join([b'"":0'] * 200_000) + b"}",
        # The path of each container has 60,000 characters.
        b'{"' + b"n" * 60_000 + b'":[' + b",".join([b"[]"] * (VALUES_MAXIMUM - 10)) + b"]}",
        b'{"' + b"n" * 30_000 + b'":{"' + b"m" * 30_000 + b'":[' + b",".join([b'{"a":{}}'] * 3_000) + b"]}}",
        b'{"a":"' + b"x" * 1_000_000 + b'"}',
    ],
    ids=lambda body: f"{body[:12].decode()} {len(body)}",
)
def test_memory_is_in_proportion_to_the_body(body: bytes) -> None:
    tracemalloc.start()
    try:
        with suppress(InvalidInputError):
            parse_object(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * len(body) + 2_000_000


def seconds_to_parse(body: bytes) -> float:
    """Return the processor time that a body takes, the least of five tries."""

    def once() -> float:
        began = time.thread_time()
        parse_object(body)
        return time.thread_time() - began

    return min(once() for _ in range(5))


@pytest.mark.parametrize(
    "number", [b"0.12345678901234567e-300", b"12345678901234567e-320", b"0.1234567890123456", b"1e-300"]
)
def test_a_long_number_takes_little_longer_than_a_short_one(number: bytes) -> None:
    short, long = (seconds_to_parse(with_values(VALUES_MAXIMUM, value)) for value in (b"0.5", number))
    assert long < 4 * short


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(-1e18, 1e18)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(names, json_values, max_size=6))
def test_every_storable_object_passes(document: dict[str, Any]) -> None:
    assert parse_object(orjson.dumps(document)) == document


@pytest.mark.req("REQ-005.10")
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    try:
        parse_object(body)
    except InvalidInputError:
        return


def request(headers: dict[str, str], *chunks: bytes, ends: bool = True) -> Request:
    """Return a request whose body arrives in chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if ends:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    messages.append({"type": "http.disconnect"})
    arriving = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(arriving)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "headers": raw, "query_string": b""}
    begin(scope, "test")
    return Request(scope, receive)


async def test_a_body_up_to_the_limit_is_read() -> None:
    assert await read_body(request({}, b"12345", b"67890"), 10) == b"1234567890"


async def test_a_body_that_turns_out_too_long_is_given_up() -> None:
    with pytest.raises(PayloadTooLargeError):
        await read_body(request({}, b"12345", b"678901", ends=False), 10)


@pytest.mark.parametrize("length", ["11", "9" * 400])
async def test_a_body_that_says_it_is_too_long_is_not_read_at_all(length: str) -> None:
    unread = request({"content-length": length}, ends=False)
    with pytest.raises(PayloadTooLargeError):
        await read_body(unread, 10)
    assert (await unread.receive())["type"] == "http.disconnect"


async def test_a_body_that_lies_about_its_length_is_still_counted() -> None:
    with pytest.raises(PayloadTooLargeError):
        await read_body(request({"content-length": "5"}, b"x" * 11), 10)


async def test_bodies_that_arrive_at_once_share_a_budget() -> None:
    budget = Budget(20)
    first, second = request({}, b"12345", b"67890"), request({}, b"12345", b"678901")
    assert await read_body(first, 100, budget) == b"1234567890"
    with pytest.raises(ServiceUnavailableError):
        await read_body(second, 100, budget)
    for answered in (second, first, first):
        state_of(answered.scope).give_back()
    assert budget.left == 20


def test_a_caller_holds_a_part_of_a_budget_or_one_whole_body() -> None:
    budget, caller, other = Budget(40), uuid4(), uuid4()
    shares = [Share() for _ in range(4)]
    shares[0].take(budget, 30, caller)
    with pytest.raises(ServiceUnavailableError):
        shares[1].take(budget, 1, caller)
    shares[1].take(budget, 2, caller, at_least=32)
    shares[2].take(budget, 5, other)
    shares[3].take(budget, 3)
    for share in shares:
        share.give_back()
        share.give_back()
    assert (budget.left, dict(budget.by_caller)) == (40, {})


async def test_a_caller_who_hangs_up_is_not_an_error_of_ours() -> None:
    with pytest.raises(InvalidInputError):
        await read_body(request({}, b"12", ends=False), 10)


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
def test_json_in_utf8_is_taken(media_type: str) -> None:
    require_json(request({"content-type": media_type}))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/merge-patch+json"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_any_other_type_is_not(headers: dict[str, str]) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        require_json(request(headers))


SINGLE, REPEATABLE = frozenset({"limit", "q"}), frozenset({"status"})


@pytest.mark.parametrize("query", [b"", b"limit=5", b"status=A&status=B", b"q=%C3%A9t%C3%A9", b"q="])
def test_known_parameters_pass(query: bytes) -> None:
    check_query({"query_string": query}, SINGLE, REPEATABLE)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (b"unknown=1", "unknown"),
        (b"Limit=1", "Limit"),
        (b"limit=1&limit=2", "limit"),
        (b"q=a%00b", "q"),
        (b"q=a%0d%0aSet-Cookie:x", "q"),
        (b"q=%1b[31m", "q"),
        (b"%00=1", "\ufffd"),
        (b"q=%ff", "query"),
        (b"q=\xe9", "query"),
        (b"&".join([b"status=A"] * 201), "query"),
        (b"x" * 10_000 + b"=1", "x" * 99 + "…"),
    ],
)
def test_everything_else_in_a_query_is_refused(query: bytes, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_query({"query_string": query}, SINGLE, REPEATABLE)
    [fault] = refused.value.details
    assert isinstance(fault, dict)
    assert fault["field"] == field


def test_callers_text_is_made_harmless_before_it_is_shown() -> None:
    assert printable("a\x1b[31m\nb") == "a�[31m�b"
    assert printable("x" * 500) == "x" * 99 + "…"
