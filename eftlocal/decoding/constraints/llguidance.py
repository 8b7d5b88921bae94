"""Writes a grammar's rules in Lark notation, which llguidance reads: terminals for a lexer, and rules over them.

A terminal is one regular expression. The lexer is greedy: a terminal takes as much text as it can. So a part of the
grammar becomes one terminal if two things hold: it is not recursive, and it cannot take a character that may also come
after it. Any other part is split, if necessary down to single characters, which costs time. In this way every text of
the grammar stays possible, as in llama.cpp. There is one exception: if one terminal is the beginning of another that
could stand in the same place, the longer one wins. A grammar without recursion becomes a single terminal.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from typing import NamedTuple

from eftlocal.decoding.constraints.gbnf import Choice, Class, Literal, Node, Ref, Repeat, Sequence, refs

__all__ = ["choice", "written"]

ALL = (1 << 0x110000) - 1  # the set of all characters; a set has one bit for each character in it


def written(rules: Mapping[str, Node]) -> str:
    """The rules in Lark notation. A text starts at the rule `root`."""
    return _Writer(rules).lark()


def choice(texts: Iterable[str]) -> str:
    """A grammar in Lark notation that allows exactly these texts."""
    return written({"root": Choice(tuple(map(Literal, texts)))})


class _Shape(NamedTuple):
    """Sets of characters that describe a node's texts. To be safe, a set may hold more characters than needed."""

    empty: bool = False  # whether the empty text is one of the texts
    first: int = 0  # characters that a text may begin with
    inside: int = 0  # characters that occur in a text
    more: int = 0  # characters that can follow a complete text and lead to a longer text of the node

    def then(self, other: "_Shape") -> "_Shape":
        """The shape of a text of this node followed by a text of the other."""
        inside = self.inside | other.inside
        more = other.more | (self.more | other.first if other.empty else 0)
        if self.more & other.first:  # the end of the first text is not clear
            more = inside
        return _Shape(self.empty and other.empty, self.first | (other.first if self.empty else 0), inside, more)

    def either(self, other: "_Shape") -> "_Shape":
        """The shape of a text of this node or of the other."""
        first, inside = self.first | other.first, self.inside | other.inside
        more = self.more | other.more | (first if self.empty or other.empty else 0)
        if self.first & other.first:
            more = inside
        return _Shape(self.empty or other.empty, first, inside, more)

    def times(self, least: int, most: int | None) -> "_Shape":
        """The shape of `least` to `most` texts of this node in a row; None is without limit."""
        if most == 0:
            return _Shape(empty=True)
        more = self.more | (self.first if least != most or self.empty else 0)
        if most != 1 and self.more & self.first:
            more = self.inside
        return _Shape(self.empty or least == 0, self.first, self.inside, more)


