"""The decoding loop: sequences in, text deltas out; forward, combine, sample until every answer has ended."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from eftlocal.emulation.combine import Combiner, Logits, Mix
from eftlocal.emulation.engine import Cancelled, Engine, Request, Slot
from eftlocal.emulation.sample import warp
from eftlocal.emulation.settings import Settings
from eftlocal.emulation.stream import TextStream
from eftlocal.errors import ContextError
from eftlocal.runtime.views import Message

__all__ = ["FinishReason", "Generation", "Reply", "decode", "must_fit"]

FinishReason = Literal["stop", "length", "context", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, whole or as far as it came.

    finish_reason  "stop": an end-of-generation token, or the stop string in `stopped_by`; "length": max_tokens;
                   "context": the context is full; "cancelled": the caller asked
    tokens         ids of the answer, without the token that ended it
    prompt_tokens  by role: the length of that member's rendering of the conversation
    ttft_s         seconds from the request to the first token; None if none came
    tokens_per_s   of the tokens after the first
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    stopped_by: str | None
    seed: int
    beta: float
    prompt_tokens: Mapping[str, int]
    ttft_s: float | None
    tokens_per_s: float | None
    kept: int  # leading tokens that lie wholly in `text`

    @property
    def message(self) -> Message:
        """The answer as the next turn's message: its token ids are kept, so that the cache need not be fed again."""
        return Message("assistant", self.text, self.tokens[: self.kept])


@dataclass(slots=True, eq=False)
class Generation:
    """One answer in the making."""

    prompts: Mapping[int, list[int]]  # by running member
    mix: Mix
    settings: Settings
    seed: int
    stream: TextStream
    roles: Mapping[str, int]  # role name -> member, of the members that run
    rng: np.random.Generator
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float = 0.0

    @property
    def prompt_tokens(self) -> dict[str, int]:
        """By role: the length of its member's rendering of the conversation."""
        return {role: len(self.prompts[member]) for role, member in self.roles.items()}

    @property
    def reply(self) -> Reply:
        """The answer so far; before it has ended, it counts as cancelled."""
        elapsed = self.last - self.first if self.first is not None else 0.0
        return Reply(
            text=self.stream.text,
            tokens=tuple(self.tokens),
            finish_reason=self.finish_reason or "cancelled",
            stopped_by=self.stream.stopped,
            seed=self.seed,
            beta=self.settings.beta,
            prompt_tokens=self.prompt_tokens,
            ttft_s=None if self.first is None else self.first - self.started,
            tokens_per_s=(len(self.tokens) - 1) / elapsed if elapsed > 0 else None,
            kept=self.stream.kept,
        )

    def step(self, z: Logits, slot: Slot, engine: Engine) -> str:
        """Takes the row `z`, (n_real,), for the next position: one token more, or the end. Returns the text delta."""
        token = warp(z, self.settings.sampling, self.tokens).draw(self.rng)
        self.last = time.perf_counter()
        if self.first is None:
            self.first = self.last
        if engine.is_eog(token):
            return self.end("stop")
        self.tokens.append(token)
        slot.tokens.append(token)
        delta = self.stream.push(token)
        if self.stream.stopped is not None:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.settings.max_tokens:
            delta += self.end("length")
        elif max(map(len, self.prompts.values())) + len(self.tokens) > engine.n_ctx:
            delta += self.end("context")
        return delta

    def end(self, reason: FinishReason) -> str:
        """What the stream still held back; it may hold a stop string, which then is the reason."""
        tail = self.stream.finish()
        self.finish_reason = "stop" if self.stream.stopped is not None else reason
        return tail


def must_fit(lengths: Mapping[str, int], n_ctx: int) -> None:
    """Raises ContextError when a role's tokens leave no room for one more."""
    for role, n in lengths.items():
        if n >= n_ctx:
            raise ContextError(
                f"The prompt is {n} tokens long for the {role} model, and the context holds {n_ctx}.",
                "Shorten the conversation, or give a larger context (--ctx).",
            )


def decode(
    engine: Engine,
    combiner: Combiner,
    waiting: Iterable[Generation],
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[tuple[Generation, str]]:
    """Decode all of `waiting`, as many at a time as the engine has slots; yields (generation, text delta) as they come.

    A generation that has ended gives its slot to the next at once. When `cancelled` answers True, or when the caller
    closes the iterator, what runs ends as "cancelled" and keeps the text it has.
    """
    queue, running = iter(waiting), dict[Slot, Generation]()
    try:
        while True:
            while len(running) < len(engine.slots) and (new := next(queue, None)):
                must_fit(new.prompt_tokens, engine.n_ctx)
                running[engine.begin(new.prompts)] = new
            if not running:
                return
            try:
                requests = [Request(slot, 1, generation.mix.active) for slot, generation in running.items()]
                rows = engine.forward(requests, cancelled)
            except Cancelled:
                yield from ((generation, generation.end("cancelled")) for generation in running.values())
                return
            z = combiner.combine(rows, [generation.mix for generation in running.values()])  # (running, n_real)
            for row, (slot, generation) in enumerate(list(running.items())):
                delta = generation.step(z[row], slot, engine)
                if generation.finish_reason:
                    engine.end(slot)
                    del running[slot]
                if delta or generation.finish_reason:
                    yield generation, delta
    finally:
        for slot, generation in running.items():
            engine.end(slot)
            if generation.finish_reason is None:
                generation.end("cancelled")
