"""Files that list token ids: those that a reward's fine-tuning data never showed. Ids are written as ranges.

# eftlocal tokens of the vocabulary 0123456789abcdef
0-12
15
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eftlocal.catalog.tables import text_of
from eftlocal.errors import CatalogError

__all__ = ["TokenIds", "read", "text"]

HEAD = "# eftlocal tokens of the vocabulary "


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Ascending ids, and the fingerprint of the vocabulary that they belong to."""

    vocabulary: str
    ids: tuple[int, ...]


def text(tokens: TokenIds) -> str:
    """The text of a file that lists these tokens."""
    lines = [HEAD + tokens.vocabulary]
    for _, run in itertools.groupby(enumerate(tokens.ids), lambda pair: pair[1] - pair[0]):
        ids = [token for _, token in run]
        lines.append(str(ids[0]) if len(ids) == 1 else f"{ids[0]}-{ids[-1]}")
    return "\n".join(lines) + "\n"


def read(path: Path, n: int) -> TokenIds:
    """The tokens of a file; ids are below n. Raises CatalogError, which names the line."""
    head, *lines = text_of(path).splitlines() or [""]
    found = re.fullmatch(re.escape(HEAD) + "([0-9a-f]{16})", head.strip())
    if found is None:
        hint = "`eftlocal eval --calibrate` and `eftlocal tune` write such files."
        raise CatalogError(f"{path}:1: is not a list of tokens; its first line must be {HEAD + 'FINGERPRINT'!r}", hint)
    return TokenIds(found[1], tuple(_ids(path, lines, n)))


def _ids(path: Path, lines: Iterable[str], n: int) -> Iterable[int]:
    last = -1
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", line.strip())
        first, end = (int(found[1]), int(found[2] or found[1])) if found is not None else (0, -1)
        if not last < first <= end:
            wrong = f"{line.strip()[:40]!r} is not a token id, or a range of them, above those before it"
            raise CatalogError(f"{path}:{number}: {wrong}")
        if end >= n:
            raise CatalogError(f"{path}:{number}: names token {end}, but the vocabulary's last token is {n - 1}")
        yield from range(first, end + 1)
        last = end
