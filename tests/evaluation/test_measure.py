"""What is measured is what an independent computation in float64 gives, for every column and every shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlocal.decoding.settings import Dials
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.prompts import Ids, Prompt, Raw
from eftlocal.errors import ContextError, EftError, SettingError
from eftlocal.evaluation.columns import columns
from eftlocal.evaluation.items import Check, Choices, Item, Preference, Question, Text
from eftlocal.evaluation.line import Answered, Apart, Chosen, Likelihood, Line, Preferred
from eftlocal.evaluation.measure import Measuring
from tests import oracle
from tests.builders import load
from tests.families import VOCAB, Family

BETAS = (0.0, 0.5, 1.0, 1.75)
HEAD: dict[str, Any] = {"source": "a.jsonl"}
ITEMS: tuple[Item, ...] = (
    Question(**HEAD, where="1", prompt="Hello, where is it?", answers=("It is in the €.", "é")),
    Question(**HEAD, where="2", prompt=Raw("User: a 日"), answers=(" the end",)),
    Choices(
        **HEAD, where="3", pairs=(("Which?", "one"), ("Which?", "two é"), ("Which?", "!")), right=frozenset({1, 2})
    ),
    Choices(**HEAD, where="4", pairs=((Raw("Anna is"), " in"), (Raw("Bert is"), " in")), right=frozenset({1})),
    Preference(**HEAD, where="5", prompt="Say it.", chosen="The answer is a.", rejected="No"),
    Text(**HEAD, where="6", text="The answer is in the 日 and Hello to the system, User. " * 2),
)
SETUPS: dict[str, dict[str, Any]] = {
    "one reward": {},
    "two rewards": {
        "rewards": (
            {"name": "first", "tuned": "tuned", "reference": "reference", "beta": 0.7},
            {"name": "second", "tuned": "tuned2", "reference": "reference2", "beta": 0.4},
        )
    },
    "with a bias": {"rewards": ({"tuned": "tuned", "reference": "reference", "beta": 0.7, "bias": {"end": 1.5}},)},
    "on a nucleus": {"reward_top_p": 0.8},
    "with an upper": {"upper": "no_template"},
}


def make(family: Family, folder: Path, **options: Any) -> Emulator:
    names = ("base", "tuned", "reference", "tuned2", "reference2", "no_template")
    models = {name: getattr(family, name) for name in names}
    return load(
        folder, models, **({"views": {"base": "transcript", "tuned": "chat", "reference": "transcript"}} | options)
    )


def measured(emulator: Emulator, items: Sequence[Item], betas: Sequence[float] = BETAS, **options: Any) -> list[Line]:
    """The lines of the items, which must not fail."""
    found: dict[int, Line | EftError] = {}
    measuring = Measuring(emulator, columns(emulator.members, betas=betas), **options)
    left = list(enumerate(items))
    while left or len(measuring):
        while left and measuring.room > 0:
            number, item = left.pop(0)
            if (refused := measuring.add(number, item)) is not None:
                found[number] = refused.line
        found.update((each.number, each.line) for each in measuring.step())
    measuring.close()
    lines = [found[number] for number in range(len(items))]
    assert all(isinstance(line, Line) for line in lines), lines
    return lines  # type: ignore[return-value]


@dataclass
class Truth:
    """Log-probabilities of each column along tokens, (positions, V) float64, from llama.cpp's high-level API."""

    emulator: Emulator

    def rows(self, prompt: Prompt, tokens: Sequence[int]) -> dict[str, oracle.Rows]:
        members, settings = self.emulator.members, self.emulator.settings
        own = {}
        for role, member in members.roles.items():
            prompt_ids = self.emulator.render(prompt, alone=role)[role]
            path = members.specs[member].header.path
            own[role] = oracle.Member(path, prompt_ids)
        found = {}
        for role, member_ in own.items():
            name = ":".join(reversed(role.split("."))) if "." in role else role
            found[name] = oracle.combined(member_, [], tokens)[:-1]
        for beta in BETAS:
            rewards = []
            for reward in members.rewards:
                head = f"{reward.name}." if len(members.rewards) > 1 else ""
                pair = own[f"{head}tuned"], own[f"{head}reference"]
                added = 0.0 if reward.bias is None else beta * reward.bias.end
                bias = {int(token): added for token in self.emulator.ends()}
                rewards.append(oracle.Reward(*pair, beta * reward.beta, bias))
            top_p = settings.reward_top_p
            found[f"emulated@{beta:g}"] = oracle.combined(own["base"], rewards, tokens, reward_top_p=top_p)[:-1]
        return found

    def ids(self, text: str, *, ends: bool) -> list[int]:
        return [*self.emulator.tokenizer.encode(text), *([VOCAB.id("<|im_end|>")] if ends else [])]


