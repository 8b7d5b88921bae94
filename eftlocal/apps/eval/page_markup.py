"""HTML that cannot be broken by what stands in it: every value is escaped, unless it is HTML that was made here."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from eftlocal.text import printable

__all__ = ["Html", "cell", "html", "joined", "plain", "table"]

KEPT: Final = frozenset("\n\t\u200c\u200d")  # line ends, and the joiners of emoji and of Indian scripts
UNSAFE: Final = re.compile(r"[^\x20-\x7e]")


class Html(str):
    """HTML. Only this module, and literals of the page's own modules, become such a text."""

    __slots__ = ()


def plain(text: object) -> str:
    """A text as a browser may show it: what is invisible, or turns the direction of writing, is escaped in words."""
    return UNSAFE.sub(lambda found: _shown(found[0]), str(text))


def _shown(character: str) -> str:
    safe = character in KEPT or character.isprintable() or unicodedata.category(character) == "Zs"
    return character if safe else printable(character)


def html(template: str, /, **values: object) -> Html:
    """The template with its {names} filled in. A value that is not Html is text: it is escaped.

    Attributes in a template must stand in double quotes, so that no value ends them.
    """
    filled = {
        name: value if isinstance(value, Html) else escape(plain(value), quote=True) for name, value in values.items()
    }
    return Html(template.format(**filled))


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other; `between` is text."""
    return Html(html("{b}", b=between).join(html("{p}", p=part) for part in parts))


def cell(value: object, *, kind: str = "", head: str = "") -> Html:
    """A cell of a table; `kind` is its class, `head` makes it the head of its row or column (row, col)."""
    given = html(' class="{kind}"', kind=kind) if kind else Html("")
    if head:
        return html('<th scope="{head}"{given}>{value}</th>', head=head, given=given, value=value)
    return html("<td{given}>{value}</td>", given=given, value=value)


def table(caption: str, heads: Sequence[object], rows: Iterable[Sequence[Html]], *, kind: str = "") -> Html:
    """A table that scrolls by itself where the window is narrow. `rows` are made of `cell`s."""
    first = joined(
        each if isinstance(each, Html) and each.startswith("<th") else cell(each, head="col") for each in heads
    )
    body = joined(html("<tr>{cells}</tr>\n", cells=joined(row)) for row in rows)
    return html(
        '<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table class="{kind}">'
        '<caption class="hidden">{caption}</caption>\n<thead><tr>{first}</tr></thead>\n'
        "<tbody>{body}</tbody></table></div>\n",
        **{"caption": caption, "kind": kind, "first": first, "body": body},
    )
