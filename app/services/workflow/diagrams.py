"""The state machines as pictures, drawn from the tables that the system runs on: Mermaid text, and SVG."""

from collections.abc import Sequence
from html import escape

from app.core.enums import EntityType
from app.services.workflow.state_machine import INITIAL_STATES, TRANSITIONS, StateMachine

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 212, 46, 48, 56, 24


def mermaid(entity_type: EntityType) -> str:
    """Return the machine as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    direction LR", f"    [*] --> {INITIAL_STATES[entity_type]}"]
    lines += [f"    {source} --> {target}" for source, target in StateMachine.edges(entity_type)]
    lines += [f"    {state} --> [*]" for state, targets in TRANSITIONS[entity_type].items() if not targets]
    return "\n".join(lines) + "\n"


def svg(entity_type: EntityType) -> str:
    """Return the machine as an SVG picture: steps from the initial state run rightwards."""
    places = _places(entity_type)
    width = MARGIN * 2 + max(x for x, _ in places.values()) + BOX_WIDTH
    height = MARGIN * 2 + max(y for _, y in places.values()) + BOX_HEIGHT
    label = f"State machine of {entity_type.lower()}s"
    font = 'font-family="Helvetica, Arial, sans-serif" font-size="12"'
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    marker = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}" {font}>',
        f'<rect width="{width}" height="{height}" fill="#fffdf8"/>',
        f'<defs>{marker}<path d="M0 0 L8 4 L0 8 z" fill="#6b5b4a"/></marker></defs>',
    ]
    parts += [_arrow(places[source], places[target]) for source, target in StateMachine.edges(entity_type)]
    for state, place in places.items():
        final = not StateMachine.allowed(entity_type, state)
        parts.append(_box(state, place, initial=state == INITIAL_STATES[entity_type], final=final))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _places(entity_type: EntityType) -> dict[str, tuple[int, int]]:
    """Return the corner of each state's box: column by distance from the start, the long way on the first row."""
    depth = {str(INITIAL_STATES[entity_type]): 0}
    for source, target in StateMachine.edges(entity_type):
        depth.setdefault(target, depth[source] + 1)
    rows: dict[int, list[str]] = {}
    for state in sorted(depth, key=lambda state: not StateMachine.allowed(entity_type, state)):
        rows.setdefault(depth[state], []).append(state)
    return {
        state: (column * (BOX_WIDTH + GAP_X), row * (BOX_HEIGHT + GAP_Y))
        for column, states in rows.items()
        for row, state in enumerate(states)
    }


def _box(state: str, place: Sequence[int], *, initial: bool, final: bool) -> str:
    x, y = place[0] + MARGIN, place[1] + MARGIN
    fill = "#2f4a3c" if initial else "#f1e7d6"
    colour = "#ffffff" if initial else "#2b2a27"
    outline = '<rect x="{}" y="{}" width="{}" height="{}" rx="9" fill="none" stroke="#6b5b4a"/>'
    inner = outline.format(x + 4, y + 4, BOX_WIDTH - 8, BOX_HEIGHT - 8) if final else ""
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="12" fill="{fill}" stroke="#6b5b4a"/>'
        f'{inner}<text x="{x + BOX_WIDTH // 2}" y="{y + BOX_HEIGHT // 2 + 4}" text-anchor="middle"'
        f' fill="{colour}">{escape(state)}</text>'
    )


def _arrow(source: Sequence[int], target: Sequence[int]) -> str:
    x1, y1, x2, y2 = (value + MARGIN for value in (*source, *target))
    middle = BOX_HEIGHT // 2
    if x1 == x2:
        start, end = (x1 + BOX_WIDTH // 2, y1 + BOX_HEIGHT), (x2 + BOX_WIDTH // 2, y2)
    else:
        start, end = (x1 + BOX_WIDTH, y1 + middle), (x2, y2 + middle)
    bend = (start[0] + end[0]) // 2
    curve = f"M{start[0]} {start[1]} C{bend} {start[1]}, {bend} {end[1]}, {end[0]} {end[1]}"
    if x1 == x2:
        curve = f"M{start[0]} {start[1]} L{end[0]} {end[1]}"
    return f'<path d="{curve}" fill="none" stroke="#6b5b4a" stroke-width="1.5" marker-end="url(#tip)"/>'
