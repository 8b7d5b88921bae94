"""What a session keeps of the command line: the options that made its emulator, to open it with the same one again."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eftlocal.cli.options import Options
from eftlocal.errors import CatalogError, WorkerError

if TYPE_CHECKING:
    from eftlocal.apps.chat.session import Origin, Saved
    from eftlocal.catalog.models import Catalog
    from eftlocal.emulation.emulator import Emulator

__all__ = ["elsewhere", "origin_of", "own_catalog", "telling_a_way"]


def origin_of(options: Options, catalog: "Catalog") -> "Origin":
    """The options that made `catalog`, with absolute paths, so that they mean the same in another folder."""
    from eftlocal.catalog.models import TRIO
    from eftlocal.catalog.tables import expanded

    origin: dict[str, str | list[str]] = {}
    if file := options.models or os.environ.get("EFTLOCAL_MODELS"):
        origin["models"] = str(expanded(Path(file)).absolute())
    if catalog.default == (TRIO,):
        made = catalog.emulators[TRIO]
        pair = [("tuned", made.rewards[0].tuned), ("reference", made.rewards[0].reference)] if made.rewards else []
        for role, name in [("base", made.base), *pair]:
            model = catalog.models[name]
            is_path = model.source is None and isinstance(model.file, Path)
            origin[role] = str(model.file) if is_path else name
    if options.view:
        origin["view"] = list(options.view)
    if options.negative is not None:
        origin["negative"] = options.negative
        if options.guidance is not None:
            origin["guidance"] = str(options.guidance)
    if options.rpc:
        origin["rpc"] = [part.strip() for text in options.rpc for part in text.split(",")]
    return origin


def elsewhere(options: Options, origin: "Origin") -> "tuple[Catalog, Callable[[str | None], Emulator]]":
    """The catalogue of that origin, and what loads from it with the other `options`. Raises CatalogError."""
    from eftlocal.catalog import models

    file, base = _text(origin, "models"), _text(origin, "base")
    catalog = models.load(None if file is None else Path(file))
    if base is not None:
        catalog = catalog.with_trio(base, _text(origin, "tuned"), _text(origin, "reference"))
    made = _changed_as(replace(options, view=None, negative=None, guidance=None, rpc=None), origin)
    return catalog, lambda name: made.load(catalog, name)


def own_catalog(options: Options, saved: "Saved", name: str) -> tuple[Options, "Catalog", str | None]:
    """The options, the catalogue and the emulator of the session `name`. Raises CatalogError if they are missing."""
    try:
        made, emulator = _again(options, saved)
        catalog, emulator = made.catalog(emulator)
        catalog.emulator(emulator)
    except CatalogError as error:
        way = f"Name an emulator to go on with: eftlocal chat EMULATOR --session {name}"
        raise CatalogError(
            f"The session {name} was held with {saved.emulator}, which cannot be had: {error.message}.",
            f"{error.hint.removesuffix('.')}. {way}" if error.hint else way,
        ) from error
    return made, catalog, emulator


def telling_a_way(
    load: "Callable[[str | None], Emulator]", saved: "Saved", words: str
) -> "Callable[[str | None], Emulator]":
    """`load`, for a session that kept its workers: when one is away, the error also says how to go on without any.

    `words` are the options that name the session.
    """
    named = saved.emulator
    if saved.origin and (base := _text(saved.origin, "base")):
        pair = [f"--{role} {text}" for role in ("tuned", "reference") if (text := _text(saved.origin, role))]
        named = " ".join([f"--base {base}", *pair])

    def loading(name: str | None) -> "Emulator":
        try:
            return load(name)
        except WorkerError as error:
            way = f"Without workers: eftlocal chat {named} {words}"
            raise WorkerError(error.message, f"{error.hint} {way}" if error.hint else way) from None

    return loading


def _again(options: Options, saved: "Saved") -> tuple[Options, str | None]:
    """The options, and the name of an emulator (None: of the options' models), that a session was held with.

    --models of the command line stays. Raises CatalogError for an older session that does not say which models it had.
    """
    from eftlocal.catalog.models import TRIO

    origin = saved.origin or {}
    file, base = _text(origin, "models"), _text(origin, "base")
    made = _changed_as(replace(options, models=options.models or (Path(file) if file else None)), origin)
    if saved.emulator != TRIO:
        return made, saved.emulator
    if base is None:
        raise CatalogError("its models were named on the command line, and it does not say which")
    return replace(made, base=base, tuned=_text(origin, "tuned"), reference=_text(origin, "reference")), None


def _changed_as(options: Options, origin: "Origin") -> Options:
    """The options with the views, the workers and the guidance of that origin, where they have none of their own.

    --insecure is not kept: a file must not send weights over a network that nobody allowed here.
    """
    guidance = _text(origin, "guidance")
    made = replace(options, view=options.view or _list(origin, "view"), rpc=options.rpc or _list(origin, "rpc"))
    if options.negative is not None or (negative := _text(origin, "negative")) is None:
        return made
    try:
        strength = None if guidance is None else float(guidance)
    except ValueError:
        strength = None
    return replace(made, negative=negative, guidance=strength if options.guidance is None else options.guidance)


def _text(origin: "Origin", name: str) -> str | None:
    value = origin.get(name)
    return value if isinstance(value, str) else None


def _list(origin: "Origin", name: str) -> list[str] | None:
    value = origin.get(name)
    return list(value) if isinstance(value, list) else None
