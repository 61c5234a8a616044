"""What was found out about a part: fine, worth a thought, or broken; and what to do about it."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad it is. Only a failure makes `doctor` exit with 1."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


MARKS = {Level.OK: "✓", Level.WARNING: "!", Level.FAILURE: "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one part; `advice` is what to do, where something is to be done."""

    part: str
    level: Level
    says: str
    advice: str | None = None

    @property
    def line(self) -> str:
        """The finding for a person, on one line."""
        advice = f" → {self.advice}" if self.advice else ""
        return f"{MARKS[self.level]} {self.part:12} {self.says}{advice}"

    def as_json(self) -> dict[str, Any]:
        """The finding for a program."""
        return asdict(self)


def fine(part: str, says: str) -> Finding:
    """Return that all is well."""
    return Finding(part, Level.OK, says)


def doubtful(part: str, says: str, advice: str) -> Finding:
    """Return that it works, but somebody should know."""
    return Finding(part, Level.WARNING, says, advice)


def broken(part: str, says: str, advice: str) -> Finding:
    """Return that it does not work."""
    return Finding(part, Level.FAILURE, says, advice)
