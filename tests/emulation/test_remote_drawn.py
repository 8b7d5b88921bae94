"""Texts that are drawn with a base on a server have the distribution of the filled rows, with and without drafts."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlocal import Emulator, Raw
from eftlocal.arithmetic.combine import log_softmax
from eftlocal.arithmetic.partial import Partial
from eftlocal.emulation import forced
from eftlocal.emulation.forced import Forced
from eftlocal.emulation.loading import Loaded
from tests import llama_server
from tests.builders import load_members
from tests.families import Family

pytestmark = pytest.mark.slow

TEXTS = int(os.environ.get("EFTLOCAL_TEST_TEXTS", "500"))
PROMPT, KNOWN, DRAWN, LENGTH = "the world is", 3, 5, 3
DIALS: Any = {"temperature": 1.0, "top_p": 1.0, "top_k": DRAWN, "max_tokens": LENGTH}


def distribution(loaded: Loaded, prompts: dict[int, list[int]], known: int) -> dict[tuple[int, ...], float]:
    """The probability of each text. All models are here; the base's rows are cut to `known` tokens, and filled."""
    members = loaded.members
    (reward,) = members.rewards
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        longer: dict[tuple[int, ...], float] = {}
        for tokens, p in found.items():
            (z,) = forced.logits(loaded.engine, [Forced(prompts, (*tokens, 0))], members.n_real)
            base, tuned, reference = (z[m][-1] for m in (members.base, reward.tuned, reward.reference))
            row = log_softmax(base[None])[0]
            row[np.argsort(-row)[known:]] = -np.inf
            combined = (Partial.of(row).filled(reference) + tuned - reference).astype(np.float64)
            top = np.argsort(-combined)[:DRAWN]
            shares = np.exp(combined[top] - combined[top].max())
            for token, share in zip(top.tolist(), shares / shares.sum(), strict=True):
                longer[*tokens, token] = p * share
        found = longer
    return found


def surprise(counts: Counter[tuple[int, ...]], wanted: dict[tuple[int, ...], float]) -> float:
    """How many standard deviations chi-square is too large (Wilson and Hilferty); cells below 5 are one."""
    n = sum(counts.values())
    cells, rest = [], [0.0, n * 1e-9]
    for text, p in wanted.items():
        if n * p >= 5:
            cells.append([counts[text], n * p])
        else:
            rest[1] += n * p
    rest[0] = n - sum(observed for observed, _ in cells)
    if rest[0] or rest[1] > 1:
        cells.append(rest)
    chi = sum((observed - expected) ** 2 / expected for observed, expected in cells)
    spread = 2 / (9 * (len(cells) - 1))
    return float(((chi / (len(cells) - 1)) ** (1 / 3) - (1 - spread)) / np.sqrt(spread))


def test_texts_are_drawn_from_the_filled_rows_and_a_draft_changes_none(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair: dict[str, Any] = {"tuned": family.tuned, "reference": family.reference}
    local = load_members(tmp_path, {"base": family.base, **pair})
    with Emulator(local) as here:
        prompts = dict(here.forced(Raw(PROMPT), [0]).prompts)
        filled, exact = (distribution(local, prompts, known) for known in (KNOWN, local.members.n_real))
    with (
        llama_server.running(family.base) as server,
        Emulator(load_members(tmp_path, {"base": {"url": server.url, "top": KNOWN}, **pair})) as emulator,
    ):
        base = emulator.members.specs[emulator.members.base].remote
        assert base is not None
        engine, kept, asked = base.link.engine, {}, base.link.engine.rows

        def remembering(connection: Any, one: Any) -> Any:
            key = (tuple(one.tokens), tuple(one.forced), one.top)
            if key not in kept:
                kept[key] = asked(connection, one)
            return kept[key]

        monkeypatch.setattr(engine, "rows", remembering)
        texts = {
            draft: [emulator.generate(Raw(PROMPT), draft=draft, seed=i, **DIALS).tokens for i in range(TEXTS)]
            for draft in (0, 4)
        }
    assert texts[0] == texts[4]
    counts = Counter(texts[0])
    print(
        f"{TEXTS} texts: {surprise(counts, filled):.2f} sigma from the filled rows, {surprise(counts, exact):.1f} exact"
    )
    assert surprise(counts, filled) < 4
    assert surprise(counts, exact) > 6  # the emulator's own: what is tested can be told apart
