"""What `eftlocal bench` measures: every way to decode, interleaved, so that a busy machine slows all of them alike."""

import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from eftlocal.emulation.emulator import Emulator, Raw
from eftlocal.emulation.pace import tokens_per_block

__all__ = ["LENGTHS", "Report", "measure"]

LENGTHS = (2, 4, 8)  # of the fixed blocks
CURVE = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16)  # of those whose cost is measured
PREFILL = 96  # tokens, about


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to decode: the dials that differ, and whether members run in turn."""

    name: str
    dials: dict[str, Any]
    in_turn: bool = False


@dataclass(slots=True)
class Samples:
    """Of one mode: decoded tokens and seconds of each repetition, and what drafts did."""

    rates: list[float] = field(default_factory=list)  # tokens/s of a repetition
    overheads: list[float] = field(default_factory=list)  # seconds a token outside of decodes
    tokens: int = 0
    steps: int = 0
    hits: list[tuple[bool, ...]] = field(default_factory=list)  # of each answer

    @property
    def acceptance(self) -> float:
        """The share of right guesses."""
        return sum(map(sum, self.hits)) / max(1, sum(map(len, self.hits)))

    def per_block(self, length: int) -> float:
        """Tokens that blocks of this length would have given on average, for the same guesses."""
        return tokens_per_block([hit for hits in self.hits for hit in (*hits, None)], length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one run measured; rates are medians of the repetitions, in tokens per second.

    limit: what the decodes alone would allow at the tokens per block that were reached (for auto: at those that the
    best length would have given for the same guesses). block_ms: what the decodes of a block of so many guesses take.
    """

    emulator: str
    threads: int
    tokens: int
    repetitions: int
    tokens_per_s: dict[str, float]
    members: dict[str, dict[str, float]]
    acceptance: dict[str, float]
    tokens_per_block: dict[str, float]
    limit: dict[str, float]
    block_ms: dict[int, float]
    overhead_ms_per_token: float
    peak_rss_mb: float
    ratios: dict[str, float]


