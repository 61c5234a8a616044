"""The requirements as data: `tests/requirements.yml`, checked while it is read."""

from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from app.config import ROOT

FILE = ROOT / "tests" / "requirements.yml"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Statement(_Strict):
    """One testable sentence of a requirement.

    Attributes:
        text: what must hold, in our own words.
        code: files that make it hold, from the root of the checkout.
        endpoints: operations in which a caller meets it, as `METHOD /path` below `/api/v1`.
        later: why it is still to be met; such a statement needs neither files nor tests.
    """

    text: str
    code: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    later: str | None = None


class Requirement(_Strict):
    """A requirement: its title and its statements; the first has the ID `<ID>.1`."""

    title: str
    statements: tuple[Statement, ...] = Field(min_length=1)


class Row(_Strict):
    """One thing that a section of the commissioning technical document asks for.

    Attributes:
        part: the subsection, as the document numbers it.
        asks: what it asks for.
        code: files that meet it.
        endpoints: as in `Statement`.
        ruling: where we do it otherwise on purpose, and why.
        proof: IDs of statements above, test files, or single tests (`file::test`), that show it.
    """

    part: str
    asks: str
    code: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    ruling: str | None = None
    proof: tuple[str, ...] = ()


class Section(_Strict):
    """A section of the commissioning technical document."""

    title: str
    rows: tuple[Row, ...] = Field(min_length=1)


class Register(_Strict):
    """All of it."""

    requirements: dict[str, Requirement]
    sections: dict[int, Section]

    def statements(self) -> dict[str, Statement]:
        """Return every statement by its ID."""
        return {
            f"{identifier}.{number}": statement
            for identifier, requirement in self.requirements.items()
            for number, statement in enumerate(requirement.statements, 1)
        }

    def ids(self) -> set[str]:
        """Return every ID that a marker may name: of requirements and of statements."""
        return {*self.requirements, *self.statements()}


@cache
def register() -> Register:
    """Return the register.

    Raises:
        pydantic.ValidationError: the file has not the shape above.
    """
    read: Any = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return Register.model_validate(read)
