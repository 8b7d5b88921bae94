"""Log-probabilities of generated tokens equal those that `score` gives for the same tokens, for any way to draw."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlocal import Emulator, Raw
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.generation import Reply
from eftlocal.emulation.emulator import Job
from eftlocal.errors import SettingError
from tests.builders import load
from tests.families import Family


@pytest.fixture
def emulator(family: Family, tmp_path: Path) -> Iterator[Emulator]:
    names = ("base", "tuned", "reference", "tuned2", "reference2")
    rewards: list[dict[str, Any]] = [
        {"name": "one", "tuned": "tuned", "reference": "reference"},
        {"name": "two", "tuned": "tuned2", "reference": "reference2", "beta": 0.4},
    ]
    with load(tmp_path, {name: getattr(family, name) for name in names}, rewards=rewards, logprobs=2) as made:
        yield made


def same_as_scored(emulator: Emulator, prompt: str, reply: Reply, **dials: Any) -> None:
    score = emulator.score(Raw(prompt), reply.tokens, top=2, **dials)
    assert len(reply.logprobs) == len(reply.tokens) > 0
    for token, scored, top in zip(reply.logprobs, score.tokens, score.top, strict=True):
        assert (token.id, token.text) == (scored.id, scored.text)
        assert token.logprob == pytest.approx(scored.logprob, abs=1e-4)
        assert token.base == pytest.approx(scored.base, abs=1e-4)
        for name, roles in scored.rewards.items():
            assert token.rewards[name] == pytest.approx(roles, abs=1e-4)
        assert [(t.id, t.text) for t in token.top] == [(t.id, t.text) for t in top]
        np.testing.assert_allclose([t.logprob for t in token.top], [t.logprob for t in top], atol=1e-4)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"beta": 0.6, "reward_top_p": 0.8},
    {"temperature": 1.4, "top_k": 9, "repeat_penalty": 1.3, "logit_bias": {7: 3.0}},
    {"temperature": 1.0, "constraint": Constraint.regex("[a-z ]{8,12}")},
]


@pytest.mark.parametrize("draft", [0, 4])
@pytest.mark.parametrize("dials", SETTINGS)
def test_they_are_those_of_score_whatever_drew_the_tokens(
    emulator: Emulator, dials: dict[str, Any], draft: int
) -> None:
    reply = emulator.generate(Raw("Hello"), draft=draft, **dials)
    scored = {name: value for name, value in dials.items() if name in ("beta", "reward_top_p")}
    same_as_scored(emulator, "Hello", reply, **scored)


def test_they_are_each_sequences_own_in_a_batch(emulator: Emulator) -> None:
    prompts = ["Hello", "the world is", "a", "what is the", "in the end it was"]
    jobs = [Job(Raw(prompt), {"max_tokens": 3 + 2 * i}, tag=prompt) for i, prompt in enumerate(prompts)]
    for answer in emulator.answers(jobs, parallel=3):
        assert isinstance(answer.reply, Reply)
        same_as_scored(emulator, answer.tag, answer.reply)


def test_a_role_that_does_not_run_has_none(emulator: Emulator) -> None:
    jobs = [
        Job(Raw("Hello"), {"mix": {"two": 0.0}}, tag="one"),
        Job(Raw("Hello"), {"beta": 0.0}, tag="base"),
        Job(Raw("Hello"), {"alone": "two.tuned"}, tag="alone"),
    ]
    found = {answer.tag: answer.reply for answer in emulator.answers(jobs, parallel=3)}
    one, base, tuned_only = (found[tag].logprobs[0] for tag in ("one", "base", "alone"))  # type: ignore[union-attr]
    assert one.base is not None and one.rewards["one"]["tuned"] is not None
    assert one.rewards["two"] == {"tuned": None, "reference": None}
    assert base.base == pytest.approx(base.logprob)
    assert base.rewards["one"] == {"tuned": None, "reference": None}
    assert tuned_only.base is None and tuned_only.rewards["two"]["tuned"] == pytest.approx(tuned_only.logprob)


def test_the_setting_says_how_many_alternatives_there_are(emulator: Emulator) -> None:
    assert emulator.generate(Raw("Hello"), logprobs=None).logprobs == ()
    reply = emulator.generate(Raw("Hello"), logprobs=0)
    assert len(reply.logprobs) == len(reply.tokens) and not any(token.top for token in reply.logprobs)
    assert len(emulator.generate(Raw("Hello"), logprobs=1000, max_tokens=1).logprobs[0].top) == emulator.n_vocab
    for wrong in (-1, 1001):
        with pytest.raises(SettingError, match=r"logprobs is -?\d+; it must be a whole number from 0 to 1000"):
            emulator.generate(Raw("Hello"), logprobs=wrong)
