"""Reads grammars in llama.cpp's notation (GBNF) into rules.

The syntax is that of llama.cpp's grammars/README.md and its `llama_grammar_parser`. Tokens in angle brackets are not
supported.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from eftlocal.errors import SettingError

__all__ = ["ANY", "Choice", "Class", "Literal", "Node", "Ref", "Repeat", "Sequence", "productive", "read", "refs"]

HINT = "The notation is llama.cpp's GBNF: https://github.com/ggml-org/llama.cpp/tree/master/grammars"
ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]"}
HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Class:
    """One character of the `ranges`, each (first, last); if `inverted`, one character outside of them."""

    ranges: tuple[tuple[str, str], ...]
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to another rule, by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """`node`, repeated `least` to `most` times; None is without limit."""

    node: "Node"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Sequence:
    """All nodes, one after the other."""

    nodes: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the nodes."""

    nodes: tuple["Node", ...]


Node = Literal | Class | Ref | Repeat | Sequence | Choice

ANY = Class((), inverted=True)


def read(gbnf: str) -> dict[str, Node]:
    """Read a grammar. Returns rule name -> node. Raises SettingError with the line if the text is not valid GBNF."""
    rules = _Parser(gbnf).rules()
    if "root" not in rules:
        raise SettingError("The grammar has no rule named root.", HINT)
    for name, node in rules.items():
        for missing in (ref for ref in refs(node) if ref not in rules):
            raise SettingError(f"The grammar's rule {name} refers to {missing}, which is not defined.", HINT)
    return rules


def refs(node: Node) -> Iterator[str]:
    """The names of the rules that `node` refers to."""
    match node:
        case Ref(name):
            yield name
        case Repeat(inner):
            yield from refs(inner)
        case Sequence(nodes) | Choice(nodes):
            for inner in nodes:
                yield from refs(inner)


def productive(rules: Mapping[str, Node]) -> dict[str, Node]:
    """The rules without the parts that derive no text, such as `x ::= x "a"`: an answer could not leave them.

    What is repeated zero times becomes the empty text. Raises SettingError if `root` derives no text.
    """
    known: set[str] = set()  # rules that derive a text

    def derives(node: Node) -> bool:
        match node:
            case Literal():
                return True
            case Class():
                return _has_characters(node)
            case Ref(name):
                return name in known
            case Repeat(inner, least):
                return least == 0 or derives(inner)
            case Sequence(nodes):
                return all(map(derives, nodes))
            case Choice(nodes):
                return any(map(derives, nodes))

    def kept(node: Node) -> Node:
        match node:
            case Repeat(inner, least, most):
                return Literal("") if most == 0 or not derives(inner) else Repeat(kept(inner), least, most)
            case Sequence(nodes):
                return Sequence(tuple(map(kept, nodes)))
            case Choice(nodes):
                left = tuple(kept(inner) for inner in nodes if derives(inner))
                return left[0] if len(left) == 1 else Choice(left)
        return node

    while new := {name for name, node in rules.items() if name not in known and derives(node)}:
        known |= new
    if "root" not in known:
        raise SettingError(
            "The grammar cannot be used: nothing can satisfy it: no text of the rule root is complete.",
            "A rule that refers to itself needs an alternative that does not.",
        )
    return {name: kept(node) for name, node in rules.items() if name in known}


def _has_characters(node: Class) -> bool:
    """Whether a character is in the class. Surrogates are not characters."""
    if not node.inverted:
        return bool(node.ranges)
    start = 0
    for first, last in sorted(node.ranges):
        if start < ord(first) and not (start >= 0xD800 and ord(first) <= 0xE000):
            return True
        start = max(start, ord(last) + 1)
    return start <= 0x10FFFF


