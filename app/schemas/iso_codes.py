"""Codes of the world: countries (ISO 3166-1 alpha-2) and currencies in use (ISO 4217).

The codes are in a data file, which `python -m tools.iso_codes` writes. A currency that ISO withdraws leaves the file: new
orders in it are refused, and orders that have it keep it.
"""

import json
from pathlib import Path

PATH = Path(__file__).with_suffix(".json")

_CODES: dict[str, list[str]] = json.loads(PATH.read_text(encoding="utf-8"))
COUNTRIES = frozenset(_CODES["countries"])
CURRENCIES = frozenset(_CODES["currencies"])
