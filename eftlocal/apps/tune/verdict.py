"""How good a trained model is on what was kept back: figures, the strength to use, and answers to compare."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

__all__ = ["BETAS", "Answered", "Chosen", "Judged", "Verdict"]

BETAS: Final = (0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class Judged:
    """How well someone gives the answers: nats for each token, and the share that greedy decoding gives exactly."""

    logprob: float
    exact: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """The strength of the reward to use.

    beta     what the reward is multiplied with
    end      what is added to tokens that end an answer, in nats (arXiv 2409.16223)
    fitted   how many answers chose it
    judged   how many answers the figures are of; `apart`: they are others, since there were enough to be halved
    logprob  the emulator's, in nats a token; `as_trained` that of the beta of the training
    alone    role -> that of the model by itself
    """

    beta: float
    end: float
    fitted: int
    judged: int
    apart: bool
    logprob: float
    as_trained: float
    alone: Mapping[str, float]

    @property
    def better(self) -> str | None:
        """The role that is better by itself than the emulator; None if there is none."""
        return next((role for role in ("tuned", "base") if self.alone[role] >= self.logprob), None)


@dataclass(frozen=True, slots=True)
class Answered:
    """A question that was kept back, what the example answers, and what each model does: "tuned", "emulated", ..."""

    question: str
    wanted: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was measured on `answers` answers that were not trained.

    alone     reference, tuned and, where there is one, base: each by itself
    emulated  beta -> the emulator with it; empty without a base
    drift     mean divergence from the reference to the tuned model on a text that has nothing to do with the examples
    chosen    the strength to use; None without a base
    texts     answers to the first questions that were kept back, by greedy decoding
    """

    answers: int
    alone: Mapping[str, Judged]
    emulated: Mapping[float, Judged]
    drift: float
    chosen: Chosen | None = None
    texts: tuple[Answered, ...] = ()

    @property
    def beta(self) -> float | None:
        """The beta to use; None without a base."""
        return None if self.chosen is None else self.chosen.beta

    @property
    def better(self) -> str | None:
        """The role that is better by itself than the emulator; None if there is none."""
        return None if self.chosen is None else self.chosen.better

    def to_json(self) -> dict[str, object]:
        """The verdict as values of JSON."""
        return {**asdict(self), "emulated": {f"{beta:g}": asdict(judged) for beta, judged in self.emulated.items()}}
