"""Tests of the study's tool: what was run is not run again, and the tables say what the runs say."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.families import write_model
from tests.training.test_trainer import examples
from tools.study_tune import lab, smaller, tables
from tools.study_tune.lab import Lab, Part, Said, Setting
from tools.study_tune.results import Results, spread, table


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    one, base = (lab.network(write_model(folder / f"{seed}.gguf", seed=seed, d_model=32)) for seed in (1, 2))

    def part(seed: int, n: int) -> Part:
        rows = examples(n, seed)
        return Part(rows, Said(lab.said(base, rows), lab.said(one, rows)))

    return Lab(one, lambda seed: part(seed, 16), {"development": part(99, 6)}, {"documents": examples(3, 5)})


def test_a_study_goes_on_where_it_was_stopped_also_within_a_line(tmp_path: Path) -> None:
    results = Results(tmp_path / "runs.jsonl")
    for lr in (1.0, 2.0):
        results.add({"lr": lr}, {"loss": lr})
    with results.path.open("a") as file:
        file.write('{"setting": {"lr": 3')
    again = Results(results.path)
    assert again.missing([{"lr": lr} for lr in (1.0, 2.0, 3.0, 3.0)]) == [{"lr": 3.0}]
    again.add({"lr": 3.0}, {"loss": 3.0})
    assert [run["loss"] for run in Results(results.path).runs] == [1.0, 2.0, 3.0]


def test_an_untrained_model_steers_nothing_and_a_run_says_the_same_each_time(small: Lab) -> None:
    part = small.parts["development"]
    start = lab.measured(part, part.said.reference)
    base = lab.measured(part, part.said.base)["alone"]
    for beta in lab.BETAS:
        assert start[f"{beta:g}"] == pytest.approx(base, abs=1e-4)
    setting = Setting(method="mofo", consistent=True, lr=3e-3, n=16, epochs=2, batch=4)
    found, same = (small.run(setting, ["development"]) for _ in range(2))
    assert found["measured"] == same["measured"] and found["curve"] == same["curve"]
    assert found["measured"]["development"]["1"][1] > start["1"][1] and found["drift"]["documents"] > 0
    (first, *_), (last, *_) = small.path(setting, "development")["path"][:1], found["curve"][-1:]
    assert first[1] == pytest.approx(-start["1"][1], abs=1e-4) and last[0] == found["steps"]


def test_a_text_that_is_written_with_a_cache_has_the_models_distribution(small: Lab) -> None:
    model = small.small
    tokens = smaller.written(model, [[70, 71, 72]] * 2, 12, seed=0, share=1e-6)  # the likeliest token, always
    with torch.no_grad():
        z = model.logits(model.hidden(tokens))
    assert torch.equal(tokens[:, 3:], z.argmax(-1)[:, 2:-1])


def run(lr: float, seed: int, loss: float, path: list[list[float]] | None = None) -> dict[str, Any]:
    figures = {name: [-loss, -loss / 2, 1.0] for name in ("alone", *(f"{b:g}" for b in lab.BETAS))}
    return {
        "setting": {"method": "mofo", "lr": lr, "seed": seed},
        "measured": {"development": figures, "questions": figures},
        "drift": {"documents": loss, "conversations": loss},
        "path": path,
    }


def test_tables_have_means_and_spreads_of_the_rate_that_development_chose() -> None:
    assert spread([1.0, 3.0]) == "2.000 ± 1.414" and spread([1.0]) == "1.000" and spread([math.inf]) == "—"
    chosen = [run(1e-3, 0, 0.5), run(1e-3, 1, 0.7), run(1e-2, 0, 0.4), run(1e-2, 1, 0.9)]
    assert tables.best_rates(chosen, ("method",)) == {("mofo",): 1e-3}
    shown = tables.final(chosen, ("method",), "questions", [run(1e-3, 8, 1.0), run(1e-3, 9, 3.0), run(1e-2, 8, 0.0)])
    assert shown.splitlines()[2].startswith("| mofo | 0.001 | 2 | -2.000 ± 1.414 | -1.000 ± 0.707 |")
    assert table(chosen, ["lr"], {"loss": tables.figure("1")}).splitlines()[2] == "| 0.001 | 2 | -0.600 ± 0.141 |"


def test_forgetting_is_read_between_two_looks_where_the_loss_is_first_reached() -> None:
    paths = [[[0, 2.0, 0.0, 0.0], [10, 1.0, 0.2, 0.4], [20, 1.5, 0.9, 0.9], [30, 0.5, 1.0, 1.0]], [[0, 2.0, 0, 0]]]
    runs = [run(1e-3, seed, 0.0, path) for seed, path in enumerate(paths)]
    assert tables.forgetting(runs, ("method",), (1.5,)).splitlines()[2:] == [
        "| mofo | 0.001 | 1.5 | 1 of 2 | 5 | 0.100 | 0.200 |"
    ]
