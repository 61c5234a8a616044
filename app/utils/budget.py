"""Budgets: how much all requests of a process may hold at once, of memory or of places, and one caller of that (NFR-004)."""

from collections import Counter
from uuid import UUID

from app.utils.exceptions import ServiceUnavailableError

LEFT_TO_OTHERS = 4
"""One caller leaves a fourth of a budget to others: a storefront calls for all of its customers with one key."""


class Budget:
    """Bytes, or places, that all requests of a process may hold together.

    Attributes:
        left: how much is free.
        by_caller: principal → how much its requests hold; nothing of those that hold none.
    """

    def __init__(self, maximum: int) -> None:
        self.left = maximum
        self.by_caller: Counter[UUID] = Counter()
        self._for_one = maximum - maximum // LEFT_TO_OTHERS

    def take(self, size: int, caller: UUID | None, at_least: int) -> None:
        """Give `size` to a caller.

        Args:
            caller: who sends it; None for anyone, who is bound by the budget alone.
            at_least: what a caller may hold in any case: one whole body.

        Raises:
            ServiceUnavailableError: so much is not left, or the caller holds too much.
        """
        if size > self.left:
            raise ServiceUnavailableError("Too much is being sent at once; try again in a moment.")
        if caller is not None:
            if self.by_caller[caller] + size > max(self._for_one, at_least):
                raise ServiceUnavailableError("You are sending too much at once; let earlier requests end first.")
            self.by_caller[caller] += size
        self.left -= size

    def give_back(self, size: int, caller: UUID | None) -> None:
        """Take `size` back from a caller."""
        self.left += size
        if caller is not None:
            self.by_caller[caller] -= size
            if not self.by_caller[caller]:
                del self.by_caller[caller]


class Share:
    """What one request holds of a budget, until it is answered."""

    __slots__ = ("_budget", "_caller", "_held")

    def __init__(self) -> None:
        self._budget: Budget | None = None
        self._held = 0
        self._caller: UUID | None = None

    def take(self, budget: Budget, size: int, caller: UUID | None = None, at_least: int = 1) -> None:
        """Hold `size` more.

        Args, Raises: as `Budget.take`; the caller of one request is always the same.
        """
        budget.take(size, caller, at_least)
        self._budget, self._caller = budget, caller
        self._held += size

    def give_back(self) -> None:
        """Hold nothing any more."""
        if self._budget is not None:
            self._budget.give_back(self._held, self._caller)
            self._held = 0
