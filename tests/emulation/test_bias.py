"""Biases of rewards, from a models.toml to what is decoded and scored, against the oracle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlocal import Emulator, Raw
from eftlocal.apps.serve.server import system_fingerprint
from eftlocal.catalog import token_ids
from eftlocal.catalog.token_ids import TokenIds
from eftlocal.errors import CatalogError
from tests import oracle
from tests.builders import load
from tests.families import Family

PROMPT, TEXT = "Hello, world", " again and again"
UNSEEN = tuple(range(100, 140))
END, SEEN = 1.25, -2.0


def models(family: Family) -> dict[str, Path]:
    return {name: getattr(family, name) for name in ("base", "tuned", "reference", "tuned2", "reference2")}


def reward(**keys: Any) -> Mapping[str, Any]:
    return {"tuned": "tuned", "reference": "reference", **keys}


def biased(family: Family, folder: Path, vocabulary: str | None = None, **options: Any) -> Emulator:
    """An emulator whose reward has a bias on the end and on the tokens UNSEEN."""
    with load(folder, models(family)) as plain:
        own = plain.vocabulary
    (folder / "unseen.txt").write_text(token_ids.text(TokenIds(vocabulary or own, UNSEEN)), encoding="utf-8")
    bias = {"end": END, "unseen": SEEN, "unseen_tokens": "unseen.txt"}
    return load(folder, models(family), rewards=[reward(beta=0.8, bias=bias)], **options)


def expected(emulator: Emulator, family: Family, tokens: list[int], strength: float, **options: Any) -> oracle.Rows:
    prompt = emulator.render(Raw(PROMPT))["base"]
    base, tuned, reference = (oracle.Member(getattr(family, name), prompt) for name in ("base", "tuned", "reference"))
    bias = {int(token): strength * END for token in emulator.ends()}
    for token in UNSEEN:
        bias[token] = bias.get(token, 0) + strength * SEEN
    given = oracle.Reward(tuned, reference, 0.8 * strength, bias)
    return oracle.combined(base, [given], tokens, n_real=emulator.n_vocab, **options)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("reward_top_p", [None, 0.7])
def test_scores_are_the_oracles(family: Family, tmp_path: Path, strength: float, reward_top_p: float | None) -> None:
    with biased(family, tmp_path) as emulator:
        assert len(emulator.ends())
        tokens = list(emulator.tokenizer.encode(TEXT))
        score = emulator.score(Raw(PROMPT), tokens, beta=strength, reward_top_p=reward_top_p)
        rows = expected(emulator, family, tokens, strength, reward_top_p=reward_top_p)
    wanted = rows[np.arange(len(tokens)), tokens]
    np.testing.assert_allclose([token.logprob for token in score.tokens], wanted, atol=1e-4)


def test_decoded_log_probabilities_are_the_oracles_also_with_drafts(family: Family, tmp_path: Path) -> None:
    with biased(family, tmp_path) as emulator:
        for draft in (0, 4):
            reply = emulator.generate(Raw(PROMPT), logprobs=2, draft=draft)
            assert reply.logprobs is not None
            rows = expected(emulator, family, list(reply.tokens), 1.0)
            told = [token.logprob for token in reply.logprobs]
            np.testing.assert_allclose(told, rows[np.arange(len(told)), list(reply.tokens)[: len(told)]], atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_drafts_change_no_text(family: Family, tmp_path: Path, temperature: float) -> None:
    with biased(family, tmp_path) as emulator:
        plain, *drafted = (
            emulator.generate(Raw(PROMPT), temperature=temperature, draft=draft).tokens for draft in (0, 2, 5)
        )
    assert drafted == [plain, plain]


def test_the_dial_scales_it_so_0_is_the_base_and_a_mix_scales_it_too(family: Family, tmp_path: Path) -> None:
    with biased(family, tmp_path) as emulator, load(tmp_path, models(family), rewards=()) as alone:
        tokens = alone.generate(Raw(PROMPT)).tokens
        assert emulator.generate(Raw(PROMPT), beta=0.0).tokens == tokens
        assert emulator.generate(Raw(PROMPT), alone="base").tokens == tokens
        twice = emulator.score(Raw(PROMPT), TEXT, beta=2.0).logprob
        assert emulator.score(Raw(PROMPT), TEXT, mix={"tuned": 1.6}).logprob == pytest.approx(twice, abs=1e-5)
        assert emulator.score(Raw(PROMPT), TEXT, mix={"tuned": 0.0}).logprob == pytest.approx(
            emulator.score(Raw(PROMPT), TEXT, alone="base").logprob, abs=1e-5
        )


def test_answers_that_run_together_have_each_its_own_strength(family: Family, tmp_path: Path) -> None:
    with biased(family, tmp_path) as emulator:
        betas = [0.0, 0.5, 1.0, 1.0, 3.0]
        together = emulator.score_many([(Raw(PROMPT), TEXT, {"beta": beta}) for beta in betas])
        for beta, score in zip(betas, together, strict=True):
            assert not isinstance(score, Exception)
            assert score.logprob == pytest.approx(emulator.score(Raw(PROMPT), TEXT, beta=beta).logprob, abs=1e-4)


def test_a_bias_on_the_end_ends_answers_sooner_or_never(family: Family, tmp_path: Path) -> None:
    lengths = {}
    for end in (-60.0, 60.0):
        with load(tmp_path, models(family), rewards=[reward(bias={"end": end})]) as emulator:
            lengths[end] = len(emulator.generate(Raw(PROMPT), max_tokens=12).tokens)
    assert lengths[-60.0] == 12 and lengths[60.0] <= 1


def test_a_servers_fingerprint_changes_with_it(family: Family, tmp_path: Path) -> None:
    prints = set()
    for bias in ({}, {"bias": {"end": 1.0}}, {"bias": {"end": 1.5}}):
        with load(tmp_path, models(family), rewards=[reward(**bias)]) as emulator:
            prints.add(system_fingerprint(emulator))
    with biased(family, tmp_path) as emulator:
        prints.add(system_fingerprint(emulator))
    assert len(prints) == 4


def test_tokens_of_another_vocabulary_are_refused_before_anything_is_loaded(family: Family, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"unseen\.txt: its tokens are of the vocabulary fedcba9876543210"):
        biased(family, tmp_path, "fedcba9876543210")


def test_a_file_of_tokens_that_is_missing_is_told(family: Family, tmp_path: Path) -> None:
    bias = {"unseen": 1.0, "unseen_tokens": "gone.txt"}
    with pytest.raises(CatalogError, match=r"\[emulators\.e\] bias\.unseen_tokens: .*gone\.txt: no such file"):
        load(tmp_path, models(family), rewards=[reward(bias=bias)])
