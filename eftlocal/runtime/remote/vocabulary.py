"""Whether a server's model has the tokens of the models on this machine: logits are added id by id."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.errors import VocabularyError
from eftlocal.runtime.remote.link import Link

__all__ = ["must_share"]

SHOWN: Final = 3
KEPT: Final = 64  # results that are remembered
SPECIAL_HINT: Final = "If the family only renamed control tokens, set `special_tokens_differ = true` in its emulator."
HINT: Final = "An emulator's models must come from one family, with one tokenizer."
PROBE: Final = (
    "The quick brown fox, 12,345.67 times; it's naïve — \u201cyes\u201d!\n\n\tdef f(x):\n        return x ** 2  # ok\n"
    "Größe, año, œuvre, Ωμέγα, Москва, שלום, مرحبا, नमस्ते, 東京タワー, 서울, 🙂👩‍🚀 ﬁn 0x1F https://a.b/c?d=e&f"
)


class Tokens(Protocol):
    """The tokens of a model on this machine."""

    @property
    def controls(self) -> Mapping[str, int]:
        """The texts and ids of control tokens."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none of a control token."""
        ...

    def tokenize(self, text: str) -> list[int]: ...


def must_share(link: Link, tokens: Tokens, n_real: int, *, special: bool, remembered: Path | None) -> None:
    """Compares the first `n_real` ids with the server's, and what it was found to be is kept in the file `remembered`.

    Where the engine does not tell its tokens, a text is compared instead. `special`: whether the texts of control
    tokens are compared, too. Raises VocabularyError and RemoteError.
    """
    ours = [tokens.piece(i) for i in range(n_real)]
    controls = {text: i for text, i in tokens.controls.items() if i < n_real} if special else {}
    key = _key(link, ours, controls)
    known = key in _read(remembered)
    if known and not controls:  # controls are asked for each time: a file of the same name and size may have others
        return
    name, facts = f"{link.facts.model} at {link.server.url}", link.facts
    if facts.n_vocab is not None and facts.n_vocab < n_real:
        raise VocabularyError(f"{name} has {facts.n_vocab:,} tokens, and the models here {n_real:,}.", HINT)
    connection = link.connection()
    try:
        if not known:
            if (theirs := link.engine.pieces(connection)) is None:
                _compare_texts(link.engine.tokenize(connection, PROBE), tokens.tokenize(PROBE), name)
            else:
                _compare_pieces(theirs, ours, name)
        if controls:
            _compare_controls(lambda text: link.engine.tokenize(connection, text), controls, name)
    finally:
        link.release(connection)
    if not known:
        _write(remembered, [*_read(remembered), key][-KEPT:])


def _compare_pieces(theirs: dict[int, bytes], ours: list[bytes], name: str) -> None:
    """A token that has bytes on one side alone is a control token, which the other side spells out, or not."""
    wrong = [i for i, own in enumerate(ours) if i not in theirs or (own and theirs[i] and own != theirs[i])]
    if not wrong:
        return
    shown = ", ".join(f"{i} {_quoted(theirs.get(i))} / {_quoted(ours[i])}" for i in wrong[:SHOWN])
    more = f" and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
    raise VocabularyError(f"{name} does not share the vocabulary of the models here: token {shown}{more}.", HINT)


def _compare_texts(theirs: list[int], ours: list[int], name: str) -> None:
    if theirs != ours:
        at = common_prefix(theirs, ours)
        problem = f"{name} cuts a text into other tokens than the models here, from token {at + 1} on"
        raise VocabularyError(f"{problem}: {theirs[at : at + 3]} / {ours[at : at + 3]}.", HINT)


def _compare_controls(read: Callable[[str], list[int]], controls: Mapping[str, int], name: str) -> None:
    """All texts in a row tell it in one request. Side by side, two may read as a third: those are asked for alone."""
    at = common_prefix(read("".join(controls)), list(controls.values()))
    for text in list(controls)[at:]:
        if (found := read(text)) != [controls[text]]:
            raise VocabularyError(
                f"{name} has other control tokens than the models here: {text} is token {controls[text]} here, and "
                f"begins with token {found[0] if found else 'none'} there.",
                SPECIAL_HINT,
            )


def _quoted(piece: bytes | None) -> str:
    return "(none)" if piece is None else repr(piece.decode("utf-8", "backslashreplace"))


def _key(link: Link, ours: list[bytes], controls: Mapping[str, int]) -> str:
    sha = hashlib.sha256(json.dumps([link.server.url, str(link.facts), controls]).encode())
    for piece in ours:
        sha.update(len(piece).to_bytes(4, "little") + piece)
    return sha.hexdigest()[:32]


def _read(file: Path | None) -> list[str]:
    if file is not None:
        with suppress(OSError, ValueError):
            found = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(found, list):
                return [key for key in found if isinstance(key, str)]
    return []


def _write(file: Path | None, keys: list[str]) -> None:
    if file is not None:
        with suppress(OSError):  # it is compared again next time
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(keys), encoding="utf-8")
