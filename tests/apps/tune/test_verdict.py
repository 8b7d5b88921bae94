"""Tests of the verdict: its numbers are those of `Emulator.score`, and its best beta is the best."""

from dataclasses import replace

import pytest

from eftlocal.apps.tune.check import Prepared
from eftlocal.apps.tune.verdict import BETAS, Judged, Verdict, judge, table
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog
from eftlocal.emulation.emulator import Emulator
from eftlocal.runs.examples import Chat, Text
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


def loaded(family: Family) -> Emulator:
    entry = emulator(family)
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
    assert found.beta == max(BETAS, key=lambda beta: sums[beta])
    assert found.drift > 0.1


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


def test_the_table_marks_the_best_beta() -> None:
    verdict = Verdict(
        3, {"reference": Judged(-3.5, 0.0), "tuned": Judged(-0.5, 0.25), "base": Judged(-3.0, 0.0)},
        {0.5: Judged(-1.0, 0.5), 1.0: Judged(-0.2501, 1.0)}, 0.0314,
    )  # fmt: skip
    assert verdict.beta == 1.0 and verdict.better is None
    assert replace(verdict, alone={**verdict.alone, "base": Judged(-0.1, 0.0)}).better == "base"
    assert table(verdict).split("\n") == [
        "3 answers that were kept back: log-probability of a token, and how many are exact",
        "  reference             -3.500     0%",
        "  tuned                 -0.500    25%",
        "  base                  -3.000     0%",
        "  emulated, beta 0.5    -1.000    50%",
        "  emulated, beta 1      -0.250   100%  <- the best",
        "drift: 0.031 nats a token between reference and tuned model on an unrelated text",
    ]
