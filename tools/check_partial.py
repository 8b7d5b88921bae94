"""Whether the certificate and the bound of partial rows hold on real models: python -m tools.check_partial EMULATOR

The emulator answers prompts (the demo's own questions, or the 16 below); at each position its base's whole row is cut
to the K likeliest tokens, as a server gives it, and what follows from those is compared with the whole row:

certain     how often the greedy token is certain, and how often it was another one all the same
drop, fill  the mean total variation from the exact emulation (arithmetic/partial.py)
bound       the mean of what is told, and how often filling or dropping is further off than that
The last two at temperature 1, at 0.7, and at 0.7 with top-p 0.9.
"""

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from eftlocal import Emulator
from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import log_softmax
from eftlocal.arithmetic.partial import Partial
from eftlocal.arithmetic.sample import Sampling
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import packaged
from eftlocal.emulation import forced, loading
from tools.partial_rows import emulated

PROMPTS = (
    "Why is the sky blue?",
    "Write a short story about a lighthouse.",
    "List five fruits and their colours.",
    "Explain how a bicycle stays upright.",
    "What should I cook with eggs and rice?",
    "Translate to French: the train was late.",
    "Write a haiku about winter.",
    "How do I sort a list in Python?",
    "Give me three tips for better sleep.",
    "Who was Marie Curie?",
    "Describe the taste of coffee.",
    "What is the difference between a virus and a bacterium?",
    "Write an email that declines an invitation.",
    "How far is the moon?",
    "Invent a name for a bakery and a slogan.",
    "What is 17 times 23?",
)


CHAINS = {
    "T 1": Sampling(temperature=1.0, top_p=1.0),
    "T 0.7": Sampling(temperature=0.7, top_p=1.0),
    "T 0.7, top-p 0.9": Sampling(temperature=0.7, top_p=0.9),
}
ROUNDING = 1e-4

Sums = defaultdict[object, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emulator")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--tokens", type=int, default=130, help="of an answer")
    parser.add_argument("--questions", type=int, default=300, help="of the demo's")
    parser.add_argument("--positions", type=int, default=2000, help="at least so many; prompts are answered again")
    parser.add_argument("--top", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--beta", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    given = parser.parse_args()
    asked = json.loads(packaged("demo/questions.json").read_text(encoding="utf-8"))["questions"][: given.questions]
    prompts = [q["question"] for q in asked] if given.emulator == "demo" else PROMPTS
    loaded = loading.load(given.emulator, models=catalog.load(given.models))
    emulator, members = Emulator(loaded), loaded.members
    reward, n = members.rewards[0], members.n_real
    found = {(beta, k): Sums(float) for beta in given.beta for k in given.top if k < n}
    left = given.positions
    for seed, prompt in enumerate(itertools.cycle(prompts)):
        if left <= 0 and seed >= len(prompts):
            break
        reply = emulator.generate(prompt, max_tokens=given.tokens, temperature=1.0, top_p=1.0, seed=seed)
        if not reply.tokens:
            continue
        (z,) = forced.logits(loaded.engine, [emulator.forced(prompt, reply.tokens)], n)
        base = log_softmax(z[members.base])
        left -= len(base)
        for i, row in enumerate(base):
            for beta, k in found:
                log_w = beta * (z[reward.tuned][i] - z[reward.reference][i])
                _look(found[beta, k], row, log_w, z[reward.reference][i], k)
    for (beta, k), each in found.items():
        _show(beta, k, each)


def _look(found: Sums, row: Logits, log_w: Logits, guide: Logits, k: int) -> None:
    cut = np.full_like(row, -np.inf)
    top = np.argpartition(-row, k)[:k]
    cut[top] = row[top]
    found["positions"] += 1
    part = Partial.of(cut)
    best = int((part.most() + log_w).argmax())
    if part.knows(best):
        found["certain"] += 1
        found["wrong"] += best != int((row + log_w).argmax())
    made = {"drop": cut, "fill": part.filled(guide)}
    for name, settings in CHAINS.items():
        exact, limit = emulated(row, log_w, settings), part.bound(log_w, settings)
        found[name, "bound"] += limit
        for way, each in made.items():
            off = float(np.abs(emulated(each, log_w, settings) - exact).sum()) / 2
            found[name, way] += off
            found[name, "broken"] += off > limit + ROUNDING


def _show(beta: float, k: int, found: Sums) -> None:
    n = found["positions"]
    print(
        f"beta {beta:g}, K {k:,}: {n:,.0f} positions, certain {found['certain'] / n:.3f}, "
        f"of them wrong {found['wrong']:.0f}"
    )
    for name in CHAINS:
        drop, fill, bound = (found[name, way] / n for way in ("drop", "fill", "bound"))
        broken = found[name, "broken"]
        print(f"  {name:16}: drop {drop:.4f}, fill {fill:.4f}, bound {bound:.4f}, broken {broken:.0f}", flush=True)


if __name__ == "__main__":
    main()
