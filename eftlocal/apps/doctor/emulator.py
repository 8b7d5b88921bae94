"""Checks one emulator step by step, from its files to its first token. It stops at the first step that fails."""

from collections.abc import Iterator
from pathlib import Path

from eftlocal.apps.common import size
from eftlocal.apps.doctor.checks import Finding
from eftlocal.catalog import hub
from eftlocal.catalog import models as catalog
from eftlocal.catalog.changes import on_workers
from eftlocal.catalog.endpoints import Endpoint
from eftlocal.catalog.files import HubFile, parts
from eftlocal.emulation.assembling import assemble
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.members import Members
from eftlocal.emulation.rpc import Workers, asked, layers
from eftlocal.errors import EftError, RemoteError, VocabularyError, WorkerError
from eftlocal.runtime.machine import here
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.placement import gib
from eftlocal.runtime.plan.wishes import Wishes
from eftlocal.runtime.remote.link import Link

__all__ = ["examine"]

QUESTION = "Say hello."


def examine(models: Path | None, name: str, rpc: tuple[Endpoint, ...] = ()) -> Iterator[Finding]:
    """The findings about the emulator: files and checksums, headers and vocabularies, memory, load, first token.

    `rpc` are workers for its base.

    Yields one finding for each step. An error becomes the last finding and is not raised.
    """
    step = "catalogue"
    try:
        cat = catalog.load(models)
        for line in cat.lines_for(name):
            yield Finding(step, "note", line)
        emulator = cat.emulator(name)
        yield Finding(step, "ok", f"{name} is defined in {emulator.source}")
        cat = on_workers(cat, emulator, rpc) if rpc else cat
        step = "files"
        cat.must_be_here(emulator)
        for step in emulator.models:
            yield from _files(cat.model(step))
        step = "vocabulary"
        members = assemble(cat, emulator)
        yield from (_server(spec.model, spec.remote.link) for spec in members.specs if spec.remote is not None)
        differing = f"; {len(members.skipped)} special ones differ and get no reward" if len(members.skipped) else ""
        same = f"{members.n_real - len(members.skipped):,} tokens are the same for all members"
        yield Finding(step, "ok", f"{same}{differing}")
        step = "workers"
        if workers := asked(members.specs):
            yield from _workers(members, workers)
        step = "load"
        with Emulator.load(name, models=cat, max_tokens=1) as loaded:
            yield Finding(step, "ok", f"loaded in {loaded.load_s:.1f} s")
            for note in loaded.notes:
                yield Finding("load", "note", note)
            step = "first token"
            reply = loaded.generate(QUESTION)
            yield Finding(step, "ok", f"{reply.text!r} after {reply.ttft_s or 0:.2f} s")
    except EftError as error:
        yield Finding(_heading(step, error), "wrong", error.message, error.hint)
    except OSError as error:  # such as a shard that is missing, or a file without permission
        yield Finding(step, "wrong", f"{error.filename}: {error.strerror}")


def _heading(step: str, error: EftError) -> str:
    """What an error is about: a server or a worker can fail at any step, and a server's tokens are compared late."""
    if isinstance(error, WorkerError):
        return "workers"
    if isinstance(error, VocabularyError):
        return "vocabulary"
    return "server" if isinstance(error, RemoteError) else step


def _files(model: catalog.Model) -> Iterator[Finding]:
    """The findings about the model's weights and its adapter. Raises HubError for a damaged file."""
    if isinstance(model.file, catalog.Server):
        return
    yield _file(model.name, model.file, catalog.local_path(model))
    if model.lora is not None and (lora := catalog.local_lora(model)) is not None:
        yield _file(f"{model.name} lora", model.lora.file, lora[0])


def _server(name: str, link: Link) -> Finding:
    """What a server says of itself, and how far away it is. The load asks it on a link of its own: this one ends."""
    facts, trip = link.facts, link.round_trip()
    link.close()
    parts = [f"{facts.engine} {facts.version}".strip(), f"model {facts.model}"]
    parts += [f"context {facts.n_ctx:,}"] if facts.n_ctx else []
    parts += [f"{facts.parallel} at a time", f"at most {facts.most:,} tokens of a row" if facts.most else "whole rows"]
    parts += [f"round trip {trip * 1000:.1f} ms", "log-probabilities are the model's own"]
    parts += [] if link.server.is_here else ["prompts leave this machine"]
    return Finding(name, "ok", f"{link.server.url}: {', '.join(parts)}")


def _workers(members: Members, workers: Workers) -> Iterator[Finding]:
    """What each worker says of itself, and which layers go where."""
    for endpoint, worker in workers.items():
        trip = f"llama.cpp's RPC {worker.version}, round trip {worker.round_trip_s * 1000:.2f} ms"
        memories = [
            f"{gib(m.total)} of memory, all of it free as a CPU says"
            if m.free == m.total
            else f"{gib(m.free)} of {gib(m.total)} free"
            for m in worker.devices
        ]
        yield Finding("worker", "ok", f"{endpoint}: {trip}; {', '.join(memories)}")
    plan = members.plan(here(), Cache(members.context(None)), Wishes(), workers)
    for spec, placed in zip(members.specs, plan.members, strict=True):
        if spec.rpc:
            yield Finding("layers", "ok", f"{spec.model}: {layers(placed)}")


def _file(name: str, file: catalog.File, path: Path) -> Finding:
    files = parts(path)
    downloaded = isinstance(file, HubFile)
    if downloaded:
        for part in files:
            hub.verify(part)
    state = "complete and its checksum is right" if downloaded else "there"
    return Finding(name, "ok", f"{path} is {state} ({size(sum(part.stat().st_size for part in files))})")
