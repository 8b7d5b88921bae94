"""Whether the certificate and the bound of partial rows hold on real models: python -m tools.check_partial EMULATOR

The emulator answers prompts; at each position its base's whole row is cut to the K likeliest tokens, as a server gives
it, and what follows from those is compared with the whole row: the greedy token where it is certain, and the total
variation at temperature 1 of dropping and of filling (arithmetic/partial.py).
"""

import argparse
from pathlib import Path

import numpy as np

from eftlocal import Emulator, Message
from eftlocal.arithmetic import partial
from eftlocal.arithmetic.combine import Logits, log_softmax
from eftlocal.catalog import models as catalog
from eftlocal.emulation import forced, loading
from eftlocal.emulation.forced import Forced

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("emulator")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--tokens", type=int, default=130, help="of an answer")
    parser.add_argument("--top", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--beta", type=float, default=1.0)
    given = parser.parse_args()
    loaded = loading.load(given.emulator, models=catalog.load(given.models))
    emulator, members = Emulator(loaded), loaded.members
    reward, n = members.rewards[0], members.n_real
    found = {k: {"positions": 0, "certain": 0, "wrong": 0, "broken": 0, "drop": 0.0, "fill": 0.0} for k in given.top}
    for seed, prompt in enumerate(PROMPTS):
        messages = [Message("user", prompt)]
        reply = emulator.generate(messages, max_tokens=given.tokens, temperature=1.0, top_p=1.0, seed=seed)
        prompts = _prompts(loaded, messages)
        (z,) = forced.logits(loaded.engine, [Forced(prompts, reply.tokens)], n)
        base = log_softmax(z[members.base])
        log_w = given.beta * (z[reward.tuned] - z[reward.reference])
        for row, w, guide in zip(base, log_w, z[reward.reference], strict=True):
            exact = _emulated(row, w)
            for k in given.top:
                _look(found[k], row, w, guide, exact, k)
    for k, each in found.items():
        count = int(each["positions"])
        print(
            f"K {k:5}: {count:,} positions, certain {each['certain'] / count:.3f}, certain and wrong "
            f"{each['wrong']:.0f}, bound broken {each['broken']:.0f}; "
            f"total variation: drop {each['drop'] / count:.4f}, fill {each['fill'] / count:.4f}"
        )


def _look(found: dict[str, float], row: Logits, w: Logits, guide: Logits, exact: Logits, k: int) -> None:
    cut = np.full_like(row, -np.inf)
    top = np.argpartition(-row, k)[:k]
    cut[top] = row[top]
    found["positions"] += 1
    best = int((partial.most(cut) + w).argmax())
    if np.isfinite(cut[best]):
        found["certain"] += 1
        found["wrong"] += best != int(exact.argmax())
    limit = partial.bound(cut, w)
    for name, made in (("drop", cut), ("fill", partial.filled(cut, guide))):
        off = float(np.abs(_emulated(made, w) - exact).sum()) / 2
        found[name] += off
        found["broken"] += off > limit + 1e-4


def _emulated(row: Logits, w: Logits) -> Logits:
    found: Logits = np.exp(log_softmax((row + w)[None])[0])
    return found


def _prompts(loaded: loading.Loaded, messages: list[Message]) -> dict[int, list[int]]:
    views, workers = loaded.members.views, loaded.engine.workers
    return {i: list(view.prompt(workers.model(i), messages)) for i, view in enumerate(views)}


if __name__ == "__main__":
    main()
