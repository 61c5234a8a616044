"""The Mermaid of these pages as HTML and SVG, drawn without a script.

Only what the pages use: `sequenceDiagram` and `erDiagram`. State diagrams of orders and returns stand beside a picture
from `articurated diagram` and are left out; another `stateDiagram-v2` becomes a list of its arrows.

Raises, all of it: ValueError for a line that is not understood, so that nothing is silently missing on the site.
"""

import re
from html import escape

from tools.documentation import sequence

_STATE_ARROW = re.compile(r"(\S+) --> (\S+?)(?: : (.+))?$")
_RELATION = re.compile(r"(\w+) ([|o{}]{2})--([|o{}]{2}) (\w+) : \"(.+)\"$")
_MANY = {
    "||": "one",
    "|o": "none or one",
    "o|": "none or one",
    "|{": "one or more",
    "o{": "any number of",
    "}o": "any number of",
}


def drawn(source: str) -> str:
    """Return what stands for a Mermaid block on the site."""
    kind, *lines = [line.strip() for line in source.strip().splitlines()]
    if kind == "sequenceDiagram":
        return sequence.svg(lines)
    if kind == "erDiagram":
        return _entities(lines)
    if kind == "stateDiagram-v2":
        return _states(lines)
    raise ValueError(f"a Mermaid {kind} cannot be drawn here")


def _states(lines: list[str]) -> str:
    arrows = []
    for line in lines:
        if line.startswith("direction"):
            continue
        arrow = _STATE_ARROW.match(line)
        if arrow is None:
            raise ValueError(f"not understood in a state diagram: {line}")
        arrows.append(arrow.groups())
    if not any(label for _, _, label in arrows):
        return ""  # the picture above it shows the same
    rows = "".join(
        f"<tr><td>{escape(source)}</td><td>{escape(target)}</td><td>{escape(label or '')}</td></tr>"
        for source, target, label in arrows
        if "[*]" not in {source, target}
    )
    return f"<table><thead><tr><th>From</th><th>To</th><th>By</th></tr></thead><tbody>{rows}</tbody></table>\n"


def _entities(lines: list[str]) -> str:
    relations, entities, name = [], dict[str, list[str]](), ""
    for line in lines:
        if relation := _RELATION.match(line):
            left, near, far, right, label = relation.groups()
            relations.append(
                f"<li><code>{left}</code> ({_MANY[near]}) {escape(label)} "
                f"<strong>{_MANY[far]}</strong> <code>{right}</code></li>"
            )
        elif line.endswith("{"):
            name = line.removesuffix("{").strip()
            entities[name] = []
        elif line == "}" or not line:
            continue
        elif name and re.match(r"\w+(\[\])? \w+", line):
            kind, column, *rest = line.split(maxsplit=2)
            note = f" <em>{escape(rest[0].replace(chr(34), ''))}</em>" if rest else ""
            entities[name].append(f"<li><code>{column}</code> {kind}{note}</li>")
        else:
            raise ValueError(f"not understood in an entity diagram: {line}")
    cards = "".join(
        f'<div class="entity"><strong>{name}</strong><ul>{"".join(columns)}</ul></div>'
        for name, columns in entities.items()
    )
    return f'<div class="entities">{cards}</div>\n<ul class="relations">{"".join(relations)}</ul>\n'
