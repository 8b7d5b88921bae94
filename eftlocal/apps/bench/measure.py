"""The measurements of `eftlocal bench`. Ways to decode take turns, so that a busy machine slows all of them equally."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import psutil

from eftlocal.apps.bench.afar import afar
from eftlocal.apps.bench.costs import draft_seconds
from eftlocal.apps.bench.prompts import PASSAGE
from eftlocal.apps.bench.report import Report, counted
from eftlocal.decoding.drafts.length import LENGTHS as EVERY_LENGTH
from eftlocal.decoding.drafts.length import AcceptanceRuns
from eftlocal.emulation.emulator import Emulator, Raw
from eftlocal.emulation.loading import Loaded
from eftlocal.engine.engine import Engine
from eftlocal.errors import SettingError
from eftlocal.runtime.machine import here, processor

__all__ = ["LENGTHS", "Memory", "measure"]

LENGTHS = (2, 4, 8)  # fixed draft lengths that are timed in whole answers
CURVE = EVERY_LENGTH  # draft lengths whose decodes are timed
PREFILL = 96  # tokens of a prompt, about: cut text may be tokenized in another way


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to decode: its settings, and whether members run one after the other."""

    name: str
    dials: dict[str, Any]
    in_turn: bool = False


@dataclass(slots=True)
class Samples:
    """What was measured in one mode: rates of each repetition, and how drafts did."""

    rates: list[float] = field(default_factory=list)  # tokens/s of each repetition
    overheads: list[float] = field(default_factory=list)  # seconds for a token outside of decodes, of each repetition
    tokens: int = 0
    steps: int = 0
    hits: list[tuple[bool, ...]] = field(default_factory=list)  # `Reply.hits` of each answer

    @property
    def acceptance(self) -> float:
        """The share of guesses that were right, from 0 to 1."""
        return sum(map(sum, self.hits)) / max(1, sum(map(len, self.hits)))

    def per_block(self, length: int) -> float:
        """Mean tokens of a step if all drafts had had this length, for the same guesses."""
        runs = AcceptanceRuns([length])
        for hits in self.hits:
            runs.saw([*hits, None])
        return runs.per_block(length)


class Memory:
    """The peak memory of this process, including weights that are mapped from their files.

    It is sampled between answers. The system's own peak would not do: it counts the writing of a synthetic base, on
    Linux even the parent process, and its unit differs between systems.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.peak = 0  # bytes

    def look(self) -> None:
        """Sample the memory now."""
        self.peak = max(self.peak, int(self._process.memory_info().rss))


def measure(
    loaded: Loaded,
    prompts: Sequence[str],
    *,
    tokens: int,
    repetitions: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Decode `tokens` tokens after each prompt in each mode, `repetitions` times and once more to warm up.

    End tokens are banned, so that each mode decodes the same number of tokens. Returns the report, without sweeps.
    Raises SettingError if a view's stop string ends every answer at once.
    """
    emulator, engine, workers = Emulator(loaded), loaded.engine, loaded.engine.workers
    mix = emulator.mix(emulator.settings)
    workers.measure(mix.active, again=True)  # share the threads by new measurements
    off = _drafts_off(engine, mix.active)
    modes = _modes(emulator, drafts=off is None)
    for member in range(len(workers.specs)):  # each role is timed by itself, also those that the mix leaves out
        workers.model(member)
    is_end = workers.ends(range(len(workers.specs)))
    ends = {i: -float("inf") for i in range(emulator.n_vocab) if is_end(i)}
    samples = {mode.name: Samples() for mode in modes}
    prefill: dict[str, list[float]] = {role: [] for role in emulator.roles}
    # If a member cannot be rewound, a wrong guess costs the whole prompt again.
    rewinds = all(workers.model(member).rewinds for member in mix.active)
    blocks: dict[int, list[float]] = {n: [] for n in CURVE if rewinds}
    memory = Memory()
    for repetition in range(repetitions + 1):
        progress(f"repetition {repetition} of {repetitions}")
        once = {mode.name: [0.0, 0.0, 0.0] for mode in modes}  # tokens, seconds, seconds in decodes
        for prompt in prompts:
            for mode in modes:
                _decode(engine, emulator, mode, prompt, tokens, repetition, ends, samples[mode.name], once[mode.name])
                memory.look()
        rates = {role: _prefill(engine, emulator, role, repetition) for role in emulator.roles}
        if repetition == 0:
            samples = {mode.name: Samples() for mode in modes}
            continue
        for role, rate in rates.items():
            prefill[role].append(rate)
        for name, (n, seconds, decoding) in once.items():
            if not n:
                raise SettingError(
                    f"Every answer in the mode {name!r} ended at its first token, so nothing can be timed.",
                    "The views' stop strings end answers too early. Try another emulator, or other views.",
                )
            samples[name].rates.append(n / seconds)
            samples[name].overheads.append((seconds - decoding) / n)
        if rewinds:
            progress(f"drafts, repetition {repetition} of {repetitions}")
            rendered = emulator.render(prompts[0])
            own = {member: rendered[role] for role, member in loaded.members.roles.items() if role in rendered}
            for length, cost in draft_seconds(engine, mix, loaded.members.drafter(mix), own, CURVE).items():
                blocks[length].append(cost)
            memory.look()
    costs = {length: median(own) for length, own in blocks.items()}
    report = _report(emulator, samples, prefill, costs, tokens=tokens, repetitions=repetitions, off=off, memory=memory)
    return replace(report, afar=afar(emulator, loaded.members, prompts[0], ends))


