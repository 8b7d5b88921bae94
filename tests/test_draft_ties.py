"""tools.draft_ties: where answers differ, it lays that to kernels where kernels did it, and to us where we did."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from eftlocal import Emulator
from eftlocal.arithmetic.arrays import Logits
from eftlocal.decoding.generation import Generation
from eftlocal.emulation.loading import Loaded
from tests import families
from tests.builders import load_members
from tests.families import Family
from tools import draft_ties

PROMPTS = ["Hello", "the world is", "a", "what is the", "in the end it was", "Hello, world", "é", "user", "on"]


@pytest.fixture
def loaded(family: Family, tmp_path: Path) -> Iterator[Loaded]:
    """Members of quantized weights: a kernel for several rows changes their logits by more than a last digit."""
    models = {
        role: families.quantized(getattr(family, role), llama_cpp.LLAMA_FTYPE_MOSTLY_F16, tmp_path / f"{role}.gguf")
        for role in ("base", "tuned", "reference")
    }
    made = load_members(tmp_path, models)
    with closing(made.engine):
        yield made


def test_decodes_done_again_by_llama_cpp_alone_give_the_tokens_of_the_answer(loaded: Loaded) -> None:
    mix = loaded.members.mix(loaded.settings)
    for draft in (0, 4):
        tokens, decodes = draft_ties.answer(loaded, "the world is", draft)
        for at, token in enumerate(tokens):
            rows = {}
            for member, steps in decodes.items():
                text = [*steps[0].tokens, *tokens[:at]]
                rows[member] = draft_ties.row_after(loaded.engine.workers.model(member), steps, text, "f32")
            assert sum(mix.weights[member] * row for member, row in rows.items()).argmax() == token


def test_answers_that_are_the_same_have_no_difference_and_kernels_explain_all_others(loaded: Loaded) -> None:
    for prompt in PROMPTS:
        plain, drafted = (Emulator(loaded).generate(prompt, draft=draft).tokens for draft in (0, 4))
        difference = draft_ties.compare(loaded, prompt, 4, "f32")
        assert (difference is None) == (plain == drafted)
        assert difference is None or difference.explained


def test_a_wrong_rule_is_not_laid_to_kernels(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def takes_every_second_likeliest_guess(generation: Generation, row: Logits, guesses: Sequence[int] = ()) -> int:
        place = len(generation.tokens) + len(guesses)
        return int(np.argsort(-row)[place % 2 if generation.settings.draft else 0])

    monkeypatch.setattr(Generation, "draw", takes_every_second_likeliest_guess)
    found = [d for prompt in PROMPTS if (d := draft_ties.compare(loaded, prompt, 4, "f32")) is not None]
    assert found and not any(difference.explained for difference in found)
    draft_ties.show("wrong", 4, found, len(PROMPTS))
    assert "NOT EXPLAINED" in capsys.readouterr().out


def test_an_answer_that_ends_where_the_other_goes_on_differs_at_its_end(loaded: Loaded) -> None:
    plain = Emulator(loaded).generate("the world is").tokens
    assert draft_ties.took(loaded.engine, plain, 3, plain[3])
    end = next(token for token in range(loaded.members.n_real) if loaded.engine.workers.ends(range(3))(token))
    assert draft_ties.took(loaded.engine, plain[:3], 3, end)
    assert not draft_ties.took(loaded.engine, plain[:3], 3, plain[3])
