#!/usr/bin/env bash
# PyYAML 6.0.3 and 6.0.4: with allow_unicode=True, safe_dump writes a text with NEXT LINE (U+0085), as converters from
# EBCDIC leave it, so that safe_load reads another text. YAML 1.1 counts U+0085 as a line break, and a reader folds line
# breaks of a quoted scalar.
#
# Input: {"a": "a<U+0085>b"}, valid in JSON and in YAML.
# Expected: what safe_dump writes, safe_load reads as it was. Seen: "a b", without a warning. Without allow_unicode the
# character is written as the escape \N and comes back, and so do U+2028 and U+2029 either way.
# Exit: 0 while U+0085 alone, and only with allow_unicode, comes back as a space; 1 once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyyaml==6.0.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import yaml

seen = {}
for allow_unicode in (False, True):
    for mark in ("\u0085", "\u2028", "\u2029"):
        text = f"a{mark}b"
        written = yaml.safe_dump({"a": text}, allow_unicode=allow_unicode)
        read = yaml.safe_load(written)["a"]
        print(f"PyYAML {yaml.__version__}, allow_unicode={allow_unicode}: {text!a} is read as {read!a}")
        if read != text:
            seen[allow_unicode, mark] = read
sys.exit(0 if seen == {(True, "\u0085"): "a b"} else 1)
PYTHON