class _Writer:
    """Writes one grammar.

    A rule becomes a terminal (T0, T1 ...) if it is not recursive and does not lead to a recursive rule. The others
    become rules (r0, r1 ...), and parts of these become terminals (U0, U1 ...).
    """

    def __init__(self, rules: Mapping[str, Node]) -> None:
        reach = {name: _reached(name, rules) for name in rules}
        self._rules = {name: rules[name] for name in rules if name in reach["root"] | {"root"}}
        recursive = {name for name in rules if name in reach[name]}
        self._plain = {name for name in rules if name not in recursive and not reach[name] & recursive}
        self._names = {name: f"{'T' if name in self._plain else 'r'}{i}" for i, name in enumerate(rules)}
        self._terminals: dict[str, str] = {}  # for parts of rules: definition -> name
        self._shapes = dict.fromkeys(rules, _Shape())
        self._settle_shapes()
        self._after = dict.fromkeys(rules, 0)  # rule -> characters that may come after it
        self._settle_after()

    def lark(self) -> str:
        lines = [f"start: {self._names['root']}"]
        for name, node in self._rules.items():
            body = self._terminal(node) if name in self._plain else self._rule(node, self._after[name])
            lines.append(f"{self._names[name]}: {body}")
        return "\n".join([*lines, *(f"{name}: {body}" for body, name in self._terminals.items())])

    # --- shapes of rules, and what may follow them --------------------------------------------------------------------

    def _settle_shapes(self) -> None:
        changed = True
        while changed:
            found = {name: self._shape(node) for name, node in self._rules.items()}
            changed = any(found[name] != self._shapes[name] for name in found)
            self._shapes |= found

    def _shape(self, node: Node) -> _Shape:
        match node:
            case Literal(text):
                inside = reduce(int.__or__, (1 << ord(character) for character in text), 0)
                return _Shape(not text, 1 << ord(text[0]) if text else 0, inside)
            case Class():
                return _Shape(False, _characters(node), _characters(node))
            case Ref(name):
                return self._shapes[name]
            case Repeat(inner, least, most):
                return self._shape(inner).times(least, most)
            case Sequence(nodes):
                return reduce(_Shape.then, map(self._shape, nodes), _Shape(empty=True))
            case Choice(nodes):
                return reduce(_Shape.either, map(self._shape, nodes))

    def _settle_after(self) -> None:
        before: dict[str, int] = {}
        while before != self._after:
            before = dict(self._after)
            for name, node in self._rules.items():
                self._spread(node, self._after[name])

    def _spread(self, node: Node, after: int) -> None:
        """Add to `_after` for each rule in `node`. `after`: characters that may come after the node."""
        match node:
            case Ref(name):
                self._after[name] |= after
            case Repeat(inner):
                self._spread(inner, self._after_one(node, after))
            case Sequence(nodes):
                for inner in reversed(nodes):
                    self._spread(inner, after)
                    after = self._before(inner, after)
            case Choice(nodes):
                for inner in nodes:
                    self._spread(inner, after)

    def _before(self, node: Node, after: int) -> int:
        """The characters that may come where `node` starts; `after` may come after it."""
        shape = self._shape(node)
        return shape.first | (after if shape.empty else 0)

    def _after_one(self, repeat: Repeat, after: int) -> int:
        return after if repeat.most == 1 else after | self._shape(repeat.node).first

    # --- writing ------------------------------------------------------------------------------------------------------

    def _terminal(self, node: Node) -> str:
        """`node` as part of a terminal's definition."""
        match node:
            case Literal(text):
                return f"/{''.join(map(_escaped, text))}/" if text else '""'
            case Class(ranges, inverted):
                inside = "".join(_escaped(a) + (f"-{_escaped(b)}" if a != b else "") for a, b in ranges)
                return f"/[{'^' if inverted else ''}{inside}]/" if ranges else "/(?s:.)/"
            case Ref(name):
                return self._names[name]
            case Repeat(inner):
                return f"({self._terminal(inner)}){_times(node)}"
            case Sequence(nodes):
                return " ".join(f"({self._terminal(inner)})" for inner in nodes) or '""'
            case Choice(nodes):
                return " | ".join(self._terminal(inner) for inner in nodes)

    def _rule(self, node: Node, after: int) -> str:
        """`node` as part of a rule's definition: one terminal if that is safe, else split."""
        if self._safe(node, after):
            name = self._names[node.name] if isinstance(node, Ref) else None
            return name or self._terminals.setdefault(self._terminal(node), f"U{len(self._terminals)}")
        match node:
            case Repeat(inner):
                return f"({self._rule(inner, self._after_one(node, after))}){_times(node)}"
            case Sequence(nodes):
                return self._sequence(nodes, after)
            case Choice(nodes):
                return " | ".join(self._rule(inner, after) for inner in nodes)
            case Ref(name) if name in self._plain:
                return self._rule(self._rules[name], after)
            case Ref(name):
                return self._names[name]
        raise AssertionError("a literal or a class is always safe")

    def _sequence(self, nodes: tuple[Node, ...], after: int) -> str:
        """The sequence as terminals that are as long as is safe, found from its end to its start."""
        parts: list[str] = []
        end = len(nodes)
        while end:
            stretches = ((start, _one(nodes[start:end])) for start in range(end))
            start, stretch = next((s for s in stretches if self._safe(s[1], after)), (end - 1, nodes[end - 1]))
            parts.append(f"({self._rule(stretch, after)})")
            end, after = start, self._before(stretch, after)
        return " ".join(reversed(parts))

    def _safe(self, node: Node, after: int) -> bool:
        """Whether `node` can be a terminal: it is not recursive, and it takes no character that may come after it."""
        return all(name in self._plain for name in refs(node)) and not self._shape(node).more & after


@lru_cache(256)
def _characters(node: Class) -> int:
    inside = reduce(int.__or__, ((2 << ord(last)) - (1 << ord(first)) for first, last in node.ranges), 0)
    return ALL ^ inside if node.inverted else inside


def _one(nodes: tuple[Node, ...]) -> Node:
    return nodes[0] if len(nodes) == 1 else Sequence(nodes)


def _reached(name: str, rules: Mapping[str, Node]) -> set[str]:
    """All rules that the rule `name` refers to, directly or through others. It is one of them if it is recursive."""
    found: set[str] = set()
    queue = [name]
    while queue:
        new = set(refs(rules[queue.pop()])) - found
        found |= new
        queue += new
    return found


def _times(repeat: Repeat) -> str:
    return f"{{{repeat.least},{'' if repeat.most is None else repeat.most}}}"


def _escaped(character: str) -> str:
    """A character, escaped for a regular expression, for its character classes and for Lark's slashes."""
    return character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):X}}}"
