"""The state of one answer while it is decoded: its tokens, how each is drawn, what ends it, and its reply."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import Mix
from eftlocal.arithmetic.distribution import Distribution
from eftlocal.arithmetic.noise import Noise
from eftlocal.arithmetic.sample import warp
from eftlocal.decoding.constraints.matcher import Matcher
from eftlocal.decoding.drafts.lookup import PromptLookup
from eftlocal.decoding.logprobs import TokenLogprobs
from eftlocal.decoding.settings import Settings
from eftlocal.decoding.stream import TextStream
from eftlocal.decoding.thinking import ANSWER, Splitter, split
from eftlocal.engine.engine import Engine
from eftlocal.errors import ContextError, EftError
from eftlocal.runtime.views import Message

__all__ = ["FinishReason", "Generation", "Reply", "must_fit"]

FinishReason = Literal["stop", "length", "context", "cancelled"]


DOUBTFUL: Final = 0.05  # in total variation, as a mean over an answer's tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, complete or cut short.

    finish_reason  "stop": an end-of-generation token, or the stop string in `stopped_by`; "length": max_tokens;
                   "context": the context is full; "cancelled": the caller cancelled it
    tokens         ids of the answer, without the token that ended it
    end_token      the id of the token that ended it; None if something else did
    place          where the text begins, for telling thoughts and answer apart (decoding.thinking.Splitter)
    left_out       for each token that was drawn from a base whose row was not whole: the probability of what was not
                   known, and how far the emulator's distribution may be off by that (total variation); 0 for a greedy
                   token that is certain
    prompt_tokens  role -> tokens in its member's rendering of the conversation
    ttft_s         seconds from the request to the first token; None if no token came
    tokens_per_s   decoding speed after the first step; None if it was not measured
    cached_tokens  leading tokens of the prompt that no member had to read, since caches held them
    kept           how many leading tokens lie completely in `text`
    steps          decoding steps; fewer than tokens if drafts were accepted
    hits           for each token that was guessed, in order: whether the guess was right. This includes guesses that
                   were never decoded
    logprobs       log-probabilities of each token, if the setting asks for them
    end_logprobs   those of the token that ended it, if a token did and the setting asks for them
    prompt_logprobs  those of the prompt's tokens but the first, which nothing predicts, if they were asked for
    complete       whether the text satisfies the whole constraint, not only the beginning of it; None if there is no
                   constraint
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
    kept: int
    cached_tokens: int = 0
    whole: bool = True  # whether these tokens are all of `text`
    steps: int = 0
    hits: tuple[bool, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    end_logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    complete: bool | None = None
    end_token: int | None = None
    place: str = ANSWER
    left_out: tuple[tuple[float, float], ...] = ()

    @property
    def thinking(self) -> str:
        """The thoughts in `text`, without their markers; "" if there are none."""
        return split(self.text, self.place)[0]

    @property
    def answer(self) -> str:
        """What `text` says after the thoughts: the whole text, if there are none."""
        return split(self.text, self.place)[1]

    @property
    def parts(self) -> dict[str, str]:
        """Thoughts and answer, as JSON output has them beside the whole text; empty if there are no thoughts."""
        thinking, answer = split(self.text, self.place)
        return {"thinking": thinking, "answer": answer} if thinking else {}

    @property
    def unknown(self) -> dict[str, float]:
        """What was not known of the base's rows, as JSON output has it: means over the answer's tokens, and the worst.

        Empty for a base on this machine, and where a server gave whole rows.
        """
        if not self.left_out:
            return {}
        masses, bounds = zip(*self.left_out, strict=True)
        n = len(masses)
        return {"mass": sum(masses) / n, "bound": sum(bounds) / n, "worst_bound": max(bounds)}

    @property
    def doubt(self) -> str | None:
        """A line for an answer whose tokens may be far from the emulator's, since a server left too much out."""
        if (off := self.unknown.get("bound", 0.0)) <= DOUBTFUL:
            return None
        return f"the server leaves so much out that a token may be off by up to {off:.0%}; a larger top lowers it"

    @property
    def message(self) -> Message:
        """The answer as a message of the conversation. It keeps the token ids, so the KV cache can be used again."""
        return Message("assistant", self.text, self.tokens[: self.kept])


