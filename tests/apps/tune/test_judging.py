"""Tests of how a trained model is judged: the numbers are those of `Emulator.score`, and the beta is the best."""

import json
from dataclasses import replace

import pytest

from eftlocal.apps.tune.check import Prepared
from eftlocal.apps.tune.judging import judge
from eftlocal.apps.tune.progress import TuneProgress
from eftlocal.apps.tune.verdict import BETAS
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog
from eftlocal.emulation.emulator import Emulator
from eftlocal.runs.examples import Chat, Pair, Text
from eftlocal.runtime.views import Message
from tests.families import Family

SAID = (Message("user", "Hello"), Message("assistant", "No"), Message("user", "x"), Message("assistant", "y"))
RECORDS = [
    Chat("a:1", (Message("user", "Hi"), Message("assistant", "The user is on"))),
    Chat(
        "a:2", (Message("user", "Hello"), Message("assistant", "No"), Message("user", "x"), Message("assistant", "y"))
    ),
]
HELD_OUT = [Prepared(record, ()) for record in RECORDS]
CHAT = {role: catalog.View("chat") for role in ("base", "tuned", "reference")}


def emulator(family: Family) -> catalog.Emulator:
    reward = catalog.Reward(name="r", tuned=str(family.tuned), reference=str(family.reference))
    return catalog.Emulator(name="e", base=str(family.base), rewards=(reward,), views=CHAT)


def loaded(family: Family, entry: catalog.Emulator | None = None) -> Emulator:
    entry = entry or emulator(family)
    models = {name: Catalog().model(name) for name in entry.models}
    return Emulator.load(models=Catalog(models=models, emulators={"e": entry}, default=("e",)), threads=1, context=256)


def test_each_number_is_that_of_scoring(family: Family) -> None:
    found = judge(Catalog(), emulator(family), str(family.reference), HELD_OUT, context=256, threads=1)
    assert found is not None and found.answers == 3 and found.emulated.keys() == set(BETAS)
    asked = [
        (RECORDS[0].messages[:1], "The user is on"),
        (RECORDS[1].messages[:1], "No"),
        (RECORDS[1].messages[:3], "y"),
    ]
    with loaded(family) as made:
        model = made._engine.workers.model(0)
        end = model.controls["<|im_end|>"]
        sums = dict.fromkeys(("base", "tuned", "reference", *BETAS), 0.0)
        n = 0
        for prompt, answer in asked:
            tokens = [*model.tokenize(answer), end]
            n += len(tokens)
            for beta in BETAS:
                score = made.score(list(prompt), tokens, beta=beta)
                sums[beta] += score.logprob
            for token in score.tokens:
                sums["base"] += token.base
                for role, logprob in token.rewards["r"].items():
                    sums[role] += logprob
    for role, judged in found.alone.items():
        assert judged.logprob == pytest.approx(sums[role] / n, abs=2e-3)  # the cache is in half precision
    for beta, judged in found.emulated.items():
        assert judged.logprob == pytest.approx(sums[beta] / n, abs=2e-3)
    assert found.drift > 0.1
    assert found.chosen is not None and not found.chosen.apart and found.chosen.fitted == found.chosen.judged == 3
    assert found.chosen.as_trained == pytest.approx(sums[1.0] / n, abs=2e-3)
    assert found.chosen.logprob >= max(sums[beta] for beta in BETAS) / n - 1e-3  # no other beta is better


def test_a_model_that_is_its_reference_has_no_drift_and_does_not_help(family: Family) -> None:
    entry = emulator(family)
    rewards = (replace(entry.rewards[0], tuned=str(family.reference)),)
    found = judge(Catalog(), replace(entry, rewards=rewards), "", HELD_OUT, context=256, threads=1)
    assert found is not None and found.drift < 1e-6 and found.better is not None
    assert found.emulated[2.0].logprob == pytest.approx(found.alone["base"].logprob, abs=1e-4)


def test_without_a_base_tuned_and_reference_are_compared(family: Family) -> None:
    alone = catalog.Emulator(name="e", base=str(family.tuned), views={"base": catalog.View("chat")})
    found = judge(Catalog(), alone, str(family.reference), HELD_OUT, context=256, threads=1)
    whole = judge(Catalog(), emulator(family), "", HELD_OUT, context=256, threads=1)
    assert found is not None and whole is not None
    assert (
        found.alone.keys() == {"reference", "tuned"}
        and found.emulated == {}
        and found.beta is None
        and found.better is None
    )
    assert found.alone["tuned"].logprob == pytest.approx(whole.alone["tuned"].logprob, abs=1e-3)


