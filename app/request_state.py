"""What is known of a request while it is served: one object in its ASGI scope, instead of a key for each fact.

`app.api.http.middleware.HttpMiddleware`, the outermost layer, puts it there. Middleware, dependencies, routes and error
handlers read it by `state_of`.
"""

from dataclasses import dataclass
from uuid import UUID

from starlette.types import Scope

from app.core.actor import Actor
from app.services.access.rate_limit import Verdict
from app.utils.budget import Budget, Share
from app.utils.exceptions import UnauthenticatedError

_KEY = "articurated.request"


@dataclass(slots=True)
class RequestState:
    """What is known of one request.

    Attributes:
        request_id: for the log, the header `X-Request-ID` and errors.
        actor: who calls; None before authentication, and on public routes.
        rate_limit: the state of the caller's limit, for the headers of the answer; None where nothing was counted.
        share: what the request holds of a budget, given back with its answer; None until it holds something.
    """

    request_id: str
    actor: Actor | None = None
    rate_limit: Verdict | None = None
    share: Share | None = None

    @property
    def caller(self) -> Actor:
        """Who calls, on a route that admits its callers.

        Raises:
            UnauthenticatedError: the request was not admitted.
        """
        if self.actor is None:
            raise UnauthenticatedError
        return self.actor

    @property
    def principal_id(self) -> UUID:
        """The principal of `caller`.

        Raises:
            UnauthenticatedError: the request was not admitted.
        """
        principal_id = self.caller.id
        if principal_id is None:
            raise UnauthenticatedError
        return principal_id

    def hold(self, budget: Budget, size: int, at_least: int = 1) -> None:
        """Hold `size` more of a budget until the request is answered, on the account of its caller if there is one.

        Args, Raises: as `Budget.take`.
        """
        if self.share is None:
            self.share = Share()
        self.share.take(budget, size, None if self.actor is None else self.actor.id, at_least)

    def give_back(self) -> None:
        """Hold nothing any more."""
        if self.share is not None:
            self.share.give_back()


def begin(scope: Scope, request_id: str) -> RequestState:
    """Put the state of a request that begins into its scope; return it."""
    state = scope[_KEY] = RequestState(request_id)
    return state


def state_of(scope: Scope) -> RequestState:
    """Return the state of the request with this scope.

    Raises:
        KeyError: it did not come through `HttpMiddleware`.
    """
    state: RequestState = scope[_KEY]
    return state
