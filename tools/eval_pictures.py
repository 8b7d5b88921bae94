"""Makes the pictures of the report in docs/: opens a report.html in headless Chromium, and saves parts as PNG files.

python -m tools.eval_pictures REPORT [--chromium PROGRAM] [--folder FOLDER]

It needs the package playwright (in a virtual environment of its own), and a Chromium: its own (`playwright install
chromium`), or PROGRAM. The report in docs/ is that of `eftlocal eval demo demo -o report`. It says what the browser
finds wrong: errors, something that is loaded, and a page that is wider than its window.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from playwright.sync_api import sync_playwright

DOCS: Final = Path(__file__).parents[1] / "docs"
MOST: Final = 200_000  # bytes of a picture


class View(NamedTuple):
    """A picture: its name, the window, the scheme, the section at the top, and how much of the page is shown."""

    name: str
    width: int
    scheme: str
    section: str
    height: int


VIEWS: Final = (
    View("eval-report", 1100, "light", "", 1000),
    View("eval-acts", 1100, "dark", "acts", 720),
    View("eval-items", 1100, "light", "items", 760),
)
LOOKED_AT: Final = ((1200, "light"), (1200, "dark"), (390, "light"), (390, "dark"))


def faults(browser: Any, report: Path) -> list[str]:
    """What is wrong with the page in any window."""
    found: list[str] = []

    def said(message: Any) -> None:
        found.append(message.text)

    def loaded(request: Any) -> None:
        if not request.url.startswith("file:"):
            found.append(request.url)

    for width, scheme in LOOKED_AT:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", said)
        page.on("request", loaded)
        page.goto(report.as_uri())
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found += [f"{width} {scheme}: {beyond} pixels too wide"] if beyond else []
        page.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--chromium", help="a Chromium to use instead of playwright's own")
    parser.add_argument("--folder", type=Path, default=DOCS)
    given = parser.parse_args()
    report = given.report.resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        wrong = faults(browser, report)
        for view in VIEWS:
            size = {"width": view.width, "height": view.height}
            page = browser.new_page(viewport=size, color_scheme=view.scheme)
            page.goto(f"{report.as_uri()}#{view.section}")
            path = given.folder / f"{view.name}.png"
            page.screenshot(path=str(path))
            wrong += [f"{path} has {path.stat().st_size:,} bytes"] if path.stat().st_size > MOST else []
            page.close()
        browser.close()
    for each in wrong:
        print(each, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
