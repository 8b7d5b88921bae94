"""The two kinds of work, answers to prompts and scores of completions: from a record to the output's own fields."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import islice
from typing import Final, NamedTuple, Protocol

from eftlocal.apps.batch.fingerprint import models
from eftlocal.apps.batch.records import Form, Record
from eftlocal.arithmetic.sample import Sampling
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.batch import PAUSE, Job
from eftlocal.emulation.emulator import SCORED_AT_ONCE, Emulator
from eftlocal.emulation.scoring import Score
from eftlocal.errors import EftError

__all__ = ["Answers", "Finished", "Item", "Scores", "Work"]

SCORED: Final = ("beta", "mix", "reward_top_p", "alone")  # the settings that a score depends on


class Item(NamedTuple):
    """One line of the output that is to be made; places count them in the input's order."""

    place: int
    record: Record
    sample: int


class Finished(NamedTuple):
    """An item's own fields of the output, or why there are none; how many tokens it took, and what ended it."""

    item: Item
    result: Mapping[str, object] | EftError
    tokens: int = 0
    reason: str | None = None


class Work(Protocol):
    """What a run does with every record."""

    unit: str

    def origin(self, record: Record | None) -> dict[str, object]:
        """What a line is made with: settings (None: of a line that says nothing), emulator and models."""
        ...

    def do(self, items: Iterator[Item | None], cancelled: Callable[[], bool]) -> Generator[Finished, None, None]:
        """Work on items as they are pulled; they may finish in another order. What was cancelled does not come back.

        None among them: the next item is not there yet.
        """
        ...


class _Origin:
    """The fields that say how a line was made. `seed`: that of the lines without one of their own."""

    def __init__(self, emulator: Emulator, form: Form, seed: int | None = None) -> None:
        self._emulator = emulator
        self._form = form
        self._seed: Dials = {} if seed is None else {"seed": seed}
        self._models = models(emulator.engine.specs, emulator.views)

    def dials(self, record: Record | None) -> Dials:
        return {**self._seed, **(record.dials if record is not None else {})}

    def of(self, record: Record | None, own: Mapping[str, object], only: tuple[str, ...] | None) -> dict[str, object]:
        """`own`: what the work has to say beside the settings; `only`: those that matter to it."""
        settings = self._emulator.settings.turned(**self.dials(record))
        found = _flat(settings) | {"mix": {n: settings.mix.get(n, b) for n, b in self._emulator.betas.items()}}
        found = {name: value for name, value in found.items() if only is None or name in only}
        if self._form.raw:
            found["raw"] = True
        if self._form.system is not None and (record is None or record.fields.get("system") is None):
            found["system"] = self._form.system
        found |= {**own, "context": self._emulator.context, "kv_type": self._emulator.engine.kv_type}
        return {"settings": found, "emulator": self._emulator.name, "models": self._models}


def _flat(settings: Settings) -> dict[str, object]:
    """Settings and sampling by name, as JSON has them; what is off (None) is left out."""
    names = [f.name for f in fields(Settings) if f.name != "sampling"]
    found = {name: getattr(settings, name) for name in names}
    found |= {f.name: getattr(settings.sampling, f.name) for f in fields(Sampling)}
    if settings.constraint is not None:
        found["constraint"] = {settings.constraint.kind: settings.constraint.text}
    found["logit_bias"] = {str(k): v if v > float("-inf") else "-inf" for k, v in settings.sampling.logit_bias.items()}
    return {name: value for name, value in found.items() if value is not None}


