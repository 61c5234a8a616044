"""What the sample boutique sells, and to whom."""

from decimal import Decimal
from typing import NamedTuple


class Product(NamedTuple):
    """A piece in the sample catalogue; tax rate as a fraction."""

    sku: str
    name: str
    price: Decimal
    tax_rate: Decimal


_STANDARD, _REDUCED = Decimal("0.20"), Decimal("0.055")
_PIECES = (
    ("CER-CEL-032", "Celadon vase, hand-thrown, 32 cm", "480.00"),
    ("CER-RAK-011", "Raku tea bowl, black glaze", "165.00"),
    ("CER-MOO-007", "Moon jar, white porcelain", "1250.00"),
    ("CER-TEN-019", "Tenmoku sake set, five pieces", "310.00"),
    ("TEX-SIL-101", "Silk scarf, natural indigo", "145.00"),
    ("TEX-ALP-114", "Alpaca throw, undyed", "289.00"),
    ("TEX-KIL-120", "Kilim runner, vegetable dyes, 80 × 300 cm", "940.00"),
    ("TEX-LIN-133", "Linen tablecloth, bobbin lace border", "220.00"),
    ("WOO-OAK-201", "Bog oak bowl, turned", "195.00"),
    ("WOO-WAL-209", "Walnut jewellery box, dovetailed", "360.00"),
    ("WOO-CHE-215", "Cherry wood stool, hand-shaped", "420.00"),
    ("WOO-URU-222", "Urushi lacquer tray, maki-e", "1680.00"),
    ("MET-DAM-301", "Damascus chef's knife, 21 cm", "395.00"),
    ("MET-SIL-308", "Sterling silver cuff, hammered", "275.00"),
    ("MET-COP-312", "Copper kettle, hand-raised", "340.00"),
    ("MET-IRO-319", "Wrought iron candlestick", "128.00"),
    ("GLA-MUR-401", "Murano goblet, filigree", "230.00"),
    ("GLA-CAS-406", "Cast glass sculpture, amber", "2150.00"),
    ("GLA-LEA-411", "Leaded glass lamp, hand-cut", "1120.00"),
    ("LEA-SAT-501", "Bridle leather satchel", "685.00"),
    ("LEA-BOO-507", "Leather-bound notebook, marbled paper", "78.00"),
    ("LEA-GLO-512", "Peccary gloves, hand-sewn", "210.00"),
    ("PAP-WAS-601", "Washi folding screen, two panels", "1490.00"),
    ("PAP-LET-606", "Letterpress print, edition of 50", "95.00"),
    ("JEW-OPA-701", "Opal ring, 18 ct gold", "1875.00"),
    ("JEW-PEA-706", "Keshi pearl earrings", "320.00"),
    ("JEW-ENA-711", "Cloisonné enamel brooch", "415.00"),
    ("INS-LUT-801", "Luthier's ukulele, koa", "1390.00"),
)
PRODUCTS = [Product(sku, name, Decimal(price), _STANDARD) for sku, name, price in _PIECES] + [
    Product("BOO-CRA-901", "The Craft of Clay, signed", Decimal("58.00"), _REDUCED),
    Product("BOO-WEA-904", "A Weaver's Notebook, first edition", Decimal("120.00"), _REDUCED),
]

FIRST_NAMES = [
    "Ada",
    "Amélie",
    "Anton",
    "Beatriz",
    "Camille",
    "Chiara",
    "Daniel",
    "Elif",
    "Emma",
    "Farid",
    "Giulia",
    "Hana",
    "Hugo",
    "Ines",
    "Ivan",
    "Jamal",
    "Jonas",
    "Kenji",
    "Lena",
    "Lucía",
    "Maja",
    "Marco",
    "Nadia",
    "Noah",
    "Olivia",
    "Pablo",
    "Priya",
    "Quentin",
    "Rosa",
    "Samuel",
    "Sofia",
    "Tariq",
    "Theo",
    "Uma",
    "Victor",
    "Wanda",
    "Yuki",
    "Zoé",
]
LAST_NAMES = [
    "Almeida",
    "Bauer",
    "Bernard",
    "Chen",
    "Conti",
    "Dubois",
    "Eriksen",
    "Ferrari",
    "Fischer",
    "García",
    "Haddad",
    "Ito",
    "Jansen",
    "Kaya",
    "Keller",
    "Kowalski",
    "Laurent",
    "Lindqvist",
    "Marchand",
    "Mensah",
    "Moreau",
    "Nakamura",
    "Novák",
    "O'Connor",
    "Okafor",
    "Patel",
    "Petit",
    "Rossi",
    "Roux",
    "Sato",
    "Schmidt",
    "Silva",
    "Tanaka",
    "Thompson",
    "Vidal",
    "Walker",
    "Weber",
    "Yilmaz",
    "Zhang",
]
ADDRESSES = (
    ("Rue des Rosiers", "Paris", "75004", "FR"),
    ("Quai Saint-Antoine", "Lyon", "69002", "FR"),
    ("Rue Sainte-Catherine", "Bordeaux", "33000", "FR"),
    ("Oranienstraße", "Berlin", "10999", "DE"),
    ("Maximilianstraße", "München", "80539", "DE"),
    ("Via della Spiga", "Milano", "20121", "IT"),
    ("Via Tornabuoni", "Firenze", "50123", "IT"),
    ("Bleecker Street", "New York", "10012", "US"),
    ("Valencia Street", "San Francisco", "94110", "US"),
    ("Columbia Road", "London", "E2 7RG", "GB"),
    ("Rue du Marché", "Genève", "1204", "CH"),
)
CARRIERS = ("La Poste Colissimo", "DHL Express", "UPS", "FedEx", "Chronopost")
RETURN_REASONS = (
    "The glaze has a hairline crack",
    "The colour differs from the photographs",
    "Arrived later than the occasion it was for",
    "Smaller than expected",
    "A gift that was not to their taste",
    "The clasp does not close",
)
