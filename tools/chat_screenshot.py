"""Makes screenshots of `eftlocal chat` for the README: drives a real terminal, and saves its screen as SVG files.

python -m tools.chat_screenshot FOLDER [--models FILE] [EMULATOR]
"""

import argparse
import io
import tempfile
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.apps.terminal import CTRL_D, Terminal

NAMED = {"brown": "yellow", "brightbrown": "bright_yellow"}
SCENES = {  # name of the picture -> the lines to type before it is taken
    "chat": ["Write a Python function that adds two numbers, and explain it in a short list."],
    "compare": ["/beta 0.8", "/compare Why is the sky blue?"],
    "why": ["Why is the sky blue?", "/why", "/why 2"],
}


def main() -> None:
    """Take each picture in a new chat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("emulator", nargs="?")
    parser.add_argument("--models", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    options = ["--seed", "3", "--max-tokens", "120", "--no-history"]
    options += ["--models", str(given.models.resolve())] if given.models else []
    options += [given.emulator] if given.emulator else []
    for name, lines in SCENES.items():
        with tempfile.TemporaryDirectory() as data:
            command = ("-c", "from eftlocal.cli import main; main()", "chat", *options)
            with Terminal(*command, data=Path(data), columns=100, lines=36, COLORTERM="truecolor") as terminal:
                terminal.prompt(1)
                for number, line in enumerate(lines, start=2):
                    terminal.enter(line)
                    terminal.prompt(number, 300)
                terminal.pump(0.5)
                (given.folder / f"{name}.svg").write_text(svg(terminal.screen, "eftlocal chat"), encoding="utf-8")
                terminal.send(CTRL_D)
                terminal.close()


def svg(screen: pyte.Screen, title: str) -> str:
    """The screen of the terminal as SVG text."""
    console = Console(record=True, width=screen.columns, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for y in range(screen.lines):
        row = Text()
        cells = [screen.buffer[y][x] for x in range(screen.columns)]
        for (fg, bg, bold), run in groupby(cells, lambda cell: (cell.fg, cell.bg, cell.bold)):
            style = Style(color=_colour(fg), bgcolor=_colour(bg), bold=bold)
            row.append("".join(cell.data for cell in run), style)
        console.print(row, no_wrap=True)
    return console.export_svg(title=title)


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    return NAMED.get(name) or name.replace("bright", "bright_")


if __name__ == "__main__":
    main()
