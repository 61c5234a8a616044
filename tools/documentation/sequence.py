"""A Mermaid sequence diagram as SVG: participants, messages, notes, and the blocks around them.

Lanes stand side by side, rows below each other; each message, note or block border takes the room that its wrapped
text needs. Colours come from the site's style sheet, so that it reads in the dark as well.
"""

import re
import textwrap
from dataclasses import dataclass, field
from html import escape

LANE, MARGIN, LINE, GAP = 235, 120, 18, 16
_LETTERS = 30
"""Characters of text that fit between two neighbouring lanes."""

_PARTICIPANT = re.compile(r"participant (\w+) as (.+)$")
_MESSAGE = re.compile(r"(\w+)(--?>>|--?x)(\w+): (.+)$")
_NOTE = re.compile(r"Note over (\w+)(?:,(\w+))?: (.+)$")
_OPENING = re.compile(r"(alt|loop|opt|rect)\b ?(.*)$")


@dataclass
class _Block:
    kind: str
    label: str
    top: int
    depth: int
    breaks: list[int] = field(default_factory=list)


class _Drawing:
    def __init__(self) -> None:
        self.lanes: dict[str, tuple[int, str]] = {}
        self.below: list[str] = []
        self.above: list[str] = []
        self.open: list[_Block] = []
        self.y = 64

    @property
    def width(self) -> int:
        return 2 * MARGIN + LANE * (len(self.lanes) - 1)

    def x(self, name: str) -> int:
        return MARGIN + LANE * self.lanes[name][0]

    def read(self, line: str) -> None:
        """Draw one line of the source.

        Raises:
            ValueError: it is not understood.
        """
        if found := _PARTICIPANT.match(line):
            self.lanes[found[1]] = (len(self.lanes), found[2])
        elif found := _MESSAGE.match(line):
            self.message(*found.groups())
        elif found := _NOTE.match(line):
            self.note(found[1], found[2] or found[1], found[3])
        elif found := _OPENING.match(line):
            self.begin(found[1], "" if found[1] == "rect" else found[2])
        elif line.startswith("else"):
            self.otherwise(line.removeprefix("else").strip())
        elif line == "end":
            self.end()
        else:
            raise ValueError(f"not understood in a sequence diagram: {line}")

    def text(self, x: float, y: float, lines: list[str], kind: str = "") -> None:
        for number, line in enumerate(lines):
            self.above.append(f'<text x="{x:g}" y="{y + number * LINE:g}" class="{kind}">{escape(line)}</text>')

    def message(self, source: str, arrow: str, target: str, label: str) -> None:
        start, end = self.x(source), self.x(target)
        dashed = " dashed" if arrow.startswith("--") else ""
        if start == end:
            lines = textwrap.wrap(label, _LETTERS)
            self.y += 6
            height = max(LINE, LINE * len(lines) - 4)
            self.above.append(f'<path class="arrow" d="M{start} {self.y} h26 v{height} h-20" marker-end="url(#tip)"/>')
            self.text(start + 34, self.y + 12, lines, "left")
            self.y += height + GAP
            return
        lines = textwrap.wrap(label, _LETTERS * abs(self.lanes[source][0] - self.lanes[target][0]))
        self.text((start + end) / 2, self.y + 4, lines)
        self.y += LINE * len(lines) - 4
        tip = end - 5 if end > start else end + 5
        marker = "cross" if arrow.endswith("x") else "tip"
        self.above.append(
            f'<path class="arrow{dashed}" d="M{start} {self.y} L{tip} {self.y}" marker-end="url(#{marker})"/>'
        )
        self.y += GAP + 6

    def note(self, first: str, last: str, label: str) -> None:
        left, right = sorted((self.x(first), self.x(last)))
        lines = textwrap.wrap(label, round(_LETTERS * ((right - left) / LANE + 0.9)))
        height = LINE * len(lines) + 10
        width = right - left + 220
        top = self.y - 8
        self.above.append(
            f'<rect class="note" x="{(left + right - width) / 2:g}" y="{top}" width="{width}" height="{height}" rx="3"/>'
        )
        self.text((left + right) / 2, top + 18, lines)
        self.y += height + 6

    def begin(self, kind: str, label: str) -> None:
        self.open.append(_Block(kind, label, self.y - 8, len(self.open)))
        if kind != "rect":
            self.text(16 + 6 * len(self.open), self.y + 8, [f"{kind} {label}".strip()], "block left")
            self.y += LINE + GAP - 4
        else:
            self.y += 6

    def otherwise(self, label: str) -> None:
        self.open[-1].breaks.append(self.y - 8)
        self.text(16 + 6 * len(self.open), self.y + 8, [f"else {label}".strip()], "block left")
        self.y += LINE + GAP - 4

    def end(self) -> None:
        block = self.open.pop()
        inset = 8 + 6 * block.depth
        width = self.width - 2 * inset
        bottom = self.y - 4
        kind = "plain" if block.kind == "rect" else "frame"
        self.below.insert(
            0,
            f'<rect class="{kind}" x="{inset}" y="{block.top}" width="{width}" height="{bottom - block.top}" rx="4"/>',
        )
        self.below += [f'<path class="break" d="M{inset} {at} h{width}"/>' for at in block.breaks]
        self.y += 10

    def finish(self) -> str:
        bottom = self.y
        lanes = []
        for index, title in self.lanes.values():
            x = MARGIN + LANE * index
            lanes.append(f'<path class="lane" d="M{x} 40 V{bottom}"/>')
            lanes.append(f'<rect class="head" x="{x - 80}" y="8" width="160" height="32" rx="5"/>')
            lanes.append(f'<text x="{x}" y="29" class="title">{escape(title)}</text>')
        return (
            f'<div class="sequence"><svg viewBox="0 0 {self.width} {bottom + 8}" style="min-width:{self.width * 0.65:.0f}px;'
            f'max-width:{self.width}px" role="img" xmlns="http://www.w3.org/2000/svg"><defs>'
            '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path class="tip" d="M0 0 L8 4 L0 8 z"/></marker>'
            '<marker id="cross" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto">'
            '<path class="arrow" d="M1 1 L7 7 M7 1 L1 7"/></marker></defs>'
            f"{''.join(self.below)}{''.join(lanes)}{''.join(self.above)}</svg></div>\n"
        )


def svg(lines: list[str]) -> str:
    """Return the drawing of a diagram's lines, without their first.

    Raises:
        ValueError: a line that is not understood.
    """
    drawing = _Drawing()
    for line in lines:
        if line:
            drawing.read(line)
    return drawing.finish()
