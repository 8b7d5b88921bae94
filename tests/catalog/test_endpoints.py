"""Addresses of workers, in models.toml and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from eftlocal.catalog.endpoints import Endpoint, endpoint, endpoints
from eftlocal.catalog.reading import read_model
from eftlocal.catalog.toml import model_lines
from eftlocal.errors import CatalogError


def test_an_address_is_host_and_port() -> None:
    assert endpoint("127.0.0.1") == Endpoint("127.0.0.1", 50052)
    assert endpoint(" box.lan:1234 ") == Endpoint("box.lan", 1234)
    assert str(endpoint("localhost:7")) == "localhost:7"


@pytest.mark.parametrize(
    "text",
    [
        *("", ":50052", "a:", "a:0", "a:65536", "a:-1", "a:b", "a b:1", "127.0.0.300:1", "1.2.3:1", "-a:1", "a..b:1"),
        *("é:1", "http://a:1", "[::1]:50052", "::1", "a:1:2", "a:١"),
    ],
)
def test_what_is_not_an_address_is_an_error_with_what_to_write(text: str) -> None:
    with pytest.raises(CatalogError) as caught:
        endpoint(text)
    assert caught.value.hint


def test_llama_cpp_knows_ipv4_alone() -> None:
    with pytest.raises(CatalogError, match="IPv6"):
        endpoint("[::1]:50052")


def test_loopback_needs_no_permission_and_another_machine_does() -> None:
    assert len(endpoints(["127.0.0.1:1,localhost:2", "127.0.0.2:3"])) == 3
    with pytest.raises(CatalogError, match="no password and no encryption") as caught:
        endpoints(["10.0.0.7:50052"])
    assert "ssh -N -L" in (caught.value.hint or "") and "insecure" in (caught.value.hint or "")
    assert endpoints(["10.0.0.7"], insecure=True) == (Endpoint("10.0.0.7", 50052),)


def test_a_worker_is_named_once() -> None:
    with pytest.raises(CatalogError, match="twice"):
        endpoints(["127.0.0.1", "127.0.0.1:50052"])


def test_a_model_with_a_file_has_workers_and_its_lines_say_so(tmp_path: Path) -> None:
    source = tmp_path / "models.toml"
    model = read_model(source, "m", {"path": "m.gguf", "rpc": ["127.0.0.1:1", "box:2"], "insecure": True})
    assert [str(one) for one in model.rpc] == ["127.0.0.1:1", "box:2"]
    lines = "\n".join(model_lines(model, tmp_path))
    assert 'rpc = ["127.0.0.1:1", "box:2"]' in lines and "insecure = true" in lines


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"path": "m.gguf", "rpc": []}, "rpc: is empty"),
        ({"path": "m.gguf", "rpc": [1]}, r"rpc\[0\]: must be a string"),
        ({"path": "m.gguf", "rpc": ["box"]}, "rpc: box:50052 is another machine"),
        ({"path": "m.gguf", "insecure": True}, "insecure: belongs to a model on a server"),
        ({"url": "http://127.0.0.1:1", "rpc": ["127.0.0.1"]}, "rpc: a model has either a url, or a file"),
    ],
)
def test_what_is_wrong_in_a_models_table_is_told_with_its_key(table: object, problem: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=problem):
        read_model(tmp_path / "models.toml", "m", table)
