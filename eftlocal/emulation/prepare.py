"""Prepares answers and scores: from a prompt and settings to what the scheduler decodes, with every check before."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from numbers import Integral
from pathlib import Path

from eftlocal.arithmetic.combine import Mix
from eftlocal.arithmetic.noise import Noise
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.constraints.matcher import Grammars, Matcher
from eftlocal.decoding.drafts.lookup import PromptLookup
from eftlocal.decoding.generation import Generation, must_fit
from eftlocal.decoding.logprobs import Places
from eftlocal.decoding.settings import Settings
from eftlocal.decoding.stream import TextStream
from eftlocal.decoding.thinking import ANSWER
from eftlocal.emulation.forced import Forced
from eftlocal.emulation.members import Members
from eftlocal.emulation.prompts import NO_ARGS, Ids, Prompt, Raw, Renderer
from eftlocal.emulation.scoring import Task
from eftlocal.engine.workers import Workers
from eftlocal.errors import SettingError
from eftlocal.runtime.ends import end_of
from eftlocal.runtime.plan.memory import Sizes

__all__ = ["Preparer", "new_seed"]

WORTH_DRAFTING = 32_000_000  # bytes; a smaller model decodes a token about as fast as a draft model makes a guess
FAR = 1 << 60
DRAFTER = 0.5  # a draft model reads at most this share of what the largest member reads for a token


class Preparer:
    """Prepares generations and score tasks for the members of one emulator. It keeps compiled constraints."""

    def __init__(self, members: Members, workers: Workers, renderer: Renderer) -> None:
        self._members = members
        self._workers = workers
        self._renderer = renderer
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
        prompts = self._renderer.prompts(prompt, mix, template_args)
        if not self._may_guess(mix, settings):
            settings = replace(settings, draft=0)
        drafter = self._drafter(mix, settings)
        looks_up = settings.draft == "auto" or (bool(settings.draft) and drafter is None)
        seed = new_seed() if settings.seed is None else settings.seed
        piece = self._workers.model(mix.active[0]).piece
        stop_tokens = self._stop_tokens(mix, settings)
        place = ANSWER  # a constraint says what all of the text is, so it has no thoughts
        if settings.constraint is None:
            place = self._renderer.place(prompt, prompts, mix, template_args)
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
            place=place,
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
        prompts = {member: self._renderer.prompt(member, prompt) for member in range(len(self._members.specs))}
        tokens = self._workers.model(0).tokenize(completion) if isinstance(completion, str) else list(completion)
        if not tokens:
            raise SettingError("The completion is empty.", "Give at least one character to score.")
        self._renderer.check_ids("The completion", tokens)
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


def new_seed() -> int:
    """A random seed of 32 bits."""
    return secrets.randbits(32)
