"""/think: shows the thoughts of the last answer, or sets what the chat shows of thoughts."""

from rich.text import Text

from eftlocal.apps.chat.answer import MODES
from eftlocal.apps.chat.rows import clean
from eftlocal.apps.chat.state import Chat
from eftlocal.decoding.thinking import split, thoughts_in
from eftlocal.errors import EftError

__all__ = ["think"]

SAID = {
    "show": "thoughts are shown",
    "fold": "thoughts are folded into one line when they end; /think shows them",
    "hide": "thoughts are not shown; /think shows them",
}


def think(chat: Chat, argument: str) -> None:
    """Show the last answer's thoughts, or set the mode. Raises EftError if there are none, or for another word."""
    if argument:
        mode = next((mode for mode in MODES if mode == argument), None)
        if mode is None:
            raise EftError(f"/think takes show, fold or hide, not {argument!r}.")
        chat.screen.thoughts = mode
        chat.screen.note(SAID[mode])
        return
    at = chat.answered()
    content = chat.messages[at].content if at is not None else ""
    found = thoughts_in(content)
    if not found and chat.last is not None:  # they may be opened by the prompt, and not closed
        found = split(content, chat.last.reply.place)[0]
    if not found:
        raise EftError("There is no answer with thoughts.", "/think show|fold|hide sets what is shown of them.")
    chat.screen.show(Text(clean(found), style="dim"))
