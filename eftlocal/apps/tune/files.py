"""The files of a run: what it writes, how that was made, and what is removed at its end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from eftlocal.apps.tune.options import Options
from eftlocal.apps.tune.verdict import Verdict
from eftlocal.errors import EftError, TrainingError
from eftlocal.interrupt import before_leaving
from eftlocal.runs.lock import lock
from eftlocal.runtime.gguf_header import Header
from eftlocal.training import output
from eftlocal.training.here import version
from eftlocal.training.rows import remove
from eftlocal.training.trainer import Trainer

__all__ = ["clean", "held", "write", "write_report"]

NOT_OF_IT = ("data", "valid", "output", "threads", "device", "dry_run")  # settings that do not change what is trained


def write(options: Options, header: Header, trainer: Trainer, digest: str, template: str | None) -> None:
    """Writes the best parameters to `options.output`, as an adapter or a whole model. Raises TrainingError.

    `digest` is that of the data. `template` is the one that answers were trained with; None if there were none.
    """
    record = _record(options, header, trainer, digest)
    if options.adapts:
        adapter = trainer.tunable.network(trainer.best).adapter
        output.write_adapter(options.output, header, adapter, name=options.name, record=record)
    else:
        kind = options.kind or output.kind_of(header)
        output.write_model(
            options.output, header, trainer.best, kind=kind, name=options.name, record=record, template=template
        )


def _record(options: Options, header: Header, trainer: Trainer, digest: str) -> dict[str, str]:
    """How the file was made, for its metadata."""
    settings = {name: value for name, value in asdict(options).items() if name not in NOT_OF_IT}
    settings = {name: value if isinstance(value, (int, float)) else str(value) for name, value in settings.items()}
    return {
        "data_sha256": digest,
        "settings": json.dumps({**settings, **asdict(trainer.recipe)}),
        "steps": str(trainer.taken),
        "reference": header.path.name,
        "versions": json.dumps({"torch": version(), "eftlocal": metadata.version("eftlocal")}),
    }


def write_report(options: Options, verdict: Verdict | None, before: float | None, after: float | None) -> Path | None:
    """Keeps what was measured beside the file, as JSON. Returns its path; None where it could not be written."""
    found = {"emulator": options.name, "file": options.output.name, "held_out_before": before, "held_out_after": after}
    text = json.dumps({**found, "verdict": None if verdict is None else verdict.to_json()}, indent=1)
    part = options.report.with_name(f".{options.report.name}.part")
    try:
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(options.report)
    except OSError:
        part.unlink(missing_ok=True)
        return None
    return options.report


@contextmanager
def held(options: Options) -> Iterator[None]:
    """Within this context the folder of a run is there, and this process's. It stays where a run has to go on.

    Raises EftError if another process trains there, and TrainingError if the folder cannot be made.
    """
    path = options.folder / "lock"
    try:
        options.folder.mkdir(exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise TrainingError(
            f"{options.folder} cannot be written: {error.strerror}.", "Give another --output."
        ) from None
    try:
        lock(file, str(options.folder))
    except EftError:
        file.close()
        raise

    def release() -> None:
        file.close()
        with suppress(OSError):
            path.unlink()
        _remove_empty(options)

    try:
        with before_leaving(release):
            yield
    finally:
        release()


def clean(options: Options) -> None:
    """Removes what a finished run does not need any more: last the checkpoint, with which the same command goes on."""
    remove(options.rows)
    options.plan.unlink(missing_ok=True)
    options.checkpoint.unlink(missing_ok=True)
    _remove_empty(options)


def _remove_empty(options: Options) -> None:
    for folder in (options.rows, options.folder):
        with suppress(OSError):  # something is in it that a run needs, or something of the user's
            folder.rmdir()
