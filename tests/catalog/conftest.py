"""A Hub of our own, and this process connected to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer, connect, serving


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """HF_HOME of the test."""
    return tmp_path / "hf"


@pytest.fixture
def server(tmp_path: Path, home: Path) -> Iterator[HubServer]:
    """An empty Hub, to which huggingface_hub in this process is connected."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as hub, connect(hub, home):
        yield hub
