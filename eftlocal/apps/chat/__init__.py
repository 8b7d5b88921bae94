"""`eftlocal chat`: the chat in the terminal. The command calls `chat`."""

from eftlocal.apps.chat.repl import chat

__all__ = ["chat"]
