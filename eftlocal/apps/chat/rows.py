"""Rows of the terminal: pieces of text with their styles, and Markdown laid out as rows by rich."""

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.style import Style

__all__ = ["PARSER", "Row", "clean", "layout", "plain", "row"]

Row = tuple[tuple[str, Style | None], ...]  # pieces of text with their styles, without control characters

# Off: HTML and link definitions, which rich does not show, and underlined headings ("text\n---" is a rule here).
PARSER = MarkdownIt().enable(["strikethrough", "table"]).disable(["html_block", "html_inline", "reference", "lheading"])
_CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """`text` without what could control the terminal: control characters (but newline and tab) and bidi overrides."""
    return _CONTROLS.sub("", text)


class _LeftHeading(Heading):
    LEVEL_ALIGN = dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), "left")


class _Markdown(Markdown):
    """rich's Markdown with our parser, which keeps the line breaks of the source."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _LeftHeading}

    def __init__(self, source: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.parsed = PARSER.parse(source)
        _keep_breaks(self.parsed)


def _keep_breaks(tokens: Sequence[Token]) -> None:
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        _keep_breaks(token.children or ())


def layout(console: Console, source: str, width: int) -> list[Row]:
    """A Markdown text as rows of at most `width` columns, without blank rows at its ends."""
    options = console.options.update(width=width)
    rows = [row(line) for line in console.render_lines(_Markdown(source.expandtabs(4)), options, pad=False)]
    while rows and not rows[-1]:
        rows.pop()
    while rows and not rows[0]:
        rows.pop(0)
    return rows


def row(segments: Iterable[Segment]) -> Row:
    """The segments as one row, without the spaces that fill it up to its width."""
    runs: list[tuple[str, Style | None]] = []
    for text, style, control in segments:
        if not control and (text := text.replace("\n", "")):
            runs.append((text, style))
    while runs and not runs[-1][0].strip() and not (runs[-1][1] and runs[-1][1].underline):
        runs.pop()
    if runs:
        runs[-1] = (runs[-1][0].rstrip(), runs[-1][1])
    return tuple(runs)


def plain(line: str, style: str | None = None) -> Row:
    """A line of text as one row, all in one style."""
    return ((line, Style.parse(style) if style else None),) if line else ()
