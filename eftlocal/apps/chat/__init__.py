"""`eftlocal chat`: the chat in the terminal. The command calls `opened` for what goes on, and then `chat`."""

from eftlocal.apps.chat.record import opened
from eftlocal.apps.chat.repl import chat

__all__ = ["chat", "opened"]
