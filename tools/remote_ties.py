"""Compares greedy answers of a base on a llama-server with those of the same base here: tools.remote_ties EMULATOR

A real llama-server (package xllamacpp) serves the base's file, or a server that runs already (--url) does, and the same
prompts are answered here and there, with whole rows (K = V) and with the K likeliest tokens of each. The server is
another build of llama.cpp than the one here, or another engine, so logits differ a little, and two tokens that are
nearly as likely may change places. What is printed:

log p    the largest differences of a token's log-probability under the base, and under the emulator, at K = V
noise    how far the gap between the two likeliest tokens is from the one here, at K = V, over all positions
left out the mean probability of the tokens that were not known at a position
differ   each text that is another one: the first other token, and how much likelier the one from here is than the one
         from there, here and there
A difference is a near tie if both gaps are below the noise of 99 % of the positions. The exit code is 1 if one is not.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np

from eftlocal import Emulator
from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog, packaged
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.logprobs import TokenLogprobs
from eftlocal.emulation import loading
from tests import llama_server
from tests.families import quantized
from tools.check_partial import PROMPTS

SHOWN = 10  # alternatives at each token


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emulator")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--top", type=int, nargs="*", default=[20, 100, 1000], help="values of K besides V")
    parser.add_argument(
        "--questions", type=int, default=300, help="how many of the demo's; other models get 16 prompts"
    )
    parser.add_argument("--max-tokens", type=int, default=130)
    parser.add_argument("--draft", type=lambda text: text if text == "auto" else int(text), default=0)
    parser.add_argument("--parallel", type=int, default=1, help="prompts that are answered at once")
    parser.add_argument("--url", help="a server of the same base that runs already")
    parser.add_argument("--kv-type", default="f32", help="of the KV caches here; the server has f32")
    parser.add_argument("--f32", action="store_true", help="the base in F32, here and there")
    given = parser.parse_args()
    prompts = _questions()[: given.questions] if given.emulator == "demo" else list(PROMPTS)
    cat = catalog.load(given.models)
    with tempfile.TemporaryDirectory() as folder:
        cat, file = _with_file(cat, given.emulator, Path(folder) if given.f32 else None)
        here = _answers(cat, given.emulator, prompts, given)
        with Emulator.load(given.emulator, models=cat) as emulator:
            n_vocab = emulator.n_vocab
        with ExitStack() as stack:
            url = given.url or stack.enter_context(llama_server.running(file, slots=2, context=1024)).url
            there = {
                top: _answers(_far(cat, given.emulator, url, top), given.emulator, prompts, given, n_vocab == top)
                for top in (n_vocab, *given.top)
            }
    noise = _noise(here, there[n_vocab])
    wrong = sum(_differences(top, prompts, (here, found, there[n_vocab]), noise) for top, found in there.items())
    return int(wrong > 0)


def _questions() -> list[str]:
    return [q["question"] for q in json.loads(packaged("demo/questions.json").read_text(encoding="utf-8"))["questions"]]


def _with_file(cat: Catalog, name: str, folder: Path | None) -> tuple[Catalog, Path]:
    """The base's file, and the catalogue with it: the file itself, or one in F32 in `folder`."""
    base = cat.model(cat.emulators[name].base)
    file = base.file
    assert isinstance(file, Path)
    if folder is not None:
        file = quantized(file, llama_cpp.LLAMA_FTYPE_ALL_F32, folder / "base-F32.gguf")
    return replace(cat, models={**cat.models, base.name: replace(base, file=file)}), file


def _far(cat: Catalog, name: str, url: str, top: int) -> Catalog:
    """The catalogue with the base on the server, of whose rows the `top` likeliest tokens are asked for."""
    base = cat.model(cat.emulators[name].base)
    server = catalog.Server(url=url, top=top)
    return replace(cat, models={**cat.models, base.name: replace(base, file=server)})


