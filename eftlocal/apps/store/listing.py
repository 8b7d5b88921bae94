"""`eftlocal list`: shows the emulators and models of the catalogue, and which of them are on this machine."""

from collections.abc import Mapping

from rich.table import Column, Table

from eftlocal.apps.common import console, print_json, size
from eftlocal.apps.store.cells import cut, one_line
from eftlocal.apps.store.survey import held, rough_memory, sizes
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HubFile
from eftlocal.runtime import machine

__all__ = ["listing"]


def listing(cat: catalog.Catalog, *, local: bool, as_json: bool) -> int:
    """Print every emulator and model, or only those whose files are all here (`local`). Returns the exit code."""
    memory = machine.here(devices=False).memory
    emulators = [_emulator(cat, emulator, memory) for emulator in cat.emulators.values()]
    models = [_model(model) for model in cat.models.values()]
    if local:
        emulators, models = ([entry for entry in entries if entry["local"]] for entries in (emulators, models))
    if as_json:
        print_json({"emulators": emulators, "models": models})
    else:
        _print(emulators, models)
    return 0


def _emulator(cat: catalog.Catalog, emulator: catalog.Emulator, memory: int | None) -> dict[str, object]:
    total, missing = sizes([cat.model(name) for name in emulator.models])
    return {
        "name": emulator.name,
        "description": emulator.description,
        "local": cat.is_local(emulator),
        "fits": None if total is None or memory is None else rough_memory(total) <= memory,
        "size": total,
        "to_download": missing,
        "default": emulator.name in cat.default,
        "models": list(emulator.models),
    }


def _model(model: catalog.Model) -> dict[str, object]:
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


def _print(emulators: list[dict[str, object]], models: list[dict[str, object]]) -> None:
    """Print the models, then the emulators: most people look for these, and the end of a long list stays on screen."""
    out = console()
    table = _table("model", "here", "size", last="from")
    for entry in models:
        table.add_row(*_start(entry), cut(f"{entry['source']}{' (gated)' if entry['gated'] else ''}"))
    out.print(table)
    out.print()
    table = _table("emulator", "here", "size", "fits", last="what it is")
    for entry in emulators:
        fits = {True: "yes", False: "no", None: "?"}[_flag(entry, "fits")]
        table.add_row(*_start(entry), fits, cut(str(entry["description"])))
    out.print(table)


def _table(*columns: str, last: str) -> Table:
    """A table with one row for each entry. On a narrow terminal only the last column is cut."""
    return Table(*(Column(name, no_wrap=True) for name in columns), last, box=None, pad_edge=False)


def _start(entry: Mapping[str, object]) -> tuple[str, str, str]:
    n = entry["size"]
    return one_line(str(entry["name"])), "yes" if entry["local"] else "no", size(n) if isinstance(n, int) else "?"


def _flag(entry: Mapping[str, object], key: str) -> bool | None:
    value = entry[key]
    return value if isinstance(value, bool) else None
