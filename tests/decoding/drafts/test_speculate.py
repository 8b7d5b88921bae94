"""Drafts: the acceptance rule holds by enumeration, and answers do not depend on how tokens were guessed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlocal import Emulator, Message, Raw
from eftlocal.arithmetic.combine import Combiner
from eftlocal.arithmetic.noise import Noise
from eftlocal.arithmetic.sample import warp
from eftlocal.decoding.drafts.length import DraftLength
from eftlocal.decoding.drafts.lookup import PromptLookup
from eftlocal.decoding.drafts.sources import Draft, DraftModelSource
from eftlocal.decoding.generation import Generation, Reply
from eftlocal.decoding.settings import Dials
from eftlocal.emulation import prepare
from eftlocal.emulation.batch import Job
from eftlocal.emulation.loading import Loaded
from eftlocal.engine.engine import Engine, Pending
from eftlocal.engine.placing import Placing
from eftlocal.engine.slots import Request, Slot
from eftlocal.errors import SettingError
from tests.builders import load, load_members
from tests.families import Family
from tests.faults import fail_decode

PROMPTS = ["Hello", "the world is", "a", "what is the", "in the end it was", "Hello, world", "é", "\n\n", "user", "on"]
LONG = 40


# --- answers ----------------------------------------------------------------------------------------------------------


def models(family: Family) -> dict[str, Path]:
    return {name: getattr(family, name) for name in ("base", "tuned", "reference", "tuned2", "reference2")}


@pytest.fixture(params=["together", "apart"])
def guessing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the draft model shares its device with the others ("together") or not ("apart").

    Apart, it goes on guessing while the others check, here always as far as it may. With "auto" drafts, these tiny
    models count as large enough to gain from guesses.
    """
    monkeypatch.setattr(prepare, "WORTH_DRAFTING", 0)
    if request.param == "apart":
        monkeypatch.setattr(Placing, "apart", lambda *_: True)
        monkeypatch.setattr(Pending, "done", False)
    return str(request.param)


@pytest.fixture
def loaded(family: Family, tmp_path: Path, guessing: str) -> Iterator[Loaded]:
    made = load_members(tmp_path, models(family), max_tokens=LONG, draft=0)
    with closing(made.engine):
        yield made


@pytest.fixture
def emulator(loaded: Loaded) -> Emulator:
    return Emulator(loaded)


def near_ties(emulator: Emulator, prompt: str, tokens: Sequence[int]) -> float:
    """How far the last token's log-probability lies below that of the likeliest one there."""
    score = emulator.score(Raw(prompt), tokens, top=1)
    return score.top[-1][0].logprob - score.tokens[-1].logprob


def same_but_for_ties(emulator: Emulator, prompt: str, one: tuple[int, ...], other: tuple[int, ...]) -> None:
    if one == other:
        return
    at = next(i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y)
    assert near_ties(emulator, prompt, one[: at + 1]) < 1e-5 and near_ties(emulator, prompt, other[: at + 1]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1.0, 0.3, 0.0])
def test_greedy_with_drafts_is_greedy_without(emulator: Emulator, beta: float) -> None:
    saved = 0
    for prompt in PROMPTS:
        plain = emulator.generate(Raw(prompt), beta=beta, draft=0)
        for draft in (1, 2, 4, 8, "auto"):
            reply = emulator.generate(Raw(prompt), beta=beta, draft=draft)
            same_but_for_ties(emulator, prompt, plain.tokens, reply.tokens)
            saved += plain.steps - reply.steps
    assert saved > 0 or beta == 0  # the base by itself only has look-up, and these texts hardly repeat


@pytest.fixture
def loaded_agreeing(family: Family, tmp_path: Path, guessing: str) -> Iterator[Loaded]:
    """A base that is nearly equal to its tuned model, so that many guesses are right. With other bases few are."""
    nearly = {"path": str(family.reference), "lora": {"path": str(family.lora), "scale": 1e-4}}
    paths: dict[str, Any] = {"base": nearly, "tuned": family.reference, "reference": family.tuned}
    made = load_members(tmp_path, paths, max_tokens=LONG, draft=0)
    with closing(made.engine):
        yield made


