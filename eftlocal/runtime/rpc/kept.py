"""The large tensors that a worker keeps on disk, and which of them are whole.

llama.cpp names a file by a hash of what it should hold, and does not look at it again: half a file, which a worker left
that was killed or whose disk was full, would be taken for the weights. So a list beside them says which are whole.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Final

__all__ = ["drop_unfinished", "list_whole"]

LIST: Final = "whole.json"  # name -> bytes
NAME: Final = re.compile(r"[0-9a-f]{16}")  # of a tensor's file: rpc_server::set_tensor of ggml-rpc.cpp
FULL: Final = 64 << 20  # bytes; with less left on the disk, what was just written may be cut


def drop_unfinished(folder: Path) -> None:
    """Remove the files that are not known to be whole. No worker may use the folder. Raises OSError."""
    known = _listed(folder)
    for file, size in _files(folder).items():
        if known.get(file.name) != size:
            file.unlink()


def list_whole(folder: Path) -> None:
    """Note that new files are whole, since no client is there. If the disk is full, remove them.

    A file that is listed already keeps its size: if it has another one now, it is not whole. Raises OSError.
    """
    if shutil.disk_usage(folder).free < FULL:
        drop_unfinished(folder)
    known = _listed(folder)
    sizes = {file.name: known.get(file.name, size) for file, size in _files(folder).items()}
    if sizes == known:
        return
    new = folder / f"{LIST}.new"
    new.write_text(json.dumps(sizes), encoding="utf-8")
    new.replace(folder / LIST)


def _files(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_size for file in folder.iterdir() if NAME.fullmatch(file.name)}


def _listed(folder: Path) -> dict[str, int]:
    """What the list says; nothing if it is missing or is not a list, so that all files are sent again."""
    try:
        found = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