class Answers:
    """Generation: an answer, or `n` of them, to every prompt.

    A line with a seed of its own draws what `eftlocal generate --seed` would; the others draw from (the run's seed, the
    line), so that no answer depends on which others are asked for beside it.
    """

    unit = "answer"

    def __init__(self, emulator: Emulator, form: Form, *, seed: int, parallel: int) -> None:
        self._emulator = emulator
        self._form = form
        self._parallel = parallel
        self._origin = _Origin(emulator, form, seed)

    def origin(self, record: Record | None) -> dict[str, object]:
        return self._origin.of(record, {"n": self._form.samples if record is None else record.samples}, None)

    def do(self, items: Iterator[Item | None], cancelled: Callable[[], bool]) -> Generator[Finished, None, None]:
        for answer in self._emulator.answers(map(self._job, items), parallel=self._parallel, cancelled=cancelled):
            item = answer.tag
            assert isinstance(item, Item)
            if isinstance(answer.reply, EftError):
                yield Finished(item, answer.reply)
            elif answer.reply.finish_reason != "cancelled":
                reply = answer.reply
                yield Finished(item, _answer(reply), len(reply.tokens), reply.finish_reason)

    def _job(self, item: Item | None) -> Job | None:
        return item if item is None else Job(item.record.prompt, self._origin.dials(item.record), _stream(item), item)


def _stream(item: Item) -> tuple[int, int]:
    """The stream of random numbers. (A seed sequence takes trailing zeros for nothing: sample 0 draws as one alone.)"""
    return 0 if "seed" in item.record.dials else item.record.line - 1, item.sample


def _answer(reply: Reply) -> dict[str, object]:
    usage = {"prompt_tokens": dict(reply.prompt_tokens), "completion_tokens": len(reply.tokens)}
    found: dict[str, object] = {"text": reply.text, "finish_reason": reply.finish_reason, "usage": usage}
    if reply.complete is not None:
        found["complete"] = reply.complete
    if reply.logprobs:
        found["logprobs"] = [asdict(token) for token in reply.logprobs]
    return found


class Scores:
    """Scoring: the log-probabilities of every completion, their sums alone or also token by token."""

    unit = "score"

    def __init__(self, emulator: Emulator, form: Form, *, tokens: bool) -> None:
        self._emulator = emulator
        self._tokens = tokens
        self._origin = _Origin(emulator, form)

    def origin(self, record: Record | None) -> dict[str, object]:
        return self._origin.of(record, {"tokens": self._tokens}, SCORED)

    def do(self, items: Iterator[Item | None], cancelled: Callable[[], bool]) -> Generator[Finished, None, None]:
        while not cancelled() and (group := _group(items, SCORED_AT_ONCE)) is not None:
            if not group:
                time.sleep(PAUSE)
                continue
            records = [item.record for item in group]
            pairs = [(r.prompt, text, self._origin.dials(r)) for r in records for text in r.completions]
            scores = iter(self._emulator.score_many(pairs))
            for item in group:
                yield self._finished(item, list(islice(scores, len(item.record.completions))))

    def _finished(self, item: Item, found: list[Score | EftError]) -> Finished:
        scores = []
        for score in found:
            if isinstance(score, EftError):
                return Finished(item, score)
            scores.append(score)
        sums = [_sums(score, self._tokens) for score in scores]
        own = {"scores": sums} if item.record.several else {"score": sums[0]}
        return Finished(item, own, sum(len(score.tokens) for score in scores))


def _group(items: Iterator[Item | None], most: int) -> list[Item] | None:
    """The next items, `most` of them or as many as are there already. None: there are no more."""
    group: list[Item] = []
    for item in items:
        if item is not None:
            group.append(item)
        if item is None or len(group) == most:
            return group
    return group or None


def _sums(score: Score, tokens: bool) -> dict[str, object]:
    """A completion's log-probability under the emulator and under each role alone: sums over its tokens."""
    rewards = {
        name: {role: sum(token.rewards[name][role] for token in score.tokens) for role in pair}
        for name, pair in score.tokens[0].rewards.items()
    }
    return {
        "logprob": score.logprob,
        "base": sum(token.base for token in score.tokens),
        "rewards": rewards,
        "completion_tokens": len(score.tokens),
        **({"tokens": [asdict(token) for token in score.tokens]} if tokens else {}),
    }
