"""What stands for each model of an emulator: its files on this machine, or what its server says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eftlocal.catalog import models as catalog
from eftlocal.catalog.server import Server, is_address
from eftlocal.emulation import remote
from eftlocal.engine.spec import Remote
from eftlocal.errors import CatalogError
from eftlocal.runtime import adapters, gguf
from eftlocal.runtime.vocab import Vocabulary

__all__ = ["Found", "files_of", "on_its_server", "on_this_machine", "unasked"]


@dataclass(frozen=True, slots=True)
class Found:
    """A model's header, its LoRA adapter as (file, scale) if it has one, and where it runs if that is a server."""

    header: gguf.Header
    lora: tuple[Path, float] | None = None
    remote: Remote | None = None


def on_this_machine(model: catalog.Model) -> Found:
    """Find and check the model's files on this machine. Raises CatalogError if they are missing, and ModelFileError."""
    lora = catalog.local_lora(model)
    adapter = None if lora is None else gguf.check_lora(lora[0])
    header = gguf.check(catalog.local_path(model))
    if adapter is not None:
        adapters.must_fit(adapter, header)
    return Found(header, lora)


def on_its_server(server: Server, lender: gguf.Header) -> Found:
    """Ask a server for its model. Raises RemoteError."""
    header, link = remote.reached(server, lender)
    return Found(header, remote=link)


def unasked(server: Server, lender: gguf.Header) -> Found:
    """What stands for a model on a server that is not asked."""
    return Found(remote.stand_in(server, lender))


def files_of(
    models: Sequence[catalog.Model],
    find: Callable[[catalog.Model], Found],
    reach: Callable[[Server, gguf.Header], Found] = on_its_server,
) -> dict[str, Found]:
    """What each model is, by its name. Those on this machine come first: their tokens stand for those of the others.

    Fine-tuning may add tokens, so the model with the fewest lends its own.
    """
    found = {model.name: find(model) for model in models if model.server is None}
    for model in models:
        if model.server is not None:
            if not (here := [one for one in found.values() if one.remote is None]):
                named = model.name if is_address(model.name) else f"{model.name} ({model.server})"
                problem = f"{named} runs on a server, and no model is on this machine"
                hint = "A server's model is steered by a pair here: name a tuned and a reference model."
                raise CatalogError(problem, hint)
            lender = min((one.header for one in here), key=lambda header: Vocabulary.of(header).n_real)
            found[model.name] = reach(model.server, lender)
    return {model.name: found[model.name] for model in models}