@pytest.fixture
def agreeing(loaded_agreeing: Loaded) -> Emulator:
    return Emulator(loaded_agreeing)


def test_where_members_agree_one_step_gives_several_tokens(agreeing: Emulator) -> None:
    for temperature in (0.0, 0.8):
        plain = agreeing.generate(Raw("the"), temperature=temperature, beta=0.02)
        drafted = agreeing.generate(Raw("the"), temperature=temperature, beta=0.02, draft=4)
        assert drafted.steps < len(drafted.tokens) / 2
        assert temperature or drafted.tokens == plain.tokens


def test_a_draft_model_apart_begins_a_draft_with_what_it_guessed_while_the_last_was_checked(
    agreeing: Emulator, monkeypatch: pytest.MonkeyPatch, guessing: str
) -> None:
    begun: list[int] = []  # for each draft: its guesses that were made ahead
    asked = 0
    guess, forward = DraftModelSource.guess, Engine.forward

    def guessing_spy(source: DraftModelSource, decoding: Mapping[Slot, Generation], n: int) -> dict[Slot, Draft]:
        before = asked
        drafts = guess(source, decoding, n)
        begun.extend(draft.n_made - (asked - before) for draft in drafts.values())  # each decode makes one guess
        return drafts

    def counting(engine: Engine, requests: Sequence[Request]) -> Any:
        nonlocal asked
        asked += 1
        return forward(engine, requests)

    monkeypatch.setattr(DraftModelSource, "guess", guessing_spy)
    monkeypatch.setattr(Engine, "forward", counting)
    for temperature in (0.0, 0.8):
        begun.clear()
        reply = agreeing.generate(Raw("the"), temperature=temperature, beta=0.02, draft=4, seed=3)
        assert begun.count(4) > reply.steps / 2 if guessing == "apart" else set(begun) == {0}
    fed = agreeing.fed_tokens["tuned"]
    again = agreeing.generate(Raw("the"), beta=0.02, draft=4)
    assert agreeing.fed_tokens["tuned"] - fed <= len(again.tokens) + 8  # guesses that were made ahead are not fed again


@pytest.mark.slow
@pytest.mark.parametrize("agree", [False, True])
def test_penalties_count_the_guesses_before_each_position(emulator: Emulator, agreeing: Emulator, agree: bool) -> None:
    made, in_a_row = agreeing if agree else emulator, 0
    dials: dict[str, Any] = {"repeat_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": 0.4}
    for prompt in PROMPTS:
        plain = made.generate(Raw(prompt), **dials)
        hits = set()
        for draft in (1, 2, 5):
            drafted = made.generate(Raw(prompt), draft=draft, **dials)
            assert drafted.tokens == plain.tokens
            hits.add(drafted.hits)
        # One guess at a time depends only on the answer's own tokens. Several at a time must be the same guesses.
        assert len(hits) == 1
        in_a_row += sum(one and other for one, other in pairwise(drafted.hits))
    assert in_a_row > (20 if agree else 2)  # right guesses after right guesses


@pytest.mark.slow
def test_a_seeds_text_does_not_depend_on_how_many_tokens_were_guessed_at_a_time(
    emulator: Emulator, agreeing: Emulator
) -> None:
    for made in (emulator, agreeing):
        for seed, prompt in enumerate(PROMPTS):
            dials: dict[str, Any] = {"temperature": 0.9, "seed": seed, "beta": 1.0 if made is emulator else 0.02}
            answers = {made.generate(Raw(prompt), draft=draft, **dials).tokens for draft in (0, 1, 3, 8, "auto")}
            assert len(answers) == 1


def test_rewards_on_a_nucleus_draft_as_well(emulator: Emulator) -> None:
    for prompt in PROMPTS[:4]:
        plain = emulator.generate(Raw(prompt), reward_top_p=0.8)
        drafted = emulator.generate(Raw(prompt), reward_top_p=0.8, draft=3)
        assert drafted.tokens == plain.tokens and drafted.steps < plain.steps