def measure(
    emulator: Emulator,
    prompts: Sequence[str],
    *,
    tokens: int,
    repetitions: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Decode `tokens` after each prompt in every mode, `repetitions` times and once more to warm up.

    Answers do not end by themselves, so that every mode decodes as much.
    """
    mix = emulator.mix(emulator.settings)
    ends = {i: -float("inf") for i in range(emulator.n_vocab) if emulator.engine.is_eog(i)}
    modes = _modes(emulator, drafts=len(mix.active) > 1)
    samples = {mode.name: Samples() for mode in modes}
    prefill: dict[str, list[float]] = {role: [] for role in emulator.roles}
    for repetition in range(repetitions + 1):
        progress(f"repetition {repetition} of {repetitions}")
        once = {mode.name: [0.0, 0.0, 0.0] for mode in modes}  # tokens, seconds, seconds in decodes
        for prompt in prompts:
            for mode in modes:
                _decode(emulator, mode, prompt, tokens, repetition, ends, samples[mode.name], once[mode.name])
        for role in emulator.roles:
            prefill[role].append(_prefill(emulator, role, f"{repetition} {prompts[0]} "))
        if repetition:
            for name, (n, seconds, decoding) in once.items():
                samples[name].rates.append(n / seconds)
                samples[name].overheads.append((seconds - decoding) / n)
        else:
            samples = {mode.name: Samples() for mode in modes}
    progress("blocks")
    blocks = emulator.block_seconds(prompts[0], CURVE)
    return _report(emulator, samples, prefill, blocks, tokens=tokens, repetitions=repetitions)


def _modes(emulator: Emulator, *, drafts: bool) -> list[Mode]:
    modes = [Mode(name="base_alone", dials={"alone": "base", "draft": 0})]
    modes += [Mode(name=f"alone {role}", dials={"alone": role, "draft": 0}) for role in emulator.roles[1:]]
    modes += [Mode(name="sequential", dials={"draft": 0}, in_turn=True), Mode(name="concurrent", dials={"draft": 0})]
    if drafts:
        modes += [Mode(name=f"draft_{n}", dials={"draft": n}) for n in LENGTHS]
        modes.append(Mode(name="draft_auto", dials={"draft": "auto"}))
    return modes


def _decode(
    emulator: Emulator,
    mode: Mode,
    prompt: str,
    tokens: int,
    seed: int,
    ends: dict[int, float],
    samples: Samples,
    once: list[float],
) -> None:
    emulator.engine.in_turn = mode.in_turn
    try:
        stream = emulator.stream(prompt, max_tokens=tokens, seed=seed, logit_bias=ends, **mode.dials)
        deltas = iter(stream)
        while not stream.reply.tokens and next(deltas, None) is not None:  # the prompt's decode is not counted
            pass
        before = emulator.engine.seconds
        for _ in deltas:
            pass
        reply = stream.reply
    finally:
        emulator.engine.in_turn = False
    if reply.tokens_per_s is None:
        return
    once[0] += len(reply.tokens) - 1
    once[1] += (len(reply.tokens) - 1) / reply.tokens_per_s
    once[2] += emulator.engine.seconds - before
    samples.tokens += len(reply.tokens) - 1
    samples.steps += reply.steps - 1
    samples.hits.append(reply.hits)


def _prefill(emulator: Emulator, role: str, text: str) -> float:
    """Tokens of a prompt that a member decodes in a second; the text is one that no cache begins with."""
    reply = emulator.generate(Raw(text * max(1, PREFILL // (len(text) // 4))), alone=role, max_tokens=1, draft=0)
    assert reply.ttft_s is not None or not reply.tokens
    return reply.prompt_tokens[next(iter(reply.prompt_tokens))] / (reply.ttft_s or float("inf"))


def _report(
    emulator: Emulator,
    samples: dict[str, Samples],
    prefill: dict[str, list[float]],
    blocks: dict[int, float],
    *,
    tokens: int,
    repetitions: int,
) -> Report:
    rates = {name: median(s.rates) for name, s in samples.items()}
    drafts = {name: s for name, s in samples.items() if name.startswith("draft_")}
    per_block = {name: s.tokens / max(1, s.steps) for name, s in drafts.items()}
    limit = {f"draft_{n}": per_block[f"draft_{n}"] / blocks[n] for n in LENGTHS if f"draft_{n}" in drafts}
    if drafts:
        limit["draft_auto"] = max(drafts["draft_auto"].per_block(n) / blocks[n] for n in blocks)
    alone = {"base": "base_alone", **{role: f"alone {role}" for role in emulator.roles[1:]}}
    return Report(
        emulator=emulator.name,
        threads=emulator.engine.n_threads,
        tokens=tokens,
        repetitions=repetitions,
        tokens_per_s={name: rate for name, rate in rates.items() if not name.startswith("alone ")},
        members={role: {"decode": rates[alone[role]], "prefill": median(prefill[role])} for role in emulator.roles},
        acceptance={name: s.acceptance for name, s in drafts.items()},
        tokens_per_block=per_block,
        limit=limit,
        block_ms={n: 1000 * seconds for n, seconds in blocks.items()},
        overhead_ms_per_token=1000 * median(samples["concurrent"].overheads),
        peak_rss_mb=_peak_rss(),
        ratios=_ratios(samples, drafts),
    )


def _ratios(samples: dict[str, Samples], drafts: Iterable[str]) -> dict[str, float]:
    """Medians of the ratios within each repetition: what slowed one slowed the other."""
    pairs = [("concurrent", "base_alone"), ("concurrent", "sequential")]
    pairs += [(name, other) for name in drafts for other in ("base_alone", "sequential", "concurrent")]
    return {
        f"{one} / {other}": median(a / b for a, b in zip(samples[one].rates, samples[other].rates, strict=True))
        for one, other in pairs
    }


def _peak_rss() -> float:
    """MB; macOS counts in bytes, Linux in kB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
