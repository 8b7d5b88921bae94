"""The bench: its stand-in base computes what the small one does, and one run gives every figure that is promised."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from eftlocal.apps.bench.synthetic import parse_size, widen
from eftlocal.cli import app
from eftlocal.emulation.engine import Engine, MemberSpec, Request
from eftlocal.errors import SettingError
from eftlocal.runtime import gguf
from tests.builders import write_catalog
from tests.families import Family


def logits(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    made = Engine([MemberSpec("m", gguf.check(path))], n_ctx=64, n_threads=2, kv_type="f32")
    try:
        slot = made.begin({0: [5, 77, 300, 9, 8, 7, 100, 200]})
        return made.forward([Request(slot, 5, (0,))])[0][0].copy()
    finally:
        made.close()


def test_a_widened_base_computes_what_the_small_one_does(family: Family, tmp_path: Path) -> None:
    wide = tmp_path / "wide.gguf"
    widen(family.base, wide, 70_000_000, "F16")
    assert wide.stat().st_size == pytest.approx(70_000_000, rel=0.15)
    one, other = logits(family.base), logits(wide)
    assert np.abs(one - other).max() < 0.02 * one.std()  # F16 rounds weights and activations


def test_a_widened_base_can_be_quantized(family: Family, tmp_path: Path) -> None:
    wide = tmp_path / "wide.gguf"
    widen(family.base, wide, 70_000_000, "Q4_K_M")
    assert wide.stat().st_size < 30_000_000 and list(tmp_path.iterdir()) == [wide]
    assert np.corrcoef(logits(family.base).ravel(), logits(wide).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("text", ["300", "M", "300M:Q9", "-1M", "300MB"])
def test_a_size_that_is_none_says_how_one_looks(text: str) -> None:
    with pytest.raises(SettingError, match="300M:Q4_K_M"):
        parse_size(text)


def test_one_run_gives_every_figure_as_one_json_object(family: Family, tmp_path: Path) -> None:
    paths = {name: getattr(family, name) for name in ("base", "tuned", "reference")}
    rewards = [{"tuned": "tuned", "reference": "reference"}]
    views = dict.fromkeys(paths, "raw")
    catalog = write_catalog(tmp_path, paths, base="base", rewards=rewards, views=views)
    command = ["bench", "--models", str(catalog), "--json", "--tokens", "8", "--repetitions", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    ways = {"base_alone", "sequential", "concurrent", "draft_2", "draft_4", "draft_8", "draft_auto"}
    drafts = {way for way in ways if way.startswith("draft")}
    assert report["tokens_per_s"].keys() == ways
    assert report["acceptance"].keys() == report["limit"].keys() == report["tokens_per_block"].keys() == drafts
    assert report["members"].keys() == {"base", "tuned", "reference"}
    assert report["overhead_ms_per_token"] > 0 and report["peak_rss_mb"] > 0
    assert {"concurrent / base_alone", "concurrent / sequential", "draft_auto / concurrent"} <= report["ratios"].keys()
