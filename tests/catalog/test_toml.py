"""Tests of the lines that are written into a models.toml: a reader finds what was written."""

from pathlib import Path

from eftlocal.catalog.entries import Bias, Emulator, Reward, View
from eftlocal.catalog.models import load
from eftlocal.catalog.toml import emulator_lines, rewards_line

MODELS = '[models.big]\npath = "big.gguf"\n[models.a]\npath = "a.gguf"\n[models.b]\npath = "b.gguf"\n'
REWARDS = (
    Reward(
        name="kind",
        tuned="a",
        reference="b",
        beta=0.25,
        views={"tuned": View("chat", "reference"), "reference": View("template", template='{{ "x" }}')},
        system={"tuned": "Say “yes”\nor no."},
        bias=Bias(end=0.5, unseen=-1.5, unseen_tokens=Path("/data/my unseen.txt")),
    ),
    Reward(name="b", tuned="b", reference="a", beta=-2.0, bias=Bias(end=1.0)),
    Reward(name="plain", tuned="a", reference="b"),
)


def test_an_emulator_is_read_as_it_was_written(tmp_path: Path) -> None:
    emulator = Emulator(name="made", base="big", rewards=REWARDS)
    file = tmp_path / "models.toml"
    file.write_text(MODELS + "\n".join(emulator_lines(emulator)), encoding="utf-8")
    assert load(file).emulator("made") == emulator


def test_the_line_of_the_rewards_can_be_pasted_into_an_emulator(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f'{MODELS}[emulators.made]\nbase = "big"\n{rewards_line(REWARDS)}\n', encoding="utf-8")
    assert load(file).emulator("made").rewards == REWARDS
