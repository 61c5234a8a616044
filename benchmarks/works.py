"""The four pieces of work that are measured, and the orders they are done to.

Nothing of the application is imported here: the load generator shall start in an instant and stay small.
"""

from enum import IntEnum, StrEnum


class BenchmarkError(Exception):
    """The measurement could not be made, or what it measured was not right; the message is for a person."""


class Work(StrEnum):
    """What is done: the same on every side, by hand-written SQL and by the APIs."""

    TRANSITION = "transition"
    READ = "read"
    CREATE = "create"
    LIST = "list"


class Side(StrEnum):
    """Who does it, each on a database of its own: pgbench, the build that is compared with, and this build."""

    PGBENCH = "pgbench"
    OLD = "old"
    NEW = "new"


class Pool(IntEnum):
    """Orders made for the measurement alone: what pgbench walks, what an API walks, and what every side reads."""

    PGBENCH = 1
    API = 2
    READ = 3


STEPS = ("PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED")
"""The states every order of a walked pool is brought into, one transition each."""
SHIPMENT = {"carrier": "DHL", "tracking_number": "JD0146000012345678"}
"""What a shipment is recorded with."""
LISTED_STATUSES = ("PENDING_PAYMENT", "PAID", "PROCESSING_IN_WAREHOUSE", "SHIPPED", "DELIVERED", "CANCELLED")
"""The states whose orders are listed, one after the other: all there are, frequent and rare."""
LISTED_ROWS = 20
UNIT_PRICE, TAX_RATE, SHIPPING = "100.00", "0.2", "12.50"
LINES = 3


def id_prefix(pool: Pool) -> str:
    """Return what the ids of a pool start with; the number of the order follows as twelve hexadecimal digits."""
    return f"0190b0{pool:02x}-0000-7000-8000-"


def order_id(pool: Pool, number: int) -> str:
    """Return the id of an order of a pool: known from its number on either side, without a lookup."""
    return f"{id_prefix(pool)}{number:012x}"


def slot(start: int, index: int, connections: int, connection: int) -> int:
    """Return the number of the order that a connection walks as its `index`-th; no two get the same one."""
    return start + index * connections + connection
