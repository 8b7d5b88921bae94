"""The figures that an evaluation computes: what each is called, its unit, and which direction is better."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

__all__ = ["METRICS", "Metric"]


class Metric(NamedTuple):
    """What a figure is called, and how it is read.

    better  which direction is better; None where neither is
    share   whether it is a share between 0 and 1
    """

    label: str
    unit: str
    better: Literal["higher", "lower"] | None
    share: bool = False


# The first of a group's metrics is its headline. In this order they stand in tables.
METRICS: Final[Mapping[str, Metric]] = {
    "both": Metric("right and ends by itself", "share", "higher", True),
    "right": Metric("right", "share", "higher", True),
    "ended": Metric("ends by itself", "share", "higher", True),
    "accuracy_sum": Metric("accuracy (sum of log-probabilities)", "share", "higher", True),
    "accuracy_mean": Metric("accuracy (mean over tokens)", "share", "higher", True),
    "accuracy_bytes": Metric("accuracy (mean over bytes)", "share", "higher", True),
    "mc1": Metric("MC1", "share", "higher", True),
    "mc2": Metric("MC2", "share", "higher", True),
    "preferred": Metric("ranks the preferred answer first", "share", "higher", True),
    "nats": Metric("loss in nats a token", "nats a token", "lower"),
    "bits": Metric("loss in bits a byte", "bits a byte", "lower"),
    "perplexity": Metric("perplexity", "", "lower"),
    "logprob": Metric("log-probability of an answer", "nats", "higher"),
    "length": Metric("length of an answer", "tokens", None),
    "kl_base": Metric("KL from the base", "nats a token", None),
    "kl_upper": Metric("KL from the truly tuned large model", "nats a token", "lower"),
    "same_base": Metric("same likeliest token as the base", "share", None, True),
    "same_upper": Metric("same likeliest token as the truly tuned large model", "share", "higher", True),
}
