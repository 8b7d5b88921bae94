"""Judges a trained model by what was kept back, through llama.cpp: alone, and in the emulator at several betas."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eftlocal.apps.tune.check import Prepared
from eftlocal.apps.tune.progress import Tell, TuneProgress
from eftlocal.apps.tune.verdict import BETAS, Answered, Chosen, Judged, Verdict
from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.bias import Bias
from eftlocal.arithmetic.combine import log_softmax
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog
from eftlocal.emulation import forced, loading
from eftlocal.emulation.emulator import Emulator, Job
from eftlocal.emulation.forced import Forced
from eftlocal.emulation.loading import Loaded
from eftlocal.errors import EftError
from eftlocal.evaluation.best import halves
from eftlocal.evaluation.calibration import Condensed, Found, condensed, fit, loss
from eftlocal.runs.examples import Chat, Pair, Text
from eftlocal.runtime.views import Message
from eftlocal.training.examples import Asked

__all__ = ["judge"]

AT_ONCE: Final = 8  # answers that are decoded together; always as many, so that the figures are always the same
LEAST: Final = 8  # answers that are halved to choose a beta and to judge it; of fewer, all do both
CERTAIN: Final = 2.0  # standard errors by which a bias must help
DIGITS: Final = 3  # of a beta and a bias
SHOWN: Final = 3  # questions that are answered
MOST_TOKENS: Final = 80  # of their answers
UNRELATED: Final = (
    "The river rises in the hills to the north and reaches the sea after two hundred miles. In spring the melting snow "
    "makes it deep and fast, and in late summer one can cross it on foot at several places. People have lived on its "
    "banks for thousands of years. They built mills and bridges, and they moved wool, timber and stone on flat boats. "
    "Today most of the trade goes by road and rail, and the old harbour is a museum. The water is clean again, and the "
    "fish that had disappeared for a century have come back."
)

Floats = NDArray[np.float64]


def judge(
    cat: Catalog,
    emulator: catalog.Emulator,
    reference: str,
    held_out: Sequence[Prepared],
    *,
    context: int,
    threads: int | None,
    tell: Tell = lambda _: None,
) -> Verdict | None:
    """Loads the emulator of a trained model, and measures it. None if nothing that can be asked was kept back.

    `reference` is the model that was trained, for an emulator that is the trained model alone. Raises what
    `loading.load` raises.
    """
    records = [_chat(each.record) for each in held_out if not isinstance(each.record, Text) and not each.too_long]
    if not records:
        return None
    steered = bool(emulator.rewards)
    if not steered:  # as tuned and reference of a reward, only to be asked
        reward = catalog.Reward(name="tuned", tuned=emulator.base, reference=reference)
        view = emulator.views["base"]
        views = {"base": view, "tuned": view, "reference": view}
        emulator = catalog.Emulator(name=emulator.name, base=reference, rewards=(reward,), views=views)
    loaded = loading.load(None, models=_with(cat, emulator), context=context, threads=threads)
    try:
        return _Judge(loaded, steered, tell).verdict(records)
    finally:
        loaded.engine.close()


def _with(cat: Catalog, emulator: catalog.Emulator) -> Catalog:
    models = {name: cat.model(name) for name in emulator.models}
    return Catalog(models={**cat.models, **models}, emulators={emulator.name: emulator}, default=(emulator.name,))


class _Judge:
    """One judgement. steered: whether there is a base, or tuned and reference alone."""

    def __init__(self, loaded: Loaded, steered: bool, tell: Tell) -> None:
        self.loaded, self.steered, self.tell = loaded, steered, tell
        self.members, self.roles = loaded.members, loaded.members.roles
        self.emulator = Emulator(loaded)

    def verdict(self, records: Sequence[Chat]) -> Verdict | None:
        answers = self._answers(records)
        if not answers:
            return None
        found, condensed = self._measured(answers)
        tokens = np.array([len(answer.tokens) for answer in answers], float)
        judged = {
            each: Judged(float(values[:, 0].sum() / tokens.sum()), float(values[:, 1].mean()))
            for each, values in found.items()
        }
        alone = {role: judged[role] for role in ("reference", "tuned", *(("base",) if self.steered else ()))}
        emulated = {beta: judged[beta] for beta in judged if isinstance(beta, float)}
        chosen = None
        if self.steered:
            trained = self.members.rewards[0].beta
            chosen = _chosen(found, tokens, condensed, trained)
        return Verdict(len(answers), alone, emulated, self._drift(), chosen, self._texts(records, chosen))

    def _answers(self, records: Sequence[Chat]) -> list[Forced]:
        """The answers that fit in the context, each with the prompt of each member."""
        workers = self.loaded.engine.workers
        asked = {
            member: Asked(self.members.views[member], workers.model(member))
            for member in dict.fromkeys(self.roles.values())
        }
        answers: list[Forced] = []
        for record in records:
            turns = {member: ask.turns(record.messages, record.left_out) for member, ask in asked.items()}
            for i, turn in enumerate(turns[self.roles["tuned"]]):
                prompts = {member: list(own[i].prompt) for member, own in turns.items()}
                if max(map(len, prompts.values())) + len(turn.answer) <= self.loaded.engine.n_ctx:
                    answers.append(Forced(prompts, turn.answer))
        return answers

    def _measured(self, answers: Sequence[Forced]) -> tuple[dict[str | float, Floats], list[Condensed]]:
        """For each role and beta, (answers, 2) log-probability and exactness; and the rows to fit a beta on."""
        ends = np.setdiff1d(self.emulator.ends(), self.members.skipped)
        wanted: list[str | float] = [*self.roles, *(BETAS if self.steered else ())]
        found: dict[str | float, list[tuple[float, bool]]] = {each: [] for each in wanted}
        rows: list[Condensed] = []
        started = time.monotonic()
        self.emulator.reserve(min(AT_ONCE, len(answers)))
        for n, (answer, z) in enumerate(
            zip(answers, forced.logits(self.loaded.engine, answers, self.members.n_real), strict=True), 1
        ):
            base, tuned, reference = (z[self.roles[role]] for role in ("base", "tuned", "reference"))
            if len(self.members.skipped):  # the reward is 0 there, so its level matters
                tuned, reference = log_softmax(tuned), log_softmax(reference)
            reward = tuned - reference
            reward[:, self.members.skipped] = 0
            for each in wanted:
                own = z[self.roles[each]] if isinstance(each, str) else base + np.float32(each) * reward
                found[each].append(_of(own, answer.tokens))
            if self.steered:
                rows.append(condensed(base, [reward], answer.tokens, ends))
            left = (time.monotonic() - started) / n * (len(answers) - n)
            self.tell(TuneProgress(phase="judging", done=n, total=len(answers), left_s=left))
        return {each: np.array(values, float) for each, values in found.items()}, rows

    def _drift(self) -> float:
        roles = self.roles
        model = self.loaded.engine.workers.model(roles["tuned"])
        first, *tokens = model.tokenize(UNRELATED)[: self.loaded.engine.n_ctx]
        both = {roles["tuned"]: [first], roles["reference"]: [first]}
        (z,) = forced.logits(self.loaded.engine, [Forced(both, tokens)], self.members.n_real)
        tuned, reference = (log_softmax(z[roles[role]]).astype(np.float64) for role in ("tuned", "reference"))
        return float((np.exp(reference) * (reference - tuned)).sum(1).mean())

    def _texts(self, records: Sequence[Chat], chosen: Chosen | None) -> tuple[Answered, ...]:
        """The first questions, answered by each model alone and by the emulator with what was chosen for it."""
        emulator = self.emulator
        if chosen is not None:
            bias = Bias(chosen.end) if chosen.end else None
            reward = replace(self.members.rewards[0], beta=chosen.beta, bias=bias)
            members = replace(self.members, rewards=(reward,))
            emulator = Emulator(replace(self.loaded, members=members))
        ways = {"reference": "reference", "tuned": "tuned", **({"base": "base", "emulated": None} if chosen else {})}
        asked = list({record.prompt: record for record in records}.values())[:SHOWN]
        jobs = [
            Job(record.prompt, {"temperature": 0.0, "max_tokens": MOST_TOKENS, "alone": alone}, tag=(i, name))
            for i, record in enumerate(asked)
            for name, alone in ways.items()
        ]
        texts: list[dict[str, str]] = [{} for _ in asked]
        emulator.forget()
        for answer in emulator.answers(jobs, parallel=AT_ONCE):
            i, name = answer.tag
            reply = answer.reply
            cut = "" if isinstance(reply, EftError) or reply.finish_reason == "stop" else " …"
            texts[i][name] = f"({reply.message})" if isinstance(reply, EftError) else reply.text + cut
        return tuple(
            Answered(
                record.prompt[-1].content,
                record.messages[len(record.prompt)].content,
                {name: texts[i][name] for name in ways},
            )
            for i, record in enumerate(asked)
        )


def _chat(record: Chat | Pair) -> Chat:
    """What is asked and answered: of a pair, the preferred answer."""
    if isinstance(record, Chat):
        return record
    return Chat(record.where, (*record.prompt, Message("assistant", record.chosen)))


def _of(rows: Logits, tokens: Sequence[int]) -> tuple[float, bool]:
    """The log-probability of an answer, and whether greedy decoding gives it."""
    picked = log_softmax(rows)[np.arange(len(tokens)), list(tokens)]
    return float(picked.sum(dtype=np.float64)), bool((rows.argmax(1) == list(tokens)).all())


def _chosen(found: Mapping[str | float, Floats], tokens: Floats, rows: Sequence[Condensed], trained: float) -> Chosen:
    """The beta, and perhaps a bias, that one half of the answers fits; the figures are of the other half.

    The bias is taken only if it helps the other half. With few answers all of them fit the beta, and judge it.
    """
    n = len(rows)
    fitting, judging = (half.tolist() for half in halves(n, 0)) if n >= LEAST else (list(range(n)), list(range(n)))
    start = Found(betas=(trained,))
    best = fit([rows[i] for i in fitting], start, end=False, unseen=False)
    judges = [rows[i] for i in judging]
    if n >= LEAST:
        biased = fit([rows[i] for i in fitting], start, unseen=False)
        gains = loss(judges, best)[:, 0] - loss(judges, biased)[:, 0]
        if gains.mean() > CERTAIN * gains.std(ddof=1) / np.sqrt(len(gains)):
            best = biased
    beta = round(best.betas[0], DIGITS) or trained  # a reward of strength 0 would be none
    if n < LEAST:  # a few answers that are all alike want more and more
        least, most = sorted((BETAS[0] * trained, BETAS[-1] * trained))
        beta = min(max(beta, least), most)
    kept = Found(betas=(beta,), end=round(best.end, DIGITS) if best.betas[0] else 0.0)

    def nats(values: Floats) -> float:
        return float(values.sum() / tokens[judging].sum())

    return Chosen(
        beta=beta,
        end=kept.end,
        fitted=len(fitting),
        judged=len(judging),
        apart=n >= LEAST,
        logprob=nats(-loss(judges, kept)[:, 0]),
        as_trained=nats(-loss(judges, start)[:, 0]),
        alone={role: nats(found[role][judging, 0]) for role in ("reference", "tuned", "base")},
    )
