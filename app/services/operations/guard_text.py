"""One form for what PostgreSQL prints in two: a definition as it was made, and the same after a dump was restored.

A dump holds the printed text, and reading that gives a tree that is printed otherwise, with the same meaning:

    x = ANY ((ARRAY['A'::character varying])::text[])     x = ANY (ARRAY[('A'::character varying)::text])
    ((a AND b) AND c)                                     (a AND b AND c)
"""

import re
from functools import lru_cache
from typing import TypeAlias

_Node: TypeAlias = "list[str | _Node]"

_STRING = r"'(?:[^']|'')*'"
_ARRAY = re.compile(rf"\(ARRAY\[((?:{_STRING}::character varying(?:, )?)+)\]\)::text\[\]")
_ELEMENT = re.compile(rf"({_STRING}::character varying)")
_TOKEN = re.compile(rf"""{_STRING}|"(?:[^"]|"")*"|[()]|\s+|[^()'"\s]+""")
_JOINS = ("AND", "OR")


@lru_cache(maxsize=2048)
def one_form(definition: str) -> str:
    """Return a definition of a trigger, constraint or index in the form that it has after a restore."""
    cast_each = _ARRAY.sub(lambda found: "ARRAY[" + _ELEMENT.sub(r"(\1)::text", found[1]) + "]", definition)
    return "".join(_flat(_tree(cast_each)))


def _tree(definition: str) -> _Node:
    """Return the tokens, those in brackets as a list of their own."""
    root: _Node = []
    open_nodes = [root]
    for word in _TOKEN.findall(definition):
        if word == "(":
            inner: _Node = []
            open_nodes[-1].append(inner)
            open_nodes.append(inner)
        elif word == ")":
            open_nodes.pop()
        else:
            open_nodes[-1].append(word)
    return root


def _join_of(node: _Node) -> str | None:
    """Return AND or OR where the parts of a node are joined by nothing else."""
    joins = {part for part in node if isinstance(part, str) and part in _JOINS}
    return joins.pop() if len(joins) == 1 else None


def _flat(node: _Node) -> list[str]:
    """Return the text of a node, without the brackets round a part that is joined as the node itself is."""
    words = [part for part in node if not isinstance(part, str) or not part.isspace()]
    join, said, position = _join_of(node), list[str](), -1
    for part in node:
        if isinstance(part, str):
            position += not part.isspace()
            said.append(part)
            continue
        position += 1
        inner = _flat(part)
        beside = {_as_word(words[at]) for at in (position - 1, position + 1) if 0 <= at < len(words)}
        is_same = join is not None and _join_of(part) == join and beside == {join}
        said += inner if is_same else ["(", *inner, ")"]
    return said


def _as_word(part: "str | _Node") -> str:
    return part if isinstance(part, str) else "("
