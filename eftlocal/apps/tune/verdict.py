"""Judges a trained model by what was kept back, through llama.cpp: alone, and in the emulator at several betas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eftlocal.apps.tune.check import Prepared
from eftlocal.arithmetic.combine import Logits, log_softmax
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog
from eftlocal.emulation import forced, loading
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.forced import Forced
from eftlocal.emulation.loading import Loaded
from eftlocal.runs.examples import Chat
from eftlocal.training.examples import Asked

__all__ = ["BETAS", "Judged", "Verdict", "judge", "table"]

BETAS: Final = (0.5, 0.75, 1.0, 1.5, 2.0)
UNRELATED: Final = (
    "The river rises in the hills to the north and reaches the sea after two hundred miles. In spring the melting snow "
    "makes it deep and fast, and in late summer one can cross it on foot at several places. People have lived on its "
    "banks for thousands of years. They built mills and bridges, and they moved wool, timber and stone on flat boats. "
    "Today most of the trade goes by road and rail, and the old harbour is a museum. The water is clean again, and the "
    "fish that had disappeared for a century have come back."
)


@dataclass(frozen=True, slots=True)
class Judged:
    """How well someone gives the answers: nats for each token, and the share that greedy decoding gives exactly."""

    logprob: float
    exact: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was measured on `answers` answers that were not trained.

    alone     reference, tuned and, where there is one, base: each by itself
    emulated  beta -> the emulator with it; empty without a base
    drift     mean divergence from the reference to the tuned model on a text that has nothing to do with the examples
    """

    answers: int
    alone: Mapping[str, Judged]
    emulated: Mapping[float, Judged]
    drift: float

    @property
    def beta(self) -> float | None:
        """The beta with the highest log-probability; None without a base."""
        return max(self.emulated, key=lambda beta: self.emulated[beta].logprob) if self.emulated else None

    @property
    def better(self) -> str | None:
        """The role that is better by itself than the emulator at its best beta; None if there is none."""
        if self.beta is None:
            return None
        emulated = self.emulated[self.beta].logprob
        return next((role for role in ("tuned", "base") if self.alone[role].logprob >= emulated), None)


def judge(
    cat: Catalog,
    emulator: catalog.Emulator,
    reference: str,
    held_out: Sequence[Prepared],
    *,
    context: int,
    threads: int | None,
) -> Verdict | None:
    """Loads the emulator of a trained model, and measures it. None if nothing that can be asked was kept back.

    `reference` is the model that was trained, for an emulator that is the trained model alone. Raises what
    `loading.load` raises.
    """
    records = [each.record for each in held_out if isinstance(each.record, Chat) and not each.too_long]
    if not records:
        return None
    steered = bool(emulator.rewards)
    if not steered:  # as tuned and reference of a reward, only to be asked
        reward = catalog.Reward(name="tuned", tuned=emulator.base, reference=reference)
        view = emulator.views["base"]
        views = {"base": view, "tuned": view, "reference": view}
        emulator = catalog.Emulator(name=emulator.name, base=reference, rewards=(reward,), views=views)
    added = _with(cat, emulator)
    loaded = loading.load(None, models=added, context=context, threads=threads)
    try:
        found = _measured(loaded, records, steered)
        return Verdict(*found, _drift(loaded))
    finally:
        loaded.engine.close()


def _with(cat: Catalog, emulator: catalog.Emulator) -> Catalog:
    models = {name: cat.model(name) for name in emulator.models}
    return Catalog(models={**cat.models, **models}, emulators={emulator.name: emulator}, default=(emulator.name,))


def _measured(
    loaded: Loaded, records: Sequence[Chat], steered: bool
) -> tuple[int, dict[str, Judged], dict[float, Judged]]:
    roles, members = loaded.members.roles, loaded.members
    workers = loaded.engine.workers
    asked = {member: Asked(members.views[member], workers.model(member)) for member in dict.fromkeys(roles.values())}
    answers: list[Forced] = []
    for record in records:
        turns = {member: ask.turns(record.messages, record.left_out) for member, ask in asked.items()}
        for i, turn in enumerate(turns[roles["tuned"]]):
            prompts = {member: list(own[i].prompt) for member, own in turns.items()}
            if max(map(len, prompts.values())) + len(turn.answer) <= loaded.engine.n_ctx:
                answers.append(Forced(prompts, turn.answer))
    emulator = Emulator(loaded)
    emulator.reserve(min(emulator.parallel, len(answers)))
    wanted: list[str | float] = [*roles, *(BETAS if steered else ())]
    sums: dict[str | float, list[tuple[float, bool]]] = {each: [] for each in wanted}
    for answer, z in zip(answers, forced.logits(loaded.engine, answers, members.n_real), strict=True):
        base, tuned, reference = (z[roles[role]] for role in ("base", "tuned", "reference"))
        reward = tuned - reference
        reward[:, members.skipped] = 0
        for each in wanted:
            rows = z[roles[each]] if isinstance(each, str) else base + np.float32(each) * reward
            sums[each].append(_of(rows, answer.tokens))
    total = sum(len(answer.tokens) for answer in answers)
    judged = {
        each: Judged(sum(logprob for logprob, _ in found) / total, sum(exact for _, exact in found) / len(found))
        for each, found in sums.items()
    }
    alone = {role: judged[role] for role in ("reference", "tuned", *(("base",) if steered else ()))}
    return len(answers), alone, {beta: judged[beta] for beta in wanted if isinstance(beta, float)}


def _of(rows: Logits, tokens: Sequence[int]) -> tuple[float, bool]:
    """The log-probability of an answer, and whether greedy decoding gives it."""
    picked = log_softmax(rows)[np.arange(len(tokens)), list(tokens)]
    return float(picked.sum(dtype=np.float64)), bool((rows.argmax(1) == list(tokens)).all())


def _drift(loaded: Loaded) -> float:
    roles = loaded.members.roles
    first, *tokens = loaded.engine.workers.model(roles["tuned"]).tokenize(UNRELATED)[: loaded.engine.n_ctx]
    both = {roles["tuned"]: [first], roles["reference"]: [first]}
    (z,) = forced.logits(loaded.engine, [Forced(both, tokens)], loaded.members.n_real)
    tuned, reference = (log_softmax(z[roles[role]]).astype(np.float64) for role in ("tuned", "reference"))
    return float((np.exp(reference) * (reference - tuned)).sum(1).mean())


def table(verdict: Verdict) -> str:
    """The verdict as lines: one for each model, with the emulator's best beta marked."""
    head = f"{verdict.answers:,} answers that were kept back: log-probability of a token, and how many are exact"
    rows = [(role, judged, "") for role, judged in verdict.alone.items()]
    for beta, judged in verdict.emulated.items():
        rows.append((f"emulated, beta {beta:g}", judged, "  <- the best" if beta == verdict.beta else ""))
    lines = [f"  {name:<20}{j.logprob:>8.3f}{j.exact:>7.0%}{mark}" for name, j, mark in rows]
    drift = f"drift: {verdict.drift:.3f} nats a token between reference and tuned model on an unrelated text"
    return "\n".join([head, *lines, drift])
