"""A model in a child process, and its contexts: the tokenizer is here, weights and KV caches are there."""

import ctypes
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from eftlocal.arithmetic.arrays import Logits
from eftlocal.catalog.endpoints import Endpoint
from eftlocal.errors import DecodeError, EftError, ModelLoadError
from eftlocal.runtime.child.channel import Message
from eftlocal.runtime.child.process import Process
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.llama.copies import SavedSequence
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.loads import Offload

__all__ = ["ChildContext", "ChildModel"]


_numbers = count()  # of all contexts


class ChildModel(Model):
    """The tokenizer of a model whose weights are in a child process, `process`. Raises as Model, and RemoteError."""

    def __init__(self, header: Header, offload: Offload | None = None, rpc: Sequence[Endpoint] = ()) -> None:
        """rpc: the workers that hold layers of it; the child knows them by the names that `offload` has."""
        super().__init__(header, vocab_only=True)
        try:
            self.process = Process(header.path, offload, rpc)
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        self.process.close()
        super().close()


class ChildContext:
    """The KV cache of one member in a child process, as `Context` (runtime/llama/context.py) is one in this process.

    When the child ends, each sequence holds nothing, and the next feed starts another child. Rows are an array that the
    next feed overwrites.
    """

    def __init__(
        self,
        model: ChildModel,
        *,
        n_ctx: int,
        n_seq: int = 1,
        n_threads: int = 1,
        lora: tuple[Path, float] | None = None,
        kv_type: str = "f16",
    ) -> None:
        """As Context. Raises ModelLoadError."""
        self.model = model
        self.n_seq = n_seq
        self.n_fed = 0
        self._number = next(_numbers)
        self._threads = n_threads
        self._made = {
            "do": "context",
            "new": self._number,
            "n_ctx": n_ctx,
            "n_seq": n_seq,
            "n_threads": n_threads,
            "lora": None if lora is None else (str(lora[0]), lora[1]),
            "kv_type": kv_type,
        }
        self._held = [0] * n_seq
        self._before = 0  # tokens that were fed to processes that have ended
        self._rows = np.empty(0, np.float32)
        self._generation = -1
        self.n_ctx = self.n_batch = self.max_rows = 0
        try:
            self._be_there()
        except DecodeError as error:
            raise ModelLoadError(error.message, error.hint) from None

    @property
    def rewinds(self) -> bool:
        return self.model.rewinds

    def held(self, sequence: int) -> int:
        return self._held[sequence] if self._is_there() else 0

    def rewind(self, sequence: int, n: int) -> int:
        self.model.process.settle()  # what Ctrl-C left may have changed what is held
        if n < self.held(sequence):
            return self._short({"do": "rewind", "sequence": sequence, "n": n}, sequence)
        return self.held(sequence)

    def fork(self, source: int, target: int, n: int) -> int:
        return self._short({"do": "fork", "source": source, "target": target, "n": n}, source, target)

    def feed(self, feeds: Sequence[Feed]) -> Logits:
        """As Context.feed. Raises DecodeError, also when the child ended: all sequences are empty then."""
        held = [self.held(feed.sequence) for feed in feeds]
        self._be_there()
        if held != [self.held(feed.sequence) for feed in feeds]:
            raise DecodeError(f"{self.model.path}: the process that held it has ended.", "Ask again.")
        n_vocab = self.model.n_vocab
        message = {
            "feeds": [(feed.sequence, list(map(int, feed.tokens)), feed.rows) for feed in feeds],
            "threads": self._threads,
        }
        tokens = sum(len(feed.tokens) for feed in feeds)
        touched = sorted({feed.sequence for feed in feeds})
        reply, _ = self._call({"do": "feed", **message}, touched, tokens=max(1, tokens), room=self._room)
        rows = int(reply["rows"])
        return self._rows[: rows * n_vocab].reshape(rows, n_vocab)

    def expect(self, sequence: int, prompt: Sequence[int]) -> None:
        """Nothing: tokens are decoded when they are fed."""

    def more(self, sequence: int, tokens: Sequence[int], known: int) -> None:
        """Nothing: rows are whole."""

    def set_threads(self, n: int) -> None:
        self._threads = n

    def saved(self) -> Mapping[int, SavedSequence]:
        """As Context.saved; empty if the child has ended."""
        if not self._is_there():
            return {}
        try:
            reply, data = self._call({"do": "saved"}, range(self.n_seq))
        except EftError:
            return {}
        found, start = {}, 0
        for sequence, length, size, n, n_seq in reply["copies"]:
            found[sequence] = SavedSequence(_bytes(data[start : start + length]), size, n, n_seq)
            start += length
        return found

    def restore(self, saved: Mapping[int, SavedSequence]) -> None:
        for sequence, copy in saved.items():
            if sequence < self.n_seq:
                told = (copy.size, copy.n, copy.n_seq)
                try:
                    self._call(
                        {"do": "restore", "sequence": sequence, "copy": told}, (sequence,), memoryview(copy.data)
                    )
                except EftError:
                    return

    def close(self) -> None:
        self.model.process.give_up()
        if self._is_there():
            try:
                self.model.process.call({"do": "close", "context": self._number})
            except EftError:
                return

    # --- the child ----------------------------------------------------------------------------------------------------

    def _is_there(self) -> bool:
        """Whether the child that has this context runs. What another one held is gone."""
        process = self.model.process
        if process.runs() and process.generation == self._generation:
            return True
        self._held = [0] * self.n_seq
        return False

    def _be_there(self) -> None:
        """Start the child if it has ended, and make the context there. Raises DecodeError."""
        if self._is_there():
            return
        process = self.model.process
        try:
            process.start()
            reply, _ = process.call(self._made)
        except DecodeError:
            raise
        except EftError as error:
            raise DecodeError(error.message, error.hint) from None
        self.n_ctx, self.n_batch, self.max_rows = reply["n_ctx"], reply["n_batch"], reply["max_rows"]
        self._generation, self._before = process.generation, self.n_fed

    def _call(
        self, message: Message, touched: Sequence[int], data: bytes | memoryview = b"", **options: Any
    ) -> tuple[Message, memoryview]:
        asked = {**message, "context": self._number, "touched": list(touched)}
        return self.model.process.call(asked, data, then=self._after, **options)

    def _short(self, message: Message, *touched: int) -> int:
        """Ask for what takes no time. Returns how many tokens are held then: 0 if the child has ended."""
        if not self._is_there():
            return 0
        try:
            return int(self._call(message, touched)[0]["n"])
        except DecodeError:
            return 0

    def _after(self, reply: Message) -> None:
        """Take what the child says of what it holds, also in an answer that came late."""
        for sequence, n in reply.get("held", ()):
            self._held[sequence] = n
        self.n_fed = self._before + reply.get("n_fed", 0)

    def _room(self, _: Message, n: int) -> memoryview:
        if self._rows.nbytes < n:
            self._rows = np.empty(n // 4, np.float32)
        return memoryview(self._rows).cast("B")[:n]  # type: ignore[arg-type]  # in 3.11, mypy does not know that it can


def _bytes(view: memoryview) -> Any:
    """The bytes as an array of ctypes."""
    return (ctypes.c_uint8 * len(view)).from_buffer(bytearray(view))
