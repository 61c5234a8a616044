"""The fixtures of the API's tests, for attacks on it."""

from tests.integration.conftest import (  # noqa: F401 - fixtures are found by their names here
    anonymous,
    api,
    application,
    callers,
    connect,
    customer_id,
    services,
)
