"""`eftlocal chat`: the terminal chat. `chat` is what the command calls."""

from eftlocal.apps.chat.repl import chat

__all__ = ["chat"]
