"""What `eftlocal bench` measures: every way to decode, interleaved, so that a busy machine slows all of them alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psutil

from eftlocal.apps.bench.prompts import PASSAGE
from eftlocal.apps.bench.report import Report, counted
from eftlocal.decoding.drafts.length import LENGTHS as EVERY_LENGTH
from eftlocal.decoding.drafts.length import AcceptanceRuns
from eftlocal.emulation.emulator import Emulator, Raw
from eftlocal.errors import SettingError
from eftlocal.runtime.machine import here, processor

__all__ = ["LENGTHS", "Memory", "measure"]

LENGTHS = (2, 4, 8)  # of the fixed blocks
CURVE = EVERY_LENGTH  # of those whose cost is measured
PREFILL = 96  # tokens, about: cut and joined, a text may have others


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
        runs = AcceptanceRuns([length])
        for hits in self.hits:
            runs.saw([*hits, None])
        return runs.per_block(length)


class Memory:
    """The most memory that this process was seen to hold, weights that are mapped from their files included.

    Looked at between answers: the system's own record also counts what writing a synthetic base took, on Linux even
    what the parent process held, and its unit differs from system to system.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.peak = 0  # bytes

    def look(self) -> None:
        """Another look."""
        self.peak = max(self.peak, int(self._process.memory_info().rss))


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
    active = emulator.mix(emulator.settings).active
    emulator.engine.measure(active, anew=True)  # whoever measures wants the threads shared by today's figures
    off = _drafts_off(emulator, active)
    modes = _modes(emulator, drafts=off is None)
    for member in range(len(emulator.engine.specs)):  # each decodes alone, those that the mix leaves out as well
        emulator.engine.model(member)
    ends = {i: -float("inf") for i in range(emulator.n_vocab) if emulator.engine.is_eog(i)}
    samples = {mode.name: Samples() for mode in modes}
    prefill: dict[str, list[float]] = {role: [] for role in emulator.roles}
    rewinds = all(emulator.engine.model(member).rewinds for member in active)  # or a block costs the prompt again
    blocks: dict[int, list[float]] = {n: [] for n in CURVE if rewinds}
    memory = Memory()
    for repetition in range(repetitions + 1):
        progress(f"repetition {repetition} of {repetitions}")
        once = {mode.name: [0.0, 0.0, 0.0] for mode in modes}  # tokens, seconds, seconds in decodes
        for prompt in prompts:
            for mode in modes:
                _decode(emulator, mode, prompt, tokens, repetition, ends, samples[mode.name], once[mode.name])
                memory.look()
        rates = {role: _prefill(emulator, role, repetition) for role in emulator.roles}
        if repetition == 0:
            samples = {mode.name: Samples() for mode in modes}
            continue
        for role, rate in rates.items():
            prefill[role].append(rate)
        for name, (n, seconds, decoding) in once.items():
            if not n:
                raise SettingError(
                    f"Every answer of {name.replace('_', ' ')} ended at its first token, so nothing can be timed.",
                    "Views that stop so early suit no measurement: try another emulator, or other dials.",
                )
            samples[name].rates.append(n / seconds)
            samples[name].overheads.append((seconds - decoding) / n)
        if rewinds:
            progress(f"blocks, repetition {repetition} of {repetitions}")
            for length, cost in emulator.block_seconds(prompts[0], CURVE).items():
                blocks[length].append(cost)
            memory.look()
    costs = {length: median(own) for length, own in blocks.items()}
    return _report(emulator, samples, prefill, costs, tokens=tokens, repetitions=repetitions, off=off, memory=memory)


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
        stream = emulator.stream(prompt, max_tokens=tokens, seed=seed, logit_bias=ends, stop=(), **mode.dials)
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


def _prefill(emulator: Emulator, role: str, repetition: int) -> float:
    """Tokens of a prompt that a role's model decodes in a second; the text is one that no cache begins with."""
    model = emulator.engine.model(0)
    tokens = model.tokenize(f"{role} {repetition}: {PASSAGE}")[:PREFILL]
    text = b"".join(map(model.piece, tokens)).decode("utf-8", "replace")
    reply = emulator.generate(Raw(text), alone=role, max_tokens=1, draft=0)
    assert reply.ttft_s is not None  # one token was drawn, if only the one that ends an answer
    return max(reply.prompt_tokens.values()) / reply.ttft_s


def _drafts_off(emulator: Emulator, active: Sequence[int]) -> str | None:
    """Why there is nothing to measure of drafts; None where there is."""
    if len(active) < 2:
        return "only one model runs, and none that is smaller could guess for it"
    for member in active:
        if not emulator.engine.model(member).rewinds:
            return f"{emulator.engine.specs[member].name} keeps a state that a wrong guess cannot be taken out of"
    return None


def _machine(emulator: Emulator) -> str:
    """What it ran on: the system, the processor, and the devices that hold a part of a model."""
    machine = here()
    used = () if emulator.plan is None else emulator.plan.devices
    devices = [device.description for device in machine.devices if device.name in used]
    return ", ".join([processor(), counted(machine.cores, "core"), *devices])


def _report(
    emulator: Emulator,
    samples: dict[str, Samples],
    prefill: dict[str, list[float]],
    blocks: dict[int, float],
    *,
    tokens: int,
    repetitions: int,
    off: str | None,
    memory: Memory,
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
        machine=_machine(emulator),
        threads=emulator.engine.n_threads,
        context=emulator.context,
        tokens=tokens,
        repetitions=repetitions,
        tokens_per_s={name: rate for name, rate in rates.items() if not name.startswith("alone ")},
        members={role: {"decode": rates[alone[role]], "prefill": median(prefill[role])} for role in emulator.roles},
        acceptance={name: s.acceptance for name, s in drafts.items()},
        tokens_per_block=per_block,
        limit=limit,
        block_ms={n: 1000 * seconds for n, seconds in blocks.items()},
        overhead_ms_per_token=1000 * median(samples["concurrent"].overheads),
        peak_rss_mb=memory.peak / 1e6,
        ratios=_ratios(samples),
        drafts_off=off,
    )


def _ratios(samples: dict[str, Samples]) -> dict[str, float]:
    """Medians of the ratios within each repetition: what slowed one slowed the other."""
    ways = [name for name in samples if not name.startswith("alone ")]
    return {
        f"{one} / {other}": median(a / b for a, b in zip(samples[one].rates, samples[other].rates, strict=True))
        for one in ways
        for other in ("base_alone", "sequential", "concurrent")
        if one != other
    }