def logprob(rows: oracle.Rows, tokens: Sequence[int]) -> float:
    return float(rows[np.arange(len(tokens)), list(tokens)].sum())


def kl(of: oracle.Rows, other: oracle.Rows) -> float:
    return float((np.exp(of) * (of - other)).sum())


def same(of: oracle.Rows, other: oracle.Rows) -> int:
    return int((of.argmax(1) == other.argmax(1)).sum())


def near(value: float) -> Any:
    return pytest.approx(value, abs=5e-4, rel=1e-5)


def check_apart(apart: Apart | None, name: str, truth: dict[str, oracle.Rows]) -> None:
    if not name.startswith("emulated@"):
        assert apart is None
        return
    assert apart is not None and apart.positions == len(truth["base"])
    assert apart.kl_base == near(kl(truth[name], truth["base"]))
    assert apart.same_base == same(truth[name], truth["base"])
    if "upper" in truth:
        assert apart.kl_upper == near(kl(truth[name], truth["upper"]))
        assert apart.same_upper == same(truth[name], truth["upper"])
    else:
        assert apart.kl_upper is None and apart.same_upper is None


@pytest.mark.parametrize("setup", SETUPS)
def test_every_figure_is_the_oracles(family: Family, tmp_path: Path, setup: str) -> None:
    with make(family, tmp_path, **SETUPS[setup]) as emulator:
        lines = measured(emulator, ITEMS)
        truth = Truth(emulator)
        several = [reward.name for reward in emulator.members.rewards] if len(emulator.members.rewards) > 1 else None
        for item, line in zip(ITEMS, lines, strict=True):
            match item:
                case Question():
                    texts = [(item.prompt, truth.ids(item.answers[0], ends=not isinstance(item.prompt, Raw)))]
                case Choices():
                    texts = [(prompt, truth.ids(text, ends=False)) for prompt, text in item.pairs]
                case Preference():
                    texts = [(item.prompt, truth.ids(text, ends=True)) for text in (item.chosen, item.rejected)]
                case _:
                    assert isinstance(item, Text)
                    ids = truth.ids(item.text, ends=False)
                    texts = [(Ids(ids[:1]), ids[1:])]
            rows = [truth.rows(prompt, tokens) for prompt, tokens in texts]
            told = min(item.right) if isinstance(item, Choices) else 0
            assert set(line.columns) == set(rows[0])
            for name, column in line.columns.items():
                sums = [logprob(each[name], tokens) for each, (_, tokens) in zip(rows, texts, strict=True)]
                check_apart(column.apart, name, rows[told])
                if isinstance(column, Answered):
                    assert column.likelihood is not None and column.text is None
                    column = column.likelihood
                if isinstance(column, Chosen):
                    assert list(column.logprobs) == [near(x) for x in sums]
                    assert column.tokens == tuple(len(tokens) for _, tokens in texts)
                elif isinstance(column, Preferred):
                    assert [column.chosen, column.rejected] == [near(x) for x in sums]
                else:
                    assert isinstance(column, Likelihood)
                    assert column.logprob == near(sums[0]) and column.tokens == len(texts[0][1])
            tokens, own = texts[told][1], rows[told]
            assert len(line.tokens) == len(tokens)
            for i, (fact, token) in enumerate(zip(line.tokens, tokens, strict=True)):
                assert fact.base == near(own["base"][i, token])
                pairs = [(f"tuned:{n}", f"reference:{n}") for n in several] if several else [("tuned", "reference")]
                betas = [reward.beta for reward in emulator.members.rewards]
                reward = sum(b * (own[t][i, token] - own[r][i, token]) for b, (t, r) in zip(betas, pairs, strict=True))
                if token in emulator.ends():
                    reward += sum(each.bias.end for each in emulator.members.rewards if each.bias is not None)
                assert fact.reward == near(reward)
                assert fact.moved == (own["emulated@1"][i].argmax() != own["base"][i].argmax())


