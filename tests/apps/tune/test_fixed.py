"""Tests of what base and reference say: rows that were computed in parts are those of one piece, to the byte."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eftlocal.apps.tune import check, setup
from eftlocal.apps.tune.check import Prepared
from eftlocal.apps.tune.data import read
from eftlocal.apps.tune.fixed import fixed_rows
from eftlocal.apps.tune.options import Options
from eftlocal.apps.tune.setup import Setup
from eftlocal.catalog.models import load


@contextmanager
def made(folder: Path) -> Iterator[tuple[Setup, list[Prepared]]]:
    """The demo family, whose base is quantized: its logits depend on what is decoded beside them."""
    data = folder / "data.jsonl"
    lines = [{"prompt": f"Where is {name}?", "completion": f"{name} is far away, friend."} for name in NAMES]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = Options(data=(data,), output=folder / "voice.gguf", emulator="demo", threads=1)
    found = setup.make(load(None), options)
    try:
        yield found, check.prepare(read(options.data).records, found.asked, found.length)[0]
    finally:
        found.loaded.engine.close()


NAMES = ["Lyon", "Oslo", "Kyoto", "Lima", "Cairo", "Perth", "Quito", "Turin", "Bern", "Riga", "Accra", "Dakar", "Nice"]


def test_rows_in_parts_are_those_of_one_piece(tmp_path: Path) -> None:
    with made(tmp_path) as (found, prepared):
        whole = fixed_rows(found, prepared, tmp_path / "whole", "x", 1.0, lambda _: None, lambda: False)
    assert whole is not None
    looks = 0

    def impatient() -> bool:
        nonlocal looks
        looks += 1
        return looks % 3 == 0  # in the middle of a group, and again from there

    parts = 0
    rows = None
    while rows is None:
        with made(tmp_path) as (found, prepared):
            rows = fixed_rows(found, prepared, tmp_path / "parts", "x", 1.0, lambda _: None, impatient)
        parts += 1
    assert parts > 3
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "parts")]
    assert contents[0] == contents[1]
