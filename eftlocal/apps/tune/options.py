"""The options of a run of `eftlocal tune`, and what follows from them where they were not given."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TypedDict, TypeGuard

from eftlocal.apps.tune.data import Examples
from eftlocal.errors import SettingError
from eftlocal.training.devices import DEVICES, DeviceName
from eftlocal.training.output import KINDS, Kind
from eftlocal.training.trainer import Recipe

__all__ = ["METHODS", "Method", "Options", "TuneOptions", "gguf_path"]

Method = Literal["lora", "full", "mofo", "dpo"]
METHODS: Final[tuple[Method, ...]] = ("lora", "full", "mofo", "dpo")

# The defaults are those of docs/tuning-study.md, which says what was measured for each.
# Where the trial of the learning rate starts: between the best rates of the demo family and of SmolLM2-135M. DPO's is a
# guess, which nothing measured.
RATES: Final[dict[Method, float]] = {"lora": 1e-3, "full": 2e-4, "mofo": 5e-4, "dpo": 1e-4}
STEPS: Final = 60  # at least so many are taken: 50 examples were seen ten times in the study, and 100 six times
EPOCHS: Final = (2.0, 10.0)  # at least and at most: 1,000 examples were seen twice
LEAST_LENGTH: Final = 16
MOST_SEED: Final = 1 << 63  # torch takes no more


class TuneOptions(TypedDict, total=False):
    """The options of `eftlocal.tune`, as `Options` has them; `mofo` is its `fraction`, `type` its `kind`."""

    method: Method
    view: str | None
    beta: float
    rank: int
    alpha: float | None
    mofo: float
    type: Kind | None
    epochs: float | None
    lr: float | None
    batch: int
    length: int
    seed: int
    threads: int | None
    device: DeviceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for. None: what suits the data.

    data       files and folders, or lines as mappings; `valid` is kept back to judge by
    reference  the model to train: a name of the catalogue, hf:owner/repo/file.gguf or a path
    output     the file to write
    emulator   an emulator whose base is steered, and whose reward's reference is the default of `reference`
    base       a model that is steered, instead of `emulator`; with either, training is consistent with it
    view       how the small model is asked: chat (its own template) or transcript
    beta       the strength of the reward in consistent training
    fraction   of each matrix that moves at a step (mofo)
    kind       the type of the matrices of a whole model that is written
    length     the most tokens of an example
    device     what is computed on: cpu, cuda, mps, or auto for the fastest of them that torch finds
    """

    data: Examples
    output: Path
    reference: str | None = None
    emulator: str | None = None
    base: str | None = None
    valid: Examples = ()
    method: Method = "lora"  # on SmolLM2 nothing was better, and it takes the least memory
    view: str | None = None
    beta: float = 1.0  # 0.5 was as good, 1.5 worse
    rank: int = 16  # 4 and 64 were worse
    alpha: float | None = None
    fraction: float = 0.05  # from 0.01 to 0.15 it matters little
    preference: float = 0.1
    likelihood: float = 0.2
    kind: Kind | None = None
    epochs: float | None = None
    lr: float | None = None
    batch: int = 8
    length: int = 1024
    seed: int = 0
    threads: int | None = None
    device: DeviceName = "auto"
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Raises SettingError for what is not possible."""
        if self.reference is None and self.emulator is None:
            raise SettingError("No reference was named: the small model to train.", "Name it: --reference MODEL.")
        if self.emulator is not None and self.base is not None:
            raise SettingError("--for and --base were both given.", "Leave one of them out: each names a base.")
        if self.method not in METHODS:
            raise SettingError(f"method is {self.method!r}; it must be one of {', '.join(METHODS)}.")
        if self.device not in DEVICES:
            raise SettingError(f"device is {self.device!r}; it must be one of {', '.join(DEVICES)}.")
        if self.view not in (None, "chat", "transcript"):
            raise SettingError(f"view is {self.view!r}; it must be chat or transcript.")
        if self.kind is not None:
            self._must_have_kinds(self.kind)
        for name, value, least in (
            ("rank", self.rank, 1),
            ("batch", self.batch, 1),
            ("length", self.length, LEAST_LENGTH),
            ("threads", self.threads, 1),
        ):
            if not (_is_whole(value) and value >= least) and not (name == "threads" and value is None):
                raise SettingError(f"{name} is {_shown(value)}; it must be at least {least}.")
        if not (_is_whole(self.seed) and 0 <= self.seed < MOST_SEED):
            raise SettingError(f"seed is {_shown(self.seed)}; it must be a whole number, 0 or above and below 2^63.")
        for name, number in (("epochs", self.epochs), ("lr", self.lr), ("alpha", self.alpha)):
            if number is not None and not (_is_number(number) and 0 < number < math.inf):
                raise SettingError(f"{name} is {_shown(number)}; it must be above 0.")
        if not (_is_number(self.fraction) and 0 < self.fraction <= 1):
            raise SettingError(f"mofo is {_shown(self.fraction)}; it must be above 0 and at most 1.")
        if not (_is_number(self.beta) and math.isfinite(self.beta)) or self.beta == 0:
            raise SettingError(f"beta is {_shown(self.beta)}; it must be a number other than 0.")

    def _must_have_kinds(self, kind: str) -> None:
        """Raises SettingError for a type that nothing is written in."""
        if kind not in KINDS:
            raise SettingError(f"type is {kind!r}; it must be one of {', '.join(KINDS)}.")
        if self.adapts:
            raise SettingError(
                f"{self.method} writes an adapter, a few MB that are always f32: --type is of a whole model.",
                "Leave it out, or train a whole model: --method full or mofo.",
            )

    @property
    def name(self) -> str:
        """The name of what is made: that of its file."""
        return self.output.name.removesuffix(".gguf")

    @property
    def folder(self) -> Path:
        """Where a run keeps what it needs to go on."""
        return self.output.with_name(f"{self.name}.tune")

    @property
    def report(self) -> Path:
        """Where what was measured is kept."""
        return self.output.with_name(f"{self.name}.report.json")

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained, and not a whole model."""
        return self.method in ("lora", "dpo")

    @property
    def checkpoint(self) -> Path:
        """The state of the training."""
        return self.folder / "checkpoint"

    @property
    def plan(self) -> Path:
        """How the training is done."""
        return self.folder / "plan.json"

    @property
    def rows(self) -> Path:
        """The folder of what base and reference say."""
        return self.folder / "rows"

    def must_be_free(self, *, force: bool) -> None:
        """Raises SettingError for an output that exists already, but for one of a run that goes on, or with `force`."""
        if self.output.is_dir():
            raise SettingError(f"{self.output} is a folder.", "Give another --output: the name of a file.")
        if self.output.exists() and not (force or self.checkpoint.exists()):
            raise SettingError(f"{self.output} exists already.", "Give another --output, or --force to replace it.")
        if not self.output.absolute().parent.is_dir():
            raise SettingError(f"{self.output.parent} is not a folder.", "Make it first, or give another --output.")

    def recipe(self, items: int, fed: int) -> Recipe:
        """How so many items are trained, with `fed` tokens at once."""
        least, most = EPOCHS
        wanted = STEPS * self.batch / max(1, items)
        return Recipe(
            epochs=self.epochs or min(most, max(least, math.ceil(wanted))),
            batch=self.batch,
            lr=self.lr or RATES[self.method],
            fraction=self.fraction if self.method == "mofo" else 1.0,
            seed=self.seed,
            fed=fed,
        )

    def identity(self, *others: str) -> str:
        """A hash of all that the trained parameters depend on; `others` stand for data and models."""
        left_out = ("data", "output", "valid", "kind", "device", "dry_run")
        own = {name: str(value) for name, value in asdict(self).items() if name not in left_out}
        return hashlib.sha256(json.dumps([own, others]).encode()).hexdigest()


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def gguf_path(output: Path) -> Path:
    """The file that is written for the name or the path that the user gave. Raises SettingError."""
    if not output.name:
        raise SettingError(f"{str(output)!r} is no name of a file.", "Give another --output: a name, or a path to it.")
    return output if output.name.endswith(".gguf") else output.with_name(f"{output.name}.gguf")