def test_nothing_that_can_be_asked_gives_no_verdict(family: Family) -> None:
    held_out = [Prepared(Text("a", "text"), ()), replace(HELD_OUT[0], too_long=1)]
    assert judge(Catalog(), emulator(family), "", held_out, context=256, threads=1) is None


def many(n: int) -> list[Prepared]:
    """Questions that the tuned model would answer so itself, but for its own end."""
    words = ["Yes", "No", "The user is on", "Hello", "x y", "ab"]
    return [
        Prepared(Chat(f"a:{i}", (Message("user", f"Hi {i}"), Message("assistant", words[i % 6]))), ()) for i in range(n)
    ]


def test_with_enough_answers_one_half_chooses_and_the_other_judges(family: Family) -> None:
    told: list[TuneProgress] = []
    found = judge(Catalog(), emulator(family), "", many(12), context=256, threads=1, tell=told.append)
    assert found is not None and found.chosen is not None
    chosen = found.chosen
    assert chosen.apart and (chosen.fitted, chosen.judged) == (6, 6) and chosen.beta > 0
    assert chosen.as_trained != pytest.approx(found.emulated[1.0].logprob, abs=1e-6)  # of the other half alone
    assert [each.done for each in told] == list(range(1, 13)) and told[-1].left_s == 0
    json.dumps(found.to_json())


def test_few_answers_move_beta_by_a_factor_of_two_at_most(family: Family) -> None:
    """Two answers that want more of the reward would take any strength."""
    entry = emulator(family)
    weak = replace(entry, rewards=(replace(entry.rewards[0], beta=0.01),))
    found = judge(Catalog(), weak, "", many(2), context=256, threads=1)
    assert found is not None and found.chosen is not None
    assert found.chosen.beta == 0.02 and found.chosen.logprob > found.chosen.as_trained


def test_a_bias_is_taken_where_it_helps_the_other_half(family: Family) -> None:
    """The answers are words that tuned finds likelier than its reference. What ends them, nobody expects."""
    with loaded(family) as made:
        scores = {}
        for word in (a + b for a in "abcdefghijkl" for b in "mnopqrstuvwx"):
            first = made.score("Hi", word).tokens[0].rewards["r"]
            scores[word] = first["tuned"] - first["reference"]
    words = sorted(scores, key=lambda word: -scores[word])[:20]
    records = [Chat(f"a:{i}", (Message("user", "Hi"), Message("assistant", word))) for i, word in enumerate(words)]
    found = judge(Catalog(), emulator(family), "", [Prepared(r, ()) for r in records], context=256, threads=1)
    assert found is not None and found.chosen is not None and found.chosen.apart
    assert found.chosen.end > 0.5 and found.chosen.logprob > found.chosen.as_trained
    bias = catalog.Bias(end=found.chosen.end)
    entry = emulator(family)
    rewards = (replace(entry.rewards[0], beta=found.chosen.beta, bias=bias),)
    with loaded(family, replace(entry, rewards=rewards)) as made:  # the emulator's answer has it
        (answered,) = found.texts
        text = made.generate("Hi", temperature=0.0, max_tokens=80).text
        assert answered.answers["emulated"].removesuffix(" …") == text


def test_the_first_questions_are_answered_by_each_model(family: Family) -> None:
    found = judge(Catalog(), emulator(family), "", many(12), context=256, threads=1)
    assert found is not None and [each.question for each in found.texts] == ["Hi 0", "Hi 1", "Hi 2"]
    assert [each.wanted for each in found.texts] == ["Yes", "No", "The user is on"]
    with loaded(family) as made:
        for answered in found.texts:
            assert answered.answers.keys() == {"reference", "tuned", "base", "emulated"}
            for role in ("reference", "tuned", "base"):
                text = made.generate(answered.question, temperature=0.0, max_tokens=80, alone=role).text
                assert answered.answers[role].removesuffix(" …") == text


def test_of_pairs_the_preferred_answer_is_judged(family: Family) -> None:
    pairs = [Prepared(Pair("a:1", (Message("user", "Hi"),), "The user is on", "No"), ())]
    found = judge(Catalog(), emulator(family), "", pairs, context=256, threads=1)
    same = judge(Catalog(), emulator(family), "", HELD_OUT[:1], context=256, threads=1)
    assert found is not None and found == same
