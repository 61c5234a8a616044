"""The OpenAPI document as YAML text. Import it where YAML is written: PyYAML is not needed to serve requests."""

from typing import Any

import yaml

_NEXT_LINE = "\x85"
"""A line break of YAML 1.1. Outside of double quotes PyYAML writes it as it is, and reads a line feed or a space."""


class _Dumper(yaml.SafeDumper):
    """YAML as people read it: text of several lines as a block, and no references between equal parts."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None
        if _NEXT_LINE in text:
            style = '"'
        elif "\n" in text:
            style = "|"
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def as_yaml(value: Any) -> str:
    """Return a document of dicts with string keys, lists and scalars as YAML, in its own order."""
    return yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=120)
