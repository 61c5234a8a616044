"""The service about itself, on the wire. `from` and `return` are keywords of Python, which is why they have aliases."""

from typing import Annotated, Literal

from pydantic import Field

from app.schemas.common import Answer

CheckState = Literal["ok", "degraded", "down"]


class HealthCheck(Answer):
    """The state of one part; a figure that does not belong to the part, or is not known, is left out.

    `hint` says, when the part is not ok, what that means and what to do.
    """

    status: CheckState
    hint: str | None = None
    latency_ms: float | None = None
    workers: int | None = None
    processes: int | None = None
    oldest_due_seconds: float | None = None
    dead_letters: int | None = None
    open_cases: int | None = None


class HealthChecks(Answer):
    """Every part that is looked at; `replica` and `backup` where there are any."""

    database: HealthCheck
    redis: HealthCheck
    worker: HealthCheck
    relay: HealthCheck
    beat: HealthCheck
    jobs: HealthCheck
    disk: HealthCheck
    smtp: HealthCheck
    storage: HealthCheck
    gateway: HealthCheck
    guards: HealthCheck
    replica: HealthCheck | None = None
    backup: HealthCheck | None = None


class HealthResponse(Answer):
    """`down` without the database; `degraded` when any other part is not ok, so that work waits; else `ok`.

    Version and parts are for callers with credentials.
    """

    status: CheckState
    version: str | None = None
    checks: HealthChecks | None = None


class LiveResponse(Answer):
    """The process answers; it says nothing of what it depends on."""

    status: Literal["ok"]


class MachineTransition(Answer):
    """One allowed transition: who may ask for it, and which jobs follow."""

    from_: Annotated[str, Field(alias="from")]
    to: str
    roles: list[str]
    jobs: list[str]


class MachineResponse(Answer):
    """One state machine as data."""

    states: list[str]
    initial: str
    final: list[str]
    transitions: list[MachineTransition]


class StateMachinesResponse(Answer):
    """Both machines, read from the tables that the service runs on."""

    order: MachineResponse
    return_: Annotated[MachineResponse, Field(alias="return")]
