"""The results of one run of `eftlocal bench`, as values. They are printed as tables or as JSON, and drawn."""

from dataclasses import dataclass, field

__all__ = ["Afar", "ContextCost", "Report", "Sweeps", "ThreadCost", "counted"]


@dataclass(frozen=True, slots=True)
class ThreadCost:
    """Milliseconds that the decodes of one token take with `threads` threads."""

    threads: int
    base_alone: float
    concurrent: float


@dataclass(frozen=True, slots=True)
class ContextCost:
    """Milliseconds that the decodes of one token take after `ctx` tokens.

    `kv_mb` is the size of all members' KV caches for these tokens, in MB.
    """

    ctx: int
    base_alone: float
    concurrent: float
    kv_mb: float


@dataclass(frozen=True, slots=True)
class Sweeps:
    """How the cost of a token grows with threads and with the context. Empty if no sweep was asked for."""

    threads: tuple[ThreadCost, ...] = ()
    ctx: tuple[ContextCost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Afar:
    """Where the time of a request to a base on a server goes, in milliseconds, one token a request.

    round_trip  the way there and back
    decode      until the first byte of the answer, without the way: the server computes and writes
    transfer    until its last byte
    ours        reading its JSON
    kb          of an answer
    """

    round_trip: float
    decode: float
    transfer: float
    ours: float
    kb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The measurements of one run. Rates are medians of the repetitions, in tokens per second.

    tokens_per_s      way to decode -> rate
    members           role -> its rates by itself: "decode" and "prefill"
    acceptance        way with drafts -> share of right guesses, from 0 to 1
    tokens_per_block  way with drafts -> mean tokens of a step
    limit             way with drafts -> rate if only decodes took time, at its tokens_per_block. For auto, at the
                      tokens that the best length would have given for the same guesses
    block_ms          draft length -> milliseconds of the decodes of one draft
    peak_rss_mb       peak memory in MB, with KV caches of `context` tokens
    ratios            "concurrent / base_alone" and so on -> median of the ratios within each repetition; it is not
                      exactly the ratio of the medians
    drafts_off        the reason why drafts were not measured; None if they were
    afar              where the time of requests goes; None if the base is on this machine
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
    afar: Afar | None = None
    sweeps: Sweeps = field(default_factory=Sweeps)

    def ratio(self, one: str, other: str) -> float:
        """The speed of the way `one` divided by that of `other`: base_alone, sequential or concurrent."""
        return 1.0 if one == other else self.ratios[f"{one} / {other}"]


def counted(n: int, noun: str) -> str:
    """A number with its noun: "1 thread", "2 threads"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