@pytest.mark.slow
def test_several_sequences_with_drafts_equal_one_by_one_without(emulator: Emulator) -> None:
    separately = [emulator.generate(Raw(prompt)).tokens for prompt in PROMPTS]
    cases: list[tuple[int, Any]] = [(2, 3), (3, 8), (5, "auto")]
    for parallel, draft in cases:
        together = emulator.generate_many([Raw(p) for p in PROMPTS], parallel=parallel, draft=draft)
        for prompt, reply, tokens in zip(PROMPTS, together, separately, strict=True):
            same_but_for_ties(emulator, prompt, tokens, reply.tokens)


def test_one_answer_without_drafts_takes_none_from_those_beside_it(agreeing: Emulator) -> None:
    dials: Dials = {"beta": 0.02, "draft": 8}
    with_drafts = agreeing.generate(Raw("the"), **dials)
    work = [Job(Raw("the"), dials, tag=8), Job(Raw("Hello"), {**dials, "draft": 0}, tag=0)]
    found = {answer.tag: answer.reply for answer in agreeing.answers(work, parallel=2)}
    assert isinstance(drafted := found[8], Reply) and isinstance(plain := found[0], Reply)
    assert drafted.tokens == with_drafts.tokens and drafted.steps <= with_drafts.steps + 2 < len(drafted.tokens)
    assert plain.steps >= len(plain.tokens)


# --- the distribution -------------------------------------------------------------------------------------------------


def chi_square(observed: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float], runs: int) -> float:
    """The chi-square statistic, in standard deviations above its mean. Cells below 5 expected runs are merged."""
    cells = [(observed.get(key, 0), runs * p) for key, p in expected.items() if runs * p >= 5]
    rest = (runs - sum(o for o, _ in cells), runs - sum(e for _, e in cells))
    cells += [rest] if rest[1] >= 5 else []
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    freedom = len(cells) - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def joint(loaded: Loaded, prompt: str, n: int, **dials: Any) -> dict[tuple[int, ...], float]:
    """Sequence of the first n tokens -> its exact probability, from the distributions of plain decoding."""
    settings = loaded.settings.turned(**dials)
    exact: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(n):
        longer: dict[tuple[int, ...], float] = {}
        for tokens, mass in exact.items():
            if tokens and loaded.engine.workers.ends(range(3))(tokens[-1]):
                longer[tokens] = mass
                continue
            warped = warp(next_logits(loaded, prompt, tokens, **dials), settings.sampling, tokens)
            for token, p in zip(warped.ids.tolist(), warped.probabilities.tolist(), strict=True):
                longer[(*tokens, token)] = mass * p
        exact = longer
    return exact


def next_logits(loaded: Loaded, prompt: str, tokens: tuple[int, ...], **dials: Any) -> NDArray[np.float32]:
    """The combined logits, (n_real,), for the token after the prompt and `tokens`."""
    engine, members = loaded.engine, loaded.members
    mix = members.mix(loaded.settings.turned(**dials))
    rendered = Emulator(loaded).render(Raw(prompt), **dials)
    slot = engine.begin({members.roles[role]: ids for role, ids in rendered.items()})
    try:
        slot.tokens = list(tokens)
        combiner = Combiner([spec.name for spec in members.specs], members.n_real, members.skipped)
        z = combiner.combine(engine.forward([Request(slot, 1, mix.active)]), [mix])
        row: NDArray[np.float32] = z[0].copy()
        return row
    finally:
        engine.end(slot)


SETTINGS: list[tuple[dict[str, Any], int]] = [
    ({"temperature": 1.0, "top_k": 5, "top_p": 1.0, "beta": 0.5}, 2),
    ({"temperature": 0.7, "top_p": 0.9, "beta": 1.0}, 8),
    ({"temperature": 1.0, "top_p": 1.0, "min_p": 0.05, "beta": 1.5}, 4),
    ({"temperature": 0.7, "top_p": 0.95, "beta": 0.5, "repeat_penalty": 1.3}, 3),
]