class _Parser:
    """A recursive-descent parser over characters. `_space` decides whether a rule may continue on the next line."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._space(lines=True)
        while self._at < len(self._text):
            name = self._name()
            self._space()
            if not self._skip("::="):
                self._fail("expected ::=")
            if name in rules:
                self._fail(f"{name} is defined a second time")
            self._space(lines=True)
            rules[name] = self._choice(nested=False)
            self._space(lines=True)
        return rules

    def _choice(self, *, nested: bool) -> Node:
        nodes = [self._sequence(nested=nested)]
        while self._skip("|"):
            self._space(lines=True)
            nodes.append(self._sequence(nested=nested))
        return nodes[0] if len(nodes) == 1 else Choice(tuple(nodes))

    def _sequence(self, *, nested: bool) -> Node:
        nodes: list[Node] = []
        while self._at < len(self._text) and self._peek() not in "|)\r\n":
            node = self._symbol()
            while (times := self._repetition()) is not None:
                node = Repeat(node, *times)
            nodes.append(node)
            self._space(lines=nested)
        return nodes[0] if len(nodes) == 1 else Sequence(tuple(nodes))

    def _symbol(self) -> Node:
        if self._skip('"'):
            literal = ""
            while not self._skip('"'):
                literal += self._character()
            return Literal(literal)
        if self._skip("["):
            return self._class()
        if self._skip("("):
            self._space(lines=True)
            node = self._choice(nested=True)
            if not self._skip(")"):
                self._fail("expected )")
            return node
        if self._skip("."):
            return ANY
        if self._peek() in "<!":
            self._fail("tokens (<...>) are not supported; use characters")
        return Ref(self._name())

    def _class(self) -> Node:
        inverted, ranges = self._skip("^"), list[tuple[str, str]]()
        while not self._skip("]"):
            first = last = self._character()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character()
            if first > last:
                self._fail(f"the range {first!r} to {last!r} is empty")
            ranges.append((first, last))
        if not ranges and not inverted:
            self._fail("a class of characters is empty")
        return Class(tuple(ranges), inverted)

    def _repetition(self) -> tuple[int, int | None] | None:
        for sign, times in {"*": (0, None), "+": (1, None), "?": (0, 1)}.items():
            if self._skip(sign):
                return times
        if self._peek() != "{":
            return None
        found = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d*)\s*)?\}").match(self._text, self._at)
        if found is None:
            self._fail("expected {m}, {m,} or {m,n}")
        self._at = found.end()
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else None
        if most is not None and most < least:
            self._fail(f"{{{least},{most}}} is not a valid number of repetitions")
        return least, most

    def _character(self) -> str:
        """The next character of a literal or a class; an escape is replaced by its character."""
        if self._at >= len(self._text):
            self._fail("the grammar ends inside a literal or a class")
        if not self._skip("\\"):
            self._at += 1
            return self._text[self._at - 1]
        kind = self._peek()
        self._at += 1
        if kind in ESCAPES:
            return ESCAPES[kind]
        digits = self._text[self._at : self._at + HEX_DIGITS.get(kind, 0)]
        if kind not in HEX_DIGITS or not re.fullmatch(f"[0-9a-fA-F]{{{HEX_DIGITS[kind]}}}", digits):
            self._fail(f"unknown escape \\{kind}{digits}")
        self._at += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            self._fail(f"\\{kind}{digits} is not a character")
        return chr(code)

    def _name(self) -> str:
        found = re.compile(r"[a-zA-Z0-9_-]+").match(self._text, self._at)
        if found is None:
            self._fail("expected a rule's name, a literal, a class or a group")
        self._at = found.end()
        return found[0]

    def _space(self, *, lines: bool = False) -> None:
        """Skip blanks and comments; with `lines`, also line ends."""
        found = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*" if lines else r"[ \t]*(?:#[^\r\n]*)?").match(
            self._text, self._at
        )
        assert found is not None  # it also matches the empty text
        self._at = found.end()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _fail(self, problem: str) -> NoReturn:
        start = self._text.rfind("\n", 0, self._at) + 1
        line = self._text.count("\n", 0, self._at) + 1
        here = f"{self._text[start : self._at]}<here>{self._text[self._at :].splitlines()[0] if self._peek() else ''}"
        raise SettingError(f"The grammar cannot be read: {problem}: line {line}: {here.strip()}", HINT)
