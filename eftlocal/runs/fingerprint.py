"""Fingerprints of models and views, for output lines. They take milliseconds, also for files of gigabytes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from eftlocal.engine.spec import MemberSpec, Remote
from eftlocal.errors import ModelFileError
from eftlocal.runtime.gguf import Header, read
from eftlocal.runtime.views import View

__all__ = ["fingerprint", "models"]

SAMPLE: Final = 4096  # bytes of each tensor


def fingerprint(header: Header) -> str:
    """64 bits of the SHA-256 of the file's size, its whole header, and the first 4,096 bytes of every tensor.

    It changes with the metadata, the chat template, the quantization and any training of the weights. A change deep
    inside a tensor does not change it, but only damage to the file would cause that. Raises ModelFileError.
    """
    sha = hashlib.sha256(str(header.file_bytes).encode())
    try:
        for i, path in enumerate(header.shards):
            tensors = sorted((t.offset, t.n_bytes) for t in header.tensors if t.shard == i)
            with path.open("rb") as file:
                sha.update(file.read(tensors[0][0] if tensors else -1))
                for offset, n_bytes in tensors:
                    file.seek(offset)
                    sha.update(file.read(min(n_bytes, SAMPLE)))
    except OSError as error:
        raise ModelFileError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return sha.hexdigest()[:16]


def models(specs: Iterable[MemberSpec], views: Iterable[View]) -> dict[str, dict[str, object]]:
    """Member name -> its file with size and fingerprint, its adapter in the same way, and its view's fingerprint."""
    known: dict[Path, dict[str, object]] = {}

    def described(header: Header) -> dict[str, object]:
        if header.path not in known:
            size = header.file_bytes
            known[header.path] = {"file": header.path.name, "bytes": size, "fingerprint": fingerprint(header)}
        return known[header.path]

    found: dict[str, dict[str, object]] = {}
    for spec, view in zip(specs, views, strict=True):
        lora = {} if spec.lora is None else {"lora": {**described(read(spec.lora[0])), "scale": spec.lora[1]}}
        file = described(spec.header) if spec.remote is None else _on_server(spec.remote)
        found[spec.name] = {**file, **lora, "view": _of_view(view)}
    return found


def _on_server(remote: Remote) -> dict[str, object]:
    facts = remote.link.facts
    found: dict[str, object] = {
        "url": remote.link.server.url,
        "engine": facts.engine,
        "version": facts.version,
        "model": facts.model,
    }
    return found | ({"weights": facts.weights} if facts.weights else {})


def _of_view(view: View) -> str:
    text = json.dumps([view.template, view.variables, view.stops, view.system], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
