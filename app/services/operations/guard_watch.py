"""Are the guards of the database as the migrations make them? Asked for `/health` (NFR-003)."""

from app.database import Database
from app.services.operations import guard_manifest
from app.services.operations.schema_check import transition_differences
from app.services.operations.session_check import session_differences


class GuardsDifferError(Exception):
    """A guard is off, missing or changed, the application may do more than its due, or transitions differ."""


class SessionDiffersError(Exception):
    """Connections are without the role, the time-outs or the time zone that they are opened with."""


class GuardWatch:
    """Compares the guards and what connections are set to, and remembers what differed.

    Attributes:
        differing: what the last look found.
    """

    def __init__(self, database: Database, *, restricted: bool) -> None:
        """Look at nothing so far.

        Args:
            database: to look at.
            restricted: look at the login's own rights too, see `guard_manifest.differences`.
        """
        self._database = database
        self._restricted = restricted
        self.differing: list[str] = []

    async def look(self) -> None:
        """Compare once.

        Raises:
            SessionDiffersError: a connection is not set as wanted; `differing` says in what.
            GuardsDifferError: a guard is not as the migrations make it; `differing` says which.
            DBAPIError: the database does not answer.
        """
        self.differing = list((await session_differences(self._database)).values())
        if self.differing:
            raise SessionDiffersError(guard_manifest.summary(self.differing))
        async with self._database.transaction() as session:
            self.differing = await guard_manifest.differences(session, restricted=self._restricted)
            self.differing += [f"transition {name}" for name in await transition_differences(session)]
        if self.differing:
            raise GuardsDifferError(guard_manifest.summary(self.differing))
