"""Prepares answers and scores: renders a prompt for each member, checks lengths, and sets up the random numbers."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from types import MappingProxyType

from eftlocal.arithmetic.combine import Mix
from eftlocal.arithmetic.noise import Noise
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.constraints.matcher import Grammars, Matcher
from eftlocal.decoding.drafts.lookup import PromptLookup
from eftlocal.decoding.generation import Generation, must_fit
from eftlocal.decoding.logprobs import Places
from eftlocal.decoding.settings import Settings
from eftlocal.decoding.stream import TextStream
from eftlocal.decoding.thinking import ANSWER, MARKERS, START, Splitter, opened_by, spoken
from eftlocal.emulation.forced import Forced
from eftlocal.emulation.members import Members
from eftlocal.emulation.scoring import Task
from eftlocal.engine.workers import Workers
from eftlocal.errors import SettingError, ViewError
from eftlocal.runtime.ends import end_of
from eftlocal.runtime.plan.memory import Sizes
from eftlocal.runtime.views import RAW, Message, View

__all__ = ["Ids", "Preparer", "Prompt", "Raw", "as_messages", "new_seed"]


class Raw(str):
    """A prompt that every member gets unchanged: without a chat template and without turns."""

    __slots__ = ()


class Ids(tuple[int, ...]):
    """A prompt as token ids, which every member gets as they are: no BOS token is added."""

    __slots__ = ()


Prompt = str | Sequence[Message] | Ids

WORTH_DRAFTING = 32_000_000  # bytes; a smaller model decodes a token about as fast as a draft model makes a guess
FAR = 1 << 60
DRAFTER = 0.5  # a draft model reads at most this share of what the largest member reads for a token

RAW_VIEW = View(template=RAW, variables={})
END = 16  # tokens at the end of a prompt among which the marker is that opens thoughts
NO_ARGS: Mapping[str, object] = MappingProxyType({})


class Preparer:
    """Prepares generations and score tasks for the members of one emulator. It keeps compiled constraints."""

    def __init__(self, members: Members, workers: Workers) -> None:
        self._members = members
        self._workers = workers
        self._grammars: dict[tuple[int, ...], Grammars] = {}  # for each set of members that run
        self._reads: dict[Path, int] = {}  # file -> bytes of weights read for a token

    def generation(
        self,
        prompt: Prompt,
        settings: Settings,
        rng_key: Sequence[int],
        *,
        template_args: Mapping[str, object] = NO_ARGS,
        score_prompt: bool = False,
    ) -> Generation:
        """An answer that is ready for the scheduler. Its random numbers come from (seed, *rng_key).

        `template_args` are variables for the chat templates, in addition to the emulator's. Raises ContextError
        if the prompt leaves no room for an answer, ViewError and SettingError.
        """
        mix = self._members.mix(settings)
        prompts = self.prompts(prompt, mix, template_args)
        if not self._may_guess(mix, settings):
            settings = replace(settings, draft=0)
        drafter = self._drafter(mix, settings)
        looks_up = settings.draft == "auto" or (bool(settings.draft) and drafter is None)
        seed = new_seed() if settings.seed is None else settings.seed
        piece = self._workers.model(mix.active[0]).piece
        stop_tokens = self._stop_tokens(mix, settings)
        generation = Generation(
            prompts=prompts,
            mix=mix,
            settings=settings,
            seed=seed,
            stream=TextStream(piece, self._stops(prompt, mix, settings)),
            roles={role: member for role, member in self._members.roles.items() if member in prompts},
            is_end=self._workers.ends(mix.active),
            stop_tokens=stop_tokens,
            noise=Noise([seed, *rng_key]),
            drafter=drafter,
            lookup=PromptLookup(next(iter(prompts.values()))) if looks_up else None,
            matcher=None if settings.constraint is None else self._matcher(mix, settings.constraint),
            place=self._place(prompt, prompts, mix, settings, template_args),
        )
        if score_prompt:
            if settings.logprobs is None or len({tuple(ids) for ids in prompts.values()}) > 1:
                raise SettingError(
                    "The prompt's tokens can be scored only with logprobs, and if all members see the same tokens.",
                    "Set logprobs, and give token ids or a raw text.",
                )
            generation.score_prompt = True
        if settings.logprobs is not None:
            pairs = {reward.name: (reward.tuned, reward.reference) for reward in self._members.rewards}
            base, n_real = self._members.base, self._members.n_real
            generation.logprobs_of = Places(base, pairs, n_real, piece, settings.logprobs)
        must_fit(generation.prompt_tokens, self._workers.n_ctx)
        return generation

    def _may_guess(self, mix: Mix, settings: Settings) -> bool:
        """Whether drafts are possible, and with "auto" whether they can be faster. It depends on settings and files."""
        if not all(self._workers.model(member).rewinds for member in mix.active):
            return False  # after a wrong guess the whole prompt would be read again
        return settings.draft != "auto" or any(self._read(member) >= WORTH_DRAFTING for member in mix.active)

    def _drafter(self, mix: Mix, settings: Settings) -> int | None:
        """The draft model's member; None if there is none, and for "auto" where no member is small enough."""
        drafter = self._members.drafter(mix) if settings.draft else None
        if drafter is None or settings.draft != "auto":
            return drafter
        return drafter if self._read(drafter) <= DRAFTER * max(map(self._read, mix.active)) else None

    def _read(self, member: int) -> int:
        """Bytes of weights that the member reads for a token; more than any here for one on a server."""
        spec = self._members.specs[member]
        if spec.remote is not None:
            return FAR
        header = spec.header
        if header.path not in self._reads:
            self._reads[header.path] = Sizes.of(header).read
        return self._reads[header.path]

    def prompts(self, prompt: Prompt, mix: Mix, template_args: Mapping[str, object] = NO_ARGS) -> dict[int, list[int]]:
        """Member -> token ids of its rendering of a prompt, for each member that runs. Raises ViewError."""
        return {member: self.prompt(member, prompt, template_args) for member in mix.active}

    def prompt(self, member: int, prompt: Prompt, template_args: Mapping[str, object] = NO_ARGS) -> list[int]:
        """The token ids of a member's rendering of a prompt. Raises ViewError, and SettingError for a wrong id."""
        if isinstance(prompt, Ids):
            if not prompt:
                raise ViewError("The prompt is empty.", "Give at least one token.")
            self._check_ids("The prompt", prompt)
            return list(prompt)
        view = RAW_VIEW if isinstance(prompt, Raw) else self._members.views[member]
        if template_args:
            view = replace(view, variables={**view.variables, **template_args})
        return view.prompt(self._workers.model(member), self._conversation(prompt, view))

    def _conversation(self, prompt: Prompt, view: View) -> list[Message]:
        """The prompt's messages under its system text, else the emulator's. An empty system text stands for none.

        Earlier answers are without their thoughts, unless the view's template keeps those. Templates of models that
        think leave them out; so a base that knows no thoughts reads the same conversation.
        """
        messages = as_messages(prompt)
        default = None if isinstance(prompt, Raw) else self._members.system
        if default and not any(message.role == "system" for message in messages):
            messages = [Message("system", default), *messages]
        for message in messages:
            self._check_ids(f"A message of the {message.role}", message.tokens)
        said = [*map(self._without_thoughts, messages[:-1]), *messages[-1:]]  # the last one is asked, or continued
        if said != messages and not _keeps_thoughts(view):
            messages = said
        return [message for message in messages if message.role != "system" or message.content]

    def _place(
        self,
        prompt: Prompt,
        prompts: Mapping[int, Sequence[int]],
        mix: Mix,
        settings: Settings,
        template_args: Mapping[str, object],
    ) -> str:
        """Where the answer begins, for telling thoughts apart: within them, if the prompt of one member opens them.

        An answer that is continued begins where its text has come to. Without turns, or with a constraint, an answer
        has no thoughts.
        """
        if isinstance(prompt, Raw | Ids) or settings.constraint is not None:
            return ANSWER
        messages, opened = as_messages(prompt), ""
        if messages and messages[-1].role == "assistant":
            *messages, last = messages
            opened = last.content
            prompts = self.prompts(messages, mix, template_args)
        places = (opened_by(self._end_of(member, tokens)) for member, tokens in prompts.items())
        splitter = Splitter(next((place for place in places if place != START), START))
        splitter.push(opened)
        return splitter.place

    def _end_of(self, member: int, tokens: Sequence[int]) -> str:
        """The last text of a member's prompt."""
        return b"".join(map(self._workers.model(member).piece, tokens[-END:])).decode("utf-8", "replace")

    def _without_thoughts(self, message: Message) -> Message:
        """An earlier answer as all members read it: without its thoughts, and with the tokens of the rest."""
        rest = spoken(message.content) if message.role == "assistant" else message.content
        if rest == message.content:
            return message
        return Message("assistant", rest, self._tail(message.tokens, message.content[: -len(rest) or None]))

    def _tail(self, tokens: tuple[int, ...], head: str) -> tuple[int, ...]:
        """The tokens that come after the text `head`, with which they begin. None, if it ends within a token."""
        left = len(head.encode("utf-8", "surrogatepass"))
        for i, token in enumerate(tokens):
            if left <= 0:
                return tokens[i:] if left == 0 else ()
            left -= len(self._workers.model(0).piece(token))
        return ()

    def _check_ids(self, what: str, tokens: Sequence[int]) -> None:
        """Raises SettingError for a token id that the members do not have: llama.cpp would end the process."""
        for token in tokens:
            if isinstance(token, bool) or not isinstance(token, Integral) or not 0 <= token < self._members.n_real:
                raise SettingError(
                    f"{what} has the token id {token!r}; ids are whole numbers from 0 to {self._members.n_real - 1}."
                )

    def task(self, prompt: Prompt, completion: str | Sequence[int], mix: Mix, top: int) -> Task:
        """The task to score a completion (text, or token ids) after a prompt, with every member.

        Raises ContextError if it does not fit, ViewError, and SettingError for an empty completion.
        """
        if isinstance(top, bool) or not isinstance(top, Integral) or top < 0:
            raise SettingError(f"top is {top!r}; it must be a whole number, 0 or above.")
        return Task(mix, *self.forced(prompt, completion), top)

    def forced(self, prompt: Prompt, completion: str | Sequence[int], *, ends: bool = False) -> Forced:
        """Every member's prompt, and the completion's tokens; with `ends` also the token that ends an answer.

        Raises ContextError if it does not fit, ViewError, and SettingError for an empty completion.
        """
        prompts = {member: self.prompt(member, prompt) for member in range(len(self._members.specs))}
        tokens = self._workers.model(0).tokenize(completion) if isinstance(completion, str) else list(completion)
        if not tokens:
            raise SettingError("The completion is empty.", "Give at least one character to score.")
        self._check_ids("The completion", tokens)
        tokens += [self.end] if ends and self.end is not None else []
        lengths = {role: len(prompts[m]) + len(tokens) - 1 for role, m in self._members.roles.items()}
        must_fit(lengths, self._workers.n_ctx)
        return Forced(prompts, tokens)

    @cached_property
    def end(self) -> int | None:
        """The token that ends an answer of the first reward's tuned model, or else of the base; None if it has none."""
        member = next((reward.tuned for reward in self._members.rewards), self._members.base)
        return end_of(self._members.views[member], self._workers.model(member))

    def _stops(self, prompt: Prompt, mix: Mix, settings: Settings) -> tuple[str, ...]:
        """All stop strings of an answer. With a constraint, those of the views do not count: its text may hold them."""
        free = not isinstance(prompt, Raw | Ids) and settings.constraint is None
        views = [self._members.views[member] for member in mix.active] if free else []
        return tuple(dict.fromkeys((*settings.stop, *(stop for view in views for stop in view.stops))))

    def _stop_tokens(self, mix: Mix, settings: Settings) -> dict[int, str]:
        """The control tokens that are stop strings. They never show in the text, so no search of the text finds them.

        Raises SettingError for a stop string that holds such a token beside other text: nothing would ever match it.
        """
        controls: dict[str, int] = {}
        for member in mix.active if settings.stop else ():
            controls |= self._workers.model(member).controls
        for stop in settings.stop:
            inside = next((text for text in controls if text in stop and stop not in controls), None)
            if inside is not None:
                raise SettingError(
                    f"The stop string {stop!r} holds the control token {inside!r} and other text, so it never matches.",
                    f"Use {inside!r} alone.",
                    setting="stop",
                )
        return {controls[stop]: stop for stop in settings.stop if stop in controls}

    def _matcher(self, mix: Mix, constraint: Constraint) -> Matcher:
        if mix.active not in self._grammars:
            model, tokens = self._workers.model(mix.active[0]), range(self._members.n_real)
            is_end = self._workers.ends(mix.active)
            ends = [token for token in tokens if is_end(token)]
            self._grammars[mix.active] = Grammars([model.piece(token) for token in tokens], ends, model.tokenize)
        return self._grammars[mix.active].matcher(constraint)


def _keeps_thoughts(view: View) -> bool:
    """Whether the view's template knows markers of thoughts, and writes those of earlier answers too."""
    for opening, closing in MARKERS:
        if closing in view.template:
            with suppress(ViewError):
                answer = Message("assistant", f"{opening}\nthoughts\n{closing}\n\nanswer")
                return "thoughts" in view.text([Message("user", "?"), answer, Message("user", "?")])
    return False


def as_messages(prompt: Prompt) -> list[Message]:
    """A prompt as a conversation; a text becomes one message of the user."""
    assert not isinstance(prompt, Ids), "token ids have no messages"
    return [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)


def new_seed() -> int:
    """A random seed of 32 bits."""
    return secrets.randbits(32)
