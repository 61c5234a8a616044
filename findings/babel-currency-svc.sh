#!/usr/bin/env bash
# Babel 2.19.0: a currency that ISO 4217 lists as current belongs to no territory. SVC (El Salvador Colon) is in the list
# of the ISO 4217 maintenance agency; CLDR, Babel's source, ends it in 2001, when the US dollar came into use.
#
# Input: the current codes of pycountry 26.2.16, and what Babel gives for each territory today, legal tender or not.
# Expected: each current code of a country is found. Seen: all but SVC, so a check of codes by Babel refuses a valid one.
# Exit: 0 while SVC alone is missing; 1 once it is found, or others are missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check babel==2.19.0 pycountry==26.2.16
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import babel, pycountry
from babel.core import get_global
from babel.numbers import get_territory_currencies

iso = {currency.alpha_3 for currency in pycountry.currencies}
found = {
    code
    for territory in get_global("territory_currencies")
    for code in get_territory_currencies(territory, tender=True, non_tender=True)
}
missing = sorted(iso - found)
print(f"Babel {babel.__version__}: current in ISO 4217 and of no territory: {missing}")
print(f"El Salvador: {get_territory_currencies('SV', tender=True, non_tender=True)}")
sys.exit(0 if missing == ["SVC"] else 1)
PYTHON
