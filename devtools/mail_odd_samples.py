"""Facts that are hard on a layout: what must still read well, for tests and previews."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from app.services.notifications.kinds import KINDS

_UNBROKEN: Final = "0123456789ABCDEF"

_LONG: Final[Mapping[str, Any]] = {
    "customer_name": "Maximiliana-Josephine Wolfeschlegelsteinhausenbergerdorff-Donaudampfschifffahrtsgesellschaft "
    * 2,
    "carrier": "Königlich-Niederländische Paketbeförderungsgesellschaft für zerbrechliche Güter mbH & Co. KG",
    "tracking_number": _UNBROKEN * 6,
    "name": "Hand-thrown stoneware vase with ash glaze from the last firing of the anagama kiln at Puisaye, signed and "
    "numbered by the maker, in a box of paulownia wood " + "Überlänge" * 5,
    "sku": f"ART-{_UNBROKEN * 5}",
    "reason": f"The glaze is a different colour from the photograph. {_UNBROKEN * 8} " + "It really is. " * 20,
    "notes": "First of all, thank you.\n\n" + "A second paragraph that goes on for a while. " * 12 + "\n- one\n- two",
    "customer_notes": _UNBROKEN * 12,
    "error": f"GatewayUnavailable: {_UNBROKEN * 20}",
    "transaction_id": f"re_{_UNBROKEN * 6}",
    "gateway_id": f"pay_{_UNBROKEN * 10}",
    "event_id": f"evt_{_UNBROKEN * 5}",
    "ship_to": (
        "Maximiliana-Josephine Wolfeschlegelsteinhausenbergerdorff",
        "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch Road 1234567890, back building, third floor",
        "98765-432101234 Taumatawhakatangihangakoauauotamateaturipukakapikimaungahoronukupokaiwhenuakitanatahu",
        "South Georgia and the South Sandwich Islands",
    ),
    "destination": "98765-432101 Taumatawhakatangihangakoauauotamateaturi, South Georgia and the South Sandwich Islands",
    "amount": Decimal("9999999999.99"),
    "subtotal": Decimal("9999999999.99"),
    "total": Decimal("9999999999.99"),
    "refund_amount": Decimal("9999999999.99"),
    "currency": "CHF",
}
_RIGHT_TO_LEFT: Final[Mapping[str, Any]] = {
    "customer_name": "אלישבע כהן 🌿",
    "carrier": "דואר ישראל",
    "name": "مزهرية خزفية يدوية الصنع 🏺",
    "reason": "الطلاء مختلف عن الصورة 😕\nזה לא הצבע",
    "notes": "תודה שכתבת לנו 🙏\nنحن آسفون",
    "customer_notes": "👩🏽‍🎨 אפשר לשלוח תמונות",
    "ship_to": ("אלישבע כהן", "רחוב דיזנגוף 99", "6433 תל אביב", "Israel"),
    "destination": "6433 תל אביב, Israel",
    "currency": "JPY",
}
_ZERO: Final[Mapping[str, Any]] = dict.fromkeys(
    ("amount", "subtotal", "shipping", "tax", "total", "restocking_fee", "refund_amount", "order_total", "reported"),
    Decimal("0.00"),
) | dict.fromkeys(("orders_created", "dead_jobs", "attempts", "hours_waiting"), 0)
_ABSENT: Final = (
    "customer_name", "carrier", "tracking_number", "sku", "notes", "customer_notes", "payment_method", "expected",
)  # fmt: skip


def _replaced(value: Any, given: Mapping[str, Any]) -> Any:
    """Return a context with the values of `given` for the names in it; what was None stays so."""
    if isinstance(value, Mapping):
        return {
            name: given[name] if name in given and held is not None else _replaced(held, given)
            for name, held in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_replaced(held, given) for held in value]
    return value


def _many(context: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [value[n % len(value)] for n in range(40)] if name in {"items", "lines"} else value
        for name, value in context.items()
    }


def _linked(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return a context whose document is behind a link."""
    link = "https://api.articurated.example/api/v1/files/invoices/01937c54-9a10-7e02-b1c4-d85e1f6a0b92"
    query = "?expires=1798761600&signature=Yx3vE0mPq7JtWb2uK9sLrC4nHd8fZaG1oTiUe6RkMhQ"
    given = {"link": f"{link}{query}", "link_until": "2026-12-31"}
    return {**context, **{name: value for name, value in given.items() if name in context}}


_CHANGES: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "long": lambda context: _replaced(context, _LONG),
    "right-to-left": lambda context: _replaced(context, _RIGHT_TO_LEFT),
    "bare": lambda context: _replaced(context, {**_ZERO, **dict.fromkeys(_ABSENT)}),
    "many": _many,
    "linked": _linked,
}


def odd_samples(name: str) -> dict[str, Mapping[str, Any]]:
    """Return the difficult contexts of a mail, by what is difficult; only those that differ from the sample."""
    plain = KINDS[name].sample
    changed = {label: change(plain) for label, change in _CHANGES.items()}
    as_lists = _replaced(plain, {})
    return {label: context for label, context in changed.items() if context not in (as_lists, dict(plain))}
