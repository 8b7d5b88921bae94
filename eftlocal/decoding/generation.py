"""One answer in the making: its tokens, how each is drawn, what ends it, and the reply that comes of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from eftlocal.arithmetic.combine import Logits, Mix
from eftlocal.arithmetic.sample import Distribution, warp
from eftlocal.arithmetic.speculate import Uniforms, coupled
from eftlocal.decoding.constraints.constraint import Matcher
from eftlocal.decoding.drafts.lookup import PromptLookup
from eftlocal.decoding.logprobs import TokenLogprobs
from eftlocal.decoding.settings import Settings
from eftlocal.decoding.stream import TextStream
from eftlocal.engine.engine import Engine
from eftlocal.errors import ContextError, EftError
from eftlocal.runtime.views import Message

__all__ = ["FinishReason", "Generation", "Reply", "must_fit"]

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
    steps          how often the base ran: fewer than there are tokens, where drafts were accepted
    hits           which of the guesses at successive tokens were right, those that were never decoded included
    logprobs       of each of the tokens, where the setting asks for them
    complete       whether the text is all that the constraint asks for, and not a beginning of it; None without one
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
    steps: int = 0
    hits: tuple[bool, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    complete: bool | None = None

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
    uniforms: Uniforms  # three for each position where a draft member offers a token there, else one
    drafter: int | None = None  # the member whose distribution offers tokens
    repeats: PromptLookup | None = None  # of prompt and answer, where guesses may be looked up there
    matcher: Matcher | None = None  # of the constraint
    logprobs_of: Callable[[int, Logits, Mapping[int, Logits]], TokenLogprobs] | None = None  # of a token that was drawn
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float = 0.0
    steps: int = 0
    hits: list[bool] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: EftError | None = None  # what ended it instead of a finish reason
    _longest: int = field(init=False)  # of the prompts

    def __post_init__(self) -> None:
        self._longest = max(map(len, self.prompts.values()))

    @property
    def ended(self) -> bool:
        """Whether no token follows."""
        return self.finish_reason is not None or self.error is not None

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
            steps=self.steps,
            hits=tuple(self.hits),
            logprobs=tuple(self.logprobs),
            complete=None if self.matcher is None else self.matcher.complete(self.stream.text),
        )

    def room(self, n_ctx: int) -> int:
        """How many tokens may be guessed at most: those before the last that this answer can have."""
        left = self.settings.max_tokens - len(self.tokens) - 1
        return max(0, min(left, n_ctx - self._longest - len(self.tokens)))

    def distribution(self, row: Logits, guesses: Sequence[int] = ()) -> Distribution:
        """What a member's or the emulator's row, (n_real,), says of the token after the answer so far and `guesses`.

        What the constraint forbids is out before sampling settings count: top-p is of what may come.
        """
        tokens = [*self.tokens, *guesses] if guesses else self.tokens
        if self.matcher is not None:
            row = np.where(self.matcher.allowed(tokens), row, np.float32(-np.inf))
        return warp(row, self.settings.sampling, tokens)

    def offer(self, offered: Distribution, ahead: int = 0) -> int:
        """The draft member's token, `ahead` places after the next."""
        if (only := offered.only) is not None:  # greedy: no number need be drawn, each belongs to its position
            return only
        return offered.quantile(self.uniforms.at(len(self.tokens) + ahead)[0])

    def draw(self, row: Logits, offered: Distribution | None) -> int:
        """The next token, from the emulator's row; `offered` is the draft member's distribution for its place.

        A function of the two, the seed and the position alone (see `speculate`).
        """
        wanted = self.distribution(row)
        if (only := wanted.only) is not None:
            return only
        uniforms = self.uniforms.at(len(self.tokens))
        return wanted.quantile(uniforms[0]) if offered is None else coupled(wanted, offered, uniforms)

    def take(self, token: int, engine: Engine) -> str:
        """One token more, or the end. Returns the text delta."""
        self.last = time.perf_counter()
        if self.first is None:
            self.first = self.last
        if engine.is_eog(token):
            return self.end("stop")
        self.tokens.append(token)
        delta = self.stream.push(token)
        if self.stream.stopped is not None:
            self.finish_reason = "stop"
        elif self.matcher is not None and self.matcher.ended(self.tokens):
            delta += self.end("stop")
        elif len(self.tokens) >= self.settings.max_tokens:
            delta += self.end("length")
        elif self._longest + len(self.tokens) > engine.n_ctx:
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
