"""Runs a calibration: the rows of logits at right answers, condensed as they come, and the numbers that fit them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eftlocal.arithmetic.combine import check, log_softmax
from eftlocal.catalog.entries import Bias, Reward
from eftlocal.catalog.toml import rewards_line
from eftlocal.decoding.settings import Settings
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError, SettingError
from eftlocal.evaluation.calibration import Condensed, Found, calibrated, condensed, joined, must_be_enough
from eftlocal.evaluation.items import Choices, Item, Preference, Question, Text
from eftlocal.evaluation.rendering import Scored, scored
from eftlocal.evaluation.results import Calibrated

__all__ = ["TOKENS", "calibrate", "changed", "must_be_possible", "shown_tokens", "toml", "unseen_tokens"]

TOKENS = 4000  # of right answers; as many as fit are drawn from the items, since more hardly change what is found
DIGITS = 3  # of strengths and biases that are worth writing
ITEMS = 40  # that are drawn at least, however long their answers are
AT_ONCE = 8  # answers whose rows are computed together


def must_be_possible(emulator: Emulator, items: Sequence[Item]) -> None:
    """Raises SettingError for an emulator that has no rewards, has a bias already, or filters its rewards; and where
    the items are too few. What can be known without a decode is known before one.
    """
    settings = _configured(emulator)
    mix = emulator.mix(settings)
    if not mix.pairs:
        raise SettingError(f"{emulator.name} has no rewards, so there is nothing to calibrate.")
    if mix.biases:
        hint = "Take `bias` out of its rewards in models.toml, and calibrate it then."
        raise SettingError(f"{emulator.name} has a bias already.", hint)
    if settings.reward_top_p is not None:
        raise SettingError("With a reward_top_p nothing can be calibrated.", "Leave reward_top_p out.")
    must_be_enough(sum(not isinstance(item, Text) for item in items))


def calibrate(
    emulator: Emulator,
    items: Sequence[Item],
    *,
    unseen: Sequence[int] | None = None,
    seed: int = 0,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Calibrated:
    """Calibrates the emulator on the right answers of these items: half of them fit, the other half judges.

    unseen  ids that the fine-tuning data never showed (`unseen_tokens`); None where that is not known
    step    called with the number of tokens so far, and with that of all, after each decode

    The emulator's own betas, under its mix, are what it is compared with. Raises what `must_be_possible` raises.
    """
    must_be_possible(emulator, items)
    mix, members = emulator.mix(_configured(emulator)), emulator.members
    answers = _drawn(emulator, items, seed)
    ends, skipped = np.setdiff1d(emulator.ends(mix.active), members.skipped), members.skipped
    never = None if unseen is None else np.setdiff1d(np.array(unseen, np.intp), skipped)
    parts: dict[int, list[Condensed]] = {}
    done, total = 0, sum(len(answer.forced.tokens) for answer in answers)
    emulator.forget()
    forcing = emulator.forcing(emulator.reserve(min(AT_ONCE, max(1, len(answers)))))
    try:
        for answer in answers:
            forcing.add(answer.forced)
        while len(forcing):
            found, logits = forcing.step()
            for member, rows in logits.items():
                check(rows, members.specs[member].name)
            rewards = []
            for pair in mix.pairs:
                tuned, reference = logits[pair.tuned], logits[pair.reference]
                if len(skipped):  # the reward is 0 there, so its level matters
                    tuned, reference = log_softmax(tuned), log_softmax(reference)
                reward = tuned - reference
                reward[:, skipped] = 0
                rewards.append(reward)
            for part in found:
                tokens = answers[part.answer].forced.tokens[part.start :][: part.rows.stop - part.rows.start]
                own = [reward[part.rows] for reward in rewards]
                base = logits[members.base][part.rows]
                parts.setdefault(part.answer, []).append(condensed(base, own, tokens, ends, never))
                done += len(tokens)
            step(done, total)
    finally:
        forcing.close()
    start = Found(betas=tuple(pair.beta for pair in mix.pairs))
    names = [reward.name for reward in members.rewards]
    return calibrated([joined(parts[number]) for number in sorted(parts)], names, start, seed)


def _configured(emulator: Emulator) -> Settings:
    return emulator.settings.turned(beta=1.0, alone=None)


def _drawn(emulator: Emulator, items: Sequence[Item], seed: int) -> list[Scored]:
    """The right answers of the items, or as many of them, drawn at random, as have TOKENS tokens together."""
    found, tokens = dict[int, Scored](), 0
    for i in np.random.default_rng([seed, len(items)]).permutation(len(items)).tolist():
        try:
            told = [] if isinstance(items[i], Text) else [each for each in scored(emulator, items[i]) if each.facts]
        except EftError:  # the evaluation itself tells of an item that does not fit
            continue
        for each in told:
            found[i] = each
            tokens += len(each.forced.tokens)
        if tokens >= TOKENS and len(found) >= ITEMS:
            break
    return [found[i] for i in sorted(found)]


# --- what the fine-tuning data showed ---------------------------------------------------------------------------------


def shown_tokens(emulator: Emulator, items: Sequence[Item]) -> set[int]:
    """The tokens of the answers of fine-tuning examples (data.read reads them), and those that end an answer."""
    shown = set(emulator.ends().tolist())
    for item in items:
        match item:
            case Question():
                texts = item.answers
            case Choices():
                texts = tuple(item.pairs[i][1] for i in sorted(item.right))
            case Preference():
                texts = (item.chosen,)
            case Text():
                texts = (item.text,)
            case _:
                raise AssertionError(item)
        for text in texts:
            shown.update(emulator.tokenizer.encode(text))
    return shown


def unseen_tokens(emulator: Emulator, shown: set[int]) -> tuple[int, ...]:
    """The other tokens of the vocabulary, ascending."""
    return tuple(token for token in range(emulator.n_vocab) if token not in shown)


# --- what follows for models.toml -------------------------------------------------------------------------------------


def changed(found: Calibrated, rewards: Sequence[Reward], unseen_file: Path | None = None) -> tuple[Reward, ...]:
    """The rewards with what was found. Of several, the first one that has a strength has the bias.

    unseen_file  the file that will list the tokens; without it, what was found for them is left out
    """
    end, unseen = round(found.end, DIGITS), round(found.unseen or 0.0, DIGITS)
    known = unseen_file is not None and unseen != 0
    bias = Bias(end=end, unseen=unseen if known else 0.0, unseen_tokens=unseen_file if known else None)
    made = list[Reward]()
    for reward in rewards:
        beta = round(found.betas[reward.name], DIGITS)
        takes = beta != 0 and (bias.end or bias.unseen) and all(each.bias is None for each in made)
        made.append(replace(reward, beta=beta, bias=bias if takes else None))
    return tuple(made)


def toml(found: Calibrated, rewards: Sequence[Reward], unseen_file: Path | None = None) -> str:
    """The line for models.toml; "" where the calibration does not help, and where the file of tokens is missing."""
    whole = found.unseen is None or unseen_file is not None
    return rewards_line(changed(found, rewards, unseen_file)) if found.helps and whole else ""
