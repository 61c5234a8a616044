"""What a caller wants to hold before anything is changed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precondition:
    """The versions that a caller is willing to change, and how they put it; none matches an empty set."""

    versions: tuple[int, ...]
    given: str
