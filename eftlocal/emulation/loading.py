"""Loads an emulator by name: its members on an engine, and its settings."""

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack, cast

from eftlocal.catalog import models as catalog
from eftlocal.catalog.changes import on_workers
from eftlocal.catalog.endpoints import endpoints
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation import remote
from eftlocal.emulation.assembling import assemble
from eftlocal.emulation.members import Members
from eftlocal.emulation.rpc import asked
from eftlocal.engine.engine import Engine
from eftlocal.engine.workers import Workers
from eftlocal.errors import CatalogError, SettingError
from eftlocal.runtime.llama.context import KV_TYPES
from eftlocal.runtime.machine import here, usable_cores
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.wishes import Wishes
from eftlocal.runtime.speeds import Speeds, speeds_file

__all__ = ["LoadOptions", "Loaded", "load"]


class LoadOptions(Dials, total=False):
    """Keyword arguments of `Emulator.load`, which describes them. The inherited ones are settings."""

    models: Path | str | catalog.Catalog | None
    context: int | None
    threads: int | None
    kv_type: str
    gpu_layers: int | Mapping[str, int] | None
    device: str | None
    main_gpu: int | None
    split: str | None
    force: bool
    date: datetime.date | None
    upper: str | None
    rpc: str | Sequence[str] | None
    insecure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An emulator's members on an engine, and its settings.

    load_s   the seconds that loading took
    rewards  its rewards, as the catalogue has them
    """

    name: str
    members: Members
    engine: Engine
    settings: Settings
    load_s: float
    rewards: tuple[catalog.Reward, ...] = ()


def load(name: str | None, **options: Unpack[LoadOptions]) -> Loaded:
    """Load the emulator `name` with the members that its settings need. Options and errors as `Emulator.load`."""
    started = time.perf_counter()
    models, kv_type = options.get("models"), options.get("kv_type", "f16")
    cat = models if isinstance(models, catalog.Catalog) else _read(models, name)
    emulator = cat.emulator(name)
    if rpc := options.get("rpc"):
        named = endpoints([rpc] if isinstance(rpc, str) else rpc, insecure=options.get("insecure", False))
        cat = on_workers(cat, emulator, named)
    cat.must_be_here(emulator)
    members = assemble(cat, emulator, date=options.get("date"), upper=options.get("upper"))
    if kv_type not in KV_TYPES:
        raise SettingError(f"kv_type is {kv_type!r}; it must be one of {', '.join(KV_TYPES)}.")
    threads = options.get("threads")
    if threads is not None and threads < 1:
        raise SettingError(f"threads is {threads}; it must be at least 1.")
    settings = _configured(emulator).turned(**_dials(options))
    context = options.get("context")
    n_ctx = members.context(emulator.context if context is None else context)
    wishes = Wishes(
        gpu_layers=options.get("gpu_layers"),
        device=options.get("device"),
        main_gpu=options.get("main_gpu"),
        split=options.get("split"),
    )
    plan = members.plan(here(), Cache(n_ctx, kv_type=kv_type), wishes, asked(members.specs))
    if not plan.fits and not options.get("force", False):
        raise plan.error(emulator.name)
    n_threads = threads or usable_cores()
    speeds = Speeds(n_threads, speeds_file())
    workers = Workers(members.specs, n_ctx=n_ctx, n_threads=n_threads, kv_type=kv_type, plan=plan, speeds=speeds)
    try:
        active = members.mix(settings).active
        for member in active:
            workers.model(member)
        remote.must_share(workers, special_tokens_differ=emulator.special_tokens_differ)
        # A device may turn out too small when the KV caches are made. Make them now, not at the first prompt.
        workers.prepare(member for member in active if plan.members[member].offload.layers)
        workers.measure(active)
    except BaseException:
        workers.close()
        raise
    load_s = time.perf_counter() - started
    return Loaded(
        name=emulator.name,
        members=members,
        engine=Engine(workers),
        settings=settings,
        load_s=load_s,
        rewards=emulator.rewards,
    )


def _read(models: Path | str | None, name: str | None) -> catalog.Catalog:
    """The catalogue of the files. Raises CatalogError where no emulator is named and `default` names a broken one."""
    cat = catalog.load(None if models is None else Path(models))
    if name is None and (error := cat.default_error) is not None:
        raise error
    return cat


def _dials(options: LoadOptions) -> Dials:
    own = LoadOptions.__annotations__.keys() - Dials.__annotations__.keys()
    return cast(Dials, {key: value for key, value in options.items() if key not in own})


def _configured(emulator: catalog.Emulator) -> Settings:
    """The settings from the emulator's models.toml. Raises CatalogError if one is out of its range."""
    try:
        return Settings(stop=emulator.stop).turned(**emulator.sampling)  # type: ignore[arg-type]  # keys were checked
    except SettingError as error:
        raise CatalogError(f"{emulator.source}: [emulators.{emulator.name}] sampling: {error.message}") from None
