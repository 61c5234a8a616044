"""`python -m tools.documentation`: write every generated file. A test compares them with what is committed."""

import sys

from tools.documentation.pages import GENERATED


def main() -> None:
    """Write each file whose text has changed, and name it."""
    for file, text in GENERATED.items():
        made = text()
        if not file.exists() or file.read_text(encoding="utf-8") != made:
            file.write_text(made, encoding="utf-8")
            sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main()
