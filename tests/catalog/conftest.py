"""A Hub for tests, to which this process is connected."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer, connect, serving


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The test's HF_HOME."""
    return tmp_path / "hf"


@pytest.fixture
def server(tmp_path: Path, home: Path) -> Iterator[HubServer]:
    """An empty Hub, to which huggingface_hub in this process is connected."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as hub, connect(hub, home):
        yield hub
