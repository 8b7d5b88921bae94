"""What one run of `eftlocal bench` found, as values: printed as tables, as JSON, and drawn."""

from dataclasses import dataclass, field

__all__ = ["ContextCost", "Report", "Sweeps", "ThreadCost", "counted"]


@dataclass(frozen=True, slots=True)
class ThreadCost:
    """Milliseconds that the decodes of one token take with so many threads."""

    threads: int
    base_alone: float
    concurrent: float


@dataclass(frozen=True, slots=True)
class ContextCost:
    """Milliseconds that the decodes of one token take at the end of so many; MB of all members' caches of them."""

    ctx: int
    base_alone: float
    concurrent: float
    kv_mb: float


@dataclass(frozen=True, slots=True)
class Sweeps:
    """How a token's cost grows; empty where it was not asked for."""

    threads: tuple[ThreadCost, ...] = ()
    ctx: tuple[ContextCost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one run measured; rates are medians of the repetitions, in tokens per second.

    ratios: medians of those within each repetition ("concurrent / base_alone"), so not quite the ratios of the medians.
    limit: what the decodes alone would allow at the tokens per block that were reached (for auto: at those that the
    best length would have given for the same guesses). block_ms: what the decodes of a block of so many guesses take.
    peak_rss_mb: with caches of `context` tokens. drafts_off: why there are no figures of drafts; None where there are.
    """

    emulator: str
    machine: str
    threads: int
    context: int
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
    drafts_off: str | None = None
    sweeps: Sweeps = field(default_factory=Sweeps)

    def ratio(self, one: str, other: str) -> float:
        """How many tokens the way `one` decodes for each of `other`'s: base_alone, sequential or concurrent."""
        return 1.0 if one == other else self.ratios[f"{one} / {other}"]


def counted(n: int, noun: str) -> str:
    """1 thread, 2 threads."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
