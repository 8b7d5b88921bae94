"""A tiny model, loaded as the runtime loads it."""

from collections.abc import Iterator

import pytest

from eftlocal.runtime import gguf
from eftlocal.runtime.llama.model import Model
from tests.families import Family


@pytest.fixture
def model(family: Family) -> Iterator[Model]:
    made = Model(gguf.check(family.tuned))
    yield made
    made.close()
