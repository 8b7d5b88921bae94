"""The names of the shards of a split model."""

import re
from typing import Final

__all__ = ["part_names"]

PART: Final = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")


def part_names(name: str) -> tuple[str, ...]:
    """Returns the names of all shards of a split GGUF model, given one of them; only `name` when it is not split."""
    found = PART.fullmatch(name)
    if found is None:
        return (name,)
    return tuple(f"{found[1]}-{i:05d}-of-{found[2]}.gguf" for i in range(1, int(found[2]) + 1))
