"""What an evaluation found, as values: `Evaluation`, the tree that results.json holds and the report shows."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from eftlocal.evaluation.metrics import METRICS

__all__ = [
    "ActsOn",
    "Best",
    "Calibrated",
    "ColumnFigures",
    "Estimate",
    "Evaluation",
    "Example",
    "Gap",
    "Group",
    "MovedToken",
    "Part",
    "as_json",
]

DIGITS: Final = 10  # of a figure in results.json; the last ones depend on the machine's order of adding


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; low and high are None where one item cannot say how much items differ.

    n  items that it is computed from
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFigures:
    """One column: a role by itself, or the emulator at a strength.

    column    as in the lines: base, tuned, reference, emulated@B, upper; with several rewards tuned:NAME ...; `reward`
              (or reward:NAME) is the pair's own ranking of preferences
    role      the column without its strength or its reward's name
    beta      the strength of an emulated column
    figures   metric -> figure
    to_base   metric -> this column's figure minus the base's, over the same items
    to_tuned  the same, minus the tuned model's (of several rewards, the first's)
    """

    column: str
    role: str
    beta: float | None
    figures: Mapping[str, Estimate]
    to_base: Mapping[str, Estimate] = field(default_factory=dict)
    to_tuned: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How much of the way from one model to the truly tuned large one an emulated column goes.

    definition  "proxy-tuning": from the large base (arXiv 2401.08565); "from the small tuned model"
    start, end  the metric's value at both ends of the way
    closed      the share; 1 is all of it. None where the two ends are not clearly apart
    """

    column: str
    metric: str
    definition: Literal["proxy-tuning", "from the small tuned model"]
    start: float
    end: float
    closed: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The figures of some items: all of them, those of one source, or those of one kind.

    headline  the metric that says most about these items
    shapes    shape -> items
    """

    by: Literal["all", "source", "kind"]
    name: str
    n: int
    shapes: Mapping[str, int]
    headline: str
    columns: tuple[ColumnFigures, ...]
    gaps: tuple[Gap, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """The metrics that it has, in the order of METRICS, its headline first."""
        there = [metric for metric in METRICS if any(metric in column.figures for column in self.columns)]
        return sorted(there, key=lambda metric: metric != self.headline)

    def column(self, name: str) -> ColumnFigures | None:
        """The figures of the column of that name; None if there is none."""
        return next((column for column in self.columns if column.column == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The strength with the lowest loss on a part of the items, judged on the rest.

    over        what the loss is computed from: "answers", or "texts" where no item has an answer
    beta        the strength that was chosen, in nats a token on the items that choose
    chose       strength -> loss on the items that choose
    judged      strength -> loss on the other items
    to_base     the chosen strength's loss minus the base's, on the other items
    to_one      the chosen strength's loss minus that of the strength 1, on the other items; None if 1 was not measured
    edge        whether it is the largest or smallest strength that was measured, so that a better one may lie beyond
    rewards     reward -> its beta for models.toml: the strength times its beta
    toml        the line for models.toml; "" if nothing changes, and where the pair does not surely help
    """

    over: Literal["answers", "texts"]
    beta: float
    n_chose: int
    n_judged: int
    chose: Mapping[str, Estimate]
    judged: Mapping[str, Estimate]
    to_base: Estimate | None
    to_one: Estimate | None
    edge: bool
    rewards: Mapping[str, float]
    toml: str

    @property
    def helps(self) -> bool:
        """Whether the pair at this strength is surely better than the base."""
        return self.beta != 0 and self.to_base is not None and self.to_base.high is not None and self.to_base.high < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A class of tokens, or a range of positions.

    name    content word, function word, digit, punctuation, layout, first token, end of answer; or "0", "1-3", "64 on"
    tokens  how many of the scored tokens belong to it
    share   its share of the tokens
    acts    its share of the sum of |reward|
    mean    mean of |reward|, in nats
    signed  mean of the reward, in nats: positive where the pair makes the right token likelier
    moved   share of its positions where the emulator's likeliest token is not the base's
    """

    name: str
    tokens: int
    share: float
    acts: float
    mean: float
    signed: float
    moved: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A token in its text. `reward` in nats; `base` is its log-probability under the base."""

    where: str
    before: str
    token: str
    after: str
    reward: float
    base: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedToken:
    """A token that the pair moves far, at n places: the mean reward in nats, and the sum of |reward|."""

    token: str
    n: int
    mean: float
    total: float
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActsOn:
    """Where the pair acts, on the tokens of right answers and of texts.

    intervention  share of positions where the emulator's likeliest token at strength 1 is not the base's
    warning       what follows where that share is high; None otherwise
    """

    tokens: int
    classes: tuple[Part, ...]
    positions: tuple[Part, ...]
    moved: tuple[MovedToken, ...]
    intervention: Estimate
    warning: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What `--calibrate` found on one half of the items, and whether it helps on the other.

    betas    reward -> its strength
    end      what is added to the tokens that end an answer, in nats
    unseen   what is added to tokens that the fine-tuning data never showed; None where that is not known
    steps    "as configured", then what was fitted, each with more than the one before it -> loss on the other half
    before   loss on the other half as configured, in nats a token
    after    loss there with all that was found
    change   after minus before, over the same items
    helps    whether the whole interval of `change` is below 0
    toml     the line for models.toml; "" where it does not help
    """

    betas: Mapping[str, float]
    end: float
    unseen: float | None
    n_fitted: int
    n_judged: int
    steps: Mapping[str, Estimate]
    before: Estimate
    after: Estimate
    change: Estimate
    helps: bool
    toml: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that an evaluation found. A pure function of its items' lines and its settings.

    settings  what it ran with, as written
    models    role -> name, file and fingerprint of what ran
    n, failed how many items were measured, and how many could not be
    columns   the columns in their order
    groups    all items first, then each source (where there are several), then each kind
    findings  what follows, in sentences
    """

    emulator: str
    settings: Mapping[str, Any]
    models: Mapping[str, Any]
    n: int
    failed: int
    seed: int
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    best: Best | None
    acts: ActsOn | None
    calibration: Calibrated | None
    findings: tuple[str, ...]

    @property
    def all(self) -> Group:
        """The figures of all items."""
        return self.groups[0]

    def of(self, by: Literal["source", "kind"]) -> Sequence[Group]:
        """The groups by source or by kind."""
        return [group for group in self.groups if group.by == by]

    def to_json(self) -> dict[str, Any]:
        """The tree as JSON values. A figure that is not finite is null."""
        found: dict[str, Any] = as_json(self)
        return found


def as_json(value: object) -> Any:
    """A tree of dataclasses, mappings, sequences and numbers as JSON values, each figure with DIGITS digits."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_json(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
