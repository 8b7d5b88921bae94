"""What the tests of training share: one thread, so that results are the same everywhere, and tiny models."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.families import write_model

torch.set_num_threads(1)

# Every kind of model that can be trained, in one or the other of its forms.
KINDS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda path: write_model(path, seed=1),
    "llama 3.1": lambda path: write_model(path, seed=2, rope_factors=True, tied=True),
    "qwen2": lambda path: write_model(path, seed=3, architecture="qwen2", padding=16),
    "qwen3": lambda path: write_model(path, seed=4, architecture="qwen3", head=32),
    "gemma3": lambda path: write_model(path, seed=5, architecture="gemma3", n_layers=7, d_model=32, tied=True),
}


@pytest.fixture(scope="session", params=KINDS)
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of each kind."""
    return KINDS[request.param](tmp_path_factory.mktemp("kind") / "model.gguf")
