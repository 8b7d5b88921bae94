"""Emulated fine-tuning on one machine: a large base model steered, at decoding time, by a small fine-tuned one.

    from eftlocal import Emulator

    with Emulator.load("smollm2") as emulator:
        for text in emulator.stream("Why is the sky blue?", beta=0.8):
            print(text, end="")

`Emulator.load` loads an emulator by name. It answers prompts (`stream`, `generate`, `generate_many`) and streams of
`Job`s (`answers`), and it scores completions (`score`). A prompt is a text, a list of `Message`, `Raw` text, or
token ids (`Ids`). Results are a `Reply`, an `Answer` or a `Score`. `Settings` lists the settings of an answer; a
`Constraint` restricts its text. `tune` trains a small model on your examples (extra `tune`), and returns a `Tuned`.
`evaluate` measures an emulator on data, in every role and at every strength, and returns an `Evaluation`.
Every error is an `EftError`; `eftlocal.errors` shows the tree.
"""

TYPE_CHECKING = False  # the name that type checkers know; importing typing takes longer than all the rest here
if TYPE_CHECKING:
    from typing import Any

    from eftlocal.decoding.constraints.constraint import Constraint
    from eftlocal.decoding.generation import Reply
    from eftlocal.decoding.settings import Settings
    from eftlocal.emulation.emulator import Answer, Emulator, Ids, Job, Raw
    from eftlocal.emulation.scoring import Score, ScoredToken
    from eftlocal.emulation.stream import Stream
    from eftlocal.errors import (
        CatalogError,
        ContextError,
        DecodeError,
        EftError,
        FitError,
        HubError,
        ModelFileError,
        ModelLoadError,
        SettingError,
        TrainingError,
        ViewError,
        VocabularyError,
    )
    from eftlocal.evaluation.evaluate import evaluate
    from eftlocal.evaluation.results import Evaluation
    from eftlocal.runtime.views import Message
    from eftlocal.tuning import Tuned, TuneProgress, tune

    __version__: str

_HOMES = {
    "eftlocal.decoding.constraints.constraint": ("Constraint",),
    "eftlocal.emulation.emulator": ("Answer", "Emulator", "Ids", "Job", "Raw"),
    "eftlocal.decoding.generation": ("Reply",),
    "eftlocal.emulation.scoring": ("Score", "ScoredToken"),
    "eftlocal.emulation.stream": ("Stream",),
    "eftlocal.evaluation.evaluate": ("evaluate",),
    "eftlocal.evaluation.results": ("Evaluation",),
    "eftlocal.decoding.settings": ("Settings",),
    "eftlocal.runtime.views": ("Message",),
    "eftlocal.tuning": ("TuneProgress", "Tuned", "tune"),
}

__all__ = [
    "Answer",
    "CatalogError",
    "Constraint",
    "ContextError",
    "DecodeError",
    "EftError",
    "Emulator",
    "Evaluation",
    "FitError",
    "HubError",
    "Ids",
    "Job",
    "Message",
    "ModelFileError",
    "ModelLoadError",
    "Raw",
    "Reply",
    "Score",
    "ScoredToken",
    "SettingError",
    "Settings",
    "Stream",
    "TrainingError",
    "TuneProgress",
    "Tuned",
    "ViewError",
    "VocabularyError",
    "evaluate",
    "tune",
]


def __getattr__(name: str) -> "Any":
    """Imports a public name when it is first used, so that `eftlocal --help` loads neither numpy nor llama.cpp."""
    if name == "__version__":
        from importlib.metadata import version

        return version("eftlocal")

    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    errors = import_module("eftlocal.errors")
    if name in __all__:
        return getattr(errors, name)
    raise AttributeError(f"module 'eftlocal' has no attribute {name!r}")
