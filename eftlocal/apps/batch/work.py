"""The two kinds of work of a run, answers and scores: from a record to the fields of an output line."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from typing import Final

from eftlocal.apps.batch.records import Form, Record
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.batch import Answer, Job
from eftlocal.emulation.emulator import SCORED_AT_ONCE, Emulator
from eftlocal.emulation.scoring import Score
from eftlocal.errors import EftError
from eftlocal.runs import work as runs
from eftlocal.runs.fingerprint import models

__all__ = ["Answers", "Scores", "Work"]

SCORED: Final = ("beta", "mix", "reward_top_p", "alone")  # the settings that a score depends on


Item = runs.Item[Record]
Finished = runs.Finished[Record]
Work = runs.Work[Record]


class _Origin:
    """Makes the fields that say how a line was made. `seed` is for lines without their own seed."""

    def __init__(self, emulator: Emulator, form: Form, seed: int | None = None) -> None:
        self._emulator = emulator
        self._form = form
        self._seed: Dials = {} if seed is None else {"seed": seed}
        self._models = models(emulator.members.specs, emulator.members.views)
        self._biases = {name: bias.as_json() for name, bias in emulator.biases.items()}

    def dials(self, record: Record | None) -> Dials:
        return {**self._seed, **(record.dials if record is not None else {})}

    def of(self, record: Record | None, own: Mapping[str, object], only: tuple[str, ...] | None) -> dict[str, object]:
        """The fields of one line. own: the work's own settings. only: the emulator's settings to name; None is all."""
        settings = self._emulator.settings.turned(**self.dials(record))
        found = _flat(settings) | {"mix": {n: settings.mix.get(n, b) for n, b in self._emulator.betas.items()}}
        found = {name: value for name, value in found.items() if only is None or name in only}
        if self._biases:
            found["bias"] = self._biases
        if self._form.raw:
            found["raw"] = True
        elif (day := self._emulator.members.date) is not None:
            found["date"] = day.isoformat()
        if self._form.template is not None:
            found["template"] = self._form.template.message("$input")
        system = (
            self._emulator.members.system if self._form.system is None and not self._form.raw else self._form.system
        )
        if system is not None and (record is None or record.fields.get("system") is None):
            found["system"] = system
        found |= {**own, "context": self._emulator.context, "kv_type": self._emulator.kv_type}
        return {"settings": found, "emulator": self._emulator.name, "models": self._models}


def _flat(settings: Settings) -> dict[str, object]:
    """Name -> setting, in the form of the output's lines. Settings that are off (None) are left out."""
    found: dict[str, object] = {**settings.dials()}
    if settings.constraint is not None:
        found["constraint"] = {settings.constraint.kind: settings.constraint.text}
    found["logit_bias"] = {str(k): v if v > float("-inf") else "-inf" for k, v in settings.sampling.logit_bias.items()}
    return {name: value for name, value in found.items() if value is not None}


class Answers:
    """The work of `generate`: one answer, or `n` answers, to each prompt.

    A line with its own seed gets the same answer as from `eftlocal generate --seed`. The random numbers of the other
    lines come from (the run's seed, the line's number). So an answer does not depend on the lines beside it.
    """

    unit = "answer"

    def __init__(self, emulator: Emulator, form: Form, *, seed: int, parallel: int) -> None:
        self._form = form
        self._origin = _Origin(emulator, form, seed)
        self._batch = emulator.batch(parallel)

    @property
    def room(self) -> int:
        return self._batch.room

    def __len__(self) -> int:
        return len(self._batch)

    def origin(self, record: Record | None) -> dict[str, object]:
        return self._origin.of(record, {"n": self._form.samples if record is None else record.samples}, None)

    def add(self, item: Item) -> Finished | None:
        job = Job(item.record.prompt, self._origin.dials(item.record), _rng_key(item), item)
        refused = self._batch.add(job)
        return None if refused is None else _finished(refused)

    def step(self) -> list[Finished]:
        finished = map(_finished, self._batch.step())
        return [one for one in finished if one.reason != "cancelled"]

    def cancel(self) -> None:
        self._batch.cancel()

    def close(self) -> None:
        self._batch.close()


def _rng_key(item: Item) -> tuple[int, int]:
    """The key of an item's random numbers. Numpy ignores trailing zeros, so sample 0 draws like a single answer."""
    return 0 if "seed" in item.record.dials else item.record.line - 1, item.sample


def _finished(answer: Answer) -> Finished:
    item, reply = answer
    assert isinstance(item, runs.Item)
    if isinstance(reply, EftError):
        return Finished(item, reply)
    return Finished(item, _answer(reply), len(reply.tokens), reply.finish_reason)


def _answer(reply: Reply) -> dict[str, object]:
    usage = {"prompt_tokens": dict(reply.prompt_tokens), "completion_tokens": len(reply.tokens)}
    found: dict[str, object] = {"text": reply.text, "finish_reason": reply.finish_reason, "usage": usage}
    if parts := reply.parts:
        found["parts"] = parts
    if reply.complete is not None:
        found["complete"] = reply.complete
    if reply.logprobs:
        found["logprobs"] = [asdict(token) for token in reply.logprobs]
    if unknown := reply.unknown:
        found["unknown"] = unknown
    return found


class Scores:
    """The work of `score`: the log-probability of each completion, and of each of its tokens if `tokens` is set."""

    unit = "score"

    def __init__(self, emulator: Emulator, form: Form, *, tokens: bool) -> None:
        self._emulator = emulator
        self._tokens = tokens
        self._origin = _Origin(emulator, form)
        self._items: list[Item] = []

    @property
    def room(self) -> int:
        return SCORED_AT_ONCE - len(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def origin(self, record: Record | None) -> dict[str, object]:
        return self._origin.of(record, {"tokens": self._tokens}, SCORED)

    def add(self, item: Item) -> Finished | None:
        self._items.append(item)
        return None

    def step(self) -> list[Finished]:
        items, self._items = self._items, []
        records = [item.record for item in items]
        pairs = [(r.prompt, text, self._origin.dials(r)) for r in records for text in r.completions]
        scores = iter(self._emulator.score_many(pairs))
        return [self._finished(item, list(islice(scores, len(item.record.completions)))) for item in items]

    def cancel(self) -> None:
        self._items.clear()

    def close(self) -> None:
        self._items.clear()

    def _finished(self, item: Item, found: list[Score | EftError]) -> Finished:
        scores = []
        for score in found:
            if isinstance(score, EftError):
                return Finished(item, score)
            scores.append(score)
        sums = [_sums(score, self._tokens) for score in scores]
        own = {"scores": sums} if item.record.several else {"score": sums[0]}
        return Finished(item, own, sum(len(score.tokens) for score in scores))


def _sums(score: Score, tokens: bool) -> dict[str, object]:
    """A completion's log-probability under the emulator and under each role by itself, summed over its tokens."""
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