def _answers(
    cat: Catalog, name: str, prompts: Sequence[str], given: argparse.Namespace, logprobs: bool = True
) -> list[Reply]:
    """The answers. Log-probabilities need whole rows, so they are not asked for where K is to count."""
    loaded = loading.load(name, models=cat, kv_type=given.kv_type, temperature=0.0, max_tokens=given.max_tokens)
    shown = SHOWN if logprobs else None
    with Emulator(loaded) as emulator:
        return list(emulator.generate_many(prompts, parallel=given.parallel, draft=given.draft, logprobs=shown))


def _places(reply: Reply) -> list[TokenLogprobs]:
    return [*reply.logprobs, *([] if reply.end_logprobs is None else [reply.end_logprobs])]


def _ids(reply: Reply) -> list[int]:
    return [*reply.tokens, *([] if reply.end_token is None else [reply.end_token])]


def _first(one: Reply, other: Reply) -> int:
    """The first place at which two answers have different tokens, or the end of both."""
    return common_prefix(_ids(one), _ids(other))


def _gap(place: TokenLogprobs, one: int, other: int) -> float:
    """How much likelier a token is than another one; infinite if it is not among the likeliest here."""
    found = {a.id: a.logprob for a in place.top} | {place.id: place.logprob}
    return found.get(one, -np.inf) - found.get(other, -np.inf)


def _noise(here: Sequence[Reply], whole: Sequence[Reply]) -> float:
    """Prints how far whole rows from the server are from those here. Returns the noise of a gap: 99 % have less."""
    base, combined, gaps = list[float](), list[float](), list[float]()
    for ours, theirs in zip(here, whole, strict=True):
        at = _first(ours, theirs)
        for a, b in list(zip(_places(ours), _places(theirs), strict=False))[: at + 1]:
            one, other = (alternative.id for alternative in a.top[:2])
            gap = _gap(b, one, other)
            if np.isfinite(gap):
                gaps.append(abs(_gap(a, one, other) - gap))
            if a.id == b.id and a.base is not None and b.base is not None:
                base.append(abs(a.base - b.base))
                combined.append(abs(a.logprob - b.logprob))
    print(f"{len(here):,} prompts, {len(base):,} positions compared at K = V")
    for name, off in (("log p, base", base), ("log p, emulator", combined), ("noise of a gap", gaps)):
        q = np.quantile(off, [0.5, 0.99, 1.0])
        above = int((np.array(off) > 1e-3).sum())
        print(f"  {name:15}: median {q[0]:.1e}, 99 % {q[1]:.1e}, largest {q[2]:.1e}; {above:,} above 1e-3", flush=True)
    return float(np.quantile(gaps, 0.99))


def _differences(top: int, prompts: Sequence[str], answers: tuple[Sequence[Reply], ...], noise: float) -> int:
    """Prints the texts that differ. answers: those from here, from there, and from there with whole rows.

    Returns how many are not near ties.
    """
    found, wrong = list[str](), 0
    left_out = [mass for reply in answers[1] for mass, _ in reply.left_out]
    for prompt, here, there, whole in zip(prompts, *answers, strict=True):
        at = _first(here, there)
        if at == len(_ids(here)) == len(_ids(there)):
            continue
        place, other = _places(here)[at], _ids(there)[at]
        gap = _gap(place, place.id, other)
        seen = _gap(_places(whole)[at], place.id, other) if _first(here, whole) >= at else gap
        tie = max(abs(gap), abs(seen)) <= noise
        wrong += not tie
        found.append(
            f"  {prompt[:40]!r}, token {at + 1}: {place.text!r} ({place.id}) / {other}, "
            f"here {gap:+.5f}, there {seen:+.5f}: {'a near tie' if tie else 'NOT A NEAR TIE'}"
        )
    mean = sum(left_out) / max(1, len(left_out))
    print(
        f"K {top:,}: {len(found)} of {len(prompts):,} texts differ; {wrong} are not near ties; "
        f"left out {mean:.4f} at {len(left_out):,} positions"
    )
    print("\n".join(found), end="\n" * bool(found), flush=True)
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