def deviation(loaded: Loaded, runs: int, draft: int, dials: dict[str, Any]) -> float:
    """How far the frequencies of the first three tokens are from exact ones. The fourth only gives room for guesses.

    Fails if the case could not show anything: too few cells, or guesses that are hardly ever right.
    """
    emulator = Emulator(loaded)
    exact = joint(loaded, "Hello", 3, **dials)
    ends = loaded.engine.workers.ends(range(3))
    expected = {tokens[:-1] if ends(tokens[-1]) else tokens: p for tokens, p in exact.items()}
    assert len(expected) == len(exact) and sum(runs * p >= 5 for p in expected.values()) >= 8
    counts: dict[tuple[int, ...], int] = {}
    hits: list[bool] = []
    replies = emulator.generate_many([Raw("Hello")] * runs, parallel=4, seed=1, max_tokens=4, draft=draft, **dials)
    for reply in replies:
        counts[reply.tokens[:3]] = counts.get(reply.tokens[:3], 0) + 1
        hits += reply.hits
    assert sum(hits) / len(hits) > 0.25
    return chi_square(counts, expected, runs)


@pytest.mark.slow
@pytest.mark.parametrize(("dials", "draft"), SETTINGS)
def test_three_tokens_are_distributed_as_in_plain_decoding(
    loaded_agreeing: Loaded, dials: dict[str, Any], draft: int
) -> None:
    assert abs(deviation(loaded_agreeing, 1200, draft, dials)) < 5


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["uniform instead of exponential", "one for every two tokens"])
def test_that_comparison_notices_wrong_random_numbers(
    loaded_agreeing: Loaded, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    right = Noise.exponentials

    def numbers(noise: Noise, position: int, ids: NDArray[Any]) -> NDArray[np.float32]:
        if wrong == "one for every two tokens":
            return right(noise, position, ids // 2)
        return np.float32(1) - np.exp(-right(noise, position, ids))

    monkeypatch.setattr(Noise, "exponentials", numbers)
    assert deviation(loaded_agreeing, 1200, *reversed(SETTINGS[0])) > 6


# --- ends, errors, KV caches ------------------------------------------------------------------------------------------


def test_an_answer_ends_within_a_block_as_it_does_without(emulator: Emulator) -> None:
    whole = emulator.generate(Raw("Hello"))
    for stop in (whole.text[4:7], whole.text[9:11]):
        plain = emulator.generate(Raw("Hello"), stop=[stop])
        for draft in (3, 8):
            reply = emulator.generate(Raw("Hello"), stop=[stop], draft=draft)
            assert (reply.text, reply.tokens, reply.stopped_by) == (plain.text, plain.tokens, plain.stopped_by)
    for n in range(1, 12):
        reply = emulator.generate(Raw("Hello"), max_tokens=n, draft=8)
        assert (reply.tokens, reply.finish_reason) == (whole.tokens[:n], "length")


@pytest.mark.parametrize("token", [313, 315])
def test_an_end_of_generation_token_ends_the_answer_within_a_draft(agreeing: Emulator, token: int) -> None:
    biased, within = {token: 9.0}, 0
    for prompt in PROMPTS:
        plain, *drafted = (agreeing.generate(Raw(prompt), logit_bias=biased, draft=draft) for draft in (0, 1, 4, 8))
        assert plain.finish_reason == "stop"
        assert {(reply.tokens, reply.finish_reason) for reply in drafted} == {(plain.tokens, "stop")}
        # If the guess at the last token was right, the end came in the same step.
        within += all(reply.hits[-2:-1] == (True,) for reply in drafted)
    assert within > 0


def test_the_context_ends_at_the_same_token_with_drafts(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, models(family), context=64, max_tokens=1000) as made:
        replies = [made.generate("Hello", draft=draft) for draft in (0, 3, 8, 32)]
    assert {reply.finish_reason for reply in replies} == {"context"}
    assert len({reply.tokens for reply in replies}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("call", range(4, 16, 2))
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_fault_in_the_middle_of_a_block_leaves_every_cache_right(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, call: int, after: bool, error: BaseException
) -> None:
    plain, other = emulator.generate(Raw("Hello")), emulator.generate(Raw("Hello, world"))
    with monkeypatch.context() as patch:
        fail_decode(patch, call, error, after)
        with pytest.raises(type(error)):
            emulator.generate(Raw("Hello"), draft=4)
    assert emulator.generate(Raw("Hello, world"), draft=3).tokens == other.tokens
    assert emulator.generate(Raw("Hello"), draft=4).tokens == plain.tokens
    assert emulator.generate(Raw("Hello")).tokens == plain.tokens


def test_an_answer_cancelled_at_any_step_keeps_its_beginning_and_the_next_is_right(emulator: Emulator) -> None:
    plain = emulator.generate(Raw("Hello"))
    lengths = []
    for limit in range(0, 40, 5):
        asked = 0

        def enough(limit: int = limit) -> bool:
            nonlocal asked
            asked += 1
            return asked > limit

        reply = emulator.generate(Raw("Hello"), draft=4, cancelled=enough)
        n = len(reply.tokens)
        assert plain.tokens[:n] == reply.tokens
        assert reply.text == (emulator.generate(Raw("Hello"), max_tokens=n).text if n else "")
        assert (reply.finish_reason, n == LONG) in (("cancelled", False), ("length", True))
        lengths.append(n)
    assert lengths[0] == 0 and lengths == sorted(lengths) and len(set(lengths)) > 4
    assert emulator.generate(Raw("Hello"), draft=4).tokens == plain.tokens


def test_a_second_turn_after_drafts_feeds_only_its_new_tokens(emulator: Emulator) -> None:
    first = emulator.generate([Message("user", "Hello")], draft=4)
    before = dict(emulator.fed_tokens)
    longer = [Message("user", "Hello"), first.message, Message("user", " and?")]
    second = emulator.generate(longer, max_tokens=1, draft=4)
    for role in emulator.roles:
        new = second.prompt_tokens[role] - first.prompt_tokens[role] - len(first.tokens)
        assert emulator.fed_tokens[role] - before[role] in (new, new + 1)  # the last token may have been a guess


def test_a_state_that_cannot_be_rewound_is_never_drafted_for(family: Family, tmp_path: Path) -> None:
    paths = {**models(family), "base": family.recurrent}
    with load(tmp_path, paths) as made:
        plain, drafted = made.generate(Raw("the")), made.generate(Raw("the"), draft=4)
    assert drafted.tokens == plain.tokens and drafted.steps == plain.steps


# --- sources and lengths ----------------------------------------------------------------------------------------------


def test_a_repetition_goes_on_as_the_longest_ending_went_on_before() -> None:
    assert PromptLookup([1, 2, 3, 4, 5, 9, 1, 2, 3]).following(2) == [4, 5]
    assert PromptLookup([7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 7, 1, 2, 3]).following(9) == [4, 8, 1, 2, 3, 5, 7, 1, 2]
    assert PromptLookup([1, 2, 3, 4, 1, 2]).following(2) == []
    assert PromptLookup([5, 6, 7, 5, 6, 7, 5]).following(5) == [6, 7, 5, 6, 7]  # goes round and round
    assert PromptLookup([]).following(3) == PromptLookup([1]).following(3) == []


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 40))
def test_a_repetition_found_token_by_token_is_a_real_one(tokens: list[int], split: int) -> None:
    repeats, text = PromptLookup(tokens[:split]), tokens[:split]
    for token in tokens[split:]:
        guess, matched = repeats.following(1), repeats.matched
        assert (matched > 0) == (len(text) > 3 and any(text[i : i + 3] == text[-3:] for i in range(len(text) - 3)))
        assert not matched or any(
            text[i : i + matched + 1] == text[-matched:] + guess for i in range(len(text) - matched)
        )
        assert repeats.extend([token]) == ([(matched, guess == [token])] if matched else [])
        text.append(token)


CHECKED = DraftLength.checked
REPEATING: dict[str, Any] = {"frequency_penalty": -3.0}  # a text that repeats itself
COPIES = Raw("the world is on the world is on the world is")


@pytest.mark.parametrize("draft", [4, "auto"])
def test_the_base_alone_drafts_by_look_up(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, draft: Any) -> None:
    monkeypatch.setattr(
        DraftLength, "checked", lambda own, rows, _, looked_up=False: CHECKED(own, rows, 1.0, looked_up=looked_up)
    )
    dials = {**REPEATING, "beta": 0.0}
    plain, drafted = emulator.generate(COPIES, **dials), emulator.generate(COPIES, draft=draft, **dials)
    assert drafted.tokens == plain.tokens
    # No member can draft here, so all guesses are looked up: most of the tokens, several in a step.
    assert sum(drafted.hits) > 0.6 * len(plain.tokens) and drafted.steps < 0.5 * plain.steps
    sampled = [emulator.generate(COPIES, temperature=0.8, draft=d, **dials).tokens for d in (0, draft)]
    assert sampled[0] == sampled[1]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_text_is_the_same_whether_guesses_were_looked_up_or_a_members(
    agreeing: Emulator, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    dials: dict[str, Any] = {**REPEATING, "temperature": temperature, "beta": 0.02, "seed": 3}
    prompts = [COPIES, *map(Raw, PROMPTS[:3])]
    monkeypatch.setattr("eftlocal.emulation.prepare.DRAFTER", 1.0)
    drafted = [reply.tokens for reply in agreeing.generate_many(prompts, draft=3, **dials)]
    looked_up: list[int] = []

    def lookup(length: DraftLength, matched: int, most: int, sequences: int = 1) -> int:
        looked_up.append(matched and min(most, 4))
        return looked_up[-1]

    monkeypatch.setattr(DraftLength, "lookup", lookup)
    for parallel in (1, 3):
        replies = agreeing.generate_many(prompts, draft="auto", parallel=parallel, **dials)
        assert [reply.tokens for reply in replies] == drafted
    assert sum(n > 0 for n in looked_up) > 10


# --- draft="auto" -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_auto_makes_no_guesses_where_a_token_costs_no_more_than_a_guess(
    agreeing: Emulator, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    monkeypatch.setattr(prepare, "DRAFTER", 2.0)  # here the draft model is as large as the base
    dials: dict[str, Any] = {"temperature": temperature, "seed": 3, "beta": 0.02}
    plain, guessed = (agreeing.generate(Raw("the"), draft=draft, **dials) for draft in (0, 4))
    assert guessed.steps < plain.steps
    monkeypatch.setattr(prepare, "WORTH_DRAFTING", 32_000_000)
    auto = agreeing.generate(Raw("the"), draft="auto", **dials)
    assert (auto.tokens, auto.steps, auto.hits) == (plain.tokens, plain.steps, ())


def test_members_too_large_to_draft_are_never_asked_and_draw_as_without(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    dials: dict[str, Any] = {"temperature": 0.9, "seed": 5}
    plain, drafted, auto = (emulator.generate(COPIES, draft=draft, **dials) for draft in (0, 2, "auto"))
    assert auto.tokens == drafted.tokens == plain.tokens and drafted.steps < plain.steps
    monkeypatch.setattr(prepare, "DRAFTER", 0.01)  # a draft model may read only this share of what the base reads
    before = dict(emulator.fed_tokens)
    auto = emulator.generate(COPIES, draft="auto", **dials)
    assert auto.tokens == plain.tokens and auto.steps == plain.steps and not auto.hits
    assert len({n - before[role] for role, n in emulator.fed_tokens.items()}) == 1  # all decoded the same number


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 4])
def test_what_a_seed_draws_does_not_depend_on_what_was_measured(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    prompts, texts, steps = [Raw(prompt) for prompt in PROMPTS], set(), set()
    for slow in (1e-6, 1.0, 1e3):  # makes drafts seem more or less useful

        def checked(
            length: DraftLength, rows: int, seconds: float, *, looked_up: bool = False, slow: float = slow
        ) -> None:
            CHECKED(length, rows, 1.0 + slow * rows, looked_up=looked_up)

        monkeypatch.setattr(DraftLength, "checked", checked)
        emulator = Emulator(loaded)  # has not measured anything yet
        replies = emulator.generate_many(prompts, parallel=parallel, temperature=0.9, draft="auto")
        texts.add(tuple(reply.tokens for reply in replies))
        steps.add(tuple(reply.steps for reply in replies))
    assert len(texts) == 1
    assert len(steps) > 1  # the drafts did differ


@pytest.mark.parametrize("draft", [-1, 33, "often", 1.5])
def test_a_draft_length_out_of_range_says_what_is_allowed(emulator: Emulator, draft: Any) -> None:
    with pytest.raises(SettingError, match="auto, or a whole number from 0 to 32"):
        emulator.generate("x", draft=draft)
