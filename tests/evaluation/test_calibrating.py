"""Calibration of an emulator of tiny models: what is found is what the emulator then does, from its models.toml."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from eftlocal import Constraint, Emulator, Raw
from eftlocal.catalog import token_ids
from eftlocal.catalog.entries import Reward
from eftlocal.catalog.token_ids import TokenIds
from eftlocal.errors import SettingError
from eftlocal.evaluation.best import halves
from eftlocal.evaluation.calibrating import calibrate, changed, shown_tokens, toml, unseen_tokens
from eftlocal.evaluation.items import Choices, Item, Preference, Question, Text
from eftlocal.evaluation.results import Calibrated
from tests.builders import load
from tests.families import Family

REWARD = Reward(name="tuned", tuned="tuned", reference="reference", beta=1.0)


def models(family: Family) -> dict[str, Path]:
    return {name: getattr(family, name) for name in ("base", "tuned", "reference", "tuned2", "reference2")}


def items(n: int = 24) -> list[Item]:
    return [
        Question(where=f"q:{i}", source="q", prompt=f"Question {i}: the end?", answers=(" and again" * (1 + i % 3),))
        for i in range(n)
    ]


def said(emulator: Emulator) -> list[Item]:
    """Questions whose right answers are letters that the emulator would say at the strength 0.5."""
    prompts = [f"Question {i}?" for i in range(24)]
    letters = Constraint("regex", "[a-z ]{4,9}")
    replies = emulator.generate_many(prompts, beta=0.5, temperature=1.0, constraint=letters)
    pairs = enumerate(zip(prompts, replies, strict=True))
    return [Question(where=f"q:{i}", source="q", prompt=p, answers=(r.text,)) for i, (p, r) in pairs]


def loss(emulator: Emulator, some: list[Item]) -> float:
    """Nats a token of the right answers, by Emulator.score."""
    logprob = tokens = 0.0
    for item in some:
        assert isinstance(item, Question)
        answer = emulator.forced(item.prompt, item.answers[0], ends=True).tokens
        logprob += emulator.score(item.prompt, answer).logprob
        tokens += len(answer)
    return -logprob / tokens


@pytest.mark.parametrize("differ", [False, True], ids=["one vocabulary", "renamed special tokens"])
def test_the_emulator_with_what_was_found_has_the_loss_that_was_told(
    family: Family, tmp_path: Path, differ: bool
) -> None:
    files = models(family) | ({"tuned": family.other_specials, "reference": family.reference} if differ else {})
    keys: dict[str, Any] = {"emulator": {"special_tokens_differ": True}} if differ else {}
    with load(tmp_path, files, **keys) as emulator:
        given = said(emulator)
        ids = unseen_tokens(emulator, shown_tokens(emulator, given[:4]))
        found = calibrate(emulator, given, unseen=ids)
        _, judging = halves(len(given), 0)
        judges = [given[i] for i in judging.tolist()]
        assert found.before.value == pytest.approx(loss(emulator, judges), abs=2e-3)
        (tmp_path / "unseen.txt").write_text(token_ids.text(TokenIds(emulator.vocabulary, ids)), encoding="utf-8")
    assert found.helps and found.unseen is not None
    (reward,) = tomllib.loads(toml(found, (REWARD,), tmp_path / "unseen.txt"))["rewards"]
    with load(tmp_path, files, rewards=[reward], **keys) as emulator:
        assert loss(emulator, judges) == pytest.approx(found.after.value, abs=4e-3)


def test_two_rewards_have_each_their_strength_and_the_first_has_the_bias(family: Family, tmp_path: Path) -> None:
    rewards = [
        {"name": "a", "tuned": "tuned", "reference": "reference", "beta": 0.5},
        {"name": "b", "tuned": "tuned2", "reference": "reference2"},
    ]
    with load(tmp_path, models(family), rewards=rewards, mix={"b": 0.25}) as emulator:
        found = calibrate(emulator, items())
        _, judging = halves(24, 0)
        assert found.before.value == pytest.approx(loss(emulator, [items()[i] for i in judging.tolist()]), abs=2e-3)
    assert found.betas.keys() == {"a", "b"} and found.unseen is None
    made = changed(found, [Reward(name=n, tuned="t", reference="r") for n in ("a", "b")])
    strong = [reward for reward in made if reward.beta]
    assert [reward.bias is not None for reward in strong] == [True, *[False] * (len(strong) - 1)]


def test_what_data_showed_is_the_tokens_of_right_answers_and_ends(family: Family, tmp_path: Path) -> None:
    with load(tmp_path, models(family)) as emulator:
        given: list[Item] = [
            Question(where="", source="", prompt="x", answers=("cd",)),
            Choices(where="", source="", pairs=(("x", "q"), ("x", "e")), right=frozenset({1})),
            Preference(where="", source="", prompt="x", chosen="f", rejected="q"),
            Text(where="", source="", text="g"),
        ]
        shown = shown_tokens(emulator, given)
        expected = {token for text in ("cd", "e", "f", "g") for token in emulator.tokenizer.encode(text)}
        assert shown == expected | set(emulator.ends().tolist())
        ids = unseen_tokens(emulator, shown)
        assert set(ids) | shown == set(range(emulator.n_vocab)) and not set(ids) & shown and list(ids) == sorted(ids)


def test_what_cannot_be_calibrated_says_why(family: Family, tmp_path: Path) -> None:
    bias = {"tuned": "tuned", "reference": "reference", "bias": {"end": 1.0}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"rewards": ()}, "has no rewards"),
        ({"rewards": [bias]}, "has a bias already"),
        ({"reward_top_p": 0.9}, "With a reward_top_p"),
    ]
    for options, words in cases:
        with load(tmp_path, models(family), **options) as emulator, pytest.raises(SettingError, match=words):
            calibrate(emulator, items())
    with load(tmp_path, models(family)) as emulator, pytest.raises(SettingError, match="there are 0"):
        calibrate(emulator, [Text(where="t", source="t", text="no answers here")] * 20)


def test_items_that_do_not_fit_are_left_out_and_many_are_drawn_from(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(tmp_path, models(family), context=64) as emulator:
        long = Question(where="q", source="q", prompt="x" * 500, answers=("y",))
        raw = Question(where="q", source="q", prompt=Raw("x"), answers=("y",))
        found = calibrate(emulator, [*items(10), long, raw])
        assert found.n_fitted + found.n_judged == 11
        monkeypatch.setattr("eftlocal.evaluation.calibrating.TOKENS", 200)
        monkeypatch.setattr("eftlocal.evaluation.calibrating.ITEMS", 10)
        told = list[tuple[int, int]]()
        some = calibrate(emulator, items(200), step=lambda done, total: told.append((done, total)))
        assert 10 <= some.n_fitted + some.n_judged < 30 and 200 <= told[-1][0] < 250
        assert told[-1][0] == told[-1][1] and told == sorted(told)


def test_a_calibration_that_does_not_help_has_nothing_to_paste() -> None:
    from tests.evaluation import made

    evaluation = made.evaluation(20)
    one = next(iter(evaluation.all.column("base").figures.values()))  # type: ignore[union-attr]
    found = Calibrated(
        betas={"tuned": 0.5},
        end=1.0,
        unseen=None,
        n_fitted=4,
        n_judged=4,
        steps={},
        before=one,
        after=one,
        change=one,
        helps=False,
    )
    assert toml(found, (REWARD,)) == ""