@dataclass(slots=True, eq=False)
class Generation:
    """One answer while it is decoded. `Preparer.generation` makes it; the scheduler and its step change it."""

    prompts: Mapping[int, list[int]]  # for each member that runs: its token ids
    mix: Mix
    settings: Settings
    seed: int
    stream: TextStream
    roles: Mapping[str, int]  # role name -> member, only members that run
    is_end: Callable[[int], bool]  # whether a token ends a generation for one of the members that run
    noise: Noise  # its random numbers
    drafter: int | None = None  # the draft model's member; None if there is none
    lookup: PromptLookup | None = None  # prompt look-up in prompt and answer; None if it is off
    stop_tokens: Mapping[int, str] = field(default_factory=dict)  # control tokens that end it, with the stop string
    matcher: Matcher | None = None  # checks the constraint; None if there is none
    logprobs_of: Callable[[int, Logits, Mapping[int, Logits]], TokenLogprobs] | None = None  # a `Places`; None if off
    place: str = ANSWER  # where its text begins, for telling thoughts and answer apart
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float = 0.0
    at_first: int = 1  # tokens that came with the first one: a step with drafts gives several
    steps: int = 0
    hits: list[bool] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    end_logprobs: TokenLogprobs | None = None  # of the token that ended it
    cached: int | None = None  # leading tokens of the prompts that caches held when reading began
    score_prompt: bool = False  # whether the prompt's tokens get log-probabilities; all members then have one prompt
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # from its second token on
    stop_token: str | None = None  # the text of the control token that ended it, if it is a stop string
    end_token: int | None = None  # the token that ended it; None if something else did
    added: bool = False  # whether a scheduler has it
    error: EftError | None = None  # set if an error ended it; then there is no finish reason
    left_out: list[tuple[float, float]] = field(default_factory=list)  # see Reply
    _longest: int = field(init=False)  # tokens of the longest prompt

    def __post_init__(self) -> None:
        self._longest = max(map(len, self.prompts.values()))

    @property
    def ended(self) -> bool:
        """Whether the answer has ended, by a finish reason or an error."""
        return self.finish_reason is not None or self.error is not None

    @property
    def needs_whole(self) -> bool:
        """Whether rows must be of the whole vocabulary, also those of a base on a server.

        A log-probability needs the sum over all tokens.
        """
        return self.logprobs_of is not None

    @property
    def prompt_tokens(self) -> dict[str, int]:
        """Role -> number of tokens in its member's rendering of the conversation."""
        return {role: len(self.prompts[member]) for role, member in self.roles.items()}

    @property
    def reply(self) -> Reply:
        """The answer so far. Before it has ended, its finish reason is "cancelled"."""
        elapsed = self.last - self.first if self.first is not None else 0.0
        late = len(self.tokens) - self.at_first
        return Reply(
            text=self.stream.text,
            tokens=tuple(self.tokens),
            finish_reason=self.finish_reason or "cancelled",
            stopped_by=self.stream.stopped or self.stop_token,
            seed=self.seed,
            beta=self.settings.beta,
            prompt_tokens=self.prompt_tokens,
            ttft_s=None if self.first is None else self.first - self.started,
            tokens_per_s=late / elapsed if late > 0 and elapsed > 0 else None,
            kept=self.stream.kept,
            cached_tokens=self.cached or 0,
            whole=self.stream.whole,
            steps=self.steps,
            hits=tuple(self.hits),
            logprobs=tuple(self.logprobs),
            end_logprobs=self.end_logprobs,
            prompt_logprobs=tuple(self.prompt_logprobs),
            complete=None if self.matcher is None else self.matcher.complete(self.stream.text),
            end_token=self.end_token,
            place=self.place,
            left_out=tuple(self.left_out),
        )

    def splitter(self) -> Splitter:
        """A splitter of the answer's text into thoughts and answer, from its beginning on."""
        return Splitter(self.place)

    def begins(self, n_to_feed: int) -> None:
        """Reading of the prompt begins; some member has to be fed `n_to_feed` tokens. Later calls change nothing."""
        if self.cached is None:
            self.cached = max(0, min(map(len, self.prompts.values())) - n_to_feed)

    def room(self, n_ctx: int) -> int:
        """How many tokens may be guessed now: one fewer than max_tokens and the context still allow."""
        left = self.settings.max_tokens - len(self.tokens) - 1
        return max(0, min(left, n_ctx - self._longest - len(self.tokens)))

    def allowed(self, guesses: Sequence[int] = ()) -> NDArray[np.bool_] | None:
        """(n_real,) which tokens the constraint allows after the answer so far and `guesses`; None without one.

        Raises EftError for a constraint that is too complex.
        """
        if self.matcher is None:
            return None
        return self.matcher.allowed([*self.tokens, *guesses] if guesses else self.tokens)

    def distribution(self, row: Logits, guesses: Sequence[int] = ()) -> Distribution:
        """The distribution of the next token, after the answer so far and `guesses`.

        row: (n_real,) logits of the draft model or of the emulator. The constraint masks the row before the sampling
        settings apply, so top-p counts only tokens that may follow. Raises EftError for logits that cannot be sampled
        and for a constraint that is too complex.
        """
        tokens = [*self.tokens, *guesses] if guesses else self.tokens
        if (allowed := self.allowed(guesses)) is not None:
            row = np.where(allowed, row, np.float32(-np.inf))
        return warp(row, self.settings.sampling, tokens)

    def draw(self, row: Logits, guesses: Sequence[int] = ()) -> int:
        """The token that comes after the answer so far and `guesses`, if `row`, (n_real,), are its logits.

        The emulator's row gives the answer's token, the draft model's a guess at it: both draw with the random numbers
        of that position. Raises as `distribution`.
        """
        return self.distribution(row, guesses).draw(self.noise, len(self.tokens) + len(guesses))

    def report(self, token: int, z: Logits, rows: Mapping[int, Logits]) -> None:
        """Keep the log-probabilities of a token that was drawn, if the setting asks for them. Arguments as `Places`."""
        if self.logprobs_of is None:
            return
        if token in self.stop_tokens or self.is_end(token):
            self.end_logprobs = self.logprobs_of(token, z, rows)
        else:
            self.logprobs.append(self.logprobs_of(token, z, rows))

    def report_prompt(self, z: Logits) -> None:
        """Keep the log-probabilities of the next tokens of the prompt. z: (tokens, n_real) the combined logits."""
        assert self.logprobs_of is not None
        prompt, done = next(iter(self.prompts.values())), len(self.prompt_logprobs) + 1
        self.prompt_logprobs += [self.logprobs_of(prompt[done + i], row, {}) for i, row in enumerate(z)]

    def take(self, token: int, engine: Engine) -> str:
        """Append a token that was drawn, or end the answer. Returns the text that may be shown now."""
        self.last = time.perf_counter()
        if self.first is None:
            self.first = self.last
        if token in self.stop_tokens or self.is_end(token):
            self.stop_token, self.end_token = self.stop_tokens.get(token), token
            return self.end("stop")
        self.tokens.append(token)
        if self.steps == 1:
            self.at_first = len(self.tokens)
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
        """End the answer for `reason`, or for a stop string in the last text. Returns the text that was held back.

        An answer that was cut within a character ends before it: what is kept can be continued.
        """
        tail = self.stream.finish(cut=reason != "stop")
        self.finish_reason = "stop" if self.stream.stopped is not None else reason
        return tail


def must_fit(lengths: Mapping[str, int], n_ctx: int) -> None:
    """Raises ContextError if the prompt of a role (role -> tokens) leaves no room for one more token in `n_ctx`."""
    for role, n in lengths.items():
        if n >= n_ctx:
            raise ContextError(
                f"The prompt is {n} tokens long for the {role} model, and the context holds {n_ctx}.",
                "Shorten the conversation, or give a larger context (--ctx).",
                n_tokens=n,
                n_ctx=n_ctx,
            )
