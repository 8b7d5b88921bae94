"""Makes the README's pictures of `eftlocal chat`: drives a real terminal, and saves its screen as SVG files.

python -m tools.chat_screenshot [FOLDER] [EMULATOR] [--models FILE]

Without a folder, the pictures in docs/ are drawn again. The window brings its own dark background, so it can be read on
light and on dark pages.
"""

import argparse
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import pyte

from tests.apps.terminal import CTRL_D, Terminal

DOCS = Path(__file__).parents[1] / "docs"
DIM = (b"\x1b[2m", b"\x1b[90m")  # pyte does not know dim text; it gets bright black, which is grey here
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
WIDE, HIGH, SIZE = 8.4, 19, 14  # a cell's width and height, and the font's size, in pixels
MARGIN, TITLE = 14, 34
PAGE, TEXT = "#16191d", "#e3e7ed"  # colours of the window and of text without a colour
BORDER = "#3d4550"
BUTTONS = ("#ff5f57", "#febc2e", "#28c840")
COLOURS = {
    **{"black": "#16191d", "red": "#f28b82", "green": "#9ccc65", "brown": "#ffd54f", "blue": "#7db8ff"},
    **{"magenta": "#d7a6ff", "cyan": "#67d5e5", "white": "#ffffff", "brightblack": "#9aa4b2"},
}


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture: what is typed before it is taken, and the terminal's width."""

    name: str
    lines: Sequence[str]
    columns: int


SCENES = (
    Scene("chat-compare", ["/compare How large is Lyon?", "/compare What is the language of Honolulu?"], 104),
    Scene("chat-why", ["How large is Lyon?", "/why", "/why 5"], 80),
)


def main() -> None:
    """Take each picture in a new chat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DOCS)
    parser.add_argument("emulator", nargs="?", default="demo")
    parser.add_argument("--models", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    options = ["--seed", "3", "--no-history"]
    options += ["--models", str(given.models.resolve())] if given.models else []
    for scene in SCENES:
        screen = taken(scene, [given.emulator, *options])
        (given.folder / f"{scene.name}.svg").write_text(
            svg(screen, f"eftlocal chat {given.emulator}"), encoding="utf-8"
        )


def taken(scene: Scene, options: Sequence[str]) -> pyte.Screen:
    """The screen after the lines of the scene were typed."""
    command = ("-c", "from eftlocal.cli import main; main()", "chat", *options)
    size = {"columns": scene.columns, "lines": 60}
    with (
        tempfile.TemporaryDirectory() as data,
        Terminal(*command, data=Path(data), **size, COLORTERM="truecolor") as terminal,  # type: ignore[arg-type]
    ):
        terminal.prompt(1, 300)
        for number, line in enumerate(scene.lines, start=2):
            terminal.enter(line)
            terminal.prompt(number, 300)
        terminal.pump(0.5)
        screen = pyte.Screen(size["columns"], size["lines"])
        pyte.ByteStream(screen).feed(terminal.raw.replace(*DIM))
        terminal.send(CTRL_D)
        terminal.close()
    return screen


def svg(screen: pyte.Screen, title: str) -> str:
    """The screen as SVG text, down to the row above the prompt that waits.

    Each word has its own place, so that columns stand below each other in any font.
    """
    rows = range(screen.cursor.y)
    width, height = 2 * MARGIN + screen.columns * WIDE, TITLE + len(rows) * HIGH + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{PAGE}" stroke="{BORDER}"/>',
        *(
            f'<circle cx="{18 + 18 * i}" cy="17" r="5" fill="{c}"/>'
            for i, c in enumerate(("#ff5f57", "#febc2e", "#28c840"))
        ),
        f'<g font-family="{FONT}" font-size="{SIZE}" fill="{TEXT}" xml:space="preserve">',
        f'<text x="{width / 2:g}" y="22" text-anchor="middle" fill="#9aa4b2">{escape(title)}</text>',
    ]
    for y in rows:
        cells = [(x, screen.buffer[y][x]) for x in range(screen.columns)]
        for (fg, bg, bold), run in groupby(cells, lambda cell: (cell[1].fg, cell[1].bg, cell[1].bold)):
            parts += _run(list(run), y, _colour(fg), _colour(bg), bold=bold)
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def _run(
    cells: Sequence[tuple[int, pyte.screens.Char]], y: int, fg: str | None, bg: str | None, *, bold: bool
) -> list[str]:
    """Cells of one row in one style, each with its column."""
    first, text = cells[0][0], "".join(cell.data for _, cell in cells)
    top, parts = TITLE + y * HIGH, []
    if bg is not None:
        parts.append(f'<rect x="{_left(first)}" y="{top}" width="{len(cells) * WIDE:g}" height="{HIGH}" fill="{bg}"/>')
    style = (f' fill="{fg}"' if fg else "") + (' font-weight="bold"' if bold else "")
    for word in re.finditer(r"\S+", text):
        length = f"{len(word[0]) * WIDE:g}"
        place = f'x="{_left(first + word.start())}" y="{top + SIZE:g}" textLength="{length}"'
        parts.append(f'<text {place} lengthAdjust="spacingAndGlyphs"{style}>{escape(word[0])}</text>')
    return parts


def _left(column: int) -> str:
    return f"{MARGIN + column * WIDE:g}"


def _colour(name: str) -> str | None:
    """A colour of pyte's; None for the terminal's own."""
    if name == "default":
        return None
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    return COLOURS.get(name) or COLOURS[name.removeprefix("bright")]


if __name__ == "__main__":
    main()
