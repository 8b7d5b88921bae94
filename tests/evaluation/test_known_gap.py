"""A family whose distributions are known by hand, from GGUF files to the share of the gap that is closed.

Its models look at nothing: each gives the same logits at every position. So every figure follows from four vectors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlocal.evaluation.columns import columns
from eftlocal.evaluation.items import Choices, Item, Preference, Question, Text
from eftlocal.evaluation.line import Line
from eftlocal.evaluation.measure import Measuring
from eftlocal.evaluation.summary import summary
from tests.builders import load
from tests.families import VOCAB, write_model

Floats = NDArray[np.float64]
N = len(VOCAB)
A, B, END = VOCAB.id("a"), VOCAB.id("b"), VOCAB.id("<|im_end|>")
BETAS = (0.0, 0.5, 1.0, 2.0)
ASKED = 24  # questions; with fewer than 20 no strength is chosen


def blind(path: Path, logits: Floats) -> Path:
    """Writes a model that gives these logits at every position: all embeddings are ones, and no block adds anything."""

    def change(name: str, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        if name == "token_embd.weight" or name.endswith("norm.weight"):
            return np.ones_like(tensor)
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            return np.zeros_like(tensor)
        width = tensor.shape[-1]
        return np.repeat(logits[:, None] / width, width, 1).astype(np.float32) if name == "output.weight" else tensor

    return write_model(path, seed=1, n_layers=1, change=change)


def normal(logits: Floats) -> Floats:
    shifted: Floats = logits - logits.max()
    total: float = np.log(np.exp(shifted).sum())
    return shifted - total


@pytest.fixture(scope="module")
def vectors() -> Mapping[str, Floats]:
    """base, upper, tuned and reference. At strength 1, the emulator is half way from base to upper on every token."""
    rng = np.random.default_rng(1)
    base, upper, reference = (normal(rng.normal(0, 2, N)) for _ in range(3))
    upper[[A, END]] += 4.0  # the truly tuned model is better at the answers below
    upper = normal(upper)
    return {"base": base, "upper": upper, "reference": reference, "tuned": normal(reference + (upper - base) / 2)}


@pytest.fixture(scope="module")
def lines(vectors: Mapping[str, Floats], tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    folder = tmp_path_factory.mktemp("blind")
    files = {name: blind(folder / f"{name}.gguf", logits) for name, logits in vectors.items()}
    head: dict[str, Any] = {"source": "s"}
    items: list[Item] = [Question(**head, where="q", prompt="?", answers=("a" * n,)) for n in range(1, ASKED + 1)]
    items += [Preference(**head, where="p", prompt="?", chosen="ab", rejected="bb")]
    items += [Choices(**head, where="c", pairs=(("?", "a"), ("?", "bb")), right=frozenset({0}))]
    items += [Text(**head, where="t", text="abba")]
    found = list[Line]()
    with load(folder, files, upper="upper") as emulator:
        measuring = Measuring(emulator, columns(emulator.members, betas=BETAS))
        for number, item in enumerate(items):
            assert measuring.add(number, item) is None
        while len(measuring):
            for each in measuring.step():
                assert isinstance(each.line, Line)
                found.append(each.line)
        measuring.close()
    return found


def test_the_gap_that_is_closed_is_the_one_that_was_made(vectors: Mapping[str, Floats], lines: list[Line]) -> None:
    """A half-way point in logits is one in log-probability but for the normalizer, which is computed here."""
    questions: Any = summary([line for line in lines if line.shape == "question"], emulator="e")
    own = {**vectors} | {
        f"emulated@{b:g}": normal(vectors["base"] + b * (vectors["upper"] - vectors["base"]) / 2) for b in BETAS
    }
    n_a, n = sum(range(1, ASKED + 1)), ASKED
    nats = {name: -(n_a * p[A] + n * p[END]) / (n_a + n) for name, p in own.items()}
    for name, value in nats.items():
        assert questions.all.column(name).figures["nats"].value == pytest.approx(value, abs=1e-4)
    gaps = {(gap.column, gap.definition): gap.closed.value for gap in questions.all.gaps if gap.metric == "nats"}
    for beta in BETAS:
        column = f"emulated@{beta:g}"
        for definition, start in (("proxy-tuning", "base"), ("from the small tuned model", "tuned")):
            expected = (nats[column] - nats[start]) / (nats["upper"] - nats[start])
            assert gaps[column, definition] == pytest.approx(expected, abs=1e-4)
    assert gaps["emulated@0", "proxy-tuning"] == pytest.approx(0, abs=1e-4)
    for definition in ("proxy-tuning", "from the small tuned model"):
        assert gaps["emulated@2", definition] == pytest.approx(1, abs=1e-4)
    assert questions.best.beta == 2.0 and questions.best.edge


def test_each_divergence_and_share_is_the_vectors_own(vectors: Mapping[str, Floats], lines: list[Line]) -> None:
    everything: Any = summary(lines, emulator="e")
    assert everything.n == ASKED + 3
    base, upper = vectors["base"], vectors["upper"]
    for beta in BETAS:
        z = normal(base + beta * (upper - base) / 2)
        figures = everything.all.column(f"emulated@{beta:g}").figures
        assert figures["kl_base"].value == pytest.approx((np.exp(z) * (z - base)).sum(), abs=1e-4)
        assert figures["kl_upper"].value == pytest.approx((np.exp(z) * (z - upper)).sum(), abs=1e-4)
        assert figures["same_base"].value == float(z.argmax() == base.argmax())
        assert figures["same_upper"].value == float(z.argmax() == upper.argmax())
    assert everything.all.column("emulated@0").figures["kl_base"].value == pytest.approx(0, abs=1e-5)
    assert everything.all.column("emulated@2").figures["kl_upper"].value == pytest.approx(0, abs=1e-4)
    reward = vectors["tuned"] - vectors["reference"]
    chosen, rejected = reward[A], reward[B]
    assert everything.all.column("reward").figures["preferred"].value == float(chosen > rejected)
    end = next(part for part in everything.acts.classes if part.name == "end of answer")
    assert end.signed == pytest.approx(reward[END], abs=1e-4)
