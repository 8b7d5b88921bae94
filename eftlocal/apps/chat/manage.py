"""`eftlocal sessions`: lists, shows, renames, deletes and exports the conversations that are kept on this machine."""

import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eftlocal.apps.chat import exports, store
from eftlocal.apps.chat.session import write_whole
from eftlocal.apps.common import agreed, can_ask, console, print_json
from eftlocal.catalog.tables import expanded
from eftlocal.errors import EftError
from eftlocal.text import path_of, printable

__all__ = ["delete", "export", "listing", "rename", "show", "table"]

DATE, TURNS, GAP = 16, 5, 2  # columns
WORDS = 12  # columns for the first words, at least
SHORT = 200  # characters of the first words in a pipe


def table(found: Sequence[store.Entry], out: Console, here: str | None = None) -> Table:
    """The sessions as a table that fits `out`: a narrow one has no emulators, and then no first words.

    here  the name of the session that is open
    """
    names = {entry.name: printable(entry.name) + (" *" if entry.name == here else "") for entry in found}
    room = out.width - max(cell_len(name) for name in names.values()) - DATE - TURNS - GAP * 3
    emulators = max(len("emulator"), *(cell_len(printable(entry.emulator)) for entry in found)) + GAP
    with_emulator, with_words = room - emulators >= WORDS, room >= WORDS
    room -= emulators if with_emulator else 0
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    made.add_column("name", overflow="fold")
    made.add_column("last used", no_wrap=True)
    if with_emulator:
        made.add_column("emulator", no_wrap=True)
    made.add_column("turns", justify="right", no_wrap=True)
    if with_words:
        made.add_column("begins with", no_wrap=True)
    for entry in found:
        damage = (entry.damaged or "").removeprefix(f"{store.path(entry.name)} ")
        words = Text(printable((damage or entry.first)[:SHORT]), style="red" if damage else "dim")
        words.truncate(room, overflow="ellipsis")
        made.add_row(
            Text(names[entry.name], style="" if entry.kept else "bold"),
            f"{entry.time:%Y-%m-%d %H:%M}",
            *([Text(printable(entry.emulator))] if with_emulator else []),
            "?" if entry.damaged else str(entry.turns),
            *([words] if with_words else []),
        )
    return made


def listing(search: str | None, *, as_json: bool) -> int:
    """Print all sessions and kept chats, the latest first, or those in which `search` was said."""
    found = store.entries()
    if search is not None:
        found = [entry for entry in found if _has(entry, search.casefold())]
    if as_json:
        print_json([asdict(entry) | {"time": entry.time.isoformat(timespec="seconds")} for entry in found])
    elif found:
        out = console()
        with out.capture() as drawn:
            out.print(table(found, out))
        print("\n".join(row.rstrip() for row in drawn.get().splitlines()))
        if out.is_terminal:
            console(stderr=True).print(
                f"Names that you gave are bold. Of the other chats the latest {store.KEPT} stay; rename one to keep it."
            )
    else:
        what = "No conversation is kept on this machine yet." if search is None else f"Nobody said {search!r}."
        print(printable(what), file=sys.stderr)
    return 0


def _has(entry: store.Entry, text: str) -> bool:
    if entry.damaged is not None:
        return False
    try:
        return text in entry.name.casefold() or any(text in m.content.casefold() for m in store.load(entry.name).said)
    except EftError:  # deleted meanwhile
        return False


def show(name: str, *, as_json: bool) -> int:
    """Print a conversation as Markdown or JSON."""
    from eftlocal.apps.chat.rows import clean
    from eftlocal.apps.chat.session import as_json as json_of

    saved = store.load(name)
    sys.stdout.write(json_of(saved) if as_json else clean(exports.markdown(saved)))
    return 0


def rename(name: str, new: str) -> int:
    """Give a session another name."""
    store.rename(name, new)
    print(printable(f"{name} is the session {new} now."), file=sys.stderr)
    return 0


def delete(names: Sequence[str], *, yes: bool) -> int:
    """Delete sessions. Asks on a terminal, unless `yes`; a pipe must say yes."""
    for name in names:
        if not store.exists(name):
            store.load(name)  # raises the error for a name that is missing
    if not yes:
        if not can_ask():
            raise EftError("A pipe cannot be asked whether to delete.", "Add --yes.")
        what = names[0] if len(names) == 1 else f"{len(names)} sessions ({', '.join(names)})"
        if not agreed(f"Delete {what}?", default=False):
            print("Nothing was deleted.", file=sys.stderr)
            return 1
    for name in names:
        store.delete(name)
        print(printable(f"deleted: {name}"), file=sys.stderr)
    return 0


def export(name: str, file: str, *, force: bool) -> int:
    """Write a conversation to a file of Markdown or JSON."""
    path = expanded(path_of(file))
    text = exports.text(store.load(name), path, f"eftlocal sessions export {name}")
    if not force and exports.differs(path, text):
        found = f"{path} exists already."
        if not can_ask():
            raise EftError(found, "Add --force to replace it.")
        if not agreed(f"{found} Replace it?", default=False):
            raise EftError("Nothing was changed.")
    write_whole(path, text, private=False)
    print(printable(f"written: {path}"), file=sys.stderr)
    return 0
