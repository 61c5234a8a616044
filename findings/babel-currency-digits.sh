#!/usr/bin/env bash
# Babel 2.19.0: babel.numbers.get_currency_precision() is not the number of minor digits of ISO 4217. CLDR, its source,
# gives the digits in use: 0 for 15 currencies that ISO 4217 and payment providers count with 2 or 3 digits.
#
# Input: the codes and minor digits of ISO 4217, from the package iso4217 1.16.20260101 (the maintenance agency's list).
# Expected: the same digits for a valid code. Seen: HUF, COP, IDR and others 0 instead of 2, IQD 0 instead of 3. An amount
# that is rounded or turned into minor units with it is wrong by up to a factor of 1,000.
# Exit: 0 while exactly these differ; 1 once the list is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check babel==2.19.0 iso4217==1.16.20260101
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import babel
from babel.numbers import get_currency_precision
from iso4217 import Currency

KNOWN = "AFN ALL COP HUF IDR IQD IRR KPW LAK LBP MGA MMK SOS SYP YER".split()
listed = [currency for currency in Currency if currency.exponent is not None]
differing = sorted(c.code for c in listed if get_currency_precision(c.code) != c.exponent)
for code in differing:
    print(f"{code}: ISO 4217 {Currency(code).exponent}, Babel {babel.__version__} {get_currency_precision(code)}")
sys.exit(0 if differing == KNOWN else 1)
PYTHON
