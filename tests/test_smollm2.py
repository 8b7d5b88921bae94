"""A real model through three members: SmolLM2 as base (Q8_0), tuned (Q4_1) and reference (Q4_0)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlocal import Emulator, Message, Raw, Score
from tests import oracle
from tests.builders import load
from tests.families import Trio

pytestmark = pytest.mark.slow  # a real model of 135 million parameters

ROLES = ("base", "tuned", "reference")
OPTIONS: dict[str, Any] = {"kv_type": "f16", "context": 512, "max_tokens": 24}
VIEWS = {"base": "chat:tuned", "tuned": "chat", "reference": "transcript"}
# <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n, after SmolLM2's own system text
CAPITAL = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]


def paths(trio: Trio) -> dict[str, Path]:
    return {role: getattr(trio, role) for role in ROLES}


@pytest.fixture(scope="module")
def emulator(smollm2_trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    folder = tmp_path_factory.mktemp("smollm2-emulator")
    with load(folder, paths(smollm2_trio), views=VIEWS, **OPTIONS) as made:
        yield made


def test_it_knows_the_capital_of_france(emulator: Emulator) -> None:
    reply = emulator.generate("What is the capital of France?")
    assert "Paris" in reply.text
    assert reply.finish_reason == "stop" or len(reply.tokens) == 24
    assert set(reply.prompt_tokens) == set(ROLES)


def test_the_prompt_has_the_ids_that_smollm2s_tokenizer_is_known_to_make(emulator: Emulator) -> None:
    prompts = emulator.render("What is the capital of France?")
    assert prompts["base"] == prompts["tuned"]
    assert prompts["base"][-len(CAPITAL) :] == CAPITAL
    assert prompts["base"][:3] == [1, 9690, 198]  # <|im_start|>system\n
    assert not {0, 1, 2} & set(prompts["reference"])


def test_an_answer_in_characters_of_several_bytes_streams_them_whole(emulator: Emulator) -> None:
    stream = emulator.stream(Raw("1, 2, 3 in Japanese: 一、二、三、四、五、"))  # which a small model goes on with
    deltas = list(stream)
    reply = stream.reply
    assert "".join(deltas) == reply.text
    assert not any("\ufffd" in delta for delta in deltas[:-1])  # (max_tokens may cut the last one)
    assert "六、七、八、" in reply.text
    assert len(reply.tokens) > len(deltas)  # tokens that are a part of a character show nothing yet


def test_three_turns_feed_only_what_is_new_and_are_what_a_cold_start_computes(
    smollm2_trio: Trio, tmp_path: Path
) -> None:
    with load(tmp_path, paths(smollm2_trio), views=VIEWS, **(OPTIONS | {"kv_type": "f32"})) as emulator:
        three_turns(emulator, smollm2_trio)


def three_turns(emulator: Emulator, trio: Trio) -> None:
    conversation: list[Message] = []
    before: dict[str, int] = {}
    for turn, text in enumerate(("Name a fruit.", "And a vegetable?", "Which one is red?")):
        conversation.append(Message("user", text))
        fed = dict(emulator.fed_tokens)
        reply = emulator.generate(conversation, max_tokens=12)
        new = {role: emulator.fed_tokens[role] - fed.get(role, 0) for role in ROLES}
        if turn:
            # All that was fed: the prompt beyond what the caches held, and the answer but for its last token, unless
            # an end-of-generation token followed it.
            fed_of_answer = len(reply.tokens) - (reply.finish_reason == "length")
            assert new == {role: reply.prompt_tokens[role] - before[role] + fed_of_answer for role in ROLES}
        before = {
            role: reply.prompt_tokens[role] + len(reply.tokens) - (reply.finish_reason == "length") for role in ROLES
        }
        conversation.append(reply.message)
    warm = emulator.score(conversation[:-1], reply.tokens)
    prompts = emulator.render(conversation[:-1])
    members = [oracle.Member(path, prompts[role]) for role, path in paths(trio).items()]
    expected = oracle.combined(members[0], [oracle.Reward(members[1], members[2], 1.0)], list(reply.tokens))
    n = np.arange(len(reply.tokens))
    # Loosely: one row of quantized weights is multiplied by another kernel than many are (0.23 was seen).
    np.testing.assert_allclose([t.logprob for t in warm.tokens], expected[n, list(reply.tokens)], atol=0.5)
    best = np.sort(expected[:-1], axis=1)
    clear = best[:, -1] - best[:, -2] > 1.0  # where no other token is near
    assert (expected[:-1].argmax(axis=1) == reply.tokens)[clear].all()


@pytest.mark.parametrize(("kv_type", "at_most", "on_average"), [("f32", 1e-4, 1e-4), ("f16", 1.0, 0.3)])
def test_combined_log_probabilities_are_the_oracles(
    smollm2_trio: Trio, tmp_path: Path, kv_type: str, at_most: float, on_average: float
) -> None:
    # With a cache in F16 they are as near as these quantizations allow: what an F16 key changes in the last digit, the
    # next matrix rounds to another step of Q8. 0.45 and 0.12 were seen; with a cache in F32, 2e-6.
    completion = " is a large city, and 日本 is a country."
    with load(tmp_path, paths(smollm2_trio), **(OPTIONS | {"kv_type": kv_type})) as made:
        prompt = made.render(Raw("Paris"))["base"]
        betas = (0.0, 1.0, -0.5)
        scores = [made.score(Raw("Paris"), completion, beta=beta) for beta in betas]
        filtered = made.score(Raw("Paris"), completion, beta=1.5, reward_top_p=0.9)
    ids = [token.id for token in filtered.tokens]
    members = [oracle.Member(path, prompt) for path in paths(smollm2_trio).values()]

    def difference(score: Score, beta: float, reward_top_p: float | None) -> NDArray[np.float64]:
        reward = oracle.Reward(members[1], members[2], beta)
        rows = oracle.combined(members[0], [reward], ids, reward_top_p=reward_top_p)
        return np.abs([token.logprob for token in score.tokens] - rows[np.arange(len(ids)), ids])

    for score, beta in zip(scores, betas, strict=True):
        off = difference(score, beta, None)
        assert off.max() < at_most and off.mean() < on_average
    if kv_type == "f32":  # (a token at the nucleus's edge has its reward or has none)
        assert difference(filtered, 1.5, 0.9).max() < at_most
