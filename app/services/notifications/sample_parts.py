"""Values that the samples of several kinds share: one order, its invoice and its return."""

from typing import Final

from app.services.notifications.parts import InspectedLine, PickLine, ReturnToCustomer, ToCustomer

CUSTOMER: Final = "Éléonore Marchetti"
ORDER: Final = "ORD-2026-000318"
INVOICE: Final = "INV-2026-000142"
RETURN: Final = "RET-2026-000042"
GREETING: Final[ToCustomer] = {"customer_name": CUSTOMER, "order_number": ORDER}
RETURN_GREETING: Final[ReturnToCustomer] = {**GREETING, "return_number": RETURN}
ADDRESS: Final = (CUSTOMER, "14 Via dei Coronari", "Interno 3", "00186 Roma", "Italy")
DESTINATION: Final = "00186 Roma, Italy"
REASON: Final = "The glaze is a different colour from the photograph."
ITEMS: Final[tuple[PickLine, ...]] = (
    {"name": "Hand-thrown stoneware vase, ash glaze", "sku": "ART-1000", "quantity": 1},
    {"name": "Linen table runner, natural indigo", "sku": "ART-1007", "quantity": 2},
    {"name": "Walnut serving board with bronze inlay", "sku": None, "quantity": 1},
)
RETURNED: Final = ITEMS[:1]
INSPECTED: Final[tuple[InspectedLine, ...]] = (
    {
        "name": "Hand-thrown stoneware vase, ash glaze",
        "accepted": 0,
        "damaged": 1,
        "missing": 0,
        "note": "Chipped at the rim. It was well packed.",
    },
)
