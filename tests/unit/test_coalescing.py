"""Requests that wait at the same time leave as one set, and each caller gets its own answer."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.database import Database
from app.prepared import as_sqlalchemy
from app.services.workflow.coalescing import LARGEST, Coalescer

pytestmark = pytest.mark.req("NFR-001")


class _Server:
    """Answers sets of texts with their upper case, when it is let go on."""

    def __init__(self) -> None:
        self.sets: list[list[str]] = []
        self.alone: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.locked: set[str] = set()
        self.may_answer = asyncio.Event()
        self.unit = SimpleNamespace(has_unit_of_work=False)
        self.database = cast("Database", self.unit)
        self.coalescer: Coalescer[str, str] = Coalescer(
            self.database, self.execute, self.send_alone, entity_of=lambda text: text[0]
        )

    async def execute(self, requests: Sequence[str]) -> list[str | None]:
        self.sets.append(list(requests))
        await self.may_answer.wait()
        for request in requests:
            if request in self.faults:
                raise self.faults[request]
        return [None if request in self.locked else request.upper() for request in requests]

    async def send_alone(self, request: str) -> str:
        self.alone.append(request)
        return request.upper()

    async def ask(self, *requests: str) -> list["asyncio.Task[str]"]:
        """Submit requests in this order; return once each is sent or waits."""
        tasks = [asyncio.create_task(self.coalescer.submit(request)) for request in requests]
        await asyncio.sleep(0)
        return tasks


def refused(sqlstate: str | None = "23505", *, lost: bool = False) -> DBAPIError:
    fault = psycopg.Error("refused")
    fault.sqlstate = sqlstate
    return as_sqlalchemy(fault, lost=lost)


async def outcomes(tasks: list["asyncio.Task[str]"]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_request_that_finds_nothing_under_way_leaves_at_once_and_alone() -> None:
    server = _Server()
    server.may_answer.set()
    assert [await server.coalescer.submit(text) for text in ("a1", "b1", "c1")] == ["A1", "B1", "C1"]
    assert server.sets == [["a1"], ["b1"], ["c1"]]


async def test_those_that_wait_leave_together_and_each_gets_its_own_answer() -> None:
    server = _Server()
    tasks = await server.ask("a1", "b1", "c1", "d1", "e1")
    assert server.sets == [["a1"]]
    server.may_answer.set()
    assert await outcomes(tasks) == ["A1", "B1", "C1", "D1", "E1"]
    assert server.sets[1:] == [["b1", "c1", "d1", "e1"]]


async def test_one_set_is_under_way_and_none_is_larger_than_so_many() -> None:
    server = _Server()
    most = 0

    async def execute(requests: Sequence[str]) -> list[str | None]:
        nonlocal most
        server.sets.append(list(requests))
        under_way = len(server.sets) - len(answered)
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        answered.append(len(requests))
        return [request.upper() for request in requests]

    answered: list[int] = []
    coalescer: Coalescer[str, str] = Coalescer(server.database, execute, server.send_alone)
    texts = [f"{n:03}x" for n in range(200)]
    assert await asyncio.gather(*map(coalescer.submit, texts)) == [text.upper() for text in texts]
    assert most == 1
    assert max(answered) == LARGEST
    assert sum(answered) == len(texts)


async def test_two_requests_for_one_entity_are_never_in_one_set() -> None:
    server = _Server()
    tasks = await server.ask("a1", "x1", "x2", "y1", "x3")
    server.may_answer.set()
    assert await outcomes(tasks) == ["A1", "X1", "X2", "Y1", "X3"]
    assert server.sets[1:] == [["x1", "y1"], ["x2"], ["x3"]]


async def test_equal_requests_share_a_set_where_no_entity_is_named() -> None:
    server = _Server()
    coalescer: Coalescer[str, str] = Coalescer(server.database, server.execute, server.send_alone)
    tasks = [asyncio.create_task(coalescer.submit("a1")) for _ in range(5)]
    await asyncio.sleep(0)
    server.may_answer.set()
    assert await outcomes(tasks) == ["A1"] * 5
    assert server.sets == [["a1"], ["a1", "a1", "a1", "a1"]]


async def test_within_a_unit_of_work_a_request_goes_alone() -> None:
    server = _Server()
    server.unit.has_unit_of_work = True
    assert await server.coalescer.submit("a1") == "A1"
    assert (server.sets, server.alone) == ([], ["a1"])


async def test_a_fault_in_a_set_is_the_answer_of_its_own_request_alone() -> None:
    server = _Server()
    server.faults["d1"] = refused()
    tasks = await server.ask("a1", "c1", "d1", "e1")
    server.may_answer.set()
    c, d, e = (await outcomes(tasks))[1:]
    assert (c, d, e) == ("C1", server.faults["d1"], "E1")
    assert server.sets[1:] == [["c1", "d1", "e1"], ["c1"], ["d1"], ["e1"]]


@pytest.mark.parametrize(
    "fault", [refused(lost=True), refused(None), PoolTimeoutError("busy")], ids=["lost", "unreachable", "busy"]
)
async def test_a_set_that_may_have_been_committed_or_cannot_be_sent_is_not_sent_again(fault: Exception) -> None:
    server = _Server()
    server.faults["d1"] = fault
    tasks = await server.ask("a1", "c1", "d1", "e1")
    server.may_answer.set()
    assert (await outcomes(tasks))[1:] == [fault] * 3
    assert server.sets[1:] == [["c1", "d1", "e1"]]


async def test_a_fault_of_one_that_leaves_alone_is_its_own() -> None:
    server = _Server()
    server.faults["a1"] = refused()
    server.may_answer.set()
    with pytest.raises(DBAPIError):
        await server.coalescer.submit("a1")
    assert await server.coalescer.submit("a2") == "A2"


async def test_one_whose_row_is_locked_waits_alone_while_others_go_on() -> None:
    server = _Server()
    server.locked = {"a1", "d1"}
    tasks = await server.ask("a1", "b1", "c1", "d1", "e1")
    server.may_answer.set()
    assert await outcomes(tasks) == ["A1", "B1", "C1", "D1", "E1"]
    assert sorted(server.alone) == ["a1", "d1"]


async def test_a_caller_that_is_cancelled_while_it_waits_takes_its_request_back() -> None:
    server = _Server()
    tasks = await server.ask("a1", "c1", "d1")
    tasks[1].cancel()
    await asyncio.sleep(0)
    server.may_answer.set()
    a, c, d = await outcomes(tasks)
    assert (a, d) == ("A1", "D1")
    assert isinstance(c, asyncio.CancelledError)
    assert server.sets[1:] == [["d1"]]


async def test_a_caller_that_is_cancelled_while_its_set_is_under_way_stops_nobody_else() -> None:
    server = _Server()
    first = await server.ask("a1")
    held = await server.ask("c1", "d1")
    release, server.may_answer = server.may_answer, asyncio.Event()
    release.set()
    assert await outcomes(first) == ["A1"]
    await asyncio.sleep(0)
    assert server.sets[1:] == [["c1", "d1"]]
    held[0].cancel()
    await asyncio.sleep(0)
    server.may_answer.set()
    c, d = await outcomes(held)
    assert isinstance(c, asyncio.CancelledError)
    assert d == "D1"
    assert await server.coalescer.submit("e1") == "E1", "the place of the set is free again"


async def test_a_caller_that_is_cancelled_while_it_is_sent_alone_frees_its_place() -> None:
    server = _Server()
    for text in ("a1", "b1"):
        [task] = await server.ask(text)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    server.may_answer.set()
    assert await server.coalescer.submit("c1") == "C1"
    assert server.sets[-1] == ["c1"]
