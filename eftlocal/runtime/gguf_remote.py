"""Reads a model's header from the Hub before the model is downloaded, with range requests for the first bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from eftlocal.catalog import hub
from eftlocal.runtime import gguf
from eftlocal.runtime.gguf import Header, HeaderIncompleteError

__all__ = ["check_remote", "remote_header"]

FIRST: Final = 1 << 20  # bytes in the first request; with a vocabulary of 150,000 tokens, a header has 6 MB


def remote_header(read: Callable[[int, int], bytes], size: int, path: Path) -> Header:
    """Returns the header of a remote file of `size` bytes. `read(start, stop)` returns its bytes from start to stop.

    `path` names the file in errors. Raises ModelFileError when it is not a valid GGUF file. Exceptions of `read` pass
    through.
    """
    data, stop = b"", min(FIRST, size)
    while True:
        data += read(len(data), stop)
        try:
            return gguf.parse(data, size, path)
        except HeaderIncompleteError as error:
            if len(data) < stop or stop == size:
                raise
            stop = min(size, max(error.needed, 2 * stop))


def check_remote(repository: hub.Repository, file: str) -> Header:
    """Returns the header of a whole model in a repository, with all its shards, as `gguf.check` does.

    Raises ModelFileError and HubError.
    """
    sizes = {part.name: part.size for part in repository.parts(file)}

    def read(path: Path) -> Header:
        name = str(path.relative_to(repository.repo).as_posix())
        return remote_header(lambda start, stop: hub.read_range(repository, name, start, stop), sizes[name], path)

    return gguf.check(Path(repository.repo) / file, read)
