"""Trains a small model on examples, and adds it as an emulator: `eftlocal.tune`, and the command of that name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Unpack

from eftlocal.apps.store.check import Checked
from eftlocal.apps.store.init import add, must_be_possible
from eftlocal.apps.tune import files, run
from eftlocal.apps.tune.data import Examples
from eftlocal.apps.tune.options import Options, TuneOptions, gguf_path
from eftlocal.apps.tune.progress import Tell, TuneProgress
from eftlocal.apps.tune.verdict import Verdict
from eftlocal.catalog.models import Catalog, load, users_file
from eftlocal.errors import SettingError

__all__ = ["TuneProgress", "Tuned", "added", "dry", "tune"]

OTHER_NAMES: Final = {"mofo": "fraction", "type": "kind"}  # of options, for the fields of Options

Given = str | Path | Sequence[str | Path | Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Tuned:
    """A model that was trained, and the emulator that it is part of.

    path      its file: an adapter, or a whole model
    emulator  the emulator's name, for `Emulator.load` and `eftlocal chat`
    before    the loss of what was kept back, in nats a token: before the training, and `after` it. It is the emulator's
              loss where a base is steered, else the small model's. None if nothing was kept back.
    verdict   how well reference, tuned, base and emulator give the answers that were kept back; None for data without
              answers to ask for
    """

    path: Path
    emulator: str
    before: float | None
    after: float | None
    verdict: Verdict | None


def tune(
    examples: Given,
    output: str | Path,
    *,
    reference: str | Path | None = None,
    emulator: str | None = None,
    base: str | Path | None = None,
    valid: Given = (),
    models: str | Path | None = None,
    force: bool = False,
    progress: Tell | None = None,
    **options: Unpack[TuneOptions],
) -> Tuned:
    """Train a small model on examples, write it to `output`.gguf, and add it as an emulator of that name.

        from eftlocal import Emulator, tune

        examples = [{"prompt": "Hi", "completion": "Ahoy!"}, ...]
        tuned = tune(examples, "pirate", reference="small.gguf", base="large.gguf")
        with Emulator.load(tuned.emulator) as emulator:
            print(emulator.generate("How are you?").text)

    examples   files and folders, as the command takes them, or lines as mappings: `messages`, `prompt` and
               `completion`, `text`, or `prompt`, `chosen` and `rejected`
    reference  the small model to train: a name of models.toml, hf:owner/repo/file.gguf, or a path
    emulator   train for this emulator's base; the reference of its reward is the default of `reference`
    base       train for this large model, instead
    valid      examples to judge by, which are not trained on; by default a tenth of the prompts
    models     a models.toml to read besides the user's, and to add the emulator to
    force      replace a file and an emulator of this name
    progress   is called with a TuneProgress at each step, and for each thing that is found

    Options: method ("lora", "full", "mofo", "dpo"), beta (the strength while it is trained), view ("chat" or
    "transcript"), rank, alpha, mofo (the fraction that moves), type (of a whole model that is written: "f16", "q8_0" or
    another of the command's), epochs, lr, batch, length, seed, threads and device ("auto", "cpu", "cuda" or "mps").

    What was interrupted goes on: make the same call again. Ctrl-C raises KeyboardInterrupt when the step is done and
    what was reached is on the disk. Raises EftError: TrainingError where the extra `tune` is not installed, for a model
    that cannot be trained, and for a full disk; SettingError; FitError; and what `Emulator.load` raises.
    """
    if unknown := sorted(set(options) - set(TuneOptions.__annotations__)):
        raise SettingError(
            f"There is no option named {', '.join(unknown)}.", f"There are {', '.join(TuneOptions.__annotations__)}."
        )
    settings = {OTHER_NAMES.get(name, name): value for name, value in options.items()}
    wanted = Options(
        data=_examples("examples", examples),
        output=gguf_path(Path(output)),
        reference=None if reference is None else str(reference),
        emulator=emulator,
        base=None if base is None else str(base),
        valid=_examples("valid", valid),
        **settings,  # type: ignore[arg-type]
    )
    target = users_file() if models is None else Path(models)
    cat = load(None if models is None else target)
    tuned, _ = added(cat, wanted, target, force=force, tell=progress or (lambda _: None))
    return tuned


def added(cat: Catalog, options: Options, target: Path, *, force: bool, tell: Tell) -> tuple[Tuned, Checked]:
    """Trains, and adds the emulator to the models.toml `target`. Returns what was found about the emulator, too.

    Raises what `run.tune` and `init.add` raise.
    """
    force = _must_be_free(cat, options, target, force=force)
    with files.held(options):
        outcome = run.tune(cat, options, tell)
        assert outcome is not None, "a dry run trains nothing"
        made, entry = replace(cat, models=outcome.catalog.models), outcome.emulator
        checked = add(made, options.name, entry, target, force=force, views=entry.views)
        files.clean(options)
    return Tuned(options.output, options.name, outcome.before, outcome.after, outcome.verdict), checked


def dry(cat: Catalog, options: Options, target: Path, *, force: bool, tell: Tell) -> None:
    """Tells what a run of these options, whose `dry_run` is set, would find and take. Raises what `added` raises."""
    _must_be_free(cat, options, target, force=force)
    run.tune(cat, options, tell)


def _must_be_free(cat: Catalog, options: Options, target: Path, *, force: bool) -> bool:
    """Raises CatalogError or SettingError for a file or an emulator of this name. Returns whether to replace them.

    They may be there if a run was killed after it had written them: the same run replaces them.
    """
    force = force or (options.checkpoint.exists() and _is_of(cat, options))
    must_be_possible(cat, options.name, target, force=force)
    options.must_be_free(force=force)
    return force


def _is_of(cat: Catalog, options: Options) -> bool:
    """Whether the emulator of this name is the one that the run added."""
    if (emulator := cat.emulators.get(options.name)) is None:
        return False
    tuned = cat.models.get(emulator.rewards[0].tuned if emulator.rewards else emulator.base)
    if tuned is None:
        return False
    file = tuned.file if tuned.lora is None else tuned.lora.file
    return isinstance(file, Path) and file.absolute() == options.output.absolute()


def _examples(name: str, given: object) -> Examples:
    """What a caller gave, as paths and mappings. Raises SettingError for what is neither."""
    each = [given] if isinstance(given, (str, Path, Mapping)) else given
    if not isinstance(each, Iterable) or isinstance(each, bytes):
        raise SettingError(f"{name} is {type(given).__name__}; it must be a path, or a list of paths and mappings.")
    found: list[Path | Mapping[str, object]] = []
    for number, one in enumerate(each, 1):
        if not isinstance(one, (str, Path, Mapping)):
            raise SettingError(f"{name}: item {number} is {type(one).__name__}; it must be a path or a mapping.")
        found.append(one if isinstance(one, Mapping) else Path(one))
    return tuple(found)