def _modes(emulator: Emulator, *, drafts: bool) -> list[Mode]:
    modes = [Mode(name="base_alone", dials={"alone": "base", "draft": 0})]
    modes += [Mode(name=f"only {role}", dials={"alone": role, "draft": 0}) for role in emulator.roles[1:]]
    modes += [Mode(name="sequential", dials={"draft": 0}, in_turn=True), Mode(name="concurrent", dials={"draft": 0})]
    if drafts:
        modes += [Mode(name=f"draft_{n}", dials={"draft": n}) for n in LENGTHS]
        modes.append(Mode(name="draft_auto", dials={"draft": "auto"}))
    return modes


def _decode(
    engine: Engine,
    emulator: Emulator,
    mode: Mode,
    prompt: str,
    tokens: int,
    seed: int,
    ends: dict[int, float],
    samples: Samples,
    once: list[float],
) -> None:
    engine.workers.sharing.in_turn = mode.in_turn
    try:
        stream = emulator.stream(prompt, max_tokens=tokens, seed=seed, logit_bias=ends, stop=(), **mode.dials)
        deltas = iter(stream)
        while not stream.reply.tokens and next(deltas, None) is not None:  # do not count the prompt's decode
            pass
        before = engine.seconds
        for _ in deltas:
            pass
        reply = stream.reply
    finally:
        engine.workers.sharing.in_turn = False
    if reply.tokens_per_s is None:
        return
    once[0] += len(reply.tokens) - 1
    once[1] += (len(reply.tokens) - 1) / reply.tokens_per_s
    once[2] += engine.seconds - before
    samples.tokens += len(reply.tokens) - 1
    samples.steps += reply.steps - 1
    samples.hits.append(reply.hits)


def _prefill(engine: Engine, emulator: Emulator, role: str, repetition: int) -> float:
    """Prompt tokens a second of a role's model. No cache holds the beginning of its text."""
    model = engine.workers.model(0)
    tokens = model.tokenize(f"{role} {repetition}: {PASSAGE}")[:PREFILL]
    text = b"".join(map(model.piece, tokens)).decode("utf-8", "replace")
    reply = emulator.generate(Raw(text), alone=role, max_tokens=1, draft=0)
    assert reply.ttft_s is not None  # one token was drawn, even if it ended the answer
    return max(reply.prompt_tokens.values()) / reply.ttft_s


def _drafts_off(engine: Engine, active: Sequence[int]) -> str | None:
    """The reason why drafts cannot be measured; None if they can."""
    if len(active) < 2:
        return "only one model runs, so there is no smaller one to guess for it"
    for member in active:
        if not engine.workers.model(member).rewinds:
            return f"{engine.workers.specs[member].name} keeps a state from which a wrong guess cannot be removed"
    return None


def _machine(emulator: Emulator) -> str:
    """The machine in words: the processor, the cores, and the devices that hold a part of a model."""
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
    modes = {"base": "base_alone", **{role: f"only {role}" for role in emulator.roles[1:]}}
    return Report(
        emulator=emulator.name,
        machine=_machine(emulator),
        threads=emulator.threads,
        context=emulator.context,
        tokens=tokens,
        repetitions=repetitions,
        tokens_per_s={name: rate for name, rate in rates.items() if not name.startswith("only ")},
        members={role: {"decode": rates[modes[role]], "prefill": median(prefill[role])} for role in emulator.roles},
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
    """Medians of the ratios within each repetition: a slow moment of the machine slows both rates."""
    ways = [name for name in samples if not name.startswith("only ")]
    return {
        f"{one} / {other}": median(a / b for a, b in zip(samples[one].rates, samples[other].rates, strict=True))
        for one in ways
        for other in ("base_alone", "sequential", "concurrent")
        if one != other
    }
