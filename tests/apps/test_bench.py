"""The bench: its stand-in base computes what the small one does, and one run gives every figure that is promised."""

import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from eftlocal.apps.bench import plot
from eftlocal.apps.bench.measure import measure
from eftlocal.apps.bench.report import Afar, ContextCost, Report, Sweeps, ThreadCost
from eftlocal.apps.bench.show import show
from eftlocal.apps.bench.sweep import Reading, check_contexts, thread_counts
from eftlocal.apps.bench.synthetic import parse_size, widen
from eftlocal.cli.commands import app
from eftlocal.decoding.generation import Reply
from eftlocal.emulation.emulator import Emulator, Prompt
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request
from eftlocal.engine.spec import MemberSpec
from eftlocal.engine.workers import Workers
from eftlocal.errors import SettingError
from eftlocal.runtime import gguf
from eftlocal.runtime.machine import usable_cores
from tests.builders import load_members, write_catalog
from tests.families import Family


def logits(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    made = Engine(Workers([MemberSpec("m", gguf.check(path))], n_ctx=64, n_threads=2, kv_type="f32"))
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


TRIO = ("base", "tuned", "reference")
REWARD = {"tuned": "tuned", "reference": "reference"}
RAW = dict.fromkeys(TRIO, "raw")
DRAFTS = {"draft_2", "draft_4", "draft_8", "draft_auto"}
QUICK = ("--tokens", "8", "--repetitions", "1")


def paths(family: Family, *names: str) -> dict[str, Path]:
    return {name: getattr(family, name) for name in names}


def bench(catalog: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["bench", "--models", str(catalog), *QUICK, *options])


@pytest.mark.slow
def test_one_run_gives_every_figure_as_one_json_object(family: Family, tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path, paths(family, *TRIO), base="base", rewards=[REWARD], views=RAW)
    picture = tmp_path / "bench.png"
    result = bench(catalog, "--json", "--sweep-threads", "--sweep-ctx", "512,64", "--plot", str(picture))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    ways = {"base_alone", "sequential", "concurrent"} | DRAFTS
    assert report["tokens_per_s"].keys() == ways
    assert report["acceptance"].keys() == report["limit"].keys() == report["tokens_per_block"].keys() == DRAFTS
    assert report["members"].keys() == {"base", "tuned", "reference"}
    assert all(rates["decode"] > 0 and rates["prefill"] > 0 for rates in report["members"].values())
    assert report["overhead_ms_per_token"] > 0 and report["peak_rss_mb"] > 0 and report["drafts_off"] is None
    others = ("base_alone", "sequential", "concurrent")
    assert report["ratios"].keys() == {f"{way} / {other}" for way in ways for other in others if way != other}

    threads, ctx = report["sweeps"]["threads"], report["sweeps"]["ctx"]
    assert [cost["threads"] for cost in threads] == list(thread_counts(usable_cores()))
    assert all(cost["base_alone"] > 0 and cost["concurrent"] > 0 for cost in threads + ctx)
    assert [cost["ctx"] for cost in ctx] == [64, 512] and 0 < ctx[0]["kv_mb"] < ctx[1]["kv_mb"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_two_rewards_are_measured_member_by_member(family: Family, tmp_path: Path) -> None:
    rewards = [
        {"name": "a", **REWARD},
        {"name": "b", "tuned": "tuned2", "reference": "reference2", "beta": 0.5},
    ]
    models = paths(family, *TRIO, "tuned2", "reference2")
    result = bench(write_catalog(tmp_path, models, base="base", rewards=rewards, views=RAW), "--json")
    report = json.loads(result.stdout)
    assert report["members"].keys() == {"base", "a.tuned", "a.reference", "b.tuned", "b.reference"}
    assert report["acceptance"].keys() == DRAFTS and report["sweeps"] == {"threads": [], "ctx": []}


def test_one_model_alone_has_no_drafts_and_says_why(family: Family, tmp_path: Path) -> None:
    result = bench(write_catalog(tmp_path, paths(family, "base"), base="base", views={"base": "raw"}))
    assert result.exit_code == 0, result.output
    assert "draft_" not in result.stdout
    assert "Drafts were not measured: only one model runs" in result.stdout.splitlines()[-1]


def test_a_recurrent_member_has_no_drafts_and_says_why(family: Family, tmp_path: Path) -> None:
    models = paths(family, *TRIO) | {"base": family.recurrent}
    catalog = write_catalog(tmp_path, models, base="base", rewards=[REWARD], views=RAW)
    report = json.loads(bench(catalog, "--json", "--sweep-ctx", "64,128").stdout)
    assert report["tokens_per_s"].keys() == {"base_alone", "sequential", "concurrent"}
    assert report["acceptance"] == report["limit"] == report["block_ms"] == {}
    assert report["drafts_off"].startswith("base (base) keeps a state")
    assert [cost["ctx"] for cost in report["sweeps"]["ctx"]] == [64, 128]


def test_a_prefill_is_never_answered_from_the_cache(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = [{"tuned": "tuned", "reference": "base"}]  # one member in two roles
    loaded = load_members(tmp_path, paths(family, "base", "tuned"), rewards=rewards)
    with closing(loaded.engine):
        shares, workers = [], loaded.engine.workers
        generate = Emulator.generate

        def counting(emulator: Emulator, prompt: Prompt, **dials: Any) -> Reply:
            before = sum(workers.n_fed.values())
            reply = generate(emulator, prompt, **dials)
            shares.append((sum(workers.n_fed.values()) - before) / max(reply.prompt_tokens.values()))
            return reply

        monkeypatch.setattr(Emulator, "generate", counting)
        measure(loaded, ["Why?"], tokens=4, repetitions=2)
    assert len(shares) == 3 * 3 and min(shares) > 0.9


@pytest.mark.parametrize("base", ["base", "recurrent"])
def test_a_sweep_reads_every_token_once_and_ends_with_the_context(family: Family, tmp_path: Path, base: str) -> None:
    loaded = load_members(tmp_path, paths(family, *TRIO) | {"base": getattr(family, base)})
    with closing(loaded.engine):
        reading = Reading(loaded, 128, 2)
        for _ in range(3):
            reading.ms(reading.base)
            reading.ms(reading.active)
        assert set(loaded.engine.workers.n_fed.values()) == {127}  # and one is left for a BOS


# --- what cannot be had -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--plot", "bench.jpg"], "must end in .png, .svg or .pdf"),
        (["--plot", "no/such/folder/bench.png"], "cannot be written: No such file"),
        (["--sweep-ctx", "256,many"], "must be numbers of tokens"),
        (["--sweep-ctx", "256,0"], "must be numbers of tokens"),
        (["--sweep-ctx", "16"], "must be at least"),
        (["--sweep-ctx", "256,99999"], "Give --sweep-ctx at most that"),
    ],
)
def test_what_cannot_be_had_is_told_before_anything_is_measured(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eftlocal.apps.bench.measure", lambda *_, **__: pytest.fail("something was measured"))
    catalog = write_catalog(tmp_path, paths(family, "base"), base="base", views={"base": "raw"})
    result = bench(catalog, *options)
    assert isinstance(result.exception, SettingError) and told in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["models.toml"]


def test_without_matplotlib_the_command_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r"pip install 'eftlocal\[plot\]'"):
        plot.check(tmp_path / "bench.png")


def test_contexts_that_do_not_fit_side_by_side_are_refused() -> None:
    small = cast(Emulator, SimpleNamespace(sequences_that_fit=lambda most: min(most, 2)))
    check_contexts(small, (256, 1024), 5)
    with pytest.raises(SettingError, match="3 KV caches of 4096 tokens do not fit"):
        check_contexts(small, (256, 1024, 4096), 5)


def test_threads_double_up_to_all_cores() -> None:
    assert [thread_counts(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


# --- what is shown of it ----------------------------------------------------------------------------------------------

OTHERS = {"base_alone": 10.0, "sequential": 6.0, "concurrent": 8.0}
RATES = OTHERS | {"draft_2": 12.0, "draft_4": 15.0, "draft_8": 14.0, "draft_auto": 16.0}

REPORT = Report(
    emulator="a [b] $c$",
    machine="Linux x86_64, 2 cores",
    threads=2,
    context=512,
    tokens=64,
    repetitions=5,
    tokens_per_s=RATES,
    members={"base": {"decode": 10.0, "prefill": 100.0}},
    acceptance=dict.fromkeys(DRAFTS, 0.9),
    tokens_per_block=dict.fromkeys(DRAFTS, 2.5),
    limit={"draft_2": 13.0, "draft_4": 18.0, "draft_8": 17.0, "draft_auto": 20.0},
    block_ms={0: 100.0, 2: 120.0},
    overhead_ms_per_token=0.25,
    peak_rss_mb=300.0,
    ratios={f"{way} / {other}": RATES[way] / OTHERS[other] for way in RATES for other in OTHERS if way != other},
    sweeps=Sweeps((ThreadCost(1, 20.0, 25.0), ThreadCost(2, 10.0, 12.5)), (ContextCost(256, 10.0, 12.5, 3.5),)),
)


def test_the_table_ends_with_the_lines_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    show(REPORT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a [b] $c$: 2 threads of Linux x86_64, 2 cores"
    assert [line.split() for line in lines if line.startswith("draft_4")] == [
        ["draft_4", "15.0", "1.50", "1.88", "0.900", "2.50", "0.83"]
    ]
    assert ["256", "10.00", "12.50", "3.5"] in [line.split() for line in lines]
    assert lines[-2] == "Emulation decodes 8.0 tokens/s: 0.80 times the base by itself (10.0)."
    assert lines[-1].startswith("With drafts (auto) it decodes 16.0 tokens/s: 2.00 times emulation without drafts, ")
    assert lines[-1].endswith("1.60 times the base by itself, 0.80 times the limit that the decodes set.")


def test_the_parts_of_a_request_to_a_server_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    show(replace(REPORT, afar=Afar(round_trip=20.0, decode=5.25, transfer=1.0, ours=0.5, kb=9.0)))
    line = (
        "A request to the base's server: round trip 20.0 ms, its decode and the writing of the answer 5.2 ms,"
        " transfer 1.0 ms, reading 0.5 ms; 9.0 kB"
    )
    assert line in " ".join(capsys.readouterr().out.split())


def test_the_picture_has_every_way_its_limit_and_every_sweep() -> None:
    ways = plot.bars(REPORT)
    assert [(bar.way, bar.tokens_per_s) for bar in ways] == list(RATES.items())
    assert ways[3] == plot.Bar("draft_2", "drafts, 2", 12.0, 1.2, 1.5, 13.0)
    assert [bar.limit for bar in ways[:3]] == [None] * 3
    assert plot.panels(REPORT) == [
        plot.Panel("threads", (1, 2), (20.0, 10.0), (25.0, 12.5)),
        plot.Panel("tokens in the context", (256,), (10.0,), (12.5,)),
    ]


@pytest.mark.slow
def test_a_picture_is_drawn_without_pyplot_and_with_names_as_they_are(tmp_path: Path) -> None:
    picture = tmp_path / "bench.svg"
    plot.draw(REPORT, picture)
    assert "<!-- a [b] $c$: 2 threads -->" in picture.read_text(encoding="utf-8")  # no markup, no mathematics
    assert "matplotlib.pyplot" not in sys.modules
