"""A bar chart as SVG, in plain text: readable on light and dark pages, for it brings its own background."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, TOP = 760, 120, 150, 60
BAR, GAP, TITLE = 18, 6, 26
"""Heights of a bar, of the space below it, and of the title of a group."""

_STYLE = """\
.page { fill: #ffffff; } text { fill: #1f2328; } .small { fill: #59636e; }
.range { stroke: #1f2328; stroke-width: 1.5; }
.side0 { fill: #8c959f; } .side1 { fill: #d4a72c; } .side2 { fill: #1a7f5a; }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117; } text { fill: #e6edf3; } .small { fill: #9198a1; }
.range { stroke: #e6edf3; }
.side0 { fill: #7d8590; } .side1 { fill: #bb8009; } .side2 { fill: #2ea97b; }
}"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One side of one work: its name, its median, its smallest and its largest round."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Group:
    """The bars of one work."""

    label: str
    bars: Sequence[Bar]


def draw(title: str, groups: Sequence[Group]) -> str:
    """Return the drawing.

    Args:
        title: what the bars show.
        groups: of one to three bars each, every group with a scale of its own.
    """
    height = TOP + sum(TITLE + len(group.bars) * (BAR + GAP) + GAP for group in groups) + GAP
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
            ' role="img" aria-labelledby="title description" font-family="Helvetica, Arial, sans-serif" font-size="13">'
        ),
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(describe(title, groups))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text x="16" y="26" font-size="16" font-weight="bold">{escape(title)}</text>',
        (
            '<text x="16" y="46" class="small" font-size="12">'
            "Medians of the rounds; a thin line goes from the smallest to the largest. Each group has its own scale.</text>"
        ),
    ]
    top = TOP
    for group in groups:
        lines.append(f'<text x="16" y="{top + 18}" font-weight="bold">{escape(group.label)}</text>')
        top += TITLE
        lines += _bars(group, top)
        top += len(group.bars) * (BAR + GAP) + GAP
    return "\n".join([*lines, "</svg>", ""])


def _bars(group: Group, top: int) -> list[str]:
    scale = (WIDTH - LEFT - RIGHT) / max(bar.high for bar in group.bars)
    sides = {1: (2,), 2: (0, 2)}.get(len(group.bars), (0, 1, 2))
    lines = []
    for number, (bar, side) in enumerate(zip(group.bars, sides, strict=True)):
        y = top + number * (BAR + GAP)
        middle, text = y + BAR / 2, y + 14
        lines += [
            f'<text x="{LEFT - 8}" y="{text}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="side{side}" x="{LEFT}" y="{y}" width="{bar.value * scale:.1f}" height="{BAR}" rx="2"/>',
            (
                f'<line class="range" x1="{LEFT + bar.low * scale:.1f}" x2="{LEFT + bar.high * scale:.1f}"'
                f' y1="{middle}" y2="{middle}"/>'
            ),
            f'<text x="{LEFT + bar.high * scale + 8:.1f}" y="{text}">{bar.value:,.0f} /s</text>',
        ]
    return lines


def describe(title: str, groups: Sequence[Group]) -> str:
    """Return the chart in words."""
    works = (f"{group.label}: " + ", ".join(f"{bar.label} {bar.value:,.0f}" for bar in group.bars) for group in groups)
    return f"{title}. {'; '.join(works)}."