def test_the_end_of_an_answer_is_a_token_without_a_piece_and_raw_prompts_have_none(
    family: Family, tmp_path: Path
) -> None:
    with make(family, tmp_path) as emulator:
        lines = measured(emulator, ITEMS)
    pieces = ["".join(fact.piece for fact in line.tokens) for line in lines]
    assert pieces[:5] == ["It is in the €.", " the end", "two é", " in", "The answer is a."]
    assert [line.tokens[-1].piece == "" for line in lines[:5]] == [True, False, False, False, True]
    question = lines[0].columns["base"]
    assert isinstance(question, Answered) and question.likelihood is not None
    assert question.likelihood.bytes == len("It is in the €.".encode())


def test_a_model_has_no_divergence_from_itself(family: Family, tmp_path: Path) -> None:
    alike = ({"tuned": "tuned", "reference": "tuned"},)
    with make(family, tmp_path, rewards=alike, views="raw", upper="base") as emulator:
        assert emulator.members.upper is not None
        for line in measured(emulator, ITEMS):
            for beta in BETAS:
                apart = line.columns[f"emulated@{beta:g}"].apart
                assert apart is not None and apart.kl_base == 0 and apart.same_base == apart.positions
            assert not any(fact.moved for fact in line.tokens) and not any(fact.reward for fact in line.tokens)


def test_what_is_generated_is_what_each_column_answers_by_itself(family: Family, tmp_path: Path) -> None:
    asked = [f"Hello {word}, where is the {word}?" for word in ("a", "in", "to", "at", "system")]
    items = [Question(**HEAD, where=text, prompt=text, answers=("a",), check=Check("contains")) for text in asked]
    with make(family, tmp_path, upper="no_template") as emulator:
        lines = measured(emulator, items, max_tokens=12, parallel=4)
        for text, line in zip(asked, lines, strict=True):
            for column in columns(emulator.members, betas=BETAS):
                got = line.columns[column.name]
                dials: Dials = {**column.dials, "max_tokens": 12, "draft": 0}
                reply = emulator.generate(text, **dials)
                assert isinstance(got, Answered) and got.text == reply.text and got.length == len(reply.tokens)
                assert got.ended == (reply.finish_reason == "stop" and reply.stopped_by is None)
                assert got.right is not None and got.likelihood is not None


def test_an_item_ends_before_the_answers_to_many_more_begin(family: Family, tmp_path: Path) -> None:
    """So that a run that is killed has the lines of all items but the last few."""
    asked = [
        Question(**HEAD, where=str(i), prompt="Hello", answers=("é",), check=Check("contains"), max_tokens=2)
        for i in range(24)
    ]
    with make(family, tmp_path) as emulator:
        measuring = Measuring(emulator, columns(emulator.members), parallel=4)
        begun = 0
        while not (ended := len(measuring.step()) if begun else 0):
            while measuring.room > 0:
                measuring.add(begun, asked[begun])
                begun += 1
        measuring.close()
    assert ended and begun <= 8


def test_the_items_own_most_tokens_counts_unless_the_run_says_it(family: Family, tmp_path: Path) -> None:
    item = Question(**HEAD, where="1", prompt="Hello", answers=(), check=Check("contains"), max_tokens=3)
    with make(family, tmp_path) as emulator:
        for given, most in ((None, 3), (5, 5)):
            (line,) = measured(emulator, [item], max_tokens=given)
            assert all(
                isinstance(c, Answered) and c.likelihood is None and c.length == most for c in line.columns.values()
            )


