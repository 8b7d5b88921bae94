"""What a run of `tune` tells while it goes on: values, which the command prints and a Python program may use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Tell", "TuneProgress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneProgress:
    """How far a run is.

    phase         what it does: check data and model, compute what base and reference say, try learning rates, train,
                  write, and judge
    text          lines for a reader; empty for a step in between
    done, total   tokens (logits), short runs (trial), steps (training) or answers (judging)
    loss          of the step's batch, in nats a token (or a pair)
    held_out      the loss of what is kept back, where it was computed: the emulator's if a base is steered
    small         the small model's own loss of the same, if `held_out` is the emulator's
    best          whether `held_out` is the lowest so far
    tokens_per_s  how many tokens are trained a second, on average since the run began or went on
    left_s        the time that the phase still takes
    """

    phase: Literal["checking", "logits", "trial", "training", "writing", "judging"]
    text: str = ""
    done: int = 0
    total: int = 0
    loss: float | None = None
    held_out: float | None = None
    small: float | None = None
    best: bool = False
    tokens_per_s: float | None = None
    left_s: float | None = None


Tell = Callable[[TuneProgress], None]
