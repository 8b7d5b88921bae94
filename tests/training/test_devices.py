"""Tests of the device that trains: by its name, or the fastest kind that torch finds."""

import pytest
import torch

from eftlocal.errors import SettingError
from eftlocal.training.devices import CPU, DeviceName, chosen, described, free, release


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted", "found"),
    [
        (True, True, "auto", "cuda"),
        (False, True, "auto", "mps"),
        (False, False, "auto", "cpu"),
        (True, True, "cpu", "cpu"),
        (True, False, "cuda", "cuda"),
        (True, True, "mps", "mps"),
    ],
)
def test_auto_is_the_fastest_kind_that_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, wanted: DeviceName, found: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert chosen(wanted) == torch.device(found)


@pytest.mark.parametrize("wanted", ["cuda", "mps"])
def test_a_device_that_torch_does_not_find_is_told(monkeypatch: pytest.MonkeyPatch, wanted: DeviceName) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingError, match=f"finds no {wanted} device.\nTake --device cpu"):
        chosen(wanted)


def test_what_a_device_is_called_and_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert described(CPU) == "cpu" and free(CPU) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 << 30, 80 << 30))
    assert described(torch.device("cuda")) == "cuda (NVIDIA H100 80GB HBM3)" and free(torch.device("cuda")) == 70 << 30
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 << 30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1 << 30)
    assert described(torch.device("mps")) == "mps" and free(torch.device("mps")) == 9 << 30


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_memory_is_given_back_to_other_programs(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    release(torch.device(kind))
    assert emptied == [kind] * (kind != "cpu")
