"""Documents to draw, and what can be read back from a PDF."""

import io
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pypdf

from app.config import Settings
from app.utils.documents import DocumentLine, DocumentView, Party, seller_party

CENT = Decimal("0.01")
NAMES = ("Hand-thrown stoneware vase", "Linen table runner", "Walnut serving board", "Blown-glass carafe")
CUSTOMER = Party(
    name="Éléonore Marchetti", lines=("14 Via dei Coronari", "00186 Roma", "Italy"), email="eleonore@example.com"
)
HOSTILE = (
    '#read("/etc/passwd") #panic("typst") $x^2$ *bold* _it_ @ref <label> \\ `raw` '
    "{{ 7*7 }} {% include 'x' %} ${7*7} <script>alert(1)</script> <img src=\"http://127.0.0.1:1/hit\"> "
    "<link rel=attachment href='file:///etc/passwd'> & \" '"
)
UNPRINTABLE = "A\x00B\x1b[31mC\r\nD\u202eE\u2028F\ud800G\ue000H\U0010ffffI\u200bJ\ufeffK"

NAMES_BY_SCRIPT = {
    "Thai": "สมชาย ใจดี",
    "Devanagari": "प्रिया शर्मा",
    "Tamil": "தமிழ்ச்செல்வி",
    "Bengali": "অনিন্দিতা চট্টোপাধ্যায়",
    "Georgian": "ნინო ბერიძე",
    "Armenian": "Արամ Խաչատրյան",
    "Ethiopic": "አበበ ቢቂላ",
    "Khmer": "សុខ ភក្តី",
    "Lao": "ສົມພອນ ແກ້ວ",
    "Burmese": "အောင်ဆန်းစုကြည်",
    "CJK extension B": "𠮷野 𠮟",
    "Gurmukhi": "ਗੁਰਪ੍ਰੀਤ ਸਿੰਘ",
    "Gujarati": "નરેન્દ્ર પટેલ",
    "Telugu": "తెలుగు పేరు",
    "Kannada": "ಕನ್ನಡ ಹೆಸರು",
    "Malayalam": "മലയാളം പേര്",
    "Sinhala": "සිංහල නම",
    "Tibetan": "བོད་ཡིག",
    "Emoji": "🎁 👩‍🎨",
}


def line(number: int = 0, *, description: str | None = None, **changes: Any) -> DocumentLine:
    """Return a line that multiplies out; its figures depend on its number."""
    quantity = 1 + number % 3
    unit_price = Decimal("148.50") + number
    rate = Decimal("0.0550") if number % 3 == 2 else Decimal("0.2000")
    values: dict[str, Any] = {
        "description": NAMES[number % len(NAMES)] if description is None else description,
        "sku": f"ART-{1000 + number}",
        "quantity": quantity,
        "unit_price": unit_price,
        "tax_rate": rate,
        "tax_amount": (quantity * unit_price * rate).quantize(CENT),
        "subtotal": quantity * unit_price,
    }
    return DocumentLine(**(values | changes))


def view(*lines: DocumentLine, shipping: Decimal = Decimal("18.00"), **changes: Any) -> DocumentView:
    """Return an invoice over the lines whose totals are right unless `changes` say otherwise."""
    held = lines or (line(0), line(1), line(2))
    subtotal = sum((item.subtotal for item in held), Decimal())
    tax = sum((item.tax_amount for item in held), Decimal())
    values: dict[str, Any] = {
        "kind": "INVOICE",
        "number": "INV-2026-000142",
        "issued_on": date(2026, 11, 22),
        "order_number": "ORD-2026-000318",
        "order_date": date(2026, 11, 19),
        "seller": seller_party(Settings(_env_file=None)),
        "bill_to": CUSTOMER,
        "ship_to": CUSTOMER,
        "currency": "EUR",
        "lines": held,
        "subtotal": subtotal,
        "tax_total": tax,
        "shipping": shipping,
        "total": subtotal + tax + shipping,
        "payment_method": "credit_card",
        "payment_reference": "pay_9f2c41d07a",
        "shipped_on": date(2026, 11, 22),
        "carrier": "DHL Express",
        "tracking_number": "JD014600006281230704",
    }
    return DocumentView(**(values | changes))


def credit_note(**changes: Any) -> DocumentView:
    """Return a credit note with a deduction."""
    fee = line(
        description="Restocking fee",
        sku=None,
        quantity=1,
        unit_price=Decimal("-25.00"),
        tax_rate=Decimal(0),
        tax_amount=Decimal(0),
        subtotal=Decimal("-25.00"),
    )
    values: dict[str, Any] = {
        "kind": "CREDIT_NOTE",
        "number": "CN-2026-000017",
        "ship_to": None,
        "refers_to": "INV-2026-000142",
        "reason": "The glaze is a different colour",
        "shipped_on": None,
        "carrier": None,
        "tracking_number": None,
    }
    return view(line(0), fee, shipping=Decimal(0), **(values | changes))


def addressed_to(name: str, base: DocumentView | None = None) -> DocumentView:
    """Return a document whose customer has that name."""
    return replace(base or view(), bill_to=replace(CUSTOMER, name=name))


def hostile_view(text: str) -> DocumentView:
    """Return an invoice with the text in every place that someone outside can fill."""
    party = Party(name=text, lines=(text, text), tax_id=text, email=text)
    return view(
        line(0, description=text, sku=text),
        bill_to=party,
        ship_to=party,
        payment_method=text,
        payment_reference=text,
        carrier=text,
        tracking_number=text,
        notes=text,
    )


def pages(pdf: bytes) -> list[str]:
    """Return the text of each page, its white space made single, invisible break marks removed."""
    reader = pypdf.PdfReader(io.BytesIO(pdf))
    return [" ".join(page.extract_text().replace("\u200b", "").split()) for page in reader.pages]


def text_of(pdf: bytes) -> str:
    """Return the text of all pages."""
    return " ".join(pages(pdf))


def squeezed(text: str) -> str:
    """Return text without any white space, for comparing what lines were broken in different places."""
    return "".join(text.split())
