"""A model's header before the model is downloaded: the first bytes of its files, by range requests."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from eftlocal.catalog import hub
from eftlocal.runtime import gguf
from eftlocal.runtime.gguf import Header, HeaderIncompleteError

__all__ = ["check_remote", "remote_header"]

FIRST: Final = 1 << 20  # bytes asked for at first; a vocabulary of 150,000 tokens makes 6 MB


def remote_header(read: Callable[[int, int], bytes], size: int, path: Path) -> Header:
    """The header of a far-away file of `size` bytes, of which `read(start, stop)` gives some; errors call it `path`.

    Raises ModelFileError where it is no sound GGUF file, and what `read` raises.
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
    """The header of a whole model of a repository, all its parts, as `gguf.check` gives it. Raises HubError also."""
    sizes = {part.name: part.size for part in repository.parts(file)}

    def read(path: Path) -> Header:
        name = str(path.relative_to(repository.repo).as_posix())
        return remote_header(lambda start, stop: hub.read_range(repository, name, start, stop), sizes[name], path)

    return gguf.check(Path(repository.repo) / file, read)
