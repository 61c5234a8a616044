"""Invoices drawn a second, on one core: `python -m benchmarks.documents`.

The renderer alone; numbering, storing and recording an invoice come on top of it.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from statistics import median

from rich.console import Console

from app.config import Settings
from app.core.enums import OrderStatus
from app.models.order import Order, OrderLineItem
from app.services.documents.views import invoice_view
from app.utils.clock import utc_now, uuid7
from app.utils.documents import DocumentView
from app.utils.invoice_generator import DocumentRenderer, TypstRenderer, WeasyPrintRenderer


def views(first: int, count: int, lines: int) -> list[DocumentView]:
    """Return the views of `count` invoices, numbered from `first`.

    All differ: Typst caches what it has drawn, and the same invoice again costs a seventh of a new one.
    """
    settings = Settings(_env_file=None)
    return [
        invoice_view(_order(number, lines), f"INV-2026-{number:06d}", date(2026, 11, 23), settings)
        for number in range(first, first + count)
    ]


def _order(number: int, lines: int) -> Order:
    address = {
        "name": f"Ada Marchand {number}",
        "street": f"{number} Quai des Arts",
        "city": "Paris",
        "postal_code": "75001",
        "country": "FR",
    }
    price = Decimal("120.50")
    subtotal, tax = price * lines, Decimal("24.10") * lines
    return Order(
        id=uuid7(utc_now()),
        order_number=f"ORD-2026-{number:06d}",
        status=OrderStatus.SHIPPED,
        customer_id=uuid7(utc_now()),
        customer_email="ada@example.com",
        customer_name="Ada Marchand",
        currency="EUR",
        subtotal_amount=subtotal,
        tax_amount=tax,
        shipping_amount=Decimal("12.50"),
        total_amount=subtotal + tax + Decimal("12.50"),
        payment_method="credit_card",
        shipping_address=address,
        billing_address=address,
        created_at=utc_now(),
        line_items=[
            OrderLineItem(
                position=position,
                product_id=f"vase-{position}",
                product_name=f"Celadon vase {number}-{position}, hand-thrown",
                sku=f"VASE-{position:03d}",
                quantity=1,
                unit_price=price,
                tax_rate=Decimal("0.2"),
                tax_amount=Decimal("24.10"),
                subtotal=price,
            )
            for position in range(1, lines + 1)
        ],
    )


def draw(renderer: DocumentRenderer, documents: list[DocumentView]) -> float:
    """Return the CPU seconds that drawing these takes, each."""
    began = time.process_time()
    for document in documents:
        renderer.render(document)
    return (time.process_time() - began) / len(documents)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documents", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=40, help="drawn in a round, each a different one")
    parser.add_argument("--lines", type=int, default=3)
    chosen = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    makers: Mapping[str, Callable[[], DocumentRenderer]] = {
        "Typst": TypstRenderer,
        **({"WeasyPrint": WeasyPrintRenderer} if importlib.util.find_spec("weasyprint") else {}),
    }
    console.print("| renderer | CPU of one document | documents a second and core |\n|---|---|---|", markup=False)
    for name, make in makers.items():
        renderer = make()
        costs = [
            draw(renderer, views(1 + number * chosen.documents, chosen.documents, chosen.lines))
            for number in range(chosen.rounds + 1)
        ]
        cost = median(costs[1:])
        console.print(f"| {name} | {cost * 1000:.1f} ms | {1 / cost:.0f} |", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