@pytest.mark.parametrize("add_bos", [False, True])
def test_windows_of_a_text_overlap_by_half_and_score_each_token_once(
    family: Family, tmp_path: Path, add_bos: bool
) -> None:
    """llama.cpp's perplexity: chunks of n_ctx tokens, BOS in the place of the first, and the second half is scored."""
    path = family.with_bos if add_bos else family.base
    text = "The answer is in the 日 and Hello to the system, User. " * 9
    with load(tmp_path, {"base": path}, rewards=(), context=64) as emulator:
        (line,) = measured(emulator, [Text(**HEAD, where="1", text=text)], betas=())
        ids = emulator.tokenizer.encode(text, bos=True)
        assert len(ids) == len(emulator.tokenizer.encode(text)) + add_bos
    scored = {}
    for start in range(0, len(ids) - 32, 32):
        window = ids[start : start + 64]
        window = [ids[0], *window[1:]] if add_bos else window
        rows = oracle.log_probabilities(path, window)
        for place in range(32 if start else 1, len(window)):
            assert start + place not in scored
            scored[start + place] = rows[place - 1, window[place]]
    assert sorted(scored) == list(range(1, len(ids)))
    column = line.columns["base"]
    assert isinstance(column, Likelihood) and column.tokens == len(ids) - 1
    assert column.logprob == pytest.approx(sum(scored.values()), rel=1e-4)
    assert column.bytes == len(text.encode()) - (0 if add_bos else len(emulator_piece(text)))
    llama_cpps = [  # perplexity(): the rows first = n_ctx / 2 to n_ctx - 2 of each whole chunk
        scored[start + place] for start in range(0, len(ids) - 63, 64) for place in range(33, 64)
    ]
    chunks = [[ids[0], *ids[s + 1 : s + 64]] if add_bos else ids[s : s + 64] for s in range(0, len(ids) - 63, 64)]
    theirs = [oracle.log_probabilities(path, chunk)[i, chunk[i + 1]] for chunk in chunks for i in range(32, 63)]
    np.testing.assert_allclose(llama_cpps, theirs, atol=1e-6)


def emulator_piece(text: str) -> bytes:
    """The first token of the text of windows: a letter, in the tests' vocabulary."""
    return b"The" if text.startswith("The") else text[:1].encode()


def test_an_item_that_does_not_fit_is_an_error_and_the_others_go_on(family: Family, tmp_path: Path) -> None:
    long = Question(**HEAD, where="1", prompt="a" * 400, answers=("a",))
    with make(family, tmp_path) as emulator:
        measuring = Measuring(emulator, columns(emulator.members))
        refused = measuring.add(0, long)
        assert refused is not None and isinstance(refused.line, ContextError)
        assert measuring.add(1, ITEMS[0]) is None
        (found,) = measuring.step()
        assert found.number == 1 and isinstance(found.line, Line) and not len(measuring)
        measuring.close()


def test_roles_are_chosen_and_unknown_ones_are_errors(family: Family, tmp_path: Path) -> None:
    with make(family, tmp_path) as emulator:
        names = [column.name for column in columns(emulator.members, roles=["emulated", "base"], betas=[1, 0.25])]
        assert names == ["base", "emulated@0.25", "emulated@1"]
        with pytest.raises(SettingError, match="no role named 'boss'"):
            columns(emulator.members, roles=["boss"])
        with pytest.raises(SettingError, match="has no role 'upper'"):
            columns(emulator.members, roles=["upper"])
    with load(tmp_path, {"base": family.base}, rewards=()) as alone:
        assert [column.name for column in columns(alone.members)] == ["base"]


def test_an_upper_of_another_vocabulary_is_refused(family: Family, tmp_path: Path) -> None:
    models = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    with pytest.raises(EftError, match="vocabular"):
        load(tmp_path, {**models, "other": family.other_vocabulary}, upper="other")
