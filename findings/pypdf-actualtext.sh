#!/usr/bin/env bash
# pypdf 7.1.0: PageObject.extract_text() ignores /ActualText (ISO 32000-2, 14.9.4), so that words of scripts with
# reordered or joined letters come out damaged, although the PDF states the right text beside their glyphs.
#
# Input: one line of Devanagari, set by Typst 0.15.2 with Noto Sans Devanagari. Typst writes a marked-content sequence
# with /ActualText round each cluster whose glyphs do not map to its characters one to one.
# Expected: the text that was set. Seen: control characters among the letters, from glyphs that map to nothing.
# Exit: 0 while it is so; 1 once pypdf returns the text that was set, or the PDF has no /ActualText.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pypdf==7.1.0 typst==0.15.2 fontpkg-noto-sans-devanagari==2.7
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import pathlib, re, sys, sysconfig, zlib
import pypdf, typst

wanted = "प्रिया शर्मा"
fonts = sorted({path.parent for path in pathlib.Path(sysconfig.get_paths()["purelib"]).rglob("*.ttf")})
assert fonts, "no font in the package"
pathlib.Path("a.typ").write_text(f'#set text(font: "Noto Sans Devanagari", fallback: false)\n{wanted}\n', encoding="utf-8")
typst.compile("a.typ", output="a.pdf", font_paths=[str(folder) for folder in fonts], ignore_system_fonts=True)
page = pypdf.PdfReader("a.pdf").pages[0]
content = page.get_contents().get_data()
stated = re.findall(rb"/ActualText", content)
seen = page.extract_text().strip()
print(f"pypdf {pypdf.__version__}: {len(stated)} /ActualText entries; expected {wanted!r}, seen {seen!r}")
sys.exit(0 if stated and seen != wanted else 1)
PYTHON
