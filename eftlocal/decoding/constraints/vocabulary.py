"""The vocabulary of an emulator's members, in the form that llguidance needs."""

from collections.abc import Callable, Sequence

import llguidance

from eftlocal.errors import SettingError

__all__ = ["Vocabulary"]


class Vocabulary:
    """Tokens in the form that llguidance needs: it reads this object's attributes, and calls it.

    pieces    each token's bytes; a token without bytes can only end an answer
    ends      the end-of-generation tokens; SettingError if there are none
    tokenize  the members' tokenizer
    """

    def __init__(self, pieces: Sequence[bytes], ends: Sequence[int], tokenize: Callable[[str], list[int]]) -> None:
        if not ends:
            raise SettingError("The models' vocabulary has no token that ends an answer. A constraint needs one.")
        self._pieces = pieces
        self._tokenize = tokenize
        self.is_tokenizer_wrapper = True
        self.tokens = pieces
        self.special_token_ids = [i for i, piece in enumerate(pieces) if not piece]
        self.eos_token_id, self.bos_token_id = ends[0], None
        self.tokenizer = llguidance.LLTokenizer(self, eos_token=list(ends))  # type: ignore[arg-type]  # duck-typed

    def __call__(self, text: str) -> list[int]:
        """Tokenizes a text that must follow. llguidance calls this; an exception here would make it panic."""
        tokens = self._tokenize(text)
        if self._bytes(tokens) == text.encode():
            return tokens
        # SentencePiece adds a blank at the start. So tokenize after a line end, and cut the line end off.
        tokens = self._tokenize(f"\n{text}")
        for i in range(len(tokens)):
            if self._bytes(tokens[i:]) == text.encode():
                return tokens[i:]
        return self.tokenizer.greedy_tokenize(text)

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._pieces[token] if token < len(self._pieces) else b"" for token in tokens)
