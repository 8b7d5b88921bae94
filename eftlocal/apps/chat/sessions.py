"""The commands about where the conversation is kept: /save, /load, /sessions, /rename, /delete, /export, /history."""

from eftlocal.apps.chat import dials, exports, store
from eftlocal.apps.chat.lock import Held
from eftlocal.apps.chat.manage import table
from eftlocal.apps.chat.session import Saved, write_whole
from eftlocal.apps.chat.state import Chat
from eftlocal.apps.common import agreed, can_ask
from eftlocal.catalog.tables import expanded
from eftlocal.errors import EftError
from eftlocal.text import path_of

__all__ = ["SHOWN", "delete", "export", "history", "load", "rename", "save", "sessions"]

SHOWN = 2  # messages of a conversation that is continued


def save(chat: Chat, argument: str) -> None:
    force, name = _forced(argument)
    name = name or chat.record.name or ""
    if not name:
        raise EftError("/save needs a name.", "Example: /save work")
    saved = chat.saved()
    if name == chat.record.name:
        chat.save()
        chat.screen.note(f"saved: {store.path(name)}")
        return
    try:
        lock = store.lock(name)
    except Held as error:
        raise store.open_elsewhere(name, error.pid, "Use another name.") from None
    try:
        if not force and store.exists(name) and not _goes_on(name, saved):
            found = f"There is a session named {name} already."
            if not _may_replace(chat, found, f"/save --force {name}"):
                return
        chat.screen.note(f"saved as it is now: {store.save(name, saved)}")
    finally:
        lock.release()


def _goes_on(name: str, saved: Saved) -> bool:
    """Whether the session `name` is an earlier state of this conversation, so that nothing is lost."""
    try:
        there = store.load(name).said
    except EftError:  # a damaged file is another content
        return False
    return there == saved.said[: len(there)]


def load(chat: Chat, argument: str) -> None:
    if not argument:
        raise EftError("/load needs the name of a session.", f"Saved sessions: {', '.join(store.names()) or 'none'}.")
    saved = store.load(argument)
    origin = chat.loader.origin if saved.origin is None else saved.origin
    if (saved.emulator, origin) != (chat.emulator.name, chat.loader.origin):
        chat.switch(saved.emulator, origin, forget=False)
    copied = _go_on(chat, argument)
    chat.resume(saved)
    chat.screen.note(f"{argument}: {len(chat.turns)} messages with {saved.emulator}{copied}")
    chat.screen.recall(chat.turns[-SHOWN:])


def _go_on(chat: Chat, name: str) -> str:
    """Let the next turns go to the session `name`, if this chat is kept at all, or else to a copy of it."""
    record = chat.record
    if not record.keep and record.name is None:
        return ""
    try:
        record.open(name)
    except Held as error:
        record.copy_of(name)
        return f"; {store.open_elsewhere(name, error.pid, '').message.rstrip('.')}, so a copy of it goes on"
    return ""


def sessions(chat: Chat, argument: str) -> None:
    found = store.entries()
    if found:
        chat.screen.show(table(found, chat.screen.notes, here=chat.record.name))
        chat.screen.note("/load NAME goes on with one; /rename NAME names this one; /delete NAME deletes one")
    else:
        chat.screen.show(f"no session is saved yet in {store.folder()}")


def rename(chat: Chat, argument: str) -> None:
    if not argument:
        raise EftError("/rename needs the new name of this conversation.", "Example: /rename cities")
    if chat.record.name is None and not chat.record.keep:
        raise EftError("This chat is not kept, so it has no name.", f"/save {argument} saves it as it is now.")
    chat.record.rename(argument, chat.saved())
    chat.screen.note(f"this conversation is the session {chat.record.name} now, and is kept for good")


def delete(chat: Chat, argument: str) -> None:
    if not argument:
        raise EftError("/delete needs the name of a session.", "/sessions lists them.")
    force, name = _forced(argument)
    if name == chat.record.name:
        raise EftError(f"{name} is this conversation.", "/reset begins a new one; then it can be deleted.")
    if not store.exists(name):
        store.load(name)  # raises the error for a name that is missing
    if not force and not _agreed(chat, f"Delete {name}?", f"/delete --force {name}"):
        return
    store.delete(name)
    chat.screen.note(f"deleted: {name}")


def export(chat: Chat, argument: str) -> None:
    force, name = _forced(argument)
    path = expanded(path_of(name))
    text = exports.text(chat.saved(), path, "/export")
    if (
        not force
        and exports.differs(path, text)
        and not _may_replace(chat, f"{path} exists already.", f"/export --force {path}")
    ):
        return
    write_whole(path, text, private=False)
    chat.screen.note(f"written: {path}")


def history(chat: Chat, argument: str) -> None:
    turns = dials.number(argument)
    if argument and turns is None:
        raise EftError(f"/history takes a number of turns, not {argument!r}.")
    said = [*chat.dropped, *chat.turns]
    if not said:
        raise EftError("The conversation is empty.")
    asked = [i for i, message in enumerate(said) if message.role == "user"]
    begin = asked[-turns] if turns is not None and turns < len(asked) else 0
    split = max(begin, len(chat.dropped))
    if begin < split:
        chat.screen.retell(said[begin:split])
        chat.screen.note("the turns above are not in the context any more")
    chat.screen.retell(said[split:])


# --- asking before something is lost ----------------------------------------------------------------------------------


def _forced(argument: str) -> tuple[bool, str]:
    """Whether the argument begins with --force, and the rest of it."""
    word, _, rest = argument.partition(" ")
    return (True, rest.strip()) if word == "--force" else (False, argument)


def _may_replace(chat: Chat, found: str, forced: str) -> bool:
    return _agreed(chat, f"{found} Replace it?", forced, found)


def _agreed(chat: Chat, question: str, forced: str, found: str | None = None) -> bool:
    """Ask the user; a no is told. Raises EftError if nobody can be asked."""
    if not can_ask():
        raise EftError(found or f"{question} A pipe cannot be asked.", f"To do it without a question: {forced}")
    try:
        with chat.interrupts.raising():
            yes = agreed(question, default=False)
    except KeyboardInterrupt:
        yes = False
    if not yes:
        chat.screen.note("nothing was changed")
    return yes
