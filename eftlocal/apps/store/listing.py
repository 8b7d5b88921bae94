"""`eftlocal list`: shows the emulators of the catalogue and its models, and which of them are on this machine."""

import sys
from collections.abc import Mapping, Sequence

from eftlocal.apps.common import console, print_json, size
from eftlocal.apps.store.columns import Row, rows_as_lines
from eftlocal.apps.store.survey import held, hub_files, rough_memory, sizes
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HubFile
from eftlocal.runtime import machine
from eftlocal.text import printable

__all__ = ["listing"]


def listing(cat: catalog.Catalog, *, local: bool, models_too: bool, as_json: bool) -> int:
    """Print every emulator, or only those whose files are all here (`local`). Returns the exit code.

    The models are printed if `models_too`, and always as JSON.
    """
    problems = [found.problem for file in hub_files(cat.models.values()) if (found := held(file)).problem]
    if problems:  # mostly one folder that cannot be read, with many files below it
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        print(printable(f"eftlocal: {problems[0]}{more}"), file=sys.stderr)
    memory = machine.here(devices=False).memory
    emulators = [_emulator(cat, emulator, memory) for emulator in cat.emulators.values()]
    models = [_model(model) for model in cat.models.values()]
    if local:
        emulators, models = ([entry for entry in entries if entry["local"]] for entries in (emulators, models))
    if as_json:
        print_json({"emulators": emulators, "models": models, "mistakes": cat.lines()})
        return 0
    _print(emulators, models if models_too else [])
    if sys.stdout.isatty():
        more = "" if models_too else f"; `eftlocal list --models-too` adds {len(models)} models"
        console(stderr=True).print(f"\n`eftlocal show NAME` says everything of one{more}.")
    return 0


def _emulator(cat: catalog.Catalog, emulator: catalog.Emulator, memory: int | None) -> dict[str, object]:
    models = [cat.model(name) for name in emulator.models]
    total, missing = sizes(models)
    return {
        "name": emulator.name,
        "description": emulator.description,
        "local": cat.is_local(emulator),
        "fits": _fits(models, memory),
        "size": total,
        "to_download": missing,
        "default": emulator.name in cat.default,
        "models": list(emulator.models),
    }


def _fits(models: Sequence[catalog.Model], memory: int | None) -> bool | None:
    """Whether what lies here fits in the memory, as far as sizes tell; layers on workers lie elsewhere."""
    if any(model.rpc and model.gpu_layers is not None for model in models):  # some of its layers are here
        return None
    total, _ = sizes([model for model in models if not model.rpc])
    return None if total is None or memory is None else rough_memory(total) <= memory


def _model(model: catalog.Model) -> dict[str, object]:
    if isinstance(model.file, catalog.Server):
        return {
            "name": model.name,
            "path": None,
            "size": None,
            "local": False,
            "source": str(model.file),
            "gated": False,
            "lora": None,
        }
    file = held(model.file)
    adapter = held(model.lora.file) if model.lora else None
    return {
        "name": model.name,
        "path": None if file.path is None else str(file.path),
        "size": file.size,
        "local": file.path is not None and (adapter is None or adapter.path is not None),
        "source": str(model.file),
        "gated": model.file.gated if isinstance(model.file, HubFile) else False,
        "lora": None if model.lora is None else str(model.lora.file),
    }


def _print(emulators: Sequence[Mapping[str, object]], models: Sequence[Mapping[str, object]]) -> None:
    """Print the models, then the emulators: most people look for these, and the end of a long list stays on screen."""
    out = console()
    if models:
        rows = [Row(_start(entry), f"{entry['source']}{' (gated)' if entry['gated'] else ''}") for entry in models]
        for line in rows_as_lines(Row(("model", "here", "size"), "from"), rows, out.width, cut=False):
            print(line)
        print()
    fits = {True: "yes", False: "no", None: "?"}
    rows = []
    for entry in emulators:
        name, here, n = _start(entry)
        rows.append(Row((name, here, fits[_flag(entry, "fits")], n), str(entry["description"])))
    for line in rows_as_lines(Row(("emulator", "here", "fits", "size"), "what it is"), rows, out.width, cut=True):
        print(line)


def _start(entry: Mapping[str, object]) -> tuple[str, str, str]:
    n = entry["size"]
    return str(entry["name"]), "yes" if entry["local"] else "no", size(n) if isinstance(n, int) else "?"


def _flag(entry: Mapping[str, object], key: str) -> bool | None:
    value = entry[key]
    return value if isinstance(value, bool) else None
