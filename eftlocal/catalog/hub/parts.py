"""Which files make a split model, by their names alone."""

import re
from typing import Final

__all__ = ["part_names"]

PART: Final = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")


def part_names(name: str) -> tuple[str, ...]:
    """The names of all parts of a split GGUF file, of which `name` is any; an unsplit file is its own one part."""
    found = PART.fullmatch(name)
    if found is None:
        return (name,)
    return tuple(f"{found[1]}-{i:05d}-of-{found[2]}.gguf" for i in range(1, int(found[2]) + 1))
